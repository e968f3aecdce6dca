/** The list of conversations: groups by day, search, renaming in place. */

import { address } from "./address.js";
import { request } from "./api.js";
import { connection } from "./connection.js";
import { h, icon, setText } from "./dom.js";
import { fullTime, groupOf, listTime, number, seconds } from "./format.js";
import { draftKey, recall } from "./memory.js";
import { t } from "./words.js";

const PAGE = 50;
const OPEN = ["queued", "running", "requires_action"];

export class List {
  entries = [];
  #rows = new Map();
  #root;
  #ul;
  #empty;
  #search;
  #status;
  #more;
  #foot;
  #on;
  #current = "";
  #query = "";
  #limit = PAGE;
  #readAt = 0;
  #reading = null;
  #isWaiting = false;
  #typing = 0;

  /** `on` has open(name), rename(name, title), remove(entry), changed(). */
  constructor(root, on) {
    this.#root = root;
    [this.#ul, this.#empty, this.#search] = [".rows", ".empty", "input[type=search]"].map((each) => root.querySelector(each));
    [this.#status, this.#more, this.#foot] = [".found", ".more", ".foot"].map((each) => root.querySelector(each));
    this.#on = on;
    this.#search.addEventListener("input", () => this.#searched());
    this.#search.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.#search.value) return;
      event.preventDefault();
      this.#search.value = "";
      this.#searched();
    });
    this.#more.addEventListener("click", () => {
      this.#limit += PAGE;
      this.read();
    });
    this.#ul.addEventListener("pointerleave", () => this.#settle());
    this.#ul.addEventListener("focusout", () => setTimeout(() => this.#settle()));
  }

  /** Whether the newest conversations that were read have this one. */
  find(name) {
    return this.entries.find((entry) => entry.client_name === name);
  }

  get isWhole() {
    return !this.#query && this.#more.hidden;
  }

  focusSearch() {
    this.#search.focus();
    this.#search.select();
  }

  /** Read the list, and show it. Throws ApiError. */
  async read() {
    const query = this.#query;
    const reading = (this.#reading = this.#readPages(query));
    const { conversations, next } = await reading;
    if (this.#reading !== reading) return;
    this.entries = conversations;
    this.#readAt = Date.now();
    this.#more.hidden = !next;
    this.#show();
    if (query) setText(this.#status, t("list.found", number(conversations.length)));
  }

  async #readPages(query) {
    const conversations = [];
    let next;
    do {
      const limit = Math.min(100, this.#limit - conversations.length);
      const page = await request("GET", "conversations", { query: { q: query || undefined, limit, before: next } });
      conversations.push(...page.conversations);
      next = page.next;
    } while (next && conversations.length < this.#limit);
    return { conversations, next };
  }

  open(name) {
    this.#current = name;
    this.#isWaiting = false;
    this.#show();
  }

  /** Of the conversation that stands `step` below the current one. */
  neighbour(step) {
    const names = [...this.#ul.children].map((row) => row.dataset.name);
    return names[names.indexOf(this.#current) + step];
  }

  /** Words, drafts and days may be others now. */
  refresh() {
    for (const row of this.#rows.values()) row.shown = "";
    this.#show();
  }

  showConnection() {
    const { isLost } = connection;
    const age = seconds(Math.round((Date.now() - this.#readAt) / 1000)).replace(/[.,]0/, "");
    const text = isLost && this.#readAt ? `${t("offline.state")} · ${t("offline.age", age)}` : t(isLost ? "offline.state" : "online.state");
    this.#foot.classList.toggle("lost", isLost);
    setText(this.#foot.querySelector(".words"), text);
  }

  get renaming() {
    return this.#ul.querySelector("form");
  }

  cancelRenaming() {
    const row = this.#rows.get(this.renaming?.closest("li").dataset.name);
    if (!row) return;
    this.renaming.remove();
    row.main.hidden = false;
    row.element.querySelector(".rename").focus();
  }

  #searched() {
    clearTimeout(this.#typing);
    this.#typing = setTimeout(async () => {
      this.#query = this.#search.value.trim();
      this.#isWaiting = false;
      if (!this.#query) setText(this.#status, "");
      await this.read().catch(() => {});
    }, 200);
  }

  /** While pointer or focus is in the list no row moves: the new order waits. */
  get #isHeld() {
    const isTouch = matchMedia("(hover: none)").matches;
    return (!isTouch && this.#ul.matches(":hover")) || this.#ul.contains(document.activeElement);
  }

  #settle() {
    if (this.#isWaiting && !this.#isHeld) this.#show();
  }

  #show() {
    const shown = [...this.#ul.children].map((row) => row.dataset.name);
    const wanted = this.entries.map((entry) => entry.client_name);
    const isSameOrder = shown.join("\n") === wanted.join("\n");
    const isOnlyMoved = shown.length > 0 && shown.every((name) => wanted.includes(name));
    this.#isWaiting = !isSameOrder && isOnlyMoved && this.#isHeld && !this.#query;
    for (const entry of this.entries) this.#updateRow(entry);
    if (!this.#isWaiting) this.#arrange(wanted);
    const empty = this.entries.length ? "" : this.#query ? t("list.none", this.#query) : this.#readAt ? t("list.empty") : "";
    setText(this.#empty, empty);
    this.showConnection();
  }

  #arrange(wanted) {
    for (const [name, row] of this.#rows)
      if (!wanted.includes(name)) {
        const neighbour = row.element.nextElementSibling ?? row.element.previousElementSibling;
        const hadFocus = row.element.contains(document.activeElement);
        row.element.remove();
        if (hadFocus) neighbour?.querySelector("a").focus();
        this.#rows.delete(name);
      }
    let place = this.#ul.firstChild;
    let group = "";
    for (const entry of this.entries) {
      const row = this.#rows.get(entry.client_name);
      const own = groupOf(new Date(entry.last_used_at));
      row.element.querySelector(".group")?.remove();
      if (own !== group) row.element.prepend(h("h3", { class: "group" }, own));
      group = own;
      if (row.element !== place) this.#ul.insertBefore(row.element, place);
      else place = place.nextSibling;
    }
  }

  #updateRow(entry) {
    const name = entry.client_name;
    if (!this.#rows.has(name)) this.#rows.set(name, this.#makeRow(name));
    const row = this.#rows.get(name);
    const isCurrent = name === this.#current;
    const hasDraft = !isCurrent && Boolean(recall(draftKey(name)));
    const shown = JSON.stringify([entry, isCurrent, hasDraft, this.#query, groupOf(new Date(entry.last_used_at))]);
    row.entry = entry;
    if (row.shown === shown) return;
    row.shown = shown;
    const title = titleOf(entry);
    row.element.setAttribute("aria-label", title);
    row.element.classList.toggle("current", isCurrent);
    if (isCurrent) row.link.setAttribute("aria-current", "page");
    else row.link.removeAttribute("aria-current");
    row.link.replaceChildren(...mark(title, this.#query));
    row.below.replaceChildren(...mark(entry.match ? passage(entry.match, this.#query) : name, this.#query));
    row.below.classList.toggle("passage", Boolean(entry.match));
    const then = new Date(entry.last_used_at);
    row.time.dateTime = entry.last_used_at;
    row.time.title = fullTime(then);
    setText(row.time, listTime(then));
    const state = stateOf(entry, hasDraft);
    row.state.className = `row-state ${state}`;
    setText(row.state, state ? t(`state.list_${state}`) : "");
    row.rename.setAttribute("aria-label", t("list.rename"));
    row.remove.setAttribute("aria-label", t("list.delete"));
    Object.assign(row.rename, { title: t("list.rename") });
    Object.assign(row.remove, { title: t("list.delete") });
  }

  #makeRow(name) {
    const row = { shown: "", entry: null };
    row.below = h("span", { class: "row-below" });
    row.time = h("time", { class: "row-time" });
    row.state = h("span", { class: "row-state" });
    const href = address("", { client_name: name });
    row.link = h("a", { href, class: "row-title", dir: "auto", onclick: (event) => this.#clicked(event, name) });
    const lines = [[row.link, row.time], [row.below, row.state]].map((each) => h("div", { class: "row-line" }, each));
    row.rename = h("button", { class: "quiet icon-only rename", type: "button", onclick: () => this.#rename(row) }, icon("pencil"));
    row.remove = h("button", { class: "quiet icon-only delete", type: "button", onclick: () => this.#on.remove(row.entry) }, icon("trash"));
    row.main = h("div", { class: "row" }, h("div", { class: "row-words" }, lines), h("div", { class: "row-actions" }, row.rename, row.remove));
    row.element = h("li", { data: { name } }, row.main);
    return row;
  }

  #clicked(event, name) {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    this.#on.open(name);
  }

  #rename(row) {
    this.cancelRenaming();
    const field = h("input", { type: "text", maxLength: 200, value: titleOf(row.entry), "aria-label": t("list.title") });
    const save = async (event) => {
      event.preventDefault();
      const title = field.value.trim();
      const isOther = title !== titleOf(row.entry);
      if (isOther) await this.#on.rename(row.entry.client_name, title || null);
      this.cancelRenaming();
    };
    const form = h("form", { class: "renaming", onsubmit: save }, field, h("span", {}, t("list.renaming")));
    row.main.hidden = true;
    row.main.after(form);
    field.focus();
    field.select();
  }
}

/** What a conversation is called: untitled ones by the first words of their question, unused ones by their name. */
export const titleOf = (entry) => entry.title || entry.client_name;

function stateOf({ status }, hasDraft) {
  if (OPEN.includes(status)) return "writing";
  if (["failed", "interrupted", "expired"].includes(status)) return "failed";
  return hasDraft ? "draft" : "";
}

/** The words around what was found. */
function passage(text, query) {
  const at = text.toLowerCase().indexOf(query.toLowerCase());
  return at > 12 ? `…${text.slice(at - 8)}` : text;
}

function mark(text, query) {
  if (!query) return [text];
  const parts = [];
  const [low, sought] = [text.toLowerCase(), query.toLowerCase()];
  let from = 0;
  for (let at = low.indexOf(sought); at >= 0 && low.length === text.length; at = low.indexOf(sought, from)) {
    parts.push(text.slice(from, at), h("mark", {}, text.slice(at, at + query.length)));
    from = at + query.length;
  }
  return [...parts, text.slice(from)].filter((part) => part !== "");
}
