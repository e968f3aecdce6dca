/** One conversation as the server has it, and the replies that are being written in it. */

import { ApiError, request } from "./api.js";
import { connection } from "./connection.js";
import { randomName } from "./dom.js";
import { recall, remember, sendingKey } from "./memory.js";
import { Writing } from "./writing.js";

const FIRST_PAGE = 60;
const OLDER_PAGE = 1000;
const NOT_AMONG_MESSAGES = ["failed", "interrupted", "expired"];

/** A run that ended without a turn in the history. One that was stopped before its first word is such a one, too. */
const isNoMessage = ({ status, text, replaces }) =>
  NOT_AMONG_MESSAGES.includes(status) || (status === "cancelled" && !text && !replaces);

/** Events: "change" when turns or settings differ, "end" with the writing that ended, "cleared" by another door. */
export class Conversation extends EventTarget {
  details = null;
  messages = [];
  /** The question that is on its way to the server: {request_id, text, at}. */
  sending = null;
  /** How many messages of the history came with the newest reply, and how many were left out. */
  replay = null;
  isOpened = false;
  /** Whether it is one that the key does not open. */
  isRefused = false;
  #next = null;
  #failed = new Map();
  #writings = new Map();
  /** The run that was to take the place of a turn, and was stopped: it is told until the next one begins. */
  #stopped = null;
  #hasMoreRuns = false;
  #isLoadingOlder = false;
  #refreshing = null;
  #stopsNext = false;
  #isClearing = false;

  constructor(name, isKnown) {
    super();
    this.name = name;
    /** Whether the server has it: one that was never used does not exist there. */
    this.isKnown = isKnown;
  }

  /** Read settings, the newest messages and the runs that are no messages. */
  async open() {
    if (this.isKnown) await this.#load();
    this.isOpened = true;
    if (this.isKnown) this.#loadFailed().catch(() => {}); // The newest of them are there already.
    this.#tell("change");
  }

  /** Stop reading; replies are written on. */
  close() {
    for (const writing of this.#writings.values()) writing.leave();
    this.#writings.clear();
  }

  /** The reply that is written now, or that comes next. */
  get writing() {
    return [...this.#writings.values()].find((each) => !each.hasEnded) ?? null;
  }

  /** Stop the reply that is being written, or the one that is about to be. */
  stop() {
    if (this.writing) this.writing.stop();
    else this.#stopsNext = this.sending !== null;
  }

  get isBusy() {
    return Boolean(this.sending || this.writing);
  }

  get hasOlder() {
    return Boolean(this.#next);
  }

  get failedCount() {
    return this.#failed.size;
  }

  /** Read again if the server has another revision or other open replies than are shown. */
  async poll() {
    if (!this.isKnown || !this.isOpened || this.sending || this.#refreshing) return;
    const details = await this.#get("details");
    const open = details.open_runs.map((run) => run.id).sort().join();
    const shown = [...this.#writings.values()].filter((each) => !each.hasEnded).map((each) => each.run.id).sort().join();
    if (details.revision !== this.details?.revision || open !== shown) await this.refresh();
  }

  /** Read the newest messages and runs, once at a time. */
  refresh() {
    this.#refreshing ??= this.#load().finally(() => (this.#refreshing = null));
    return this.#refreshing;
  }

  async #load() {
    const [details, page, runs] = await Promise.all([
      this.#get("details"),
      this.#get("messages", { limit: FIRST_PAGE }),
      this.#get("runs", { limit: 20 }),
    ]);
    this.details = details;
    this.#takeMessages(page);
    this.#takeRuns(runs);
    this.#hasMoreRuns = Boolean(runs.next);
    for (const run of details.open_runs) this.#follow(run);
    for (const [id, writing] of this.#writings) if (writing.hasEnded) this.#writings.delete(id);
    this.#tell("change");
  }

  #takeMessages(page) {
    const first = page.messages[0]?.id;
    const index = this.messages.findIndex((message) => message.id === first);
    const joined = index < 0 ? page.messages : [...this.messages.slice(0, index), ...page.messages];
    const isWhole = this.#next === null && index >= 0;
    if (index < 0 || (isWhole && joined.length !== page.message_count)) {
      if (this.messages.length && !page.message_count && !this.#isClearing) this.#tell("cleared");
      this.messages = page.messages;
      this.#next = page.next ?? null;
    } else {
      this.messages = joined;
    }
  }

  /** Runs that failed before the newest ones. */
  async #loadFailed() {
    if (!this.#hasMoreRuns) return;
    const lists = await Promise.all(NOT_AMONG_MESSAGES.map((status) => this.#get("runs", { status, limit: 100 })));
    for (const run of lists.flatMap((list) => list.runs)) this.#failed.set(run.id, run);
    this.#tell("change");
  }

  #takeRuns(list) {
    if (!list.next) this.#failed.clear();
    for (const run of list.runs) if (isNoMessage(run)) this.#failed.set(run.id, run);
    const told = list.runs.find((run) => run.replayed !== undefined);
    this.replay = told ? { replayed: told.replayed, omitted: told.omitted ?? 0 } : null;
  }

  /** Read a page of older messages. Returns whether there were any. */
  async loadOlder() {
    if (!this.#next || this.#isLoadingOlder) return false;
    this.#isLoadingOlder = true;
    try {
      const before = this.#next;
      const page = await this.#get("messages", { limit: OLDER_PAGE, before });
      if (this.#next !== before) return false;
      this.messages = [...page.messages, ...this.messages];
      this.#next = page.next ?? null;
    } finally {
      this.#isLoadingOlder = false;
    }
    this.#tell("change");
    return true;
  }

  /**
   * Send a question. If the answer is lost, the same is sent again when the server is back: its `request_id` keeps it
   * from being asked twice. Throws ApiError if the server refuses it.
   */
  async send(text, logprobs) {
    const kept = recall(sendingKey(this.name));
    const request_id = kept?.text === text ? kept.request_id : randomName(24);
    this.sending = { request_id, text, at: new Date().toISOString() };
    remember(sendingKey(this.name), { request_id, text });
    this.#tell("change");
    const body = { client_name: this.name, message: text, request_id };
    if (logprobs) Object.assign(body, { logprobs: true, top_logprobs: 5 });
    try {
      const { stream_id } = await this.#insist("POST", "chat/stream", body);
      this.isKnown = true;
      remember(sendingKey(this.name), null);
      const at = this.sending.at;
      this.sending = null;
      this.#follow({ id: stream_id, status: "running", input: text, text: "", created_at: at });
      if (this.#stopsNext) this.stop();
    } catch (error) {
      this.sending = null;
      if (error.status >= 400 && error.status < 500) remember(sendingKey(this.name), null);
      throw error;
    } finally {
      this.#stopsNext = false;
      this.#tell("change");
    }
  }

  async regenerate(run_id, logprobs) {
    await this.#begin("regenerate", { run_id, logprobs: logprobs || undefined });
  }

  async edit(run_id, input, logprobs) {
    await this.#begin("edit", { run_id, input, logprobs: logprobs || undefined });
  }

  async retry(run_id) {
    await this.#begin("runs/retry", { run_id });
  }

  async #begin(operation, body) {
    const run = await request("POST", `conversations/${operation}`, { body: { client_name: this.name, ...body } });
    this.#follow(run);
    this.#tell("change");
  }

  /** Change settings. Returns the settings as they are then. Throws ApiError if a value is refused. */
  async update(changes) {
    this.details = await request("PATCH", "conversations/details", { body: { client_name: this.name, ...changes } });
    this.isKnown = true;
    this.#tell("change");
    return this.details;
  }

  async clear() {
    this.#isClearing = true;
    try {
      await request("DELETE", "history", { query: { client_name: this.name } });
    } finally {
      this.#isClearing = false;
    }
    this.messages = [];
    this.#next = null;
    this.#failed.clear();
    if (this.isKnown) await this.refresh();
    this.#tell("change");
  }

  /** Repeat a request until the server answers. */
  async #insist(method, path, body) {
    for (;;) {
      try {
        return await request(method, path, { body });
      } catch (error) {
        if (error.code !== "offline" && error.code !== "shutting_down") throw error;
        await connection.back();
      }
    }
  }

  #get(part, query = {}) {
    return request("GET", `conversations/${part}`, { query: { client_name: this.name, ...query } });
  }

  #follow(run) {
    if (this.#writings.has(run.id)) {
      const writing = this.#writings.get(run.id);
      if (!writing.text && !writing.hasEnded) writing.status = run.status;
      Object.assign(writing.run, run);
      return;
    }
    this.#stopped = null;
    const writing = new Writing(run);
    this.#writings.set(run.id, writing);
    writing.addEventListener("end", async () => {
      if (run.replaces && writing.status === "cancelled") this.#stopped = { ...run, status: "cancelled", text: writing.text };
      this.dispatchEvent(new CustomEvent("end", { detail: writing }));
      this.#tell("change");
      for (;;) {
        try {
          return await this.refresh();
        } catch (error) {
          if (!(error instanceof ApiError) || error.code !== "offline") return undefined;
          await connection.back();
        }
      }
    });
    writing.read();
  }

  #tell(type) {
    this.dispatchEvent(new Event(type));
  }

  /**
   * The turns in the order of time. Each is {key, question, asked, reply, status, …}: `isTurn` if the model remembers
   * it, `writing` while its reply is written, `replacement` while another takes its place, `attempt` if that failed or was stopped.
   */
  turns() {
    const turns = [];
    const { replayed, omitted } = this.replay ?? {};
    let start = omitted ? this.messages.length - replayed : 0;
    for (const [index, message] of this.messages.entries()) {
      const last = turns.at(-1);
      if (message.role === "user") turns.push(turnOf(message));
      else if (last && last.reply === null) Object.assign(last, replyOf(message));
      else turns.push({ ...turnOf(message), question: null, ...replyOf(message) });
      if (start > 0 && index >= start && message.role === "user") {
        turns.at(-1).replayed = replayed;
        start = 0;
      }
    }
    const oldest = this.#next === null ? "" : (turns[0]?.asked ?? "");
    for (const run of this.#failed.values()) this.#place(turns, run, oldest);
    if (this.#stopped) this.#place(turns, this.#stopped, oldest);
    for (const writing of this.#writings.values()) placeWriting(turns, writing);
    if (this.sending) turns.push({ key: "sending", question: this.sending.text, asked: this.sending.at, status: "sending" });
    return turns;
  }

  #place(turns, run, oldest) {
    if (this.#writings.has(run.id)) return;
    if (run.replaces) {
      const last = turns.findLast((turn) => turn.isTurn);
      if (last?.run_id === run.replaces) last.attempt = run;
    } else if (run.created_at >= oldest) {
      const index = turns.findIndex((turn) => turn.asked > run.created_at);
      turns.splice(index < 0 ? turns.length : index, 0, failedTurn(run));
    }
  }
}

function turnOf({ id, run_id, content, timestamp, status }) {
  return { key: run_id ?? id, run_id, question: content, asked: timestamp, reply: null, status: status ?? "completed", isTurn: true };
}

function replyOf({ content, status, usage, seconds, model, logprobs, timestamp }) {
  return { reply: content, status: status ?? "completed", usage, seconds, model, logprobs, replied: timestamp };
}

function failedTurn(run) {
  const { id, input, created_at, text, status, error, usage, seconds } = run;
  return { key: id, run_id: id, question: input, asked: created_at, reply: text, status, error, usage, seconds, isTurn: false };
}

/** While a reply is written, its turn is the last; one that replaces a turn stands within it. */
function placeWriting(turns, writing) {
  const { id, input, created_at, replaces } = writing.run;
  const replaced = replaces && turns.find((turn) => turn.run_id === replaces);
  if (replaced) replaced.replacement = writing;
  else if (!turns.some((turn) => turn.key === id)) {
    const isTurn = writing.status === "completed";
    turns.push({ key: id, run_id: id, question: input, asked: created_at, reply: "", status: writing.status, isTurn, writing });
  }
}
