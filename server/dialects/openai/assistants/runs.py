"""Runs of a thread and their steps. A run executes whether or not a caller waits, polls or reads."""

from dataclasses import replace
from typing import Any

from flask import Blueprint, Response

from server.core import Core
from server.dialects.openai import pagination
from server.dialects.openai.assistants import events, objects, requests
from server.dialects.openai.assistants.assistants import Assistants
from server.dialects.openai.assistants.threads import parse_thread
from server.dialects.openai.errors import busy_as_invalid_request, not_found_as
from server.domain import Conversation, Run
from server.errors import InvalidRequest, NoActionRequired, NotFound
from server.http import connection, headers, sse
from server.http.contract import Contract

POLLING_HEADERS = {"openai-poll-after-ms": "200"}
"""How soon OpenAI's packages ask again."""

ALL_RUNS = 1_000_000
"""More runs than a thread has."""


def blueprint(contract: Contract, core: Core, assistants: Assistants, max_characters: int) -> Blueprint:
    """`max_characters` is how long a message may be."""
    bp = Blueprint("runs", __name__)

    @contract.serves(bp, "createRun")
    def create_run(thread_id: str, body: dict[str, Any]) -> dict[str, Any] | Response:
        sse.forbid_last_event_id()
        draft = assistants.draft_run(thread_id, body, request_id=headers.request_id(None))
        return submit_draft(draft, body, requests.parse_messages(body.get("additional_messages"), max_characters))

    @contract.serves(bp, "createThreadAndRun")
    def create_thread_and_run(body: dict[str, Any]) -> dict[str, Any] | Response:
        sse.forbid_last_event_id()
        key = headers.idempotency_key("thread")
        name = core.conversations.derive_name("thread", "run", key)
        draft = assistants.draft_run(name, body, request_id=key)
        options = parse_thread(body.get("thread") or {}, max_characters)
        with core.conversations.create_to_ask(draft.conversation, **options) as thread:
            return submit_draft(draft, body, [], thread)

    def submit_draft(
        draft: Run, body: dict[str, Any], messages: list[dict[str, Any]], thread: Conversation | None = None
    ) -> dict[str, Any] | Response:
        """Create the run, and return it or its events, as `body` says. `thread` is given if it was created with it."""
        with not_found_as("thread"), busy_as_invalid_request("run it again"):
            # Streamed from the upstream even if this caller wants no stream, because others may read it as it grows.
            run = core.replies.create(draft, messages=messages, reject_if_busy=True, create_conversation=False)
        if not body.get("stream"):
            # The run as it was created, unless an earlier request with the same key created it and it has ended.
            return objects.dump_run(replace(run, status="queued") if run.is_active else run)
        run_events = core.replies.read(run.id, 0, connection.connection_probe())
        return sse.stream_frames(run.id, events.stream_new_run(run, run_events, thread), run_events)

    @contract.serves(bp, "listRuns")
    def list_runs(thread_id: str, **bounds: Any) -> dict[str, Any]:
        with not_found_as("thread"):
            core.conversations.get(thread_id)
        is_newest = bounds["order"] != "asc" and bounds["after"] is None and bounds["before"] is None
        limit = (bounds["limit"] or pagination.DEFAULT_LIMIT) + 1 if is_newest else ALL_RUNS
        oldest_first = reversed(core.replies.list(thread_id, None, limit))
        return pagination.paginate([objects.dump_run(assistants.assign_default(run)) for run in oldest_first], **bounds)

    @contract.serves(bp, "getRun")
    def get_run(thread_id: str, run_id: str) -> tuple[dict[str, Any], dict[str, str]]:
        return objects.dump_run(read_run(thread_id, run_id)), POLLING_HEADERS

    @contract.serves(bp, "updateRun")
    def update_run(thread_id: str, run_id: str, body: dict[str, Any]) -> dict[str, Any]:
        run = read_run(thread_id, run_id)
        if "metadata" in body:
            run = core.replies.set_details(run_id, {**run.options.details, "metadata": body["metadata"] or {}})
        return objects.dump_run(run)

    @contract.serves(bp, "cancelRun")
    def cancel_run(thread_id: str, run_id: str) -> dict[str, Any]:
        run = read_run(thread_id, run_id)
        if not run.is_open:
            raise InvalidRequest(f"A run that is {objects.status_of(run)} cannot be cancelled.")
        return objects.dump_run(assistants.assign_default(core.replies.cancel(run_id)))

    @contract.serves(bp, "submitToolOutputs")
    def submit_tool_outputs(thread_id: str, run_id: str, body: dict[str, Any]) -> dict[str, Any] | Response:
        sse.forbid_last_event_id()
        read_run(thread_id, run_id)
        outputs = {each["tool_call_id"]: each.get("output") or "" for each in body["tool_outputs"]}
        try:
            run = assistants.assign_default(core.replies.submit_outputs(run_id, outputs))
        except NoActionRequired as error:
            raise InvalidRequest(str(error)) from None
        if not body.get("stream"):
            return objects.dump_run(run)
        run_events = core.replies.read(run_id, len(run.text), connection.connection_probe())
        return sse.stream_frames(run_id, events.stream_resumed_run(run, run_events), run_events)

    @contract.serves(bp, "listRunSteps")
    def list_run_steps(thread_id: str, run_id: str, **bounds: Any) -> dict[str, Any]:
        return pagination.paginate(objects.dump_steps(read_run(thread_id, run_id)), **bounds)

    @contract.serves(bp, "getRunStep")
    def get_run_step(thread_id: str, run_id: str, step_id: str) -> dict[str, Any]:
        for step in objects.dump_steps(read_run(thread_id, run_id)):
            if step["id"] == step_id:
                return step
        raise NotFound("No run step found with that id.")

    def read_run(thread_id: str, run_id: str) -> Run:
        """Raises NotFound, also if the run is of another thread."""
        with not_found_as("run"):
            run = core.replies.get(run_id)
            if run.conversation != thread_id:
                raise NotFound
            return assistants.assign_default(run)

    return bp
