/** The page: which conversation is open, what the keys do, and what is read again and when. */

import { access } from "./access.js";
import { address } from "./address.js";
import { ApiError, download, request } from "./api.js";
import { Composer, firstVisit, refusedVisit } from "./composer.js";
import { connection } from "./connection.js";
import { Conversation } from "./conversation.js";
import { copyText, h, icon, setText } from "./dom.js";
import { Drawers } from "./drawers.js";
import { number } from "./format.js";
import { List, titleOf } from "./list.js";
import { Log } from "./log.js";
import { recall } from "./memory.js";
import { Panel } from "./panel.js";
import { chooseLanguage, errorSentence, setLanguage, t } from "./words.js";

const POLL_MS = 3000;
const OPENING_MS = 150;

const find = (selector) => document.querySelector(selector);
const find_all = (selector) => document.querySelectorAll(selector);

setLanguage(chooseLanguage(recall("language")));
for (const element of find_all("[data-icon]")) {
  if (element.dataset.icon === "chevron") element.append(icon("chevron"));
  else element.prepend(icon(element.dataset.icon));
}
for (const element of find_all("[data-t]")) element.textContent = t(element.dataset.t);
for (const element of find_all("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
for (const element of find_all("[data-placeholder]")) element.placeholder = t(element.dataset.placeholder);
find("#shell").hidden = false;

/** Loaded when they are needed first, to keep the first load small. */
const confirmLoss = async (question) => (await import("./dialogs.js")).confirmLoss(question);
const showShortcuts = async () => (await import("./dialogs.js")).showShortcuts();
const isDialogOpen = () => find("dialog[open]") !== null;

let current = null;
/** Rises with each opening, so that a late answer does not show a conversation that was left. */
let opening = 0;

const drawers = new Drawers(() => panelOpened());
const composer = new Composer(find(".composer"), {
  send: (text) => send(text),
  stop: () => current.stop(),
  editLast: () => editLast(),
  drafted: () => {},
});
const log = new Log(find(".log"), find(".jump"), {
  regenerate: (turn) => begin(() => current.regenerate(turn.run_id, panel.logprobs)),
  retry: (run_id) => begin(() => current.retry(run_id)),
  edit: (turn, text) => begin(() => current.edit(turn.run_id, text, panel.logprobs)),
  askAgain: (turn) => send(turn.question),
  takeBack: (turn) => composer.fill(turn.question),
  changed: () => show(),
  left: () => focusBox(),
  loadOlder: () => current.loadOlder().catch(ignoreRefusal),
});
const list = new List(find("#list"), { open: (name) => go(name), rename, remove });
const panel = new Panel(find("#panel"), { imported, clear, shortcuts: showShortcuts });

/** Open the conversation of an address, or a new one. */
async function open(name, { isNew = false } = {}) {
  const turn = ++opening;
  const waiting = setTimeout(() => (find(".opening").hidden = false), OPENING_MS);
  try {
    const conversation = new Conversation(name, !isNew && (await exists(name)));
    if (turn !== opening) return;
    await conversation.open();
    if (turn !== opening) return conversation.close();
    take(conversation);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (turn !== opening) return;
    if (error.code === "not_found") return await open(name, { isNew: true }); // It was deleted meanwhile.
    if (error.code === "not_allowed") return take(Object.assign(new Conversation(name, false), { isRefused: true }));
    await connection.back();
    if (error.code !== "offline") await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    if (turn === opening) await open(name, { isNew });
  } finally {
    clearTimeout(waiting);
    if (turn === opening) find(".opening").hidden = true;
  }
}

function take(conversation) {
  current?.close();
  current = conversation;
  conversation.addEventListener("change", () => conversation === current && show());
  conversation.addEventListener("end", ({ detail }) => conversation === current && announceEnd(detail));
  conversation.addEventListener("cleared", () => conversation === current && composer.showNotice(t("elsewhere.cleared")));
  list.open(conversation.name);
  composer.open(conversation.name);
  panel.open(conversation);
  tell("");
  show({ isOther: true });
  if (!drawers.isNarrow || !conversation.isKnown) composer.focus();
  if (!conversation.isRefused) panel.readModels().then(showHead, ignoreRefusal);
}

/** Whether the server has a conversation. Asking for one that it does not have would log an error in the browser. */
async function exists(name) {
  if (list.find(name)) return true;
  if (list.isWhole && access.opensName(name)) return false;
  const { conversations } = await request("GET", "conversations", { query: { q: name.slice(0, 256), limit: 100 } });
  if (conversations.some((entry) => entry.client_name === name)) return true;
  return (await request("GET", "history", { query: { client_name: name, limit: 1 } })).length > 0;
}

function go(name, options) {
  drawers.closeNarrow();
  history.pushState(null, "", address("", { client_name: name }));
  return open(name, options);
}

/** A key that opens one name has one conversation of its own. */
const startNew = () => go(access.newName(), { isNew: !access.isForOneName });

function show({ isOther = false } = {}) {
  const turns = current.turns();
  find(".first")?.remove();
  log.show(turns, { isOther, isBusy: current.isBusy });
  if (current.isRefused) {
    find(".log").append(refusedVisit(t(access.isForOneName ? "refused.own" : "list.new"), startNew));
  } else if (current.isOpened && !turns.length) {
    find(".log").append(firstVisit(current.name, (text) => composer.fill(text)));
  }
  updateComposer();
  panel.update();
  showHead();
}

function updateComposer() {
  const { isBusy: isWriting, isRefused } = current;
  composer.update({ isWriting, isRefused, isLost: connection.isLost, replayed: replayed() });
}

function replayed() {
  const { replayed: sent, omitted } = current.replay ?? {};
  return omitted ? sent : (current.details?.message_count ?? null);
}

function showHead() {
  const title = current.details?.title ?? list.find(current.name)?.title ?? "";
  const first = log.first?.model.question ?? "";
  const heading = title || first.slice(0, 80) || (current.isKnown || current.isRefused ? current.name : t("list.new"));
  setText(find("h1"), heading);
  setText(find(".head .name"), current.name);
  setText(find(".model-name"), panel.model);
  setText(find(".model-short"), panel.model && ` · ${panel.model}`);
  document.title = (current.writing && !connection.isLost ? "● " : "") + t("brand.page", heading);
}

async function send(text) {
  const conversation = current;
  try {
    const sending = conversation.send(text, panel.logprobs);
    log.startFollowing();
    tell(t("state.waiting"));
    await sending;
    poll();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (conversation !== current) return;
    composer.giveBack(text);
    composer.showProblem(error);
  }
}

/** Begin a reply by something else than a question. Returns whether the server took it. */
async function begin(action) {
  composer.showProblem(null);
  try {
    await action();
    log.startFollowing();
    if (document.activeElement === document.body) focusBox();
    tell(t("state.writing"));
    return true;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    composer.showProblem(error);
    return false;
  }
}

/** The place for the focus when the control that had it goes away. On a phone the box would call the keyboard. */
function focusBox() {
  if (drawers.isNarrow) find(".log").focus({ preventScroll: true });
  else composer.focus();
}

function editLast() {
  const { last } = log;
  if (!last || current.isBusy) return false;
  if (last.model.isTurn) last.edit();
  else composer.fill(last.model.question);
  return true;
}

function announceEnd(writing) {
  const failed = writing.error && errorSentence(writing.error.code, writing.error.error);
  tell(failed ?? t(writing.status === "cancelled" ? "state.stopped" : "state.done"));
  poll();
  if (drawers.isPanelOpen) panel.showUsage().catch(ignoreRefusal);
}

/** Say something to those who hear the page. */
function tell(text) {
  setText(find("#status"), text);
}

async function rename(name, title) {
  try {
    if (name === current.name) await current.update({ title });
    else await request("PATCH", "conversations/details", { body: { client_name: name, title } });
    await list.read();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    composer.showProblem(error);
  }
}

async function remove({ client_name: name, ...shown }) {
  await poll(); // The question tells how much goes.
  const entry = list.find(name) ?? { client_name: name, ...shown };
  const isSure = await confirmLoss({
    title: t("delete.title", titleOf(entry)),
    text: t("delete.text", number(entry.message_count)),
    verb: t("delete.do"),
  });
  if (!isSure) return;
  try {
    if (name === current.name) {
      current.close();
      current.isOpened = false; // It is read no more.
      await polling;
    }
    await request("DELETE", "conversations/details", { query: { client_name: name } });
    if (name === current.name) {
      history.replaceState(null, "", address(""));
      await go(access.newName(), { isNew: true });
    }
    await list.read();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    composer.showProblem(error);
  }
}

async function clear() {
  await current.poll().catch(ignoreRefusal);
  const exporting = h("a", { class: "quiet button", href: address("conversations/export", { client_name: current.name, format: "json" }), download: "" }, t("clear.export"));
  const isSure = await confirmLoss({
    title: t("clear.title"),
    text: t("clear.text", number(current.details?.message_count ?? 0), current.failedCount && number(current.failedCount)),
    verb: t("clear.do"),
    extra: exporting,
  });
  if (!isSure) return;
  await current.clear().catch((error) => composer.showProblem(error));
  await list.read().catch(ignoreRefusal);
  showHead();
}

async function imported({ conversations }, words) {
  await list.read().catch(ignoreRefusal);
  if (conversations.length === 1) await go(conversations[0].client_name);
  if (!drawers.isPanelOpen) tell(words); // Opening closes the panel on narrow pages.
}

function panelOpened() {
  if (drawers.isPanelOpen) panel.showUsage().catch(ignoreRefusal);
}

/** What cannot be read now is read with the next poll. */
function ignoreRefusal(error) {
  if (!(error instanceof ApiError)) throw error;
}

/** See what other tabs and other programs did. */
let polling = null;
function poll() {
  polling ??= readAll().catch(ignoreRefusal).finally(() => (polling = null));
  return polling;
}

async function readAll() {
  await list.read();
  if (!current?.isOpened || current.isBusy) return;
  if (!current.isKnown) {
    if (list.find(current.name)) await open(current.name);
    return;
  }
  if (list.find(current.name) || (await exists(current.name))) await current.poll();
  else foundDeleted();
}

function foundDeleted() {
  const { name } = current;
  current.close();
  take(new Conversation(name, false));
  current.isOpened = true;
  show();
  composer.showNotice(t("elsewhere.deleted"));
}

setInterval(() => document.visibilityState === "visible" && !connection.isLost && poll(), POLL_MS);
for (const type of ["focus", "pageshow", "visibilitychange"]) addEventListener(type, () => current && poll());
addEventListener("popstate", () => open(nameOfAddress() ?? access.newName()));
connection.addEventListener("back", () => poll());
connection.addEventListener("change", () => {
  const { isLost, wait } = connection;
  const banner = find(".banner");
  if (isLost !== !banner.hidden) setText(banner.querySelector("strong"), t("offline.title"));
  banner.hidden = !isLost;
  setText(banner.querySelector("p span"), `${t("offline.again", wait)} ${t("offline.draft")}`);
  log.makeRoom(banner.offsetHeight);
  find("#shell").classList.toggle("lost", isLost);
  list.showConnection();
  if (current) showHead();
  if (current) updateComposer();
});
find(".banner button").addEventListener("click", () => connection.connectNow());
find(".new").addEventListener("click", startNew);
find(".jump").addEventListener("click", () => focusBox());
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[download]");
  if (!link || !access.key) return;
  event.preventDefault();
  download(link.href).catch((error) => composer.showProblem(error));
});

const copyLast = () => {
  const { last } = log;
  if (last?.copyable) copyText(last.copyable).then(() => tell(t("log.copied")));
};

/** By `event.code`, since the keys of a Korean layout give other letters. */
const SHORTCUTS = {
  "ctrl KeyK": () => {
    drawers.openList();
    list.focusSearch();
  },
  "ctrl Slash": showShortcuts,
  "alt KeyN": startNew,
  "alt KeyS": () => drawers.togglePanel(),
  "alt ArrowUp": () => goToNeighbour(-1),
  "alt ArrowDown": () => goToNeighbour(1),
  "alt KeyC": copyLast,
  "alt End": () => log.jump(),
};

function goToNeighbour(step) {
  const field = document.activeElement;
  if (field?.matches("textarea, input:not([type=checkbox], [type=radio], [type=range])") && field.value) return false;
  const name = list.neighbour(step);
  if (name) go(name);
  return true;
}

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.defaultPrevented && !event.isComposing) return escape(event);
  const isControl = event.ctrlKey !== event.metaKey;
  if (event.shiftKey || isControl === event.altKey || isDialogOpen()) return;
  const action = SHORTCUTS[`${isControl ? "ctrl" : "alt"} ${event.code}`];
  if (action && action() !== false) event.preventDefault();
});

function escape(event) {
  if (isDialogOpen()) return; // The browser closes it.
  event.preventDefault();
  if (panel.closeMenu()) return;
  if (list.renaming) list.cancelRenaming();
  else if (log.editing) {
    log.editing.cancelEdit();
    focusBox();
  } else if (drawers.closeNarrow()) return;
  else if (current?.isBusy) current.stop();
  else drawers.closePanel();
}

function atMidnight() {
  const now = new Date();
  const next = new Date(now.getFullYear(), now.getMonth(), now.getDate() + 1, 0, 0, 1);
  setTimeout(() => {
    list.refresh();
    atMidnight();
  }, next - now);
}

const nameOfAddress = () => new URLSearchParams(location.search).get("client_name")?.slice(0, 256) || null;

/** Learn what the caller opens. With this request, a server that needs a key asks for one. */
async function identify() {
  while (access.scope === null) {
    try {
      access.scope = (await request("GET", "caller")).client_name;
    } catch (error) {
      ignoreRefusal(error);
      await connection.back();
      if (error.code !== "offline") await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }
}

async function start() {
  const name = nameOfAddress();
  if (name) composer.open(name); // One may type while it is loaded.
  atMidnight();
  await identify();
  find(".new").hidden = access.isForOneName;
  if (drawers.isPanelOpen) panelOpened();
  const reading = poll();
  if (name) {
    await reading;
    return open(name);
  }
  const made = access.newName();
  history.replaceState(null, "", address("", { client_name: made }));
  if (access.isForOneName) await reading;
  return open(made, { isNew: !access.isForOneName });
}

start();
