/** A question and its reply on the thread that shows how the run is or how it ended. */

import { copyButton } from "./code.js";
import { connection } from "./connection.js";
import { h, icon, setText } from "./dom.js";
import { clockTime, exchange, fullTime, number, rate, seconds, tokens } from "./format.js";
import { renderQuestion, ReplyView } from "./markdown.js";
import { errorDetail, errorSentence, t } from "./words.js";

/** What is shorter would be shown as 0. */
const LEAST_SECONDS = 0.05;
const FAILED = ["failed", "interrupted", "expired"];
const UNREMEMBERED = [...FAILED, "sending"];

/** Replies that are far from the screen are plain text; near it they are rendered. */
const nearby = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) target.renderNow();
  },
  { rootMargin: "1200px 0px" },
);

/** The text of one reply, as it is written or as it was. */
class Reply {
  element = h("div", { class: "reply" });
  #text = "";
  #view = null;
  #isDone = true;

  set(text) {
    if (text === this.#text) return;
    this.#text = text;
    this.#isDone = true;
    this.#view = null;
    this.element.textContent = text;
    this.element.classList.add("raw");
    this.element.renderNow = () => this.render();
    nearby.observe(this.element);
  }

  write(text, isDone) {
    if (text === this.#text && isDone === this.#isDone) return;
    this.#text = text;
    this.#isDone = isDone;
    this.#view ??= this.#makeView();
    if (isDone) this.#view.finish(text);
    else this.#view.update(text);
  }

  get text() {
    return this.#text;
  }

  render() {
    if (this.#view || !this.#text) return;
    this.#view = this.#makeView();
    this.#view.finish(this.#text);
  }

  #makeView() {
    nearby.unobserve(this.element);
    this.element.classList.remove("raw");
    this.element.textContent = "";
    return new ReplyView(this.element);
  }
}

export class Turn {
  element = h("article", { class: "turn" });
  #when = h("time", { class: "when" });
  #question = h("div", { class: "question" });
  #slip = h("div", { class: "slip" }, this.#question);
  #fold = null;
  #reply = new Reply();
  #fresh = null;
  #notes = h("div", { class: "notes" });
  #attempt = null;
  #state = h("span", { class: "state" });
  #actions = h("span", { class: "actions" });
  #numbers = h("span", { class: "numbers" });
  #probabilities = null;
  #editor = null;
  #writing = null;
  #asked = null;
  #shown = "";
  #on;

  /** `on` has what the buttons do: regenerate, edit, askAgain and takeBack with the model of the turn, retry with the run, and left. */
  constructor(on) {
    this.#on = on;
    const meta = h("div", { class: "meta" }, this.#state, this.#actions, this.#numbers);
    const thread = h("span", { class: "thread", "aria-hidden": "true" }, h("span", { class: "knot" }));
    this.strand = h("div", { class: "strand" }, thread, this.#when, this.#slip, this.#reply.element, this.#notes, meta);
    this.element.append(this.strand);
  }

  get copyable() {
    return (this.#fresh ?? this.#reply).text;
  }

  /** Render the reply now, wherever it stands. */
  render() {
    this.#reply.render();
  }

  get isEditing() {
    return this.#editor !== null;
  }

  update(model, { isLast, isBusy, isRetried }) {
    const writing = model.replacement ?? model.writing ?? null;
    this.model = model;
    this.#listen(writing);
    this.#showText(model);
    const { status, usage, seconds: took, logprobs, error, attempt } = model;
    const state = writing ? writing.status : status;
    const shown = JSON.stringify([state, usage, took, error, attempt?.id, isLast, isBusy, isRetried, t("log.copy"), writing?.hasEnded]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.element.dataset.state = writing?.hasEnded === false && !writing.text && state === "running" ? "waiting" : state;
    this.#slip.classList.toggle("unremembered", UNREMEMBERED.includes(status) || (status === "cancelled" && !model.isTurn));
    this.#showSlip(model, isLast && !isBusy);
    this.#showNotes(model, isRetried);
    this.#showAttempt(model, isLast && !isBusy, isRetried);
    this.#showMeta(model, isLast && !isBusy, isRetried);
    this.#showProbabilities(writing ? writing.logprobs : logprobs);
    this.tick();
  }

  /** Another run takes over what this element shows: the one that replaces the turn. */
  isReplacedBy(key) {
    return this.model?.replacement?.run.id === key;
  }

  /** Show the clock of a reply that is being written. */
  tick() {
    const writing = this.#writing;
    if (!writing || writing.hasEnded) return;
    if (connection.isLost) {
      setText(this.#state, t("state.connection"));
      return;
    }
    const time = seconds(writing.seconds);
    const size = estimateTokens(writing.text);
    const parts = writing.text
      ? [t("state.writing"), `≈ ${tokens(size)}`, time, rate(size, writing.seconds)]
      : [t(WAITING[writing.status] ?? "state.waiting"), time];
    setText(this.#state, parts.filter(Boolean).join(" · "));
    this.element.dataset.state = writing.status === "running" && !writing.text ? "waiting" : writing.status;
  }

  #listen(writing) {
    if (writing === this.#writing) return;
    this.#writing = writing;
    if (!writing) return;
    const target = () => (this.model.replacement === writing ? this.#fresh : this.#reply);
    writing.addEventListener("text", () => {
      if (this.#writing !== writing) return;
      target()?.write(writing.text, false);
      if (this.element.dataset.state !== "running") this.tick();
    });
    writing.addEventListener("end", () => {
      if (this.#writing === writing && writing.text) target()?.write(writing.text, true);
    });
  }

  #showText(model) {
    const { replacement, writing } = model;
    if (!replacement && this.#fresh) this.#endReplacement(model);
    const asked = replacement?.run.input ?? model.question;
    this.#slip.hidden = asked === null;
    if (asked !== null && this.#asked !== asked) {
      this.#asked = asked;
      renderQuestion(this.#question, asked);
    }
    if (model.asked) {
      const date = new Date(model.asked);
      this.#when.dateTime = model.asked;
      setText(this.#when, clockTime(date));
      this.#when.title = fullTime(date);
    }
    if (replacement && !this.#fresh) this.#beginReplacement(model);
    const reply = replacement ? this.#fresh : this.#reply;
    const live = replacement ?? writing;
    if (replacement || !writing) this.#reply.set(model.reply ?? "");
    if (live?.text) reply.write(live.text, live.hasEnded);
  }

  #beginReplacement(model) {
    this.#fresh = new Reply();
    this.#reply.element.hidden = true;
    const toggle = h("button", { class: "link", type: "button", "aria-expanded": "false" }, t("log.show"));
    toggle.onclick = () => {
      const isHidden = (this.#reply.element.hidden = !this.#reply.element.hidden);
      toggle.setAttribute("aria-expanded", String(!isHidden));
      setText(toggle, t(isHidden ? "log.show" : "log.hide"));
    };
    const words = [t("log.earlier"), tokens(model.usage?.completion_tokens), t("log.stays")].filter(Boolean);
    this.#fold = h("div", { class: "fold" }, h("span", {}, words.join(" · ")), toggle);
    this.#slip.after(this.#fold);
    this.#reply.element.after(this.#fresh.element);
  }

  #endReplacement(model) {
    this.#fold?.remove();
    if (this.#fresh.text && this.#fresh.text === model.reply) {
      this.#reply.element.remove();
      this.#reply = this.#fresh;
    } else {
      this.#fresh.element.remove();
      this.#reply.element.hidden = false;
    }
    this.#fold = this.#fresh = null;
  }

  #showSlip(model, mayEdit) {
    this.#slip.querySelector(".edit")?.remove();
    if (!mayEdit || this.#editor) return;
    const edit = () => (model.isTurn ? this.edit() : this.#on.takeBack(model));
    this.#slip.append(
      h("button", { class: "edit quiet icon-only", type: "button", "aria-label": t("log.edit"), title: t("log.edit"), onclick: edit }, icon("pencil")),
    );
  }

  #showNotes(model, isRetried) {
    this.#notes.replaceChildren();
    if (!FAILED.includes(model.status) || model.writing || model.replacement) return;
    this.#notes.append(failureNote(model, Boolean(model.reply), isRetried ? null : this.#retryButton(model.run_id)));
  }

  /** What was to take the place of the turn stands below it: its question if that has other words, its text, and a note. */
  #showAttempt(model, mayEdit, isRetried) {
    this.#attempt?.remove();
    this.#attempt = null;
    const { attempt, replacement } = model;
    if (!attempt || replacement) return;
    const { id, input, text, status } = attempt;
    const isEdited = input !== model.question;
    if (!isEdited && !text && status === "cancelled") return;
    const question = h("div", { class: "question" });
    renderQuestion(question, input);
    const reply = new Reply();
    reply.set(text ?? "");
    let note;
    if (status === "cancelled") note = stoppedNote(mayEdit ? this.#againButton(model, isEdited) : null);
    else note = failureNote(attempt, Boolean(text), isRetried ? null : this.#retryButton(id));
    const slip = isEdited ? h("div", { class: "slip unremembered" }, question) : null;
    this.#attempt = h("div", { class: "attempt" }, slip, reply.element, note);
    this.element.append(this.#attempt);
  }

  #retryButton(run_id) {
    return h("button", { class: "outlined", type: "button", onclick: () => this.#on.retry(run_id) }, t("log.retry"));
  }

  /** For what was stopped: other words return to the box in which they were written. */
  #againButton(model, isEdited) {
    const again = isEdited ? () => this.edit(model.attempt.input) : () => this.#on.regenerate(model);
    return h("button", { class: "outlined", type: "button", onclick: again }, t(isEdited ? "log.edit" : "log.retry"));
  }

  #showMeta(model, mayRegenerate, isRetried) {
    const { writing, replacement, usage, seconds: took, status } = model;
    const live = replacement ?? writing;
    this.#actions.replaceChildren();
    this.#numbers.replaceChildren();
    if (live && !live.hasEnded) return;
    const state = live?.status ?? status;
    setText(this.#state, this.#stateWords(state, model));
    if (status === "sending") return;
    if (this.copyable) this.#actions.append(copyButton(() => this.copyable));
    if (mayRegenerate && model.isTurn)
      this.#actions.append(quietButton("again", t("log.regenerate"), () => this.#on.regenerate(this.model)));
    const isUnanswered = status === "cancelled" && !model.isTurn && !live;
    if (isUnanswered && !isRetried) this.#actions.append(quietButton("again", t("log.retry"), () => this.#on.askAgain(model)));
    this.#showNumbers(live?.usage ?? (live ? null : usage), live?.seconds ?? took, state);
  }

  #stateWords(state, { isTurn, reply }) {
    if (state === "sending") return t("state.waiting");
    if (state === "cancelled") return isTurn || reply ? `${t("state.stopped")} · ${t("state.kept")}` : t("state.stopped");
    return "";
  }

  #showNumbers(usage, took, state) {
    const time = took < LEAST_SECONDS ? "" : seconds(took);
    if (["failed", "expired"].includes(state)) {
      this.#numbers.append(time && t("state.failed_after", time));
      return;
    }
    const { prompt_tokens: sent, completion_tokens: received } = usage ?? {};
    const whole = [exchange(sent, received), time, rate(received, took)].filter(Boolean).join(" · ");
    const short = [tokens(received), time].filter(Boolean).join(" · ");
    if (!whole) return;
    const heard = [usage && t("log.exchange", number(sent), number(received)), time].filter(Boolean).join(" · ");
    this.#numbers.append(
      h("span", { class: "offscreen" }, heard),
      h("span", { class: "wide", "aria-hidden": "true" }, whole),
      h("span", { class: "narrow", "aria-hidden": "true" }, short),
    );
  }

  #showProbabilities(logprobs) {
    if (this.#probabilities?.logprobs === logprobs) return;
    this.#probabilities?.element.remove();
    this.#probabilities = null;
    if (!logprobs?.length) return;
    const element = h("div", { class: "token-probabilities" });
    this.#probabilities = { element, logprobs };
    this.element.append(element);
    import("./probabilities.js").then(({ renderProbabilities }) => renderProbabilities(element, logprobs));
  }

  /** Edit the question in its place, beginning with `words`. */
  edit(words = this.model.question) {
    if (this.#editor) return this.#editor.querySelector("textarea").focus();
    const box = h("textarea", { class: "edit-box", value: words, rows: 1, "aria-label": t("log.edit") });
    const fit = () => {
      box.style.height = "auto";
      box.style.height = `${Math.min(box.scrollHeight, innerHeight / 2)}px`;
    };
    const send = (event) => {
      event?.preventDefault();
      const text = box.value.trim();
      if (text) this.#on.edit(this.model, text).then((isTaken) => isTaken && this.cancelEdit(), () => {});
    };
    box.addEventListener("input", fit);
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) send(event);
    });
    const cancel = h("button", { class: "quiet", type: "button", onclick: () => this.cancelEdit() }, t("cancel"));
    const again = h("button", { class: "primary", type: "submit" }, t("edit.send"));
    const foot = h("div", { class: "editor-foot" }, h("span", {}, t("edit.hint")), cancel, again);
    this.#editor = h("form", { class: "editor", onsubmit: send }, box, foot);
    this.#slip.hidden = true;
    this.#slip.after(this.#editor);
    fit();
    return box.focus();
  }

  cancelEdit() {
    if (!this.#editor) return;
    const hadFocus = this.#editor.contains(document.activeElement);
    this.#editor.remove();
    this.#editor = null;
    this.#slip.hidden = false;
    if (hadFocus) this.#on.left();
    this.#shown = "";
    this.#on.changed();
  }
}

const quietButton = (sign, words, onclick) => h("button", { class: "quiet", type: "button", onclick }, icon(sign), words);

const noteOf = (kind, title, words, button) =>
  h("div", { class: `note ${kind}` }, h("div", {}, h("strong", {}, title), h("p", {}, words)), button);

function failureNote({ status, error }, hasText, button) {
  const isInterrupted = status === "interrupted";
  const code = error?.code ?? (isInterrupted ? "run_interrupted" : "other");
  const words = [errorDetail(hasText), " ", h("code", {}, code)];
  return noteOf(isInterrupted ? "unsettled" : "", errorSentence(code, error?.error), words, button);
}

const stoppedNote = (button) => noteOf("stopped", t("state.stopped"), t("log.stopped_attempt"), button);

const WAITING = { queued: "state.queued", requires_action: "state.tool" };

/** The server tells tokens at the end only. Until then: about four letters each, or 1.4 syllables of Hangul. */
function estimateTokens(text) {
  const wide = text.match(/[\u1100-\u11ff\u3040-\ud7ff\uf900-\ufaff]/g)?.length ?? 0;
  return Math.max(1, Math.round(wide / 1.4 + (text.length - wide) / 4));
}
