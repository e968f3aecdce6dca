/** Asks for a key, over the whole page, until the server takes one. */

import { address } from "./address.js";
import { h, icon, setText } from "./dom.js";
import { errorSentence, t } from "./words.js";

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
      const key = field.value.trim();
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
