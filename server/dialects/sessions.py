"""Sessions: conversations that the server names, and that expire after a time without use."""

import time
from typing import Any

from flask import Blueprint, Response

from server.core import Core
from server.domain import Conversation, Message, Run, RunOptions, Usage, rfc3339
from server.errors import AppError, NotFound, RunCancelled
from server.http import connection, headers, sse
from server.http.contract import Contract
from server.http.errors import detailed_body, register_error_handlers

UNKNOWN = "There is no such session; it was deleted, or nobody used it for too long."


def blueprint(contract: Contract, core: Core, timeout_seconds: float) -> Blueprint:
    """`timeout_seconds` is how long a session is kept after its last use."""
    bp = Blueprint("sessions", __name__)
    register_error_handlers(bp, _dump_error)

    @contract.serves(bp, "createSession")
    def create_session(body: dict[str, Any] | None) -> dict[str, Any]:
        metadata = (body or {}).get("metadata") or {}
        name = core.conversations.new_name("session")
        return _dump_session(core.conversations.create(name, seconds=timeout_seconds, metadata=metadata))

    @contract.serves(bp, "getSession")
    def get_session(session_id: str) -> dict[str, Any]:
        return _dump_session(core.conversations.get(session_id))

    @contract.serves(bp, "deleteSession")
    def delete_session(session_id: str) -> dict[str, Any]:
        core.conversations.get(session_id)
        core.conversations.delete(session_id)
        return {"session_id": session_id, "status": "deleted"}

    @contract.serves(bp, "getSessionMessages")
    def get_messages(session_id: str, limit: int | None) -> dict[str, Any]:
        count = core.conversations.get(session_id).message_count
        newest = core.conversations.list_messages(session_id, max(0, count - (limit or 10)), count)
        messages = [_dump_message(each, _find_usage(core, each)) for each in newest]
        return {"session_id": session_id, "messages": messages, "total": count}

    @contract.serves(bp, "chatInSession")
    def chat(body: dict[str, Any]) -> dict[str, Any]:
        run = core.replies.answer(_draft_run(body), connection.connection_probe(), create_conversation=False)
        return {"session_id": run.conversation, **_dump_message(run.history_messages()[-1], run.usage)}

    @contract.serves(bp, "streamInSession")
    def stream_chat(body: dict[str, Any]) -> Response:
        sse.forbid_last_event_id()
        stream_id, events = core.replies.stream(
            _draft_run(body), connection.connection_probe(), create_conversation=False
        )
        return sse.stream_run(stream_id, 0, events, EVENT_FORMAT)

    @contract.serves(bp, "getSessionsHealth")
    def get_health() -> dict[str, Any]:
        health = core.health.check()
        return {
            "status": health.status,
            "llm_server": health.upstream,
            "database": health.store,
            "timestamp": rfc3339(time.time()),
        }

    return bp


def _draft_run(body: dict[str, Any]) -> Run:
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


def _dump_session(conversation: Conversation) -> dict[str, Any]:
    return {
        "session_id": conversation.name,
        "created_at": rfc3339(conversation.created),
        "last_accessed": rfc3339(conversation.touched),
        "metadata": dict(conversation.metadata),
        "message_count": conversation.message_count,
    }


def _dump_message(message: Message, usage: Usage | None) -> dict[str, Any]:
    return {
        "message_id": message.id,
        "role": message.role,
        "content": message.content,
        "created_at": rfc3339(message.timestamp),
        "token_usage": usage,
    }


def _find_usage(core: Core, message: Message) -> Usage | None:
    """The usage of the run that wrote the message; None if it is a question or no run wrote it."""
    if message.run_id is None or message.role == "user":
        return None
    return core.replies.get(message.run_id).usage


def _dump_error(error: AppError) -> dict[str, Any]:
    return detailed_body(NotFound(UNKNOWN) if isinstance(error, NotFound) else error)


EVENT_FORMAT = sse.EventFormat(
    started=lambda stream_id: {"stream_id": stream_id},
    delta=lambda text: {"content": text},
    completed=lambda run: {"done": True, "message_id": run.reply_id, "token_usage": run.usage},
    cancelled=lambda _: detailed_body(RunCancelled()),
    failed=detailed_body,
)
