/** Addresses of the server. They hold beneath a path as well, whether the page's own ends with a slash or not. */

/** The path under which the server is reached, which the address of this file tells: `web/<version>/address.js`. */
const ROOT = new URL("../..", import.meta.url).pathname;

/** The address of `path` beneath the root. What is not known is left out of the query. */
export function address(path, query = {}) {
  const known = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  return ROOT + (known.length ? `${path}?${new URLSearchParams(known)}` : path);
}
