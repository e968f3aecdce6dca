/** A block of code: a bar with its language and Copy, and the text, coloured and folded. */

import { number } from "./format.js";
import { copyText, h, icon } from "./dom.js";
import { t } from "./words.js";

const FOLDED_OVER = 24;
const FOLDED_TO = 16;
/** Code is coloured in pieces of about so many characters, which end at an empty line if there is one. */
const PIECE = 2_000;
const SLICE_MS = 8;

let highlighter;
const waiting = [];

const cutEdges = new ResizeObserver((entries) => entries.forEach(({ target }) => markCutEdge(target.parentElement)));

/** Fade the right edge of what scrolls sideways as long as more lies there. */
function markCutEdge(scroller) {
  if (!scroller) return;
  const rest = scroller.scrollWidth - scroller.clientWidth - Math.abs(scroller.scrollLeft);
  scroller.toggleAttribute("data-cut", rest > 1);
}

export function watchCutEdge(scroller) {
  cutEdges.observe(scroller.firstElementChild);
  scroller.addEventListener("scroll", () => markCutEdge(scroller), { passive: true });
}

export class CodeBlock {
  #language;
  #text = "";
  /** The text of the last piece, which may still grow, and its element. */
  #piece = "";
  #span = h("span", { class: "lines" });
  #code = h("code", {}, this.#span);
  #title;

  constructor(language) {
    this.#language = language;
    this.#title = h("span", { class: "code-title" }, language);
    const pre = h("pre", { tabIndex: 0, role: "group", "aria-label": t("code.name", language) }, this.#code);
    const bar = h("figcaption", { class: "code-bar" }, this.#title, copyButton(() => this.#text));
    this.element = h("figure", { class: "code" }, bar, pre);
    watchCutEdge(pre);
    loadHighlighter();
  }

  append(text) {
    this.#add(text);
    if (this.#piece.length > 2 * PIECE || !colour(this.#span, this.#piece, this.#language))
      this.#span.textContent = this.#piece;
  }

  /** Add the last of the text, and the end of its last line. */
  finish(text) {
    this.#add(text);
    if (!this.#text.endsWith("\n")) this.#add("\n");
    this.#keepPiece(this.#piece);
    const lines = this.#text.replace(/\n$/, "").split("\n").length;
    if (lines > FOLDED_OVER) this.#fold(lines);
  }

  #add(text) {
    this.#text += text;
    this.#piece += text;
    for (let end; (end = pieceEnd(this.#piece)) > 0; ) {
      this.#keepPiece(this.#piece.slice(0, end));
      this.#piece = this.#piece.slice(end);
      this.#span = h("span", { class: "lines" });
      this.#code.append(this.#span);
    }
  }

  #keepPiece(text) {
    this.#span.textContent = text;
    waiting.push([this.#span, text, this.#language]);
    if (waiting.length === 1) setTimeout(colourWaiting);
  }

  #fold(lines) {
    this.#title.textContent = [this.#language, t("code.lines", number(lines))].filter(Boolean).join(" · ");
    this.element.classList.add("folded");
    const unfold = () => {
      this.element.classList.remove("folded");
      more.remove();
      this.#code.parentElement.focus({ preventScroll: true });
    };
    const rest = number(lines - FOLDED_TO);
    const more = h("button", { type: "button", class: "code-more", onclick: unfold }, t("code.more", rest));
    this.element.append(more);
  }
}

/** Where the first piece ends: after an empty line before a line at the margin, else after any; 0 if it may grow. */
function pieceEnd(text) {
  if (text.length <= PIECE) return 0;
  const empty = /\n\n(?=\S)/g;
  empty.lastIndex = PIECE / 2;
  const found = empty.exec(text);
  if (found && found.index < 2 * PIECE) return found.index + 2;
  if (text.length <= 2 * PIECE) return 0;
  const line = text.lastIndexOf("\n", 2 * PIECE);
  return (line > 0 ? line : text.indexOf("\n", 2 * PIECE)) + 1;
}

/** False if the language has no colours, or not yet. */
function colour(span, text, language) {
  if (!highlighter?.getLanguage(language)) return false;
  span.replaceChildren(spansOf(highlighter.highlight(text, { language, ignoreIllegals: true }).value));
  return true;
}

async function loadHighlighter() {
  highlighter ??= (await import("./highlight.min.js")).default;
}

/** Colour what was finished, in slices, so that a long log does not keep the page from answering. */
async function colourWaiting() {
  await loadHighlighter();
  const end = performance.now() + SLICE_MS;
  while (waiting.length && performance.now() < end) {
    const [span, text, language] = waiting.shift();
    if (span.isConnected && text.length <= 2 * PIECE) colour(span, text, language);
  }
  if (waiting.length) setTimeout(colourWaiting);
}

/** The highlighter's text, of which spans, their classes and five entities are known, as nodes. */
function spansOf(html) {
  const root = document.createDocumentFragment();
  const open = [root];
  for (const [part, name] of html.matchAll(/<span class="([^"]*)">|<\/span>|[^<]+/g)) {
    if (name !== undefined) {
      const span = h("span", { class: name });
      open.at(-1).append(span);
      open.push(span);
    } else if (part === "</span>") open.pop();
    else open.at(-1).append(part.replace(/&(amp|lt|gt|quot|#x27);/g, (_, entity) => ENTITIES[entity]));
  }
  return root;
}

const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', "#x27": "'" };

/** Says "Copied" for a while, in a slot as wide as the longer word. */
export function copyButton(read) {
  const words = [h("span", {}, t("log.copy")), h("span", {}, t("log.copied"))];
  let timer;
  const copy = async () => {
    await copyText(read());
    button.classList.add("copied");
    clearTimeout(timer);
    timer = setTimeout(() => button.classList.remove("copied"), 1500);
  };
  const button = h("button", { type: "button", class: "quiet copy", onclick: copy }, icon("copy"), h("span", { class: "swap" }, words));
  return button;
}
