/** Replies while and after they are written. Finished blocks stay as they are; only the last is rendered again. */

import { firstPiece, inlineBlock, lex, PIECE, render } from "./blocks.js";
import { CodeBlock } from "./code.js";
import remend from "./remend.js";

const PAINT_MS = 50;
/** So many new characters each paint but the first takes in at most; more have to wait for the next ones. */
const STEP = 1_200;
const FENCE = /^( {0,3})(`{3,}|~{3,})[^\n]*\n/;
/** A last line that may yet become another kind of block: a number, a rule, a fence, a row or the head of a table. */
const UNDECIDED =
  /(?:^|\n)(?: {0,3}(?:\d{1,9}[.)]?|[-+*_=#>~]+|(?:`+|~{3,})[^\n`]*)[ \t]*|\|[^\n]*(?:\n[|: \t-]*)?)$/;
const REDEFINED_AT_MOST = 4_000;
const DEFINITION = /^ {0,3}\[[^\]\n]+\]:/m;
const COMPLETED = {
  katex: false,
  singleTilde: false,
  comparisonOperators: false,
  htmlTags: false,
  setextHeadings: false,
};
/** Stands before the rest of a long paragraph, so that no line of it can begin another kind of block. */
const WORD_JOINER = "\u2060";

/** Show a question as it was typed. */
export function renderQuestion(element, text) {
  element.textContent = text;
  markLanguage(element, text);
}

export class ReplyView {
  #element;
  #text = "";
  #isWhole = false;
  #shown = "";
  /** How much of the text stands in finished blocks, or in the block of code that is being written. */
  #done = 0;
  /** The nodes of the last block, which the next paint replaces. */
  #tail = [];
  /** The element at whose end the text goes on. */
  #growing;
  /** The list, table or long paragraph that the text from `#done` on continues. */
  #open = null;
  /** The block of code that the text from `#done` on continues. */
  #fence = null;
  #painted;
  #pause = PAINT_MS;
  #timer;

  constructor(element) {
    this.#element = element;
    element.classList.add("prose");
  }

  /** Show the text so far: the first at once, then one paint in 50 ms. */
  update(text) {
    this.#text = text;
    if (this.#painted === undefined) this.#paint();
    else this.#paintSoon();
  }

  /** Show the whole text; nothing of it is unfinished any more. What is long and partly shown takes a few paints. */
  finish(text) {
    this.#text = text;
    this.#isWhole = true;
    this.#paint();
  }

  #paintSoon() {
    const wait = Math.max(0, this.#painted + this.#pause - performance.now());
    this.#timer ??= setTimeout(() => requestAnimationFrame(() => this.#timer && this.#paint()), wait);
  }

  #paint() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const start = performance.now();
    const whole = this.#text.replace(/\r\n?/g, "\n");
    const isFirst = this.#painted === undefined;
    const text = isFirst ? whole : whole.slice(0, this.#shown.length + STEP);
    const final = this.#isWhole && text.length === whole.length;
    // Addresses that are defined at the end count for what stands before them. In a long reply, that waits for the next
    // time it is shown: to render all of it at once would keep the page busy.
    const isRedefined = final && this.#done > 0 && text.length <= REDEFINED_AT_MOST && DEFINITION.test(text);
    if (isRedefined || !text.startsWith(this.#shown)) this.#restart();
    this.#shown = text;
    this.#element.classList.toggle("writing", !final);
    markLanguage(this.#element, text);
    this.#tail.forEach((node) => node.remove());
    this.#tail = [];
    this.#growing?.classList.remove("growing");
    while (this.#advance(text, final));
    if (final) this.#done = text.length;
    if (this.#element.firstChild) this.#painted = start;
    // What takes long is painted less often, so that the page is free for three quarters of the time.
    this.#pause = Math.max(PAINT_MS, 4 * (performance.now() - start));
    if (text.length < whole.length) this.#paintSoon();
  }

  #restart() {
    this.#element.replaceChildren();
    this.#done = 0;
    this.#tail = [];
    this.#open = this.#fence = null;
  }

  /** Keep what is finished, and show the rest. True if some was kept and the rest is to be looked at again. */
  #advance(text, final) {
    if (this.#fence) return this.#readCode(text, final);
    const source = text.slice(this.#done);
    const undecided = final ? null : UNDECIDED.exec(source);
    const head = this.#open?.head ?? "";
    const tokens = lex(head + (undecided ? source.slice(0, undecided.index) : source));
    const last = tokens.findLastIndex(({ type }) => type !== "space" && type !== "def");
    const finished = tokens.slice(0, Math.max(last, 0));
    const start = finished.reduce((sum, { raw }) => sum + raw.length, this.#done - head.length);
    if (finished.length > 0) {
      this.#place(finished, true);
      this.#done = start;
      this.#open = null;
    }
    return last >= 0 && this.#readLast(tokens[last], start, final);
  }

  #readLast(token, start, final) {
    if (!final && this.#beginCode(token, start)) return true;
    const isLong = this.#open || token.raw.length > PIECE;
    if (!final && isLong && this.#keepFirstPart(token, start)) return true;
    const isWhole = final || token.type === "code" || token.type === "html";
    const raw = isWhole ? token.raw : remend(token.raw, COMPLETED);
    let tokens = raw === token.raw ? [token] : lex(raw);
    if (this.#open?.head === WORD_JOINER) tokens = [inlineBlock(raw.slice(WORD_JOINER.length))];
    const nodes = this.#place(tokens, final);
    if (final) return false;
    this.#tail = nodes;
    this.#growing = growingElement(nodes.at(-1));
    this.#growing?.classList.add("growing");
    return false;
  }

  #beginCode(token, start) {
    const fence = token.type === "code" && FENCE.exec(token.raw);
    if (!fence) return false;
    const [line, indent, marks] = fence;
    const block = new CodeBlock(languageOf(token));
    this.#element.append(block.element);
    this.#done = start + line.length;
    this.#open = null;
    this.#fence = {
      block,
      indent: new RegExp(`^ {0,${indent.length}}`, "gm"),
      isIndented: indent.length > 0,
      end: new RegExp(`^ {0,3}${marks[0]}{${marks.length},}[ \\t]*$`, "gm"),
      maybeEnd: new RegExp(`^ {0,3}${marks[0]}*[ \\t]*$`),
    };
    return true;
  }

  #readCode(text, final) {
    const { block, indent, isIndented, end, maybeEnd } = this.#fence;
    const read = (to) => (isIndented ? text.slice(this.#done, to).replace(indent, "") : text.slice(this.#done, to));
    end.lastIndex = this.#done;
    const found = end.exec(text);
    const after = found && found.index + found[0].length;
    if (found && (final || after < text.length)) {
      block.finish(read(found.index));
      this.#fence = null;
      this.#done = after;
      return true;
    }
    const line = text.lastIndexOf("\n") + 1;
    const to = final || !(isIndented || maybeEnd.test(text.slice(line))) ? text.length : Math.max(line, this.#done);
    if (final) block.finish(read(to));
    else if (to > this.#done) block.append(read(to));
    this.#done = to;
    return false;
  }

  /** Keep all of a long block but its last item, row or piece. False if it has one only. */
  #keepFirstPart(token, start) {
    const { type, raw } = token;
    if (type === "list" && token.items.length > 1 && raw.endsWith(token.items.at(-1).raw)) {
      this.#keepPart({ ...token, items: token.items.slice(0, -1) }, "");
      this.#done = start + raw.length - token.items.at(-1).raw.length;
      return true;
    }
    const lines = type === "table" ? raw.trimEnd().split("\n") : [];
    if (token.rows?.length > 1 && lines.length === token.rows.length + 2) {
      this.#keepPart({ ...token, rows: token.rows.slice(0, -1) }, `${lines[0]}\n${lines[1]}\n`);
      this.#done = start + raw.trimEnd().length - lines.at(-1).length;
      return true;
    }
    const isRest = this.#open?.head === WORD_JOINER;
    let text = isRest ? raw.slice(WORD_JOINER.length) : raw;
    if ((type !== "paragraph" && !isRest) || text.length <= PIECE) return false;
    while (text.length > PIECE) {
      const piece = firstPiece(text);
      this.#keepPart(piece, WORD_JOINER);
      text = text.slice(piece.raw.length);
    }
    this.#done = start + raw.length - text.length;
    return true;
  }

  /** Show a part of a block, to which `head` and the text from `#done` on will add. */
  #keepPart(token, head) {
    const [node] = this.#place([token], true);
    this.#open ??= { element: node.querySelector?.("tbody") ?? node, head };
  }

  /** Show blocks at the end. Returns their nodes, which stand in the open block if the first continues it. */
  #place(tokens, isFinished) {
    const fragment = render(tokens);
    for (const code of fragment.querySelectorAll("code[data-language]")) {
      const block = new CodeBlock(code.dataset.language);
      if (isFinished) block.finish(code.textContent);
      else block.append(code.textContent);
      code.parentElement.replaceWith(block.element);
    }
    const nodes = [...fragment.children];
    const continues = this.#open && nodes.length > 0 && tokens[0].type !== "space";
    const parts = continues ? partsOf(nodes[0], this.#open.element) : null;
    if (!parts) return this.#append(nodes);
    this.#open.element.append(...parts);
    return [...parts, ...this.#append(nodes.slice(1))];
  }

  #append(nodes) {
    this.#element.append(...nodes);
    return nodes;
  }
}

/** The innermost block at the end of a node; undefined for code and tables. */
function growingElement(node) {
  let element = node?.nodeType === Node.TEXT_NODE ? node.parentElement : node;
  while (element?.matches("ul, ol, blockquote, li:has(> :is(ul, ol, blockquote, p, figure, .table):last-child)"))
    element = element.lastElementChild;
  return element?.matches("p, li, h3, h4, h5, h6") ? element : element?.closest("p") ?? undefined;
}

/** What of a block belongs into an open one: its items, rows or words. Null if it is of another kind. */
function partsOf(node, open) {
  const same = open.tagName === "TBODY" ? node.querySelector("tbody") : node;
  if (same?.tagName !== open.tagName) return null;
  for (const row of open.rows ? same.rows : [])
    [...row.cells].forEach((cell, column) => (cell.className = open.rows[0].cells[column]?.className ?? ""));
  return [...same.childNodes];
}

const languageOf = (token) => /^\S{0,40}/.exec(token.lang ?? "")[0];

/** Mark the direction, and the language by the share of Hangul among the letters of the beginning. */
function markLanguage(element, text) {
  if (element.dir !== "auto") element.dir = "auto";
  const letters = text.slice(0, 1000).match(/\p{L}/gu) ?? [];
  const count = (script) => letters.filter((letter) => script.test(letter)).length / letters.length;
  const lang = count(/\p{Script=Hangul}/u) >= 0.3 ? "ko" : count(/\p{Script=Latin}/u) >= 0.5 ? "en" : "";
  // Setting the same language again would have the browser find the styles of everything below anew.
  if (element.lang !== lang) element.lang = lang;
}
