"""Runs of a thread and their steps; each is written whether or not anybody waits, polls or reads."""

from dataclasses import replace
from typing import Any

from flask import Blueprint, Response

from server.core import Core
from server.dialects.openai import pagination
from server.dialects.openai.assistants import events, objects, requests
from server.dialects.openai.assistants.assistants import Assistants
from server.dialects.openai.assistants.threads import made
from server.dialects.openai.errors import not_found_as, refused_while_a_run_is_open
from server.domain import Conversation, Run, derive_id
from server.errors import InvalidRequest, NoActionRequired, NotFound
from server.http import connection, headers, sse
from server.http.contract import Contract

POLLED = {"openai-poll-after-ms": "200"}
"""How soon OpenAI's packages are to ask again."""

EVERY = 1_000_000
"""More runs than a thread has."""


def blueprint(contract: Contract, core: Core, assistants: Assistants, most_characters: int) -> Blueprint:
    """`most_characters` is how long a message may be."""
    bp = Blueprint("runs", __name__)

    @contract.serves(bp, "createRun")
    def create(thread_id: str, body: dict[str, Any]) -> dict[str, Any] | Response:
        sse.forbid_last_event_id()
        draft = assistants.draft(thread_id, body, request_id=headers.request_id(None))
        return begun(draft, body, requests.messages(body.get("additional_messages"), most_characters))

    @contract.serves(bp, "createThreadAndRun")
    def create_with_thread(body: dict[str, Any]) -> dict[str, Any] | Response:
        sse.forbid_last_event_id()
        key = headers.idempotency_key("thread")
        draft = assistants.draft(derive_id("thread", "run", key), body, request_id=key)
        thread = made(core, draft.conversation, body.get("thread") or {}, most_characters)
        return begun(draft, body, [], thread)

    def begun(
        draft: Run, body: dict[str, Any], messages: list[dict[str, Any]], thread: Conversation | None = None
    ) -> dict[str, Any] | Response:
        with not_found_as("thread"), refused_while_a_run_is_open("run it again"):
            # Streamed from the upstream in any case: nobody waits for it here, and others can see it grow.
            run = core.replies.create(draft, messages=messages, reject_if_busy=True, create_conversation=False)
        if not body.get("stream"):
            # As it was made. One that an earlier request with the same key has made may have ended.
            return objects.run(replace(run, status="queued") if run.is_active else run)
        reading = core.replies.read(run.id, 0, connection.connection_probe())
        return sse.stream_frames(run.id, events.begun(run, reading, thread), reading)

    @contract.serves(bp, "listRuns")
    def list_runs(thread_id: str, **bounds: Any) -> dict[str, Any]:
        with not_found_as("thread"):
            core.conversations.get(thread_id)
        is_newest = bounds["order"] != "asc" and bounds["after"] is None and bounds["before"] is None
        most = (bounds["limit"] or pagination.PAGE) + 1 if is_newest else EVERY
        newest_first = core.replies.list(thread_id, None, most)
        return pagination.cut([objects.run(assistants.of(each)) for each in reversed(newest_first)], **bounds)

    @contract.serves(bp, "getRun")
    def show(thread_id: str, run_id: str) -> tuple[dict[str, Any], dict[str, str]]:
        return objects.run(found(thread_id, run_id)), POLLED

    @contract.serves(bp, "updateRun")
    def update(thread_id: str, run_id: str, body: dict[str, Any]) -> dict[str, Any]:
        run = found(thread_id, run_id)
        if "metadata" in body:
            run = core.replies.set_details(run_id, {**run.options.details, "metadata": body["metadata"] or {}})
        return objects.run(run)

    @contract.serves(bp, "cancelRun")
    def cancel(thread_id: str, run_id: str) -> dict[str, Any]:
        run = found(thread_id, run_id)
        if not run.is_open:
            raise InvalidRequest(f"A run that is {objects.status_of(run)} cannot be cancelled.")
        return objects.run(assistants.of(core.replies.cancel(run_id)))

    @contract.serves(bp, "submitToolOutputs")
    def submit(thread_id: str, run_id: str, body: dict[str, Any]) -> dict[str, Any] | Response:
        sse.forbid_last_event_id()
        found(thread_id, run_id)
        outputs = {each["tool_call_id"]: each.get("output") or "" for each in body["tool_outputs"]}
        try:
            run = core.replies.submit_outputs(run_id, outputs)
        except NoActionRequired as problem:
            raise InvalidRequest(str(problem)) from None
        if not body.get("stream"):
            return objects.run(run)
        reading = core.replies.read(run_id, len(run.text), connection.connection_probe())
        return sse.stream_frames(run_id, events.resumed(run, reading), reading)

    @contract.serves(bp, "listRunSteps")
    def list_steps(thread_id: str, run_id: str, **bounds: Any) -> dict[str, Any]:
        return pagination.cut(objects.steps(found(thread_id, run_id)), **bounds)

    @contract.serves(bp, "getRunStep")
    def show_step(thread_id: str, run_id: str, step_id: str) -> dict[str, Any]:
        for step in objects.steps(found(thread_id, run_id)):
            if step["id"] == step_id:
                return step
        raise NotFound("No run step found with that id.")

    def found(thread_id: str, run_id: str) -> Run:
        with not_found_as("run"):
            run = core.replies.get(run_id)
            if run.conversation != thread_id:
                raise NotFound
            return assistants.of(run)

    return bp
