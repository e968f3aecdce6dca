/** The list and the panel: columns on wide screens, drawers on narrow ones. */

import { recall, remember } from "./memory.js";

const find = (selector) => document.querySelector(selector);

export class Drawers {
  #narrow = matchMedia("(max-width: 899.98px)");
  #list = find("#list");
  #panel = find("#panel");
  #shade = find(".shade");
  #opened;

  /** `opened` is called when the panel was opened or closed. */
  constructor(opened) {
    this.#opened = opened;
    find(".open-list").addEventListener("click", () => this.openList());
    find(".close-list").addEventListener("click", () => this.closeNarrow());
    find(".settings").addEventListener("click", () => this.togglePanel());
    find(".close-panel").addEventListener("click", () => this.closePanel());
    this.#shade.addEventListener("click", () => this.closeNarrow());
    this.#narrow.addEventListener("change", () => this.#arrange());
    this.#panel.hidden = this.isNarrow || recall("panel") !== true;
    this.#arrange();
  }

  get isNarrow() {
    return this.#narrow.matches;
  }

  get isPanelOpen() {
    return !this.#panel.hidden;
  }

  openList() {
    if (!this.isNarrow) return;
    this.#panel.hidden = true;
    this.#list.classList.add("open");
    this.#arrange();
    find(".close-list").focus();
  }

  togglePanel() {
    if (this.isPanelOpen) return this.closePanel();
    this.#list.classList.remove("open");
    this.#panel.hidden = false;
    if (!this.isNarrow) remember("panel", true);
    this.#arrange();
    if (this.isNarrow) find(".close-panel").focus();
    this.#opened();
    return true;
  }

  /** Returns whether it was open. */
  closePanel() {
    if (!this.isPanelOpen) return false;
    const hadFocus = this.isNarrow || this.#panel.contains(document.activeElement);
    this.#panel.hidden = true;
    if (!this.isNarrow) remember("panel", false);
    this.#arrange();
    if (hadFocus) find(".settings").focus();
    return true;
  }

  /** Close what lies over a narrow page. Returns whether something did. */
  closeNarrow() {
    if (!this.isNarrow) return false;
    if (this.isPanelOpen) return this.closePanel();
    if (!this.#list.classList.contains("open")) return false;
    this.#list.classList.remove("open");
    this.#arrange();
    find(".open-list").focus();
    return true;
  }

  /** What lies under a drawer can neither be reached nor heard. */
  #arrange() {
    const isListOpen = this.isNarrow && this.#list.classList.contains("open");
    const isOver = isListOpen || (this.isNarrow && this.isPanelOpen);
    if (!this.isNarrow) this.#list.classList.remove("open");
    this.#list.inert = this.isNarrow && !isListOpen;
    find("#main").inert = isOver;
    this.#shade.hidden = !isOver;
    find(".settings").setAttribute("aria-expanded", String(this.isPanelOpen));
    find(".open-list").setAttribute("aria-expanded", String(isListOpen));
    find("#shell").classList.toggle("with-panel", this.isPanelOpen);
  }
}
