/** Requests to the server. */

import { access } from "./access.js";
import { address } from "./address.js";
import { connection } from "./connection.js";
import { h } from "./dom.js";

/** Refusals that another key mends. */
const OF_KEYS = ["unauthorized", "too_many_attempts"];

/** A refusal, with the `code` of the server. "offline" if the server did not answer, "aborted" if nobody waits. */
export class ApiError extends Error {
  constructor(code, message, status = 0, seconds = undefined) {
    super(message);
    Object.assign(this, { code, status, seconds });
  }
}

/** The JSON of one request. Throws ApiError. */
export async function request(method, path, { query, body, headers = {}, signal } = {}) {
  const isFile = body instanceof Blob;
  const init = { method, headers: { Accept: "application/json", ...headers }, signal };
  if (body !== undefined) {
    init.body = isFile ? body : JSON.stringify(body);
    if (!isFile) init.headers["Content-Type"] = "application/json";
  }
  const response = await send(address(path, query), init);
  try {
    return await response.json();
  } catch (error) {
    throw lost(error, signal);
  }
}

/** The frames of a reply from character `position` on, each as {position, ...data}. Throws ApiError. */
export async function* readStream(id, position, signal) {
  const headers = { Accept: "text/event-stream" };
  if (position) headers["Last-Event-ID"] = String(position);
  const response = await send(address(`chat/stream/${encodeURIComponent(id)}`), { headers, signal });
  const reader = response.body.getReader();
  try {
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const events = (rest + decoder.decode(value, { stream: true })).replaceAll("\r\n", "\n").split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const frame = parseEvent(event);
        if (frame) yield frame;
      }
    }
  } catch (error) {
    throw lost(error, signal);
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Save what an address answers as a file, as a link does, which could not send the key. Throws ApiError. */
export async function download(url) {
  const response = await send(url, {});
  let blob;
  try {
    blob = await response.blob(); // The browser keeps a large one on disk; read in pieces it would lie in memory.
  } catch (error) {
    throw lost(error);
  }
  const href = URL.createObjectURL(blob);
  h("a", { href, download: fileName(response.headers.get("Content-Disposition") ?? "") }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

function fileName(disposition) {
  const encoded = /filename\*=UTF-8''([^;\s]+)/i.exec(disposition)?.[1];
  return encoded ? decodeURIComponent(encoded) : (/filename="?([^";]+)/i.exec(disposition)?.[1] ?? "");
}

function parseEvent(event) {
  let position = 0;
  const data = [];
  for (const line of event.split("\n")) {
    const [, field, value] = /^(\w*): ?(.*)$/s.exec(line) ?? [];
    if (field === "data") data.push(value);
    if (field === "id") position = Number(value);
  }
  return data.length ? { position, ...JSON.parse(data.join("\n")) } : null;
}

/** Send a request, and again with another key if the server refuses that of this tab. */
async function send(url, init) {
  for (;;) {
    let key;
    let response;
    try {
      await access.ready();
      key = access.key;
      const headers = key ? { ...init.headers, Authorization: `Bearer ${key}` } : init.headers;
      response = await fetch(url, { cache: "no-store", ...init, headers });
    } catch (error) {
      throw lost(error, init.signal);
    }
    if (response.ok) {
      connection.gain();
      return response;
    }
    const error = await refusal(response);
    if (!OF_KEYS.includes(error.code)) throw error;
    await access.replace(key, error).catch((failure) => {
      throw lost(failure, init.signal);
    });
  }
}

async function refusal(response) {
  const seconds = Number(response.headers.get("Retry-After")) || undefined;
  try {
    const { error, code } = await response.json();
    if (code === "shutting_down") connection.lose();
    else connection.gain();
    return new ApiError(code ?? "other", error, response.status, seconds);
  } catch {
    // Not the server but a proxy before it.
    if (response.status < 502) return new ApiError("other", undefined, response.status, seconds);
    connection.lose();
    return new ApiError("offline", undefined, response.status, seconds);
  }
}

function lost(error, signal) {
  if (error instanceof ApiError) return error;
  if (signal?.aborted) return new ApiError("aborted");
  connection.lose();
  return new ApiError("offline");
}
