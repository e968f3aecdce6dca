/** Elements, icons and the clipboard. */

const SVG = "http://www.w3.org/2000/svg";

const PATHS = {
  plus: "M12 5v14M5 12h14",
  search: "M11 4a7 7 0 1 1 0 14 7 7 0 0 1 0-14M16.5 16.5 21 21",
  pencil: "M4 20l1-4L16 5l3 3L8 19l-4 1M13.5 7.5l3 3",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  copy: "M9 9h11v11H9zM15 9V4H4v11h5",
  again: "M20 12a8 8 0 1 1-2.5-5.8M20 3v5h-5",
  sliders: "M4 8h16M4 16h16M9 5.5v5M15 13.5v5",
  close: "M5 5l14 14M19 5L5 19",
  menu: "M4 6h16M4 12h16M4 18h11",
  down: "M12 4v15M6 13l6 6 6-6",
  right: "M4 12h15M13 6l6 6-6 6",
  download: "M12 4v12M7 11l5 5 5-5M5 20h14",
  upload: "M12 17V4M7 9l5-5 5 5M5 20h14",
  unplugged: "M4 4l16 16M9 9L5 13l2 2M15 15l4-4-2-2",
  chevron: "M6 9l6 6 6-6",
  eye: "M3 12s3.5-6 9-6 9 6 9 6-3.5 6-9 6-9-6-9-6M12 9.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5",
  warning: "M12 4 3 20h18L12 4M12 10v5M12 17.4v.1",
};

/**
 * An element with its children. Properties that start with "on" are listeners, `data` is an object of data attributes,
 * `class` and names with a dash are attributes; undefined and null leave one out.
 */
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "data") Object.assign(element.dataset, value);
    else if (key === "class" || key === "role" || key === "for" || key.includes("-")) element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", "aria-hidden": "true", class: "icon" }))
    svg.setAttribute(key, value);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** Set the text only if it differs, so that nothing is painted or announced twice. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Copy a text. Without a secure context there is no clipboard API, but the old command works. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const active = document.activeElement;
  const area = h("textarea", { class: "offscreen", value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  active?.focus();
}

/** A random name of `length` letters and digits. `crypto.randomUUID` is missing on plain HTTP. */
export function randomName(length) {
  const letters = "abcdefghijkmnpqrstuvwxyz23456789";
  return Array.from(crypto.getRandomValues(new Uint8Array(length)), (byte) => letters[byte % 32]).join("");
}
