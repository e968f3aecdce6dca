/** How probable each token of a reply was, and what could have stood in its place. */

import { h, icon } from "./dom.js";
import { percent } from "./format.js";
import { t } from "./words.js";

const SHOWN = 5;
const MARGIN = 8;

let count = 0;

/** Fill `element` with a section that opens. `logprobs` are as the chat API of OpenAI gives them. */
export function renderProbabilities(element, logprobs) {
  const key = ["high", "middle", "low"].map((level) => h("span", { class: level }, t(`probabilities.${level}`)));
  const name = h("span", {}, icon("chevron"), t("probabilities.name"));
  const summary = h("summary", {}, name, h("span", { class: "key" }, key));
  const details = h("details", { class: "probabilities" }, summary);
  // A long reply has thousands of tokens: their elements are made when somebody looks.
  details.addEventListener("toggle", () => details.open && details.append(...tokenList(mergeTokens(logprobs))), { once: true });
  element.replaceChildren(details);
}

/**
 * Tokens as text. A Korean character may span several tokens: those are merged by their bytes until they decode, and
 * their probability is the product.
 */
export function mergeTokens(logprobs) {
  const merged = [];
  let pieces = [];
  for (const piece of logprobs) {
    pieces.push(piece);
    const text = pieces.length === 1 && !piece.bytes ? String(piece.token ?? "") : decode(pieces.flatMap(bytesOf));
    // Four pieces of one byte each are the longest character: what does not decode then never will.
    if (text === null && pieces.length < 4) continue;
    for (const group of text === null ? pieces.map((each) => [each]) : [pieces]) merged.push(tokenOf(group));
    pieces = [];
  }
  return merged.concat(pieces.map((each) => tokenOf([each])));
}

function tokenOf(pieces) {
  const [first] = pieces;
  const share = Math.exp(pieces.reduce((sum, { logprob }) => sum + (logprob ?? NaN), 0));
  const text = textOf(pieces);
  const others = (first.top_logprobs ?? []).filter((each) => each.token !== first.token || !sameBytes(each, first));
  const alternatives = others.map((each) => ({ text: textOf([each]), share: Math.exp(each.logprob), isChosen: false }));
  alternatives.push({ text, share, isChosen: true });
  alternatives.sort((a, b) => b.share - a.share);
  const shown = alternatives.slice(0, SHOWN);
  if (!shown.some((each) => each.isChosen)) shown[SHOWN - 1] = alternatives.find((each) => each.isChosen);
  return { text, share, alternatives: shown };
}

const bytesOf = (piece) => piece.bytes ?? [...new TextEncoder().encode(String(piece.token ?? ""))];
const sameBytes = (one, other) => String(bytesOf(one)) === String(bytesOf(other));

function textOf(pieces) {
  const bytes = pieces.flatMap(bytesOf);
  const hex = () => bytes.map((each) => each.toString(16).toUpperCase().padStart(2, "0")).join(" ");
  return decode(bytes) ?? t("probabilities.bytes", hex());
}

/** Null if the bytes are no whole characters. */
function decode(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return null;
  }
}

/** One tab stop: the arrows move through the tokens, and the one that is looked at shows its alternatives. */
function tokenList(tokens) {
  const id = `tokens-${++count}`;
  const spans = tokens.map((token, index) => tokenElement(token, `${id}-${index}`));
  const list = h("div", { class: "tokens", role: "listbox", tabIndex: 0, "aria-label": t("probabilities.name") }, spans);
  const popover = h("div", { class: "alternatives", id: `${id}-alternatives`, role: "tooltip", hidden: true });
  let at = -1;

  const leave = () => {
    popover.hidden = true;
    spans[at]?.classList.remove("active");
    spans[at]?.setAttribute("aria-selected", "false");
    list.removeAttribute("aria-activedescendant");
  };
  const show = (index) => {
    leave();
    at = Math.max(0, Math.min(index, spans.length - 1));
    const span = spans[at];
    if (!span) return;
    span.classList.add("active");
    span.setAttribute("aria-selected", "true");
    span.setAttribute("aria-label", t("probabilities.token", visible(tokens[at].text), percent(tokens[at].share)));
    span.setAttribute("aria-describedby", popover.id);
    list.setAttribute("aria-activedescendant", span.id);
    popover.replaceChildren(...tokens[at].alternatives.map(alternativeElement));
    popover.hidden = false;
    span.scrollIntoView({ block: "nearest" });
    place(popover, span);
  };

  list.addEventListener("focus", () => list.matches(":focus-visible") && show(Math.max(at, 0)));
  list.addEventListener("blur", leave);
  list.addEventListener("scroll", () => !popover.hidden && place(popover, spans[at]), { passive: true });
  list.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: spans.length };
    const isPlain = !(event.altKey || event.ctrlKey || event.metaKey || event.shiftKey);
    if (isPlain && event.key in moves) show(popover.hidden ? at : moves[event.key]);
    else if (event.key === "Escape" && !popover.hidden) leave();
    else return;
    event.preventDefault();
    // The page's own keys (Escape stops a reply, arrows scroll) are not meant.
    event.stopPropagation();
  });
  const under = (event) => spans.indexOf(event.target.closest(".token"));
  list.addEventListener("click", (event) => under(event) >= 0 && show(under(event)));
  list.addEventListener("pointerover", (event) => {
    if (event.pointerType === "mouse" && under(event) >= 0) show(under(event));
  });
  list.addEventListener("pointerleave", () => document.activeElement !== list && leave());
  return [list, popover];
}

function tokenElement({ text, share }, id) {
  const [, lead, rest] = /^(\s*)([^]*)$/.exec(text);
  const level = Number.isNaN(share) ? "unknown" : share >= 0.9 ? "high" : share >= 0.5 ? "middle" : "low";
  const shown = rest ? [lead, h("span", {}, rest)] : [h("span", { class: "sign" }, visible(text)), /\n/.test(text) ? lead : null];
  return h("span", { class: `token ${level}`, role: "option", id, "aria-selected": "false" }, shown);
}

const visible = (text) => (text.trim() ? text.trim() : text.replace(/\n/g, "↵").replace(/\s/g, "␣")) || "∅";

function alternativeElement({ text, share, isChosen }) {
  const fill = h("span");
  fill.style.setProperty("--share", String(share || 0));
  const word = h("span", { class: "word", dir: "auto" }, visible(text));
  const bar = h("span", { class: "bar" }, fill);
  return h("div", { class: isChosen ? "chosen" : undefined }, word, bar, h("span", { class: "share" }, percent(share)));
}

/** Beside the token and not over it: below, or above if there is no room below. */
function place(popover, span) {
  const frame = popover.parentElement.getBoundingClientRect();
  const lines = span.firstElementChild.getClientRects();
  const [first, last] = [lines[0], lines[lines.length - 1]];
  const isBelow = last.bottom + MARGIN + popover.offsetHeight <= lowestEdge(popover);
  const left = Math.min((isBelow ? last : first).left - frame.left, frame.width - popover.offsetWidth - MARGIN);
  popover.style.left = `${Math.max(MARGIN, left)}px`;
  const top = isBelow ? last.bottom + MARGIN : first.top - MARGIN - popover.offsetHeight;
  popover.style.top = `${top - frame.top}px`;
}

/** What lies further down is cut off by the log or by its turn. */
function lowestEdge(popover) {
  const edges = [".scroller", ".turn"].map((each) => popover.closest(each)?.getBoundingClientRect().bottom);
  return Math.min(innerHeight, ...edges.filter((edge) => edge !== undefined));
}
