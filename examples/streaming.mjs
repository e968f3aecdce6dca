// Reads a reply while it is written. When the line breaks, it goes on where it was: no character is lost or read twice.
// It needs nothing but Node 18 or newer, or a browser.
//
//   node examples/streaming.mjs "Tell me a story."
//   BASE_URL=https://chat.example.com node examples/streaming.mjs
//
// CONVERSATION_KEY is the key of a protected server.
//
// In a page, of whose origin CORS_ORIGINS tells the server:
//
//   import { ask } from "./streaming.mjs";
//   for await (const event of ask("http://localhost:10000", "Tell me a story.")) console.log(event);

const ENDS = ["END", "STOPPED", "ERROR"];

/** The events of a reply: CHUNKs with its pieces, then one of END, STOPPED and ERROR. */
export async function* ask(baseUrl, message, key = "") {
  const access = key ? { Authorization: `Bearer ${key}` } : {};
  const headers = { ...access, "Content-Type": "application/json" };
  const started = await fetch(`${baseUrl}/chat/stream`, { method: "POST", headers, body: JSON.stringify({ message }) });
  const { stream_id } = await accepted(started).json();
  let position = "0";
  while (true) {
    try {
      const headers = { ...access, "Last-Event-ID": position };
      const response = await fetch(`${baseUrl}/chat/stream/${stream_id}`, { headers });
      for await (const { id, data } of events(accepted(response))) {
        position = id;
        yield data;
        if (ENDS.includes(data.type)) return;
      }
    } catch (problem) {
      if (!(problem instanceof TypeError)) throw problem; // A TypeError is fetch's word for a line that broke.
      console.error(`[${problem.message} after ${position} characters]`);
    }
    await new Promise((resume) => setTimeout(resume, 200));
  }
}

/** Each event's id, which is the number of characters so far, and its data. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    const { done, value } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const fields = Object.fromEntries(frame.split("\n").map((line) => line.split(/: (.*)/s)));
      // Without data it is a comment, which says that the reply is still being written.
      if (fields.data) yield { id: fields.id, data: JSON.parse(fields.data) };
    }
  }
}

function accepted(response) {
  if (response.ok) return response;
  throw new Error(`the server answered ${response.status}`);
}

async function main({ argv, env, stdout }) {
  const baseUrl = env.BASE_URL ?? "http://localhost:10000";
  for await (const event of ask(baseUrl, argv[2] ?? "Tell me a story.", env.CONVERSATION_KEY)) {
    if (event.type === "CHUNK") stdout.write(event.content);
    if (event.type === "END") stdout.write("\n");
    if (event.type === "ERROR") throw new Error(event.error);
  }
}

if (globalThis.process?.argv[1]?.endsWith("streaming.mjs")) await main(process);
