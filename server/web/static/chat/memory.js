/** What this browser remembers: drafts, questions on their way, and choices. It works without storage as well. */

const transient = new Map();
let hasKey = false;

/**
 * The key is kept in the tab's session, and with a key also what its holder writes: who forgets the key forgets all of
 * it, and nobody finds it in another tab.
 */
function storageOf(name) {
  hasKey ||= sessionStorage.getItem("scope") !== null;
  const isOfKey = name === "api_key" || name === "scope" || (hasKey && /^(draft|sending):/.test(name));
  return isOfKey ? sessionStorage : localStorage;
}

export function recall(name) {
  try {
    const text = storageOf(name).getItem(name);
    return text === null ? null : JSON.parse(text);
  } catch {
    return transient.get(name) ?? null;
  }
}

/** Remember a JSON value under `name`; null forgets it. */
export function remember(name, value) {
  try {
    if (value === null) storageOf(name).removeItem(name);
    else storageOf(name).setItem(name, JSON.stringify(value));
  } catch {
    transient.set(name, value); // Storage is full or forbidden.
  }
}

/** Forget the key and what is kept with it. */
export function forgetSession() {
  try {
    sessionStorage.clear();
  } catch {
    // There is none.
  }
  transient.clear();
}

export const draftKey = (name) => `draft:${name}`;
export const sendingKey = (name) => `sending:${name}`;
