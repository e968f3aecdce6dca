/** What this browser remembers: drafts, questions on their way, and choices. It works without storage as well. */

const transient = new Map();

export function recall(key) {
  try {
    const text = localStorage.getItem(key);
    return text === null ? null : JSON.parse(text);
  } catch {
    return transient.get(key) ?? null;
  }
}

/** Remember a JSON value under `key`; null forgets it. */
export function remember(key, value) {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, JSON.stringify(value));
  } catch {
    transient.set(key, value); // Storage is full or forbidden.
  }
}

export const draftKey = (name) => `draft:${name}`;
export const sendingKey = (name) => `sending:${name}`;
