"""Chat: a question with its history and options, answered at once or as a stream that is read by its id."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Blueprint, Response

from server.core import Core
from server.domain import Run, RunOptions, rfc3339
from server.errors import InvalidRequest, NotFound, StoreFull
from server.http import connection, headers, sse
from server.http.contract import Contract
from server.http.errors import detailed_body, register_error_handlers

PARAMETERS = ("temperature", "response_format")
"""Sent upstream unchanged."""


def blueprint(contract: Contract, core: Core, ttl_seconds: float) -> Blueprint:
    """`ttl_seconds` is how long a chat without a `client_name` is kept after its last use."""
    bp = Blueprint("chat", __name__)
    register_error_handlers(bp, detailed_body)

    @contract.serves(bp, "chat")
    def chat(body: dict[str, Any]) -> dict[str, Any]:
        is_named = _is_named(body)
        with _draft_run(core, ttl_seconds, body) as draft, _eviction_as_store_full(is_named=is_named):
            run = core.replies.answer(draft, connection.connection_probe(), create_conversation=is_named)
        ended = rfc3339(run.ended or time.time())
        answer = {"response": run.text, "usage": run.usage, "model": run.model, "timestamp": ended}
        return {**answer, "logprobs": run.logprobs} if "logprobs" in run.options.parameters else answer

    @contract.serves(bp, "startStream")
    def start_stream(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        sse.forbid_last_event_id()
        is_named = _is_named(body)
        with _draft_run(core, ttl_seconds, body) as draft, _eviction_as_store_full(is_named=is_named):
            run = core.replies.create(draft, create_conversation=is_named)
        return {"stream_id": run.id, "status": "started"}, {"X-Stream-ID": run.id}

    @contract.serves(bp, "readStream")
    def read_stream(stream_id: str) -> Response:
        position = sse.read_last_event_id()
        events = core.replies.read(stream_id, position, connection.connection_probe())
        return sse.stream_run(stream_id, position, events)

    @contract.serves(bp, "stopStream")
    def stop_stream(stream_id: str) -> dict[str, Any]:
        core.replies.cancel(stream_id)
        return {"stream_id": stream_id, "status": "stopped"}

    return bp


@contextmanager
def _draft_run(core: Core, ttl_seconds: float, body: dict[str, Any]) -> Iterator[Run]:
    """The run that answers the question, in the client's conversation or in a new one whose name cannot be guessed.

    If the block cannot create the run, the new conversation is deleted again.
    """
    name, request_id = body.get("client_name"), body.get("request_id")
    if name is None and request_id is not None:
        raise InvalidRequest("A request_id needs a client_name; without one, send the header Idempotency-Key.")
    request_id = headers.idempotency_key("client_name") if name is None else headers.request_id(request_id)
    options = _parse_options(body)
    if options.model is not None:
        core.models.require_offered(options.model)
    if name is not None:
        yield Run(body["message"], request_id, conversation=name, options=options)
        return
    name = core.conversations.derive_name("chat", "chat", request_id)
    messages = [{"role": each["role"], "content": each["content"]} for each in body.get("conversation_history") or ()]
    with core.conversations.create_to_ask(name, seconds=ttl_seconds, messages=messages, is_unlisted=True):
        yield Run(body["message"], request_id, conversation=name, options=options)


@contextmanager
def _eviction_as_store_full(*, is_named: bool) -> Iterator[None]:
    """Raise StoreFull if a chat without a name was evicted before its question was saved: there was no room for it."""
    try:
        yield
    except NotFound:
        if is_named:
            raise
        raise StoreFull from None


def _is_named(body: dict[str, Any]) -> bool:
    """Whether the question creates its conversation. One without a name is created before, so that it expires."""
    return body.get("client_name") is not None


def _parse_options(body: dict[str, Any]) -> RunOptions:
    parameters = {name: body[name] for name in PARAMETERS if body.get(name) is not None}
    if body.get("max_tokens") is not None:
        parameters["max_completion_tokens"] = int(body["max_tokens"])
    if body.get("logprobs"):
        parameters["logprobs"] = True
    if body.get("top_logprobs") is not None:
        parameters |= {"logprobs": True, "top_logprobs": int(body["top_logprobs"])}
    return RunOptions(body.get("model"), body.get("system_prompt"), parameters)
