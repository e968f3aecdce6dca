/** One reply being written: its text so far, read from the server until it ends. */

import { ApiError, readStream, request } from "./api.js";
import { connection } from "./connection.js";

const ENDED_BY = { run_interrupted: "interrupted", run_expired: "expired", run_cancelled: "cancelled" };

/** Events: "text" when there is more of it, "end" once. */
export class Writing extends EventTarget {
  text = "";
  /** Of the server while it is open, then how it ended. */
  status;
  usage = null;
  logprobs = null;
  error = null;
  hasEnded = false;
  isStopping = false;
  startedAt = performance.now();
  endedAt = null;
  #left = new AbortController();

  constructor(run) {
    super();
    this.run = run;
    this.status = run.status;
    const age = (Date.now() - Date.parse(run.created_at)) / 1000;
    if (age > 2 && age < 86_400) this.startedAt -= age * 1000;
  }

  get seconds() {
    return ((this.endedAt ?? performance.now()) - this.startedAt) / 1000;
  }

  /** Read until the reply ends. After a break of the line it goes on at the character where it was. */
  async read() {
    let position = 0;
    while (!this.hasEnded && !this.#left.signal.aborted) {
      try {
        for await (const frame of readStream(this.run.id, position, this.#left.signal)) {
          position = frame.position;
          this.#take(frame);
          if (this.hasEnded) return;
        }
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        if (error.code === "not_found") return this.#end("gone");
        if (error.code === "invalid_position") [position, this.text] = [0, ""];
      }
      if (!connection.isLost) await new Promise((resolve) => setTimeout(resolve, 500));
      await connection.back();
    }
  }

  /** Stop the reply; what is written is kept. The stream tells when it has ended. */
  async stop() {
    if (this.isStopping || this.hasEnded) return;
    this.isStopping = true;
    try {
      await request("DELETE", `chat/stream/${encodeURIComponent(this.run.id)}`);
    } catch {
      this.isStopping = false;
    }
  }

  /** Read no further; the reply is written on. */
  leave() {
    this.#left.abort();
  }

  #take(frame) {
    if (frame.type === "CHUNK") {
      this.status = "running";
      this.text += frame.content;
      this.dispatchEvent(new Event("text"));
    } else if (frame.type === "END") {
      Object.assign(this, { text: frame.full_content, usage: frame.usage, logprobs: frame.logprobs ?? null });
      this.#end("completed");
    } else if (frame.type === "STOPPED") {
      this.text = frame.full_content;
      this.#end("cancelled");
    } else if (frame.type === "ERROR") {
      this.error = { code: frame.code, error: frame.error };
      this.#end(ENDED_BY[frame.code] ?? "failed");
    }
  }

  #end(status) {
    this.status = status;
    this.hasEnded = true;
    this.endedAt = performance.now();
    this.dispatchEvent(new Event("end"));
  }
}
