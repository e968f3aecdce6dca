/** Whether the server answers, and the attempts to reach it again. */

import { address } from "./address.js";

const WAITS = [1, 3, 5, 8, 10];

class Connection extends EventTarget {
  isLost = false;
  /** Seconds until the next attempt. */
  wait = 0;
  #attempt = 0;
  #timer = 0;

  /** The server did not answer. Attempts follow until it does. Events: "change" now, and with each second. */
  lose() {
    if (this.isLost) return;
    this.isLost = true;
    this.#attempt = 0;
    this.#schedule();
  }

  gain() {
    if (!this.isLost) return;
    this.isLost = false;
    clearInterval(this.#timer);
    this.#tell("change");
    this.#tell("back");
  }

  /** Resolves when the server answers again; at once if it does. */
  back() {
    if (!this.isLost) return Promise.resolve();
    return new Promise((resolve) => this.addEventListener("back", resolve, { once: true }));
  }

  async connectNow() {
    clearInterval(this.#timer);
    this.wait = 0;
    try {
      const response = await fetch(address("healthz"), { cache: "no-store" });
      if (response.ok) return this.gain();
    } catch {
      // It is still away.
    }
    if (this.isLost) this.#schedule();
  }

  #schedule() {
    this.wait = WAITS[Math.min(this.#attempt++, WAITS.length - 1)];
    clearInterval(this.#timer);
    this.#timer = setInterval(() => {
      this.wait -= 1;
      if (this.wait <= 0) this.connectNow();
      else this.#tell("change");
    }, 1000);
    this.#tell("change");
  }

  #tell(type) {
    this.dispatchEvent(new Event(type));
  }
}

export const connection = new Connection();
addEventListener("online", () => connection.isLost && connection.connectNow());
addEventListener("offline", () => connection.lose());
