/** The box in which questions are written, and the one slot of Send and Stop. */

import { h, icon, setText } from "./dom.js";
import { number } from "./format.js";
import { draftKey, recall, remember, sendingKey } from "./memory.js";
import { errorSentence, t } from "./words.js";

const MAX_LINES = 8;
const REST_MS = 400;

export class Composer {
  #box;
  #send;
  #stop;
  #left;
  #right;
  #problem;
  #name = "";
  #state = { isOpened: false, isWriting: false, isLost: false, isRefused: false, replayed: null };
  #on;

  /** `on` has send(text), stop() and editLast(). */
  constructor(root, on) {
    [this.#box, this.#send, this.#stop] = ["textarea", ".send", ".stop"].map((each) => root.querySelector(each));
    [this.#left, this.#right, this.#problem] = [".hint-left", ".hint-right", ".problem"].map((each) => root.querySelector(each));
    this.#on = on;
    root.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.#stop.addEventListener("click", () => on.stop());
    this.#box.addEventListener("input", () => this.#changed());
    this.#box.addEventListener("keydown", (event) => this.#pressed(event));
  }

  /** Show the draft of a conversation; what was typed while it was opened is its draft. */
  open(name) {
    const isTyped = this.#box.value && ["", name].includes(this.#name);
    this.#name = name;
    if (isTyped) remember(draftKey(name), this.#box.value);
    else this.#box.value = recall(draftKey(name)) ?? recall(sendingKey(name))?.text ?? "";
    this.showProblem(null);
    this.#fit();
    this.#showSlot();
  }

  get isEmpty() {
    return !this.#box.value.trim();
  }

  focus() {
    this.#box.focus({ preventScroll: true });
  }

  /** Put a text into the box, for its user to change and send. */
  fill(text) {
    this.#box.value = text;
    this.#changed();
    this.focus();
    this.#box.setSelectionRange(text.length, text.length);
  }

  /** Give back a text that could not be sent, unless another was begun meanwhile. */
  giveBack(text) {
    if (this.isEmpty) this.fill(text);
  }

  /** Say in words why the text was not sent. */
  showProblem(error) {
    this.showNotice(error ? errorSentence(error.code, error.message, error.seconds) : "");
  }

  showNotice(text) {
    setText(this.#problem, text);
    this.#problem.hidden = !text;
  }

  /** `replayed` is how many earlier messages will come with the question; null if that is not known. */
  update(state) {
    const hadWriting = this.#state.isWriting;
    this.#state = { ...state, isOpened: true };
    this.#showSlot();
    if (hadWriting && !state.isWriting) this.#rest();
  }

  submit() {
    const text = this.#box.value.trim();
    const { isOpened, isWriting, isLost, isRefused } = this.#state;
    if (!text || !isOpened || isWriting || isLost || isRefused) return;
    this.#box.value = "";
    this.#changed();
    this.showProblem(null);
    this.#on.send(text);
  }

  #pressed(event) {
    const isComposing = event.isComposing || event.keyCode === 229;
    if (event.key === "Enter" && !event.shiftKey && !isComposing) {
      event.preventDefault();
      this.submit();
    } else if (event.key === "ArrowUp" && !isComposing && !hasModifier(event) && !this.#box.value) {
      if (this.#on.editLast()) event.preventDefault();
    }
  }

  #changed() {
    if (this.#name) remember(draftKey(this.#name), this.#box.value || null);
    if (!this.#problem.hidden && this.#box.value) this.showProblem(null);
    this.#fit();
    this.#showSlot();
    this.#on.drafted();
  }

  #fit() {
    const box = this.#box;
    const { lineHeight, paddingTop, paddingBottom } = getComputedStyle(box);
    const most = MAX_LINES * parseFloat(lineHeight) + parseFloat(paddingTop) + parseFloat(paddingBottom);
    box.style.height = "auto";
    box.style.height = `${Math.min(box.scrollHeight, most)}px`;
    box.style.overflowY = box.scrollHeight > most + 1 ? "auto" : "hidden";
  }

  /** After a reply ends the slot ignores pointers, so that a press meant for Stop does not send. */
  #rest() {
    this.#send.parentElement.classList.add("resting");
    setTimeout(() => this.#send.parentElement.classList.remove("resting"), REST_MS);
  }

  #showSlot() {
    const { isOpened, isWriting, isLost, isRefused, replayed } = this.#state;
    const hadFocus = document.activeElement === this.#stop || document.activeElement === this.#send;
    this.#send.hidden = isWriting;
    this.#stop.hidden = !isWriting;
    this.#send.disabled = this.isEmpty || isLost || isRefused || !isOpened;
    if (hadFocus && document.activeElement === document.body) this.focus();
    setText(this.#left, isRefused ? t("error.not_allowed") : hintOf(isLost, isWriting));
    setText(this.#right, isWriting ? t("hint.stop") : replayed ? t("hint.replay", number(replayed)) : "");
  }
}

const hasModifier = ({ altKey, ctrlKey, metaKey, shiftKey }) => altKey || ctrlKey || metaKey || shiftKey;

function hintOf(isLost, isWriting) {
  if (isLost) return t("hint.offline");
  return isWriting ? t("hint.writing") : `${t("hint.send")} · ${t("hint.newline")}`;
}

/** The page of a conversation without messages: what this is, and three questions to begin with. */
export function firstVisit(name, fill) {
  const questions = ["first.shorten", "first.refuse", "first.sql"].map((key) =>
    h("li", {}, h("button", { class: "suggestion", type: "button", onclick: () => fill(t(key)) }, t(key), icon("right"))),
  );
  const [before, code, after] = t("first.programs", name);
  return h("section", { class: "first" },
    h("h2", {}, t("first.title"), h("br"), t("first.title_more")),
    h("p", {}, t("first.anywhere")),
    h("ul", {}, questions),
    h("p", { class: "programs" }, before, h("code", {}, code), after),
  );
}

/** What stands in place of a conversation that the key does not open. `open` leads to one that it opens. */
export function refusedVisit(verb, open) {
  return h("section", { class: "first" },
    h("h2", {}, t("error.not_allowed")),
    h("p", {}, t("refused.what")),
    h("p", {}, h("button", { class: "outlined", type: "button", onclick: open }, verb)),
  );
}
