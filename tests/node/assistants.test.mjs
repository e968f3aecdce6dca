// OpenAI's own package against a running server, with nothing but `baseURL` changed.
import assert from "node:assert/strict";
import test from "node:test";
import OpenAI from "openai";

const openai = new OpenAI({ baseURL: `${process.env.SERVER_URL}/api/v1`, apiKey: "any" });
const { assistants, threads } = openai.beta;
const assistant_id = "asst_default";
const tools = [{ type: "function", function: { name: "look", parameters: { type: "object", properties: {} } } }];

const asked = (text) => threads.create({ messages: [{ role: "user", content: text }] });

async function texts(threadId, query = {}) {
  const found = [];
  for await (const message of threads.messages.list(threadId, query)) {
    found.push(message.content.map((part) => part.text.value).join(""));
  }
  return found;
}

test("an assistant is made, changed and deleted", async () => {
  const made = await assistants.create({ model: "told", name: "Tutor", tools });
  assert.equal((await assistants.update(made.id, { name: "Coach" })).name, "Coach");
  assert.equal((await assistants.delete(made.id)).deleted, true);
  await assert.rejects(assistants.retrieve(made.id), OpenAI.NotFoundError);
});

test("a thread is made, read, changed and deleted", async () => {
  const thread = await threads.create({ metadata: { about: "cats" } });
  assert.deepEqual(await threads.retrieve(thread.id), thread);
  assert.deepEqual((await threads.update(thread.id, { metadata: {} })).metadata, {});
  assert.equal((await threads.delete(thread.id)).deleted, true);
  await assert.rejects(threads.retrieve(thread.id), OpenAI.NotFoundError);
});

test("messages are listed through several pages in both orders", async () => {
  const thread = await threads.create();
  for (const number of [1, 2, 3, 4, 5]) {
    await threads.messages.create(thread.id, { role: "user", content: `m${number}` });
  }
  assert.deepEqual(await texts(thread.id, { limit: 2, order: "asc" }), ["m1", "m2", "m3", "m4", "m5"]);
  assert.deepEqual(await texts(thread.id, { limit: 2 }), ["m5", "m4", "m3", "m2", "m1"]);
});

test("a run is made and polled to its end", async () => {
  const thread = await asked("안녕");
  const run = await threads.runs.createAndPoll(thread.id, { assistant_id });
  assert.equal(run.status, "completed");
  assert.deepEqual(await texts(thread.id), ["re: 안녕", "안녕"]);
  const steps = await threads.runs.steps.list(run.id, { thread_id: thread.id });
  assert.deepEqual(steps.data.map((step) => step.type), ["message_creation"]);
});

test("a run is streamed", async () => {
  const thread = await asked("안녕 👩‍👩‍👧\u2028");
  const heard = [];
  const stream = threads.runs.stream(thread.id, { assistant_id });
  stream.on("textCreated", () => heard.push("created"));
  stream.on("textDelta", (delta) => heard.push(delta.value));
  stream.on("textDone", (text) => heard.push(`done: ${text.value}`));
  const run = await stream.finalRun();
  const [message] = await stream.finalMessages();
  assert.equal(run.status, "completed");
  assert.equal(heard.at(0), "created");
  assert.equal(heard.at(-1), "done: re: 안녕 👩‍👩‍👧\u2028");
  assert.equal(heard.slice(1, -1).join(""), "re: 안녕 👩‍👩‍👧\u2028");
  assert.equal(message.content[0].text.value, "re: 안녕 👩‍👩‍👧\u2028");
});

test("a thread is made and run, polled and streamed", async () => {
  const thread = { messages: [{ role: "user", content: "Hi" }] };
  const run = await threads.createAndRunPoll({ assistant_id, thread });
  assert.deepEqual(await texts(run.thread_id), ["re: Hi", "Hi"]);
  const stream = threads.createAndRunStream({ assistant_id, thread });
  assert.equal((await stream.finalRun()).status, "completed");
});

test("outputs of functions are submitted and polled", async () => {
  const thread = await asked("look");
  const run = await threads.runs.createAndPoll(thread.id, { assistant_id, tools });
  assert.equal(run.status, "requires_action");
  const [call] = run.required_action.submit_tool_outputs.tool_calls;
  assert.deepEqual([call.id, call.function.name, call.function.arguments], ["call_1", "look", '{"at": "it"}']);
  const tool_outputs = [{ tool_call_id: call.id, output: "green" }];
  const ended = await threads.runs.submitToolOutputsAndPoll(run.id, { thread_id: thread.id, tool_outputs });
  assert.equal(ended.status, "completed");
  assert.deepEqual(await texts(thread.id), ["It is green.", "look"]);
});

test("outputs of functions are submitted and streamed", async () => {
  const thread = await asked("look");
  const stream = threads.runs.stream(thread.id, { assistant_id, tools });
  const called = [];
  stream.on("toolCallDone", (call) => called.push(call.function.arguments));
  const run = await stream.finalRun();
  assert.deepEqual([run.status, called], ["requires_action", ['{"at": "it"}']]);
  const tool_outputs = [{ tool_call_id: "call_1", output: "blue" }];
  const rest = threads.runs.submitToolOutputsStream(run.id, { thread_id: thread.id, tool_outputs });
  const pieces = [];
  rest.on("textDelta", (delta) => pieces.push(delta.value));
  assert.equal((await rest.finalRun()).status, "completed");
  assert.equal(pieces.join(""), "It is blue.");
});

test("a run is cancelled while it waits", async () => {
  const thread = await asked("look");
  const run = await threads.runs.createAndPoll(thread.id, { assistant_id, tools });
  await assert.rejects(threads.messages.create(thread.id, { role: "user", content: "?" }), OpenAI.BadRequestError);
  assert.equal((await threads.runs.cancel(run.id, { thread_id: thread.id })).status, "cancelled");
});

test("what is not offered is refused by name", async () => {
  const content = [{ type: "image_url", image_url: { url: "https://example.com/cat.png" } }];
  await assert.rejects(threads.create({ messages: [{ role: "user", content }] }), (problem) => {
    assert.ok(problem instanceof OpenAI.BadRequestError);
    assert.match(problem.message, /image_url is not offered/);
    return true;
  });
});
