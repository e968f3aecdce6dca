/** The log: turns in the order of time, and whether it follows what is written. */

import { h, setText } from "./dom.js";
import { number } from "./format.js";
import { Turn } from "./turn.js";
import { t } from "./words.js";

const NEAR_BOTTOM = 40;
const FIRST_SEEN = 4;
const LEAVING_KEYS = ["PageUp", "ArrowUp", "Home"];

export class Log {
  #scroller;
  #inner = h("div", { class: "column" });
  #jump;
  #turns = new Map();
  #replayLine = h("p", { class: "replay" });
  #on;
  /** Only a gesture or a button changes it. */
  #isFollowing = true;
  #lastTop = 0;
  /** The height of what lies over the top of the log. */
  #over = 0;

  /** `on` is what turns need, with `loadOlder`. */
  constructor(scroller, jump, on) {
    this.#scroller = scroller;
    this.#jump = jump;
    this.#on = { ...on, changed: () => on.changed() };
    scroller.append(this.#inner);
    const size = new ResizeObserver(() => this.#follow());
    size.observe(this.#inner, { box: "border-box" });
    size.observe(scroller);
    this.#listen();
    setInterval(() => this.#tick(), 250);
  }

  get last() {
    return [...this.#turns.values()].at(-1) ?? null;
  }

  get first() {
    return this.#turns.values().next().value ?? null;
  }

  get editing() {
    return [...this.#turns.values()].find((turn) => turn.isEditing) ?? null;
  }

  /** Show these turns. With `isOther`, of another conversation: begin at its end. */
  show(models, { isOther = false, isBusy = false } = {}) {
    if (isOther) this.#clear();
    const anchor = this.#isFollowing ? null : this.#findAnchor();
    const kept = new Map();
    const used = new Set();
    let place = this.#inner.firstChild;
    const latest = new Map(models.map((model) => [model.question, model]));
    this.#replayLine.remove();
    if (place === this.#replayLine) place = this.#inner.firstChild;
    for (const [index, model] of models.entries()) {
      const turn = this.#find(model, used) ?? new Turn(this.#on);
      kept.set(model.key, turn);
      used.add(turn);
      const isLast = index === models.length - 1;
      turn.update(model, { isLast, isBusy, isRetried: latest.get(model.question) !== model });
      if (turn.element !== place) this.#inner.insertBefore(turn.element, place);
      else place = place.nextSibling;
      if (model.replayed) this.#showReplay(turn, model.replayed);
    }
    for (const turn of this.#turns.values()) if (!used.has(turn)) turn.element.remove();
    this.#turns = kept;
    this.#keepFresh();
    // What is seen first is rendered at once.
    if (isOther) for (const turn of [...kept.values()].slice(-FIRST_SEEN)) turn.render();
    if (anchor) this.#restore(anchor);
    this.#follow();
  }

  /** Put the newest question to the top, with room for its reply below. */
  startFollowing() {
    this.#inner.querySelector(".fresh")?.classList.remove("fresh");
    this.last?.element.classList.add("fresh");
    this.#isFollowing = true;
    this.#follow();
  }

  jump() {
    this.#isFollowing = true;
    this.#follow();
  }

  /** Leave room above the first turn for what lies over the log, without moving what is read. */
  makeRoom(height) {
    if (height === this.#over) return;
    const top = this.#scroller.scrollTop + height - this.#over;
    this.#over = height;
    this.#scroller.style.setProperty("--over", `${height}px`);
    this.#scroller.scrollTop = top;
  }

  #find(model, used) {
    const found = this.#turns.get(model.key);
    if (found && !used.has(found)) return found;
    // A question that was on its way has its run now.
    if (model.writing && this.#turns.has("sending")) return this.#turns.get("sending");
    for (const turn of this.#replaced) if (turn.isReplacedBy(model.key)) return turn;
    return null;
  }

  get #replaced() {
    return [...this.#turns.values()].slice(-3);
  }

  #keepFresh() {
    const fresh = this.#inner.querySelector(".fresh");
    if (fresh && fresh !== this.last?.element) fresh.classList.remove("fresh");
  }

  #showReplay(turn, count) {
    setText(this.#replayLine, `${t("log.replay")} · ${t("log.messages", number(count))}`);
    turn.element.before(this.#replayLine);
  }

  #clear() {
    for (const turn of this.#turns.values()) turn.element.remove();
    this.#turns = new Map();
    this.#isFollowing = true;
  }

  #tick() {
    for (const turn of this.#turns.values()) turn.tick();
  }

  #findAnchor() {
    const top = this.#scroller.getBoundingClientRect().top;
    for (const turn of this.#turns.values()) {
      const box = turn.element.getBoundingClientRect();
      if (box.bottom > top) return { element: turn.element, top: box.top };
    }
    return null;
  }

  #restore({ element, top }) {
    if (element.isConnected) this.#scroller.scrollTop += element.getBoundingClientRect().top - top;
  }

  #follow() {
    const { scrollHeight, clientHeight, offsetWidth, clientWidth } = this.#scroller;
    this.#inner.style.setProperty("--room", `${clientHeight}px`);
    // Header and box keep their left edges in line with the column beside the scrollbar.
    document.documentElement.style.setProperty("--bar", `${offsetWidth - clientWidth}px`);
    if (this.#isFollowing) this.#scroller.scrollTop = scrollHeight;
    this.#showJump();
  }

  #leave() {
    this.#isFollowing = false;
    this.#showJump();
  }

  #showJump() {
    const end = this.last?.element.lastElementChild.getBoundingClientRect().bottom ?? 0;
    this.#jump.hidden = this.#isFollowing || end < this.#scroller.getBoundingClientRect().bottom + NEAR_BOTTOM;
  }

  #listen() {
    const scroller = this.#scroller;
    scroller.addEventListener("wheel", (event) => event.deltaY < 0 && this.#leave(), { passive: true });
    scroller.addEventListener("touchmove", () => this.#leave(), { passive: true });
    scroller.addEventListener("pointerdown", (event) => {
      const isOnScrollbar = event.target === scroller && event.offsetX >= scroller.clientWidth;
      if (isOnScrollbar) this.#leave();
    });
    scroller.addEventListener("focusin", (event) => event.target !== scroller && this.#leave());
    document.addEventListener("selectionchange", () => {
      const { isCollapsed, anchorNode } = getSelection();
      if (!isCollapsed && this.#inner.contains(anchorNode)) this.#leave();
    });
    scroller.addEventListener("keydown", (event) => {
      if (event.target.matches("textarea, input")) return;
      if (LEAVING_KEYS.includes(event.key)) this.#leave();
      if (event.key === "End") this.jump();
    });
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#jump.addEventListener("click", () => this.jump());
  }

  #scrolled() {
    const { scrollTop, clientHeight } = this.#scroller;
    const isUp = scrollTop < this.#lastTop;
    this.#lastTop = scrollTop;
    this.#showJump();
    if ((isUp || scrollTop === 0) && scrollTop < 2 * clientHeight && !this.#isFollowing) this.#on.loadOlder();
  }
}
