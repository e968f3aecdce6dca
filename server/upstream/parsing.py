"""A reply as it stands in the body of a response, plain or as a stream of server-sent events.

The reader takes any shape in which a known server gives text, calls or usage, and is strict about ends: any form of an
error, before the reply or in the middle of it, fails it.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import httpx2

from server import errors
from server.model import Usage
from server.upstream import Reply
from server.upstream.errors import map_error_body
from server.upstream.lenient_json import join, loads, mended
from server.upstream.tool_calls import ToolCalls

BOM = b"\xef\xbb\xbf"
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
MOST_TOKENS = 2**53


def parse_completion(body: bytes) -> Iterator[str | Reply]:
    """The text of a chat.completion, then the Reply; a stream is read, too, where a server sends one unasked."""
    body = body.removeprefix(BOM).lstrip()
    if body.startswith((b"data:", b"event:", b"id:", b":")):
        yield from parse_stream([body])
        return
    _require_no_page(body)
    reply = _PartialReply("message", "delta")
    yield from reply.take(loads(body))
    if not reply.has_message:
        raise errors.UpstreamBadReply
    yield from reply.finish()


def parse_stream(chunks: Iterable[bytes]) -> Iterator[str | Reply]:
    """The text of a stream of chat.completion.chunk events, then the Reply; a plain answer is read, too."""
    chunks = iter(chunks)
    start = _start(chunks)
    if start.startswith((b"{", b"[")):
        body = start + b"".join(chunks)
        try:
            loads(body)
        except ValueError:
            start, chunks = body, iter(())  # One object a line.
        else:
            yield from parse_completion(body)
            return
    _require_no_page(start)
    reply = _PartialReply("delta", "message")
    has_ended = False
    for event in _until_broken(_events(start, chunks), reply):
        if event is None:
            has_ended = True
            break
        yield from reply.take(event)
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

    def take(self, chunk: Any) -> Iterator[str]:
        """Take in a completion or a chunk of one, and give its text. Raises what its error stands for."""
        if isinstance(chunk, list) and len(chunk) == 1:
            chunk = chunk[0]
        if not isinstance(chunk, Mapping):
            raise errors.UpstreamBadReply
        choice = _choice(chunk)
        error = _error_in(chunk, choice)
        if error:
            raise self._failure(error)
        self._model = _name(chunk.get("model")) or self._model
        self._usage = _find_usage(chunk, choice) or self._usage
        self._logprobs += _logprobs(choice)
        message = _message(choice, self._names)
        self.has_message = self.has_message or message is not None
        if message is not None:
            self.calls.add(message)
            self._add_extra(message)
            text, self._half = join(self._half, _text(message.get("content")) or _text(message.get("refusal")))
            if text:
                self.has_text = True
                yield text
        self.reason = _name(choice.get("finish_reason")) or self.reason
        if self.reason in BROKEN_OFF:
            raise errors.UpstreamFailed

    def finish(self) -> Iterator[str | Reply]:
        """What is left of the text, then the Reply. Raises UpstreamEmptyReply if there is neither text nor a call."""
        if self._half:
            self.has_text = True
            yield "\ufffd"
        calls = self.calls.finish()
        if not self.has_text and not calls:
            raise errors.UpstreamEmptyReply
        extra = mended(self._extra) if calls else {}
        logprobs = mended(self._logprobs) or None
        yield Reply(mended(self._model), self._usage, mended(self.reason), calls, logprobs, extra)

    def _add_extra(self, message: Mapping[str, Any]) -> None:
        for name in SENT_BACK:
            value: Any = message.get(name)
            earlier: Any = self._extra.get(name)
            if value is None:
                continue
            if earlier is not None and type(earlier) is type(value):
                value = earlier | value if isinstance(value, dict) else earlier + value
            self._extra[name] = value

    def _failure(self, error: Any) -> errors.ServerError:
        failure = map_error_body(error)
        # Nobody may take it for a call that can be made again with fewer messages: text has been given out.
        return errors.UpstreamCut() if self.has_text and isinstance(failure, errors.ContextTooLong) else failure


def _start(chunks: Iterator[bytes]) -> bytes:
    """The first of the chunks, up to something that is no white space."""
    start = b""
    for chunk in chunks:
        start += chunk
        if not BOM.startswith(start[:3]) and (start := start.removeprefix(BOM).lstrip()):
            break
    return start


def _until_broken(events: Iterator[Any], reply: _PartialReply) -> Iterator[Any]:
    """The events, also where the line breaks after the model has said that it is done: only the counts are lost."""
    try:
        yield from events
    except httpx2.TransportError:
        if not reply.reason:
            raise


def _events(start: bytes, chunks: Iterator[bytes]) -> Iterator[Any]:
    """The JSON of each server-sent event; None for `[DONE]`. Raises UpstreamBadReply for one that is no JSON."""
    data, is_error = b"", False
    for line in _lines(start, chunks):
        field, _, value = line.partition(b":")
        if line.startswith((b"{", b"[")):
            value = line
        elif field == b"event":
            is_error = value.strip() == b"error"
            continue
        elif field != b"data":
            if not line and data:
                raise errors.UpstreamBadReply
            continue
        data = b"\n".join(filter(None, (data, value.strip())))
        if data == b"[DONE]":
            yield None
            return
        if data.endswith((b"}", b"]")):
            try:
                event = loads(data)
            except ValueError:  # More lines of it are to come.
                continue
            yield {"error": event} if is_error else event
            data = b""
    if data:
        raise errors.UpstreamBadReply


def _lines(start: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Split at line ends only: a JSON text may hold other separators."""
    rest = b""
    for chunk in chain([start], chunks):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield from _split(line)
    yield from _split(rest)


def _split(line: bytes) -> list[bytes]:
    """A line without its CR, or the lines of a server that ends them with CR alone."""
    line = line.rstrip(b"\r")
    return line.split(b"\r") if b"\rdata:" in line else [line]


def _require_no_page(body: bytes) -> None:
    if body.startswith(b"<"):
        raise errors.UpstreamNotFound


def _choice(chunk: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first choice; empty if there is none."""
    choices = chunk.get("choices") or [{}]
    if not isinstance(choices, list) or not isinstance(choices[0], Mapping):
        raise errors.UpstreamBadReply
    return choices[0]


def _message(choice: Mapping[str, Any], names: Iterable[str]) -> Mapping[str, Any] | None:
    """What the choice says under the first of the names; None if it says nothing, which in a stream is no fault."""
    for name in names:
        if isinstance(choice.get(name), Mapping):
            found: Mapping[str, Any] = choice[name]
            return found
    return {"content": choice["text"]} if isinstance(choice.get("text"), str) else None


def _text(content: Any) -> str:
    """A content is a text, or a list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        raise errors.UpstreamBadReply
    return "".join(map(_part, content))


def _part(part: Any) -> str:
    if isinstance(part, Mapping):
        text = (part.get("text") or part.get("refusal")) if part.get("type") in TEXT_PARTS else ""
        part = text.get("value") if isinstance(text, Mapping) else text
    return part if isinstance(part, str) else ""


def _error_in(chunk: Mapping[str, Any], choice: Mapping[str, Any]) -> Any:
    """What tells that the reply has failed, in any known server's form; None for nothing."""
    for error in (chunk.get("error"), choice.get("error")):
        if error:
            return error
    if chunk.get("object") == "error" or chunk.get("error_code"):
        return chunk
    if choice:
        return None
    is_error = chunk.get("type") == "error" or chunk.get("success") is False or any(map(chunk.get, ERROR_FIELDS))
    status = chunk.get("status") or chunk.get("code")
    return chunk if is_error or (isinstance(status, int) and status >= 400) or "error" in chunk else None


def _logprobs(choice: Mapping[str, Any]) -> list[Any]:
    told = choice.get("logprobs")
    content = told.get("content") if isinstance(told, Mapping) else None
    return content if isinstance(content, list) else []


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _find_usage(chunk: Mapping[str, Any], choice: Mapping[str, Any]) -> Usage | None:
    """The counts, wherever a known server puts them."""
    groq = chunk.get("x_groq")
    for place in (chunk, choice, groq if isinstance(groq, Mapping) else {}):
        usage = _usage(place.get("usage"))
        if usage is not None:
            return usage
    return None


def _usage(counts: Any) -> Usage | None:
    """None also for counts that make no sense: they are no reason to lose a reply that is there."""
    if not isinstance(counts, Mapping):
        return None
    try:
        prompt = int(counts.get("prompt_tokens") or counts.get("input_tokens") or 0)
        completion = int(counts.get("completion_tokens") or counts.get("output_tokens") or 0)
        total = int(counts.get("total_tokens") or prompt + completion)
    except (TypeError, ValueError, OverflowError):
        return None
    makes_sense = all(0 <= count <= MOST_TOKENS for count in (prompt, completion, total))
    return Usage(prompt, completion, total) if makes_sense else None
