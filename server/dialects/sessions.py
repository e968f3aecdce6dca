"""Sessions: conversations that the server names, and forgets when nobody has used them for a while."""

import time
from typing import Any
from uuid import uuid4

from flask import Blueprint, Response

from server.core import Core
from server.domain import Conversation, Message, Run, RunOptions, Usage, rfc3339
from server.errors import AppError, NotFound, RunCancelled
from server.http import connection, headers, sse
from server.http.contract import Contract
from server.http.errors import detailed_body, register_error_handlers

UNKNOWN = "There is no such session; it was deleted, or nobody used it for too long."


def blueprint(contract: Contract, core: Core, timeout_seconds: float) -> Blueprint:
    """`timeout_seconds` is how long a session is kept after it was last used."""
    bp = Blueprint("sessions", __name__)
    register_error_handlers(bp, _failed)

    @contract.serves(bp, "createSession")
    def create(body: dict[str, Any] | None) -> dict[str, Any]:
        metadata = (body or {}).get("metadata") or {}
        return _session(core.conversations.create(str(uuid4()), seconds=timeout_seconds, metadata=metadata))

    @contract.serves(bp, "getSession")
    def session(session_id: str) -> dict[str, Any]:
        return _session(core.conversations.get(session_id))

    @contract.serves(bp, "deleteSession")
    def delete(session_id: str) -> dict[str, Any]:
        core.conversations.get(session_id)
        core.conversations.delete(session_id)
        return {"session_id": session_id, "status": "deleted"}

    @contract.serves(bp, "getSessionMessages")
    def messages(session_id: str, limit: int | None) -> dict[str, Any]:
        count = core.conversations.get(session_id).message_count
        newest = core.conversations.list_messages(session_id, max(0, count - (limit or 10)), count)
        listed = [_message(each, _usage(core, each)) for each in newest]
        return {"session_id": session_id, "messages": listed, "total": count}

    @contract.serves(bp, "chatInSession")
    def chat(body: dict[str, Any]) -> dict[str, Any]:
        run = core.replies.answer(_draft(body), connection.connection_probe(), create_conversation=False)
        return {"session_id": run.conversation, **_message(run.history_messages()[-1], run.usage)}

    @contract.serves(bp, "streamInSession")
    def stream(body: dict[str, Any]) -> Response:
        sse.forbid_last_event_id()
        stream_id, reading = core.replies.stream(_draft(body), connection.connection_probe(), create_conversation=False)
        return sse.stream_run(stream_id, 0, reading, EVENT_FORMAT)

    @contract.serves(bp, "getSessionsHealth")
    def health() -> dict[str, Any]:
        found = core.health.check()
        known = {"status": found.status, "llm_server": found.upstream, "database": found.store}
        return {**known, "timestamp": rfc3339(time.time())}

    return bp


def _draft(body: dict[str, Any]) -> Run:
    parameters: dict[str, Any] = {}
    if body.get("max_new_tokens") is not None:
        parameters["max_completion_tokens"] = int(body["max_new_tokens"])
    if body.get("do_sample") is False:
        parameters["temperature"] = 0
    elif body.get("temperature") is not None:
        parameters["temperature"] = body["temperature"]
    options = RunOptions(parameters=parameters)
    return Run(
        body["message"], headers.request_id(body.get("request_id")), conversation=body["session_id"], options=options
    )


def _session(conversation: Conversation) -> dict[str, Any]:
    return {
        "session_id": conversation.name,
        "created_at": rfc3339(conversation.created),
        "last_accessed": rfc3339(conversation.touched),
        "metadata": dict(conversation.metadata),
        "message_count": conversation.message_count,
    }


def _message(message: Message, usage: Usage | None) -> dict[str, Any]:
    return {
        "message_id": message.id,
        "role": message.role,
        "content": message.content,
        "created_at": rfc3339(message.timestamp),
        "token_usage": usage,
    }


def _usage(core: Core, message: Message) -> Usage | None:
    """What the run that wrote the message has cost, where one did."""
    if message.run_id is None or message.role == "user":
        return None
    return core.replies.get(message.run_id).usage


def _failed(failure: AppError) -> dict[str, Any]:
    return detailed_body(NotFound(UNKNOWN) if isinstance(failure, NotFound) else failure)


EVENT_FORMAT = sse.EventFormat(
    started=lambda stream_id: {"stream_id": stream_id},
    delta=lambda text: {"content": text},
    completed=lambda run: {"done": True, "message_id": run.reply_id, "token_usage": run.usage},
    cancelled=lambda _: detailed_body(RunCancelled()),
    failed=detailed_body,
)
