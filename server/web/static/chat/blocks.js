/** Markdown to elements that are safe to show: the blocks of a text, and their rendering through the sanitiser. */

import { watchCutEdge } from "./code.js";
import { h } from "./dom.js";
import { Lexer, Marked, Parser, Tokenizer } from "./marked.esm.js";
import "./purify.min.js";
import { t } from "./words.js";

/** Longer runs of inline Markdown are read in pieces, since the time for emphasis grows with the square of the length. */
export const PIECE = 2000;

const ADDRESS = /^(?:https?:\/\/|mailto:|#)/i;
const TOO_DEEP = /^(?:[ \t]*(?:>|[-+*]|\d{1,9}[.)])){33}/m;
/** `**` next to a particle: CommonMark does not see the end of `**"말"**은`, since no space stands there. */
const STRONG = /^\*\*(?![\s*])((?:[^*`\\\n]|\\.|`[^`\n]+`)+?)(?<!\s)\*\*(?!\*)/;
const URL_AND_PARTICLE = /^[^가-힣]*[A-Za-z0-9)](?=[가-힣]+$)/;
const NUMERIC = /^[-+−~≈<>≤≥₩$€£¥]?\s?[\d¼½¾].{0,15}$/;

DOMPurify.setConfig({
  ALLOWED_TAGS: (
    "p br strong em del code pre a ul ol li blockquote h3 h4 h5 h6 hr table thead tbody tr th td"
  ).split(" "),
  ALLOWED_ATTR: ["href", "start", "align", "data-language"],
  ALLOWED_URI_REGEXP: ADDRESS,
  ADD_URI_SAFE_ATTR: ["start", "align", "data-language"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
});

const escape = (text) =>
  text.replace(/[&<>"']/g, (each) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[each]);

function anchor(href, html) {
  const address = href.trim();
  return ADDRESS.test(address) ? `<a href="${escape(address)}">${html}</a>` : html;
}

const renderer = {
  html({ text, block }) {
    if (block) return `<p>${escape(text.trim()).replace(/\n/g, "<br>")}</p>`;
    return /^<br\s*\/?>$/i.test(text) ? "<br>" : escape(text);
  },
  code({ text, lang }) {
    const language = /^\S{0,40}/.exec(lang ?? "")[0];
    return `<pre><code data-language="${escape(language)}">${escape(text)}\n</code></pre>`;
  },
  /** Two levels lower: the page has the first, and each turn the second. */
  heading({ tokens, depth }) {
    const name = `h${Math.min(depth + 2, 6)}`;
    return `<${name}>${this.parser.parseInline(tokens)}</${name}>`;
  },
  link({ href, tokens }) {
    return anchor(href, this.parser.parseInline(tokens).replace(/<\/?a\b[^>]*>/g, ""));
  },
  /** A remote image would tell its server who reads the reply and when, so it becomes a link. */
  image({ href, text }) {
    return anchor(href, escape(text ? `${t("image.name")}: ${text}` : t("image.name")));
  },
  checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
};

const tokenizer = {
  emStrong(src) {
    const found = STRONG.exec(src);
    if (!found) return false;
    const [raw, text] = found;
    return { type: "strong", raw, text, tokens: this.lexer.inlineTokens(text) };
  },
  /** One tilde strikes nothing through: "3~5분, 10~15분" are ranges. */
  del: (src) => (src.startsWith("~~") ? false : undefined),
  url(src) {
    const token = Tokenizer.prototype.url.call(this, src);
    const raw = token && URL_AND_PARTICLE.exec(token.raw)?.[0];
    if (!raw) return token;
    const href = token.href.slice(0, raw.length - token.raw.length);
    return { ...token, raw, text: raw, href, tokens: [{ type: "text", raw, text: raw }] };
  },
};

const { defaults: options } = new Marked({ gfm: true, breaks: true, renderer, tokenizer });

class PiecewiseLexer extends Lexer {
  inlineTokens(src, tokens = []) {
    let rest = src;
    while (rest.length > PIECE) {
      const end = this.pieceEnd(rest);
      super.inlineTokens(rest.slice(0, end), tokens);
      rest = rest.slice(end);
    }
    return super.inlineTokens(rest, tokens);
  }

  /** Where the first piece of a long inline text ends: at a word outside all marks, if there is one. */
  pieceEnd(src) {
    const piece = src.slice(0, PIECE);
    let [end, start] = [0, 0];
    for (const { type, raw } of super.inlineTokens(piece, [])) {
      const text = type === "text" ? raw.replace(/\[[^\]]*\]| [*_] /g, (each) => "x".repeat(each.length)) : "";
      const open = text.search(/(?<!\w)_|\*|~~|`|\[/);
      const word = lastWord(open < 0 ? text : text.slice(0, open + 1));
      if (word) end = start + word;
      if (open >= 0) break;
      start += raw.length;
    }
    if (end < PIECE / 4) end = lastWord(piece) || PIECE;
    return /[\ud800-\udbff]/.test(src[end - 1]) ? end - 1 : end;
  }
}

/** The offset of the last word that follows a space and begins with a letter; 0 if there is none. */
function lastWord(text) {
  for (let at = text.lastIndexOf(" "); at >= 0; at = text.lastIndexOf(" ", at - 1))
    if (/\p{L}/u.test(text[at + 1] ?? "")) return at + 1;
    else if (at === 0) return 0;
  return 0;
}

/** The top-level blocks of a text. */
export function lex(text) {
  if (!TOO_DEEP.test(text)) {
    try {
      return new PiecewiseLexer(options).lex(text);
    } catch {
      // Too deeply nested for the parser's recursion.
    }
  }
  return [{ type: "paragraph", raw: text, text, tokens: [{ type: "text", raw: text, text }] }];
}

/** The first piece of a long paragraph as a block. */
export function firstPiece(text) {
  return inlineBlock(text.slice(0, new PiecewiseLexer(options).pieceEnd(text)));
}

/** A paragraph with inline Markdown only, whatever its text begins with. */
export function inlineBlock(raw) {
  return { type: "paragraph", raw, text: raw, tokens: new PiecewiseLexer(options).inlineTokens(raw) };
}

/** The elements of blocks. Code is left as `pre` and `code[data-language]`. */
export function render(tokens) {
  const fragment = DOMPurify.sanitize(new Parser(options).parse(tokens));
  for (const link of fragment.querySelectorAll("a")) {
    if (!link.hasAttribute("href")) link.replaceWith(...link.childNodes);
    else Object.assign(link, { target: "_blank", rel: "noopener noreferrer" });
  }
  for (const table of fragment.querySelectorAll("table")) wrapTable(table);
  return fragment;
}

function wrapTable(table) {
  const wrapper = h("div", { class: "table", role: "group", tabIndex: 0, "aria-label": t("table.name") });
  table.replaceWith(wrapper);
  wrapper.append(table);
  watchCutEdge(wrapper);
  // Numbers stand right. The first row decides, so that a table being written does not move.
  const first = table.tBodies[0]?.rows[0];
  const isRight = (cell) => !cell.align && NUMERIC.test(cell.textContent.trim());
  const columns = [...(first?.cells ?? [])].filter(isRight).map((cell) => cell.cellIndex);
  for (const row of table.rows) for (const column of columns) row.cells[column]?.classList.add("number");
}
