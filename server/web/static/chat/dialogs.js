/** Questions before something is lost, and the list of shortcuts. */

import { h, icon } from "./dom.js";
import { t } from "./words.js";

const IS_MAC = /Mac|iPhone|iPad/.test(navigator.platform);
const CONTROL = IS_MAC ? "⌘" : "Ctrl";
const ALT = IS_MAC ? "⌥" : "Alt";

const SHORTCUTS = [
  ["Enter", "shortcut.send"],
  ["Shift Enter", "shortcut.newline"],
  ["Esc", "shortcut.escape"],
  ["↑", "shortcut.edit"],
  [`${CONTROL} K`, "shortcut.search"],
  [`${ALT} N`, "shortcut.new"],
  [`${ALT} S`, "shortcut.settings"],
  [`${ALT} ↑ ↓`, "shortcut.neighbours"],
  [`${ALT} C`, "shortcut.copy"],
  [`${ALT} End`, "shortcut.latest"],
  [`${CONTROL} /`, "shortcut.list"],
];

const dialog = document.getElementById("dialog");

/** Ask before something is deleted. Resolves with whether it shall be. `extra` is a further thing to do, on the left. */
export function confirmLoss({ title, text, verb, extra }) {
  return new Promise((resolve) => {
    let isConfirmed = false;
    const confirm = () => {
      isConfirmed = true;
      dialog.close();
    };
    const cancel = h("button", { class: "outlined", type: "button", autofocus: true, onclick: () => dialog.close() }, t("cancel"));
    const buttons = h("div", { class: "dialog-buttons" }, extra ?? null, h("span", { class: "spring" }), cancel,
      h("button", { class: "danger filled", type: "button", onclick: confirm }, verb));
    open([h("h2", { id: "dialog-title" }, title), h("p", {}, text), buttons], () => resolve(isConfirmed));
    cancel.focus();
  });
}

export function showShortcuts() {
  const rows = SHORTCUTS.map(([keys, what]) => [
    h("dt", {}, ...keys.split(" ").map((key) => h("kbd", {}, key))),
    h("dd", {}, t(what)),
  ]);
  const close = h("button", { class: "quiet icon-only", type: "button", "aria-label": t("close"), onclick: () => dialog.close() }, icon("close"));
  open([h("div", { class: "dialog-head" }, h("h2", { id: "dialog-title" }, t("panel.shortcuts")), close), h("dl", { class: "keys" }, rows.flat())]);
  close.focus();
}

function open(content, closed = () => {}) {
  if (dialog.open) dialog.close();
  const before = document.activeElement;
  dialog.replaceChildren(...content);
  dialog.addEventListener("close", () => {
    closed();
    if (before?.isConnected) before.focus();
  }, { once: true });
  dialog.showModal();
}

dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});
