"""A reply as it stands in the body of a response, plain or as a stream of server-sent events.

The reader takes any shape in which a known server gives text, calls or usage, and is strict about ends: any form of an
error, before the reply or in the middle of it, fails it.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import httpx2

from server import errors
from server.domain import Usage
from server.upstream.errors import ReplyError
from server.upstream.lenient_json import join, loads, mended
from server.upstream.protocol import Completion
from server.upstream.refusals import status_in
from server.upstream.sse import events, first_bytes
from server.upstream.tool_calls import ToolCalls

ERROR_FIELDS = ("error_msg", "error_message", "errorMessage", "errors", "detail", "fault", "message", "msg")
"""Of an object without choices, each tells an error."""
BROKEN_OFF = (
    *("error", "abort", "aborted", "cancelled", "canceled", "failed", "timeout", "network_error", "server_error"),
    *("insufficient_system_resource", "malformed_function_call"),
)
"""Reasons to finish by which servers say that the reply is not whole."""
TEXT_PARTS = (None, "text", "output_text", "refusal")
"""The types of those parts of a content that are the reply; others are reasoning, references or images."""
SENT_BACK = ("reasoning_content", "reasoning", "reasoning_details", "thinking_blocks", "extra_content")
"""What servers send along with calls and want back, unchanged, with their outputs."""
PLAIN = {"content", "role", "refusal"}
MOST_TOKENS = 2**53


def parse_reply(chunks: Iterable[bytes]) -> Iterator[str | Completion]:
    """The text of a chat.completion, or of a stream of chat.completion.chunk events, then the Reply.

    Which of the two it is is seen from its beginning: servers send either one unasked. Raises UpstreamFailed, and
    ContextTooLong before any text.
    """
    chunks = iter(chunks)
    start = first_bytes(chunks)
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
            answer = None  # One object a line.
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
    for event in _until_broken(events(start, chunks), reply):
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
    """What was heard of a reply so far."""

    def __init__(self, *names: str) -> None:
        """`names` are those under which a choice has what the model says."""
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
        """A surrogate whose other half may still come."""

    def take(self, chunk: Any) -> str:
        """Take in a completion or a chunk of one, and give its text. Raises what its error stands for."""
        if isinstance(chunk, list) and len(chunk) == 1:
            chunk = chunk[0]
        if not isinstance(chunk, dict):
            raise errors.UpstreamBadReply
        choice = _choice(chunk)
        message = _message(choice, self._names[:1] if self.has_text else self._names)
        error = _error_in(chunk, choice, message)
        if error:
            raise ReplyError(error, has_text=self.has_text)
        self._model = _name(chunk.get("model")) or self._model
        self._usage = _find_usage(chunk, choice) or self._usage
        if self.reason not in BROKEN_OFF:
            self.reason = _name(choice.get("finish_reason")) or self.reason
        self._logprobs += _logprobs(choice)
        return "" if message is None else self._take_message(message)

    def _take_message(self, message: dict[str, Any]) -> str:
        self.has_message = True
        if not message.keys() <= PLAIN:  # Most deltas have nothing else.
            self.calls.add(message)
            self._add_extra(message)
        text, self._half = join(self._half, _text(message.get("content")) or _text(message.get("refusal")))
        self.has_text = self.has_text or bool(text)
        return text

    def finish(self) -> Iterator[str | Completion]:
        """What is left of the text, then the Reply.

        Raises UpstreamEmptyReply if there is neither text nor a call, UpstreamFailed if the server says that it is not
        whole.
        """
        if self._half:
            self.has_text = True
            yield "\ufffd"
        if self.reason in BROKEN_OFF:
            raise errors.UpstreamFailed
        calls = self.calls.finish()
        if not self.has_text and not calls:
            raise errors.UpstreamEmptyReply
        extra = mended(self._extra) if calls else {}
        logprobs = mended(self._logprobs) or None
        yield Completion(mended(self._model), self._usage, mended(self.reason), calls, logprobs, extra)

    def _add_extra(self, message: dict[str, Any]) -> None:
        for name in SENT_BACK:
            value: Any = message.get(name)
            earlier: Any = self._extra.get(name)
            if value is None:
                continue
            if earlier is not None and type(earlier) is type(value):
                value = earlier | value if isinstance(value, dict) else earlier + value
            self._extra[name] = value


def _until_broken(events: Iterator[Any], reply: _PartialReply) -> Iterator[Any]:
    """The events, also where the line breaks after the model has said that it is done: only the counts are lost."""
    try:
        yield from events
    except httpx2.TransportError:
        if not reply.reason:
            raise


def _is_chunk(answer: Any) -> bool:
    """Whether it is of a stream, so that its end must be told."""
    choice = _choice(answer) if isinstance(answer, dict) else {}
    return isinstance(choice.get("delta"), dict) and not isinstance(choice.get("message"), dict)


def _choice(chunk: dict[str, Any]) -> dict[str, Any]:
    """The first choice; empty if there is none."""
    choices = chunk.get("choices") or [{}]
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise errors.UpstreamBadReply
    return choices[0]


def _message(choice: dict[str, Any], names: Iterable[str]) -> dict[str, Any] | None:
    """What the choice says under the first of the names; None if it says nothing, which in a stream is no fault."""
    found: list[dict[str, Any]] = [choice[name] for name in names if isinstance(choice.get(name), dict)]
    if found:
        return next(filter(None, found), found[0])  # Some servers send an empty one beside the other.
    return {"content": choice["text"]} if isinstance(choice.get("text"), str) else None


def _text(content: Any) -> str:
    """A content is a text, or a list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise errors.UpstreamBadReply
    return "".join(map(_part, content))


def _part(part: Any) -> str:
    if isinstance(part, dict):
        text = (part.get("text") or part.get("refusal")) if part.get("type") in TEXT_PARTS else ""
        part = text.get("value") if isinstance(text, dict) else text
    return part if isinstance(part, str) else ""


def _error_in(chunk: dict[str, Any], choice: dict[str, Any], message: dict[str, Any] | None) -> Any:
    """What tells that the reply has failed, in any known server's form; None for nothing."""
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
        or status_in(chunk) is not None
    )
    return chunk if is_error else None


def _logprobs(choice: dict[str, Any]) -> list[Any]:
    told = choice.get("logprobs")
    content = told.get("content") if isinstance(told, dict) else None
    return content if isinstance(content, list) else []


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _find_usage(chunk: dict[str, Any], choice: dict[str, Any]) -> Usage | None:
    """The counts, wherever a known server puts them."""
    groq = chunk.get("x_groq")
    told = (chunk.get("usage"), choice.get("usage"), groq.get("usage") if isinstance(groq, dict) else None)
    return next((usage for usage in map(_usage, filter(None, told)) if usage is not None), None)


def _usage(counts: Any) -> Usage | None:
    """None also for counts that make no sense: they are no reason to lose a reply that is there."""
    if not isinstance(counts, dict):
        return None
    try:
        prompt = int(counts.get("prompt_tokens") or counts.get("input_tokens") or 0)
        completion = int(counts.get("completion_tokens") or counts.get("output_tokens") or 0)
        total = int(counts.get("total_tokens") or prompt + completion)
    except (TypeError, ValueError, OverflowError):
        return None
    makes_sense = all(0 <= count <= MOST_TOKENS for count in (prompt, completion, total))
    return Usage(prompt, completion, total) if makes_sense else None
