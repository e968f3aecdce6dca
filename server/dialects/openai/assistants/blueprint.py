"""OpenAI's Assistants API, which OpenAI has shut down, over the same conversations: a thread is a conversation."""

import time
from typing import Any

from flask import Blueprint, Response, request

from server.core import Core
from server.dialects.openai.assistants import assistants, runs, threads
from server.dialects.openai.errors import error_body, not_found_as
from server.domain import rfc3339
from server.errors import ActionRequired, NotFound
from server.http import connection, headers
from server.http.contract import Contract
from server.http.errors import register_error_handlers

THREAD_AND_RUN_PATH = "/api/v1/threads/runs"


def blueprint(contract: Contract, core: Core, assistant_id: str, assistant_instructions: str) -> Blueprint:
    """`assistant_id` and `assistant_instructions` are those of the default assistant."""
    bp = Blueprint("assistants", __name__)
    register_error_handlers(bp, error_body)
    max_characters = contract.document["components"]["schemas"]["Input"]["maxLength"]
    catalog = assistants.Assistants(core, assistant_id, assistant_instructions)
    bp.register_blueprint(assistants.blueprint(contract, core, catalog))
    bp.register_blueprint(threads.blueprint(contract, core, max_characters))
    bp.register_blueprint(runs.blueprint(contract, core, catalog, max_characters))

    @bp.before_request
    def refuse_runs_as_thread_id() -> Response | None:
        """Keep `/threads/runs`, which creates a thread with its run, from matching `/threads/{thread_id}`."""
        if request.path != THREAD_AND_RUN_PATH or request.method == "POST":
            return None
        if request.method == "OPTIONS":
            return Response(headers={"Allow": "OPTIONS, POST"})
        raise NotFound("No thread found with that id.")

    @contract.serves(bp, "getAssistantsHealth")
    def get_health() -> dict[str, Any]:
        return {"status": core.health.check().status, "timestamp": rfc3339(time.time())}

    @contract.serves(bp, "chatOnThread")
    def chat(body: dict[str, Any]) -> dict[str, Any]:
        thread_id = body.get("thread_id")
        key = headers.idempotency_key("thread_id") if thread_id is None else headers.request_id(None)
        name = core.conversations.derive_name("thread", "message", key) if thread_id is None else thread_id
        draft = catalog.draft_run(name, {}, question=body["message"], request_id=key)
        with not_found_as("thread"):
            # The question would wait for outputs that may never come, so it is refused at once.
            if thread_id is not None and core.replies.list(thread_id, "requires_action", 1):
                raise ActionRequired
            run = core.replies.answer(draft, connection.connection_probe(), create_conversation=thread_id is None)
        return {"message": run.text, "thread_id": run.conversation, "role": "assistant", "created_at": int(run.created)}

    return bp
