"""Parses the body of a response, a completion or a stream of completion chunks, into text and a Completion.

It accepts every shape in which a known server sends text, calls or usage, and is strict about ends: any form of an
error, before the reply or within it, fails the reply.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import httpx2

from server import errors
from server.domain import Usage
from server.upstream.errors import ReplyError
from server.upstream.lenient_json import join, loads, repair
from server.upstream.protocol import Completion
from server.upstream.refusals import find_status
from server.upstream.sse import parse_events, read_first_bytes
from server.upstream.tool_calls import ToolCalls

ERROR_FIELDS = ("error_msg", "error_message", "errorMessage", "errors", "detail", "fault", "message", "msg")
"""In an object without choices, any of these fields marks an error."""
INCOMPLETE_REASONS = (
    *("error", "abort", "aborted", "cancelled", "canceled", "failed", "timeout", "network_error", "server_error"),
    *("insufficient_system_resource", "malformed_function_call"),
)
"""Values of `finish_reason` with which servers say that the reply is incomplete."""
TEXT_PARTS = (None, "text", "output_text", "refusal")
"""The types of content parts that belong to the reply; others are reasoning, references or images."""
EXTRA_FIELDS = ("reasoning_content", "reasoning", "reasoning_details", "thinking_blocks", "extra_content")
"""Fields that servers send with tool calls and need back, unchanged, with the outputs."""
TEXT_FIELDS = {"content", "role", "refusal"}
"""The fields of a message that is text only."""
MAX_TOKENS = 2**53
"""A larger count makes no sense; it would also not fit what stores and JSON clients can represent exactly."""


def parse_completion(chunks: Iterable[bytes]) -> Iterator[str | Completion]:
    """The text of a chat.completion, or of a stream of chat.completion.chunk events, then the Completion.

    The body's beginning tells which of the two it is, since servers send either one unasked. Raises UpstreamFailed,
    ReplyError and, for a malformed body, ValueError; httpx2's exceptions pass.
    """
    chunks = iter(chunks)
    start = read_first_bytes(chunks)
    if start.startswith(b"<"):
        raise errors.UpstreamNotFound
    if start.startswith((b"{", b"[")):
        body = start + b"".join(chunks)
        start, chunks = body, iter(())
        try:
            answer = loads(body)
        except ValueError:
            if b"\n" not in body.rstrip():
                raise
            answer = None  # One JSON object per line.
        if answer is not None and not _is_chunk(answer):
            reply = _PartialReply("message", "delta")
            text = reply.take(answer)
            if text:
                yield text
            if not reply.has_message:
                raise errors.UpstreamBadReply
            yield from reply.finish()
            return
    yield from _parse_stream(start, chunks)


def _parse_stream(start: bytes, chunks: Iterator[bytes]) -> Iterator[str | Completion]:
    reply = _PartialReply("delta", "message")
    has_ended = False
    for event in _tolerate_late_break(parse_events(start, chunks), reply):
        if event is None:
            has_ended = True
            break
        text = reply.take(event)
        if text:
            yield text
    if not has_ended and not reply.reason:
        raise errors.UpstreamCut if reply.has_text or reply.calls else errors.UpstreamBadReply
    yield from reply.finish()


class _PartialReply:
    """The part of a reply that was received so far."""

    def __init__(self, *names: str) -> None:
        """`names` are the fields of a choice that may hold the message."""
        self._names = names
        self.reason: str | None = None
        self.calls = ToolCalls()
        self.has_text = False
        self.has_message = False
        self._model: str | None = None
        self._usage: Usage | None = None
        self._extra: dict[str, Any] = {}
        self._logprobs: list[Any] = []
        self._half = ""
        """A high surrogate whose other half may still come."""

    def take(self, chunk: Any) -> str:
        """Add a completion or a chunk of one, and return its text. Raises ReplyError if it has an error."""
        if isinstance(chunk, list) and len(chunk) == 1:
            chunk = chunk[0]
        if not isinstance(chunk, dict):
            raise errors.UpstreamBadReply
        choice = _first_choice(chunk)
        message = _find_message(choice, self._names[:1] if self.has_text else self._names)
        error = _find_error(chunk, choice, message)
        if error:
            raise ReplyError(error, has_text=self.has_text)
        self._model = _str_or_none(chunk.get("model")) or self._model
        self._usage = _find_usage(chunk, choice) or self._usage
        if self.reason not in INCOMPLETE_REASONS:
            self.reason = _str_or_none(choice.get("finish_reason")) or self.reason
        self._logprobs += _find_logprobs(choice)
        return "" if message is None else self._take_message(message)

    def _take_message(self, message: dict[str, Any]) -> str:
        self.has_message = True
        if not message.keys() <= TEXT_FIELDS:  # Most deltas have no other field, so that this test saves work.
            self.calls.add(message)
            self._add_extra(message)
        text, self._half = join(self._half, _join_text(message.get("content")) or _join_text(message.get("refusal")))
        self.has_text = self.has_text or bool(text)
        return text

    def finish(self) -> Iterator[str | Completion]:
        """The rest of the text, then the Completion.

        Raises UpstreamEmptyReply if there is neither text nor a call, UpstreamFailed if the server says that the reply
        is incomplete.
        """
        if self._half:
            self.has_text = True
            yield "\ufffd"
        if self.reason in INCOMPLETE_REASONS:
            raise errors.UpstreamFailed
        calls = self.calls.finish()
        if not self.has_text and not calls:
            raise errors.UpstreamEmptyReply
        extra = repair(self._extra) if calls else {}
        logprobs = repair(self._logprobs) or None
        yield Completion(repair(self._model), self._usage, repair(self.reason), calls, logprobs, extra)

    def _add_extra(self, message: dict[str, Any]) -> None:
        for name in EXTRA_FIELDS:
            value: Any = message.get(name)
            earlier: Any = self._extra.get(name)
            if value is None:
                continue
            if earlier is not None and type(earlier) is type(value):
                value = earlier | value if isinstance(value, dict) else earlier + value
            self._extra[name] = value


def _tolerate_late_break(events: Iterator[Any], reply: _PartialReply) -> Iterator[Any]:
    """The events. A connection that breaks after a finish reason ends them without an error: only usage is lost."""
    try:
        yield from events
    except httpx2.TransportError:
        if not reply.reason:
            raise


def _is_chunk(answer: Any) -> bool:
    """Whether an object is a chunk of a stream, which then must have an end."""
    choice = _first_choice(answer) if isinstance(answer, dict) else {}
    return isinstance(choice.get("delta"), dict) and not isinstance(choice.get("message"), dict)


def _first_choice(chunk: dict[str, Any]) -> dict[str, Any]:
    """The first choice; empty if there is none."""
    choices = chunk.get("choices") or [{}]
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise errors.UpstreamBadReply
    return choices[0]


def _find_message(choice: dict[str, Any], names: Iterable[str]) -> dict[str, Any] | None:
    """The message under the first of the names; None if there is none, which is no error in a stream."""
    found: list[dict[str, Any]] = [choice[name] for name in names if isinstance(choice.get(name), dict)]
    if found:
        return next(filter(None, found), found[0])  # Some servers send an empty object beside it.
    return {"content": choice["text"]} if isinstance(choice.get("text"), str) else None


def _join_text(content: Any) -> str:
    """The text of a content, which is a string or a list of parts. Raises UpstreamBadReply for anything else."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise errors.UpstreamBadReply
    return "".join(map(_part_text, content))


def _part_text(part: Any) -> str:
    if isinstance(part, dict):
        text = (part.get("text") or part.get("refusal")) if part.get("type") in TEXT_PARTS else ""
        part = text.get("value") if isinstance(text, dict) else text
    return part if isinstance(part, str) else ""


def _find_error(chunk: dict[str, Any], choice: dict[str, Any], message: dict[str, Any] | None) -> Any:
    """The error in a chunk, in the form of any known server; None if there is none."""
    error = chunk.get("error") or choice.get("error") or (message and message.get("error"))
    if error:
        return error
    result = chunk.get("base_resp")  # MiniMax's
    has_failed = isinstance(result, dict) and result.get("status_code")
    if has_failed or chunk.get("object") == "error" or chunk.get("error_code"):
        return chunk
    if choice:
        return None
    is_error = (
        "error" in (chunk.get("type"), chunk.get("status"))
        or chunk.get("success") is False
        or chunk.get("status") == "failed"
        or any(map(chunk.get, ERROR_FIELDS))
        or ("error" in chunk and not chunk.keys() & {"choices", "usage"})
        or find_status(chunk) is not None
    )
    return chunk if is_error else None


def _find_logprobs(choice: dict[str, Any]) -> list[Any]:
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return content if isinstance(content, list) else []


def _str_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _find_usage(chunk: dict[str, Any], choice: dict[str, Any]) -> Usage | None:
    """The token counts, wherever a known server puts them."""
    groq = chunk.get("x_groq")
    candidates = (chunk.get("usage"), choice.get("usage"), groq.get("usage") if isinstance(groq, dict) else None)
    return next((usage for usage in map(_parse_usage, filter(None, candidates)) if usage is not None), None)


def _parse_usage(counts: Any) -> Usage | None:
    """None if the counts are missing or make no sense, since a reply must not fail because of them."""
    if not isinstance(counts, dict):
        return None
    try:
        prompt = int(counts.get("prompt_tokens") or counts.get("input_tokens") or 0)
        completion = int(counts.get("completion_tokens") or counts.get("output_tokens") or 0)
        total = int(counts.get("total_tokens") or prompt + completion)
    except (TypeError, ValueError, OverflowError):
        return None
    makes_sense = all(0 <= count <= MAX_TOKENS for count in (prompt, completion, total))
    return Usage(prompt, completion, total) if makes_sense else None
