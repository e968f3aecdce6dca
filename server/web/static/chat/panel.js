/** The panel: settings of the conversation, usage, export and import, and choices for this page. */

import { access } from "./access.js";
import { address } from "./address.js";
import { request } from "./api.js";
import { h, setText } from "./dom.js";
import { longDate, number } from "./format.js";
import { recall, remember } from "./memory.js";
import { errorSentence, inEachLanguage, language, t } from "./words.js";

const PRESETS = ["concise", "translator", "code_review", "plain_words"];
const SAVED_MS = 1500;
const TYPING_MS = 800;
const USAGE_DAYS = 14;
const ENDS_SOON_MS = 400 * 86_400_000;

export class Panel {
  #root;
  #on;
  #conversation = null;
  #models = [];
  #saving = null;
  #file = null;

  /** `on` has imported(result, words), clear() and shortcuts(). */
  constructor(root, on) {
    this.#root = root;
    this.#on = on;
    this.#bindSettings();
    this.#bindConversation();
    this.#bindPage();
  }

  #find(selector) {
    return this.#root.querySelector(selector);
  }

  get logprobs() {
    return recall("logprobs") === true;
  }

  open(conversation) {
    this.#saveTyped();
    this.#conversation = conversation;
    this.#find(".import-result").replaceChildren();
    for (const reason of this.#root.querySelectorAll(".reason")) reason.hidden = true;
    this.update();
  }

  /** Show the settings as they are on the server, but not over what is being typed. */
  update() {
    const details = this.#conversation?.details ?? {};
    this.#showModels(details);
    const prompt = this.#find("#system-prompt");
    if (document.activeElement !== prompt) prompt.value = details.system_prompt ?? "";
    this.#showPreset(prompt.value);
    this.#showTemperature(details.temperature);
    this.#find("#json").checked = ["json_object", "json_schema"].includes(details.response_format?.type);
    for (const item of this.#root.querySelectorAll("[role=menuitem]"))
      item.href = address("conversations/export", { client_name: this.#conversation?.name, format: item.dataset.format });
    this.#find(".forget").hidden = !access.key;
    const isEmpty = !this.#conversation?.isKnown;
    this.#find(".export").disabled = this.#find(".clear").disabled = isEmpty;
  }

  /** The model that answers, by name; empty if the server knows none. */
  get model() {
    const details = this.#conversation?.details;
    return details?.model ?? details?.default_model ?? this.#defaultModel ?? "";
  }

  #defaultModel = null;

  async readModels() {
    const [{ data }, { model }] = await Promise.all([
      request("GET", "models"),
      request("GET", "model", { query: { client_name: this.#conversation.name } }),
    ]);
    this.#models = data;
    if (!this.#conversation.isKnown) this.#defaultModel = model;
    this.update();
  }

  /** Usage of the last days, drawn when the panel is open. The chart's library is loaded here and not before. */
  async showUsage() {
    const since = new Date(Date.now() - (USAGE_DAYS - 1) * 86_400_000).toISOString().slice(0, 10);
    const usage = await request("GET", "conversations/usage", { query: { since } });
    const { total_tokens: total, questions } = usage.total;
    setText(this.#find(".usage h3"), `${t("usage.name")} · ${t("usage.days", USAGE_DAYS)}`);
    const hasAny = usage.usage.length > 0;
    setText(this.#find(".usage-empty"), hasAny ? "" : t("usage.empty"));
    this.#find(".total").hidden = this.#find(".usage-body").hidden = !hasAny;
    if (!hasAny) return;
    setText(this.#find(".total strong"), number(total));
    setText(this.#find(".total span"), `${t("usage.unit")} · ${t("usage.questions", number(questions))}`);
    const { drawUsage } = await import("./usage_chart.js");
    await drawUsage(this.#find("canvas"), this.#find(".usage-table"), usage);
  }

  #bindSettings() {
    this.#find("#model").addEventListener("change", (event) => this.#save({ model: event.target.value || null }));
    const prompt = this.#find("#system-prompt");
    prompt.addEventListener("input", () => {
      this.#showPreset(prompt.value);
      clearTimeout(this.#saving?.timer);
      const conversation = this.#conversation;
      this.#saving = { conversation, timer: setTimeout(() => this.#saveTyped(), TYPING_MS) };
    });
    prompt.addEventListener("blur", () => this.#saveTyped());
    const presets = this.#find(".preset select");
    presets.append(h("option", { value: "other", hidden: true }, t("panel.preset")), h("option", { value: "" }, t("preset.none")));
    presets.append(...PRESETS.map((each) => h("option", { value: each }, t(`preset.${each}`))));
    presets.addEventListener("change", () => {
      prompt.value = presets.value ? t(`preset.${presets.value}.text`) : "";
      this.#save({ system_prompt: prompt.value || null });
    });
    const temperature = this.#find("#temperature");
    temperature.addEventListener("input", () => this.#showTemperature(Number(temperature.value)));
    temperature.addEventListener("change", () => this.#save({ temperature: Number(temperature.value) }));
    this.#find(".default").addEventListener("click", () => {
      temperature.focus(); // The button goes away.
      this.#save({ temperature: null });
    });
    this.#find("#json").addEventListener("change", (event) =>
      this.#save({ response_format: event.target.checked ? { type: "json_object" } : null }),
    );
    const logprobs = this.#find("#logprobs");
    logprobs.checked = this.logprobs;
    logprobs.addEventListener("change", () => remember("logprobs", logprobs.checked));
  }

  #saveTyped() {
    if (!this.#saving) return;
    clearTimeout(this.#saving.timer);
    const { conversation } = this.#saving;
    this.#saving = null;
    this.#save({ system_prompt: this.#find("#system-prompt").value || null }, conversation);
  }

  /** Save on change. A value that the server refuses returns to what it was, with the reason below. */
  async #save(changes, conversation = this.#conversation) {
    const [name] = Object.keys(changes);
    const reason = this.#find(`.reason[data-for=${name}]`);
    const saved = this.#find(`.saved[data-for=${name}]`);
    reason.hidden = true;
    try {
      await conversation.update(changes);
      setText(saved, t("panel.saved"));
      setTimeout(() => setText(saved, ""), SAVED_MS);
    } catch (error) {
      setText(reason, errorSentence(error.code, error.message, error.seconds));
      reason.hidden = false;
    }
    this.update();
  }

  #showModels({ model, default_model }) {
    const select = this.#find("#model");
    const standard = default_model ?? this.#defaultModel;
    const names = this.#models.map((each) => each.id);
    if (model && !names.includes(model)) names.unshift(model);
    const wanted = [standard, ...names].join("\n");
    if (select.dataset.names !== wanted) {
      select.dataset.names = wanted;
      const first = h("option", { value: "" }, standard ? `${standard} (${t("panel.is_default")})` : t("panel.is_default"));
      select.replaceChildren(first, ...names.map((each) => h("option", { value: each }, each)));
    }
    if (document.activeElement !== select || select.value === "") select.value = model ?? "";
    const used = this.#models.find((each) => each.id === (model ?? standard));
    const end = used?.shutdown_date ? new Date(used.shutdown_date) : null;
    this.#find(".shutdown").hidden = !end;
    if (end) {
      setText(this.#find(".shutdown"), t("panel.shutdown", longDate(end)));
      this.#find(".shutdown").classList.toggle("soon", end - Date.now() < ENDS_SOON_MS);
    }
  }

  #showPreset(text) {
    const preset = PRESETS.find((each) => inEachLanguage(`preset.${each}.text`).includes(text));
    this.#find(".preset select").value = preset ?? "other";
  }

  #showTemperature(value) {
    const slider = this.#find("#temperature");
    const isSet = value !== null && value !== undefined;
    if (document.activeElement !== slider || !isSet) slider.value = isSet ? value : 1;
    slider.style.setProperty("--part", `${(Number(slider.value) / 2) * 100}%`);
    slider.classList.toggle("unset", !isSet);
    setText(this.#find("output"), isSet ? String(value) : t("panel.is_default"));
    this.#find(".default").hidden = !isSet;
  }

  #bindConversation() {
    const [button, menu] = [this.#find(".export"), this.#find(".menu")];
    const items = [...menu.children];
    button.addEventListener("click", () => (menu.hidden ? this.#openMenu() : this.closeMenu()));
    menu.addEventListener("click", () => this.closeMenu());
    menu.addEventListener("keydown", (event) => {
      const at = items.indexOf(document.activeElement);
      const step = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
      if (step !== undefined) {
        event.preventDefault();
        items.at(step % items.length).focus();
      } else if (event.key === "Tab") {
        this.closeMenu();
      }
    });
    document.addEventListener("pointerdown", (event) => {
      if (!menu.hidden && !event.target.closest(".export-holder")) this.closeMenu(false);
    });
    const file = this.#find(".import-file");
    this.#find(".import").addEventListener("click", () => file.click());
    file.addEventListener("change", () => {
      this.#file = file.files[0];
      file.value = "";
      if (this.#file) this.#import();
    });
    this.#find(".clear").addEventListener("click", () => this.#on.clear());
  }

  #openMenu() {
    this.#find(".menu").hidden = false;
    this.#find(".export").setAttribute("aria-expanded", "true");
    this.#find(".menu").firstElementChild.focus();
  }

  /** Returns whether it was open. */
  closeMenu(returnsFocus = true) {
    const menu = this.#find(".menu");
    if (menu.hidden) return false;
    menu.hidden = true;
    const button = this.#find(".export");
    button.setAttribute("aria-expanded", "false");
    if (returnsFocus) button.focus();
    return true;
  }

  async #import(on_conflict) {
    const file = this.#file;
    const result = this.#find(".import-result");
    const type = file.name.endsWith(".jsonl") ? "application/jsonl" : "application/json";
    try {
      const done = await request("POST", "conversations/import", { query: { on_conflict }, body: file, headers: { "Content-Type": type } });
      const left = Object.values(done.skipped).reduce((sum, count) => sum + count, 0);
      const words = t("import.done", number(done.conversations.length), left && number(left));
      await this.#on.imported(done, words); // It opens another conversation, with an empty result.
      result.replaceChildren(h("p", {}, words));
    } catch (error) {
      result.replaceChildren(...this.#explain(error));
    }
  }

  #explain(error) {
    const line = /\bline (\d+)/i.exec(error.message)?.[1];
    if (error.code === "conversation_exists") {
      const copy = h("button", { class: "outlined", type: "button", onclick: () => this.#import("copy") }, t("import.copy"));
      return [h("p", {}, t("import.exists")), copy];
    }
    const isBroken = error.status === 400;
    const text = isBroken ? (line ? t("import.line", line) : language() === "en" && error.message ? error.message : t("import.unreadable")) : errorSentence(error.code, error.message, error.seconds);
    return [h("p", { class: "failed" }, text)];
  }

  #bindPage() {
    const select = this.#find("#language");
    select.value = language();
    select.addEventListener("change", () => {
      remember("language", select.value);
      location.reload(); // Every word of the page is another then.
    });
    const theme = recall("theme") ?? "system";
    for (const radio of this.#root.querySelectorAll("[name=theme]")) {
      radio.checked = radio.value === theme;
      radio.addEventListener("change", () => {
        remember("theme", radio.value);
        if (radio.value === "system") delete document.documentElement.dataset.theme;
        else document.documentElement.dataset.theme = radio.value;
      });
    }
    this.#find(".shortcuts").addEventListener("click", () => this.#on.shortcuts());
    this.#find(".forget button").addEventListener("click", () => access.forget());
  }
}
