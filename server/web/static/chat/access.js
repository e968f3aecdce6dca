/** The key of this tab, if the server asks for one, and what it opens. */

import { address } from "./address.js";
import { randomName } from "./dom.js";
import { forgetSession, recall, remember } from "./memory.js";
import { t } from "./words.js";

class Access {
  #key = recall("api_key");
  #asking = null;
  /** The client_name that the caller opens; with `*` at the end, every one with that beginning. Null if not known. */
  scope = this.#key && recall("scope");

  get key() {
    return this.#key;
  }

  get #pattern() {
    return this.scope ?? "*";
  }

  get #beginning() {
    return this.#pattern.slice(0, -1);
  }

  get isForOneName() {
    return !this.#pattern.endsWith("*");
  }

  opensName(name) {
    return this.isForOneName ? name === this.scope : name.startsWith(this.#beginning);
  }

  /** A name for a new conversation that the key opens. */
  newName() {
    return this.isForOneName ? this.scope : (this.#beginning || "chat-") + randomName(8);
  }

  /** Resolves at once, but while a key is asked for, when there is one. */
  ready() {
    return this.#asking;
  }

  /** Have the key replaced with which the server refused a request for `error`. Resolves when there is another. */
  async replace(refused, error) {
    if (refused === this.#key) this.#asking ??= this.#ask(error).finally(() => (this.#asking = null));
    await this.#asking;
  }

  async #ask({ code, seconds }) {
    const { askForKey } = await import("./key_dialog.js");
    const isTooMany = code === "too_many_attempts";
    const why = this.#key && !isTooMany ? t("key.ended") : t("key.why");
    const before = this.scope ?? recall("scope");
    remember("api_key", (this.#key = null));
    const { key, client_name: scope } = await askForKey(why, isTooMany ? t("key.too_many", seconds) : "");
    const isOther = before !== null && before !== scope;
    if (isOther) forgetSession(); // Another client may see nothing of the one before.
    Object.assign(this, { scope });
    this.#key = key;
    remember("api_key", key);
    remember("scope", scope);
    if (isOther) await this.#beginAnew();
  }

  /** Forget the key, and all that this tab has with it. */
  forget() {
    this.#key = null;
    forgetSession();
    this.#asking = this.#beginAnew();
  }

  /** Load the page anew, with nothing of this one left to be seen, also when the browser goes back. Never resolves. */
  #beginAnew() {
    document.body.hidden = true;
    document.title = t("brand");
    addEventListener("pageshow", ({ persisted }) => persisted && location.reload());
    location.replace(address(""));
    return new Promise(() => {});
  }
}

export const access = new Access();
