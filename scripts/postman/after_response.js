// Keeps the ids in an answer as variables, so that later requests name what earlier ones created.
const variables = { thread: "thread_id", asst: "assistant_id", msg: "message_id", run: "run_id", step: "step_id" };
const kindOf = (object) => String((object || {}).id).split("_")[0];
const keep = (name, value) => value && pm.collectionVariables.set(name, value);
const keepId = (object, kinds) => kinds.includes(kindOf(object)) && keep(variables[kindOf(object)], object.id);

const isJson = (pm.response.headers.get("Content-Type") || "").startsWith("application/json");
const answer = (isJson && pm.response.json()) || {};
if (pm.response.code < 300) {
  keepId(answer, Object.keys(variables));
  // Of a list, only what no request of this collection deletes: the newest may be somebody else's.
  for (const list of [answer.data, answer.runs]) keepId((list || [])[0], ["run", "step"]);
  keep("thread_id", answer.thread_id);
  keep("session_id", answer.session_id);
  keep("stream_id", pm.response.headers.get("X-Stream-ID"));
  if (pm.request.url.getPath() === "/models") keep("model", ((answer.data || [])[0] || {}).id);
}

// A collection run repeats a request that reads an open run until the run has ended.
const isOpen = (run) => kindOf(run) === "run" && ["queued", "running", "in_progress", "cancelling"].includes(run.status);
if (pm.request.method === "GET" && [answer, ...(answer.open_runs || [])].some(isOpen)) {
  pm.execution.setNextRequest(pm.info.requestId);
  setTimeout(() => {}, 100);
}

pm.test("The server did not fail", () => pm.expect(pm.response.code).to.be.below(500));
