/** Asks for a key, over the whole page, until the server takes one. */

import { address } from "./address.js";
import { h, icon, setText } from "./dom.js";
import { addWords, errorSentence, inTime, soon, t } from "./words.js";

// Not among the others, since most visits load them for nothing.
addWords({
  "key.title": ["키를 입력하세요", "Enter your key"],
  "key.why": [
    "이 서버는 키가 있어야 쓸 수 있습니다. 서버를 운영하는 사람에게 받으세요.",
    "This server asks for a key. Ask whoever runs it for one.",
  ],
  "key.name": ["키", "Key"],
  "key.show": ["키 보기", "Show the key"],
  "key.open": ["열기", "Open"],
  "key.where": [
    "키는 이 탭에만 두고, 이 서버에만 보냅니다.",
    "The key stays in this tab and is sent to this server only.",
  ],
  "key.wrong": [
    "이 키는 쓸 수 없습니다. 끝까지 복사했는지 확인하세요. 기한이 지났거나 지워졌을 수도 있습니다.",
    "This key is not valid. Check that it was copied whole; it may also have expired or been deleted.",
  ],
  "key.ended": [
    "키를 더는 쓸 수 없습니다. 기한이 지났거나 지워졌습니다. 쓰던 글은 그대로 있습니다.",
    "Your key no longer works: it has expired or was deleted. Your draft is kept.",
  ],
  "key.offline": ["서버가 답하지 않습니다. 다시 시도하세요.", "The server does not answer. Try again."],
  "key.too_many": [
    (s) => `잘못된 키가 많았습니다. ${soon(s)} 다시 시도하세요.`,
    (s) => `Too many wrong keys. Try again ${inTime(s)}.`,
  ],
});

/** Resolves with the key and what the server tells of it: {key, client_name}. `problem` is shown as that of a key. */
export function askForKey(why, problem) {
  const field = h("input", { id: "key", type: "password", autocomplete: "off", autocapitalize: "none", spellcheck: false, autofocus: true, "aria-describedby": "key-problem key-where" });
  const show = h("button", { class: "quiet icon-only", type: "button", "aria-label": t("key.show"), "aria-pressed": "false", onclick: () => reveal(field.type === "password") }, icon("eye"));
  const told = h("span");
  const said = h("p", { class: "key-problem", id: "key-problem", role: "alert" }, icon("warning"), told);
  const open = h("button", { class: "primary", type: "submit", disabled: true }, t("key.open"));
  const mark = document.querySelector(".mark").cloneNode(true);
  const form = h("form", { autocomplete: "off" }, mark, h("h2", { id: "key-title" }, t("key.title")), h("p", { id: "key-why" }, why),
    h("label", { for: "key" }, t("key.name")), h("div", { class: "key-field" }, field, show), said, open, h("p", { class: "key-where", id: "key-where" }, t("key.where")));
  const dialog = h("dialog", { class: "key-page", "aria-labelledby": "key-title", "aria-describedby": "key-why" }, form);

  function reveal(isShown) {
    field.type = isShown ? "text" : "password";
    show.setAttribute("aria-pressed", String(isShown));
  }

  function explain(text) {
    setText(told, text);
    said.classList.toggle("shown", Boolean(text));
    if (text) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }

  field.addEventListener("input", () => {
    open.disabled = !field.value.trim();
    explain("");
  });
  dialog.addEventListener("keydown", (event) => event.key === "Escape" && event.preventDefault());
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  return new Promise((resolve) => {
    let isChecking = false;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (isChecking) return;
      isChecking = true;
      reveal(false);
      const key = field.value.trim().replace(/^Bearer\s+/i, ""); // Copied with the rest of its header.
      const answer = await check(key);
      isChecking = false;
      if (answer.problem) {
        explain(answer.problem);
        field.focus();
        field.select();
        return;
      }
      field.value = "";
      dialog.close();
      dialog.remove();
      resolve({ key, client_name: answer.client_name });
    });
    // A browser may close it against the page's will.
    dialog.addEventListener("close", () => dialog.isConnected && setTimeout(() => dialog.isConnected && dialog.showModal()));
    document.body.append(dialog);
    dialog.showModal();
    explain(problem);
  });
}

/** What the server tells of a key: {client_name}, or {problem} in words. */
async function check(key) {
  // No header takes other characters, and no key has them.
  if (!/^[ -~]+$/.test(key)) return { problem: t("key.wrong") };
  let response;
  let answer;
  try {
    response = await fetch(address("caller"), { cache: "no-store", headers: { Authorization: `Bearer ${key}` } });
    answer = await response.json();
  } catch {
    return { problem: response ? t("error.other") : t("key.offline") };
  }
  if (response.ok) return answer;
  if (answer.code === "unauthorized") return { problem: t("key.wrong") };
  const seconds = Number(response.headers.get("Retry-After")) || undefined;
  if (answer.code === "too_many_attempts") return { problem: t("key.too_many", seconds) };
  return { problem: errorSentence(answer.code, answer.error, seconds) };
}
