"""A reply as it stands in the body of a response, plain or as a stream of server-sent events."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from server import errors
from server.model import ToolCall, Usage
from server.upstream import Reply
from server.upstream.renamed import renamed_body


def whole(body: bytes) -> Iterator[str | Reply]:
    """The text of a chat.completion, then the Reply."""
    answer = orjson.loads(body)
    if answer.get("error"):
        raise renamed_body(answer["error"])
    choice = answer["choices"][0]
    message = choice["message"]
    text = message.get("content") or message.get("refusal")
    calls = tuple(_call(each) for each in message.get("tool_calls") or ())
    if not text and not calls:
        raise errors.UpstreamEmptyReply
    if text:
        yield _text(text)
    reason = _name(choice.get("finish_reason"))
    yield Reply(_name(answer.get("model")), _usage(answer.get("usage")), reason, calls, _logprobs(choice))


def streamed(chunks: Iterable[bytes]) -> Iterator[str | Reply]:
    """The text of a stream of chat.completion.chunk events, whose last but one may carry the usage, then the Reply."""
    model, usage, reason, has_text, has_ended = None, None, None, False, False
    calls: dict[int, dict[str, str]] = {}
    logprobs: list[Any] = []
    for data in _events(chunks):
        if data == b"[DONE]":
            has_ended = True
            break
        chunk = orjson.loads(data)
        if chunk.get("error"):
            raise _broken_by(chunk["error"], has_text)
        model = _name(chunk.get("model")) or model
        usage = _usage(chunk.get("usage")) or usage
        for choice in (chunk.get("choices") or ())[:1]:
            delta = choice.get("delta") or {}
            text = delta.get("content") or delta.get("refusal")
            reason = _name(choice.get("finish_reason")) or reason
            _add_calls(calls, delta)
            logprobs += _logprobs(choice) or ()
            if text:
                has_text = True
                yield _text(text)
    if not has_ended and not reason:
        raise errors.UpstreamCut if has_text or calls else errors.UpstreamBadReply
    if not has_text and not calls:
        raise errors.UpstreamEmptyReply
    yield Reply(model, usage, reason, tuple(ToolCall(**calls[n]) for n in sorted(calls)), logprobs or None)


def _call(told: Any) -> ToolCall:
    return ToolCall(_text(told["id"]), _text(told["function"]["name"]), _text(told["function"]["arguments"]))


def _add_calls(calls: dict[int, dict[str, str]], delta: Mapping[str, Any]) -> None:
    """Put the parts of calls together: the first part of each names it, and the arguments come in pieces."""
    for part in delta.get("tool_calls") or ():
        call = calls.setdefault(part["index"], {"id": "", "name": "", "arguments": ""})
        function = part.get("function") or {}
        call["id"] = call["id"] or _text(part.get("id") or "")
        call["name"] = call["name"] or _text(function.get("name") or "")
        call["arguments"] += _text(function.get("arguments") or "")


def _logprobs(choice: Mapping[str, Any]) -> list[Any] | None:
    told = (choice.get("logprobs") or {}).get("content")
    return told if isinstance(told, list) else None


def _events(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each server-sent event. Split at newlines only: a JSON text may hold other line separators."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _broken_by(error: Any, has_text: bool) -> errors.ServerError:
    failure = renamed_body(error)
    # Nobody may take it for a call that can be made again with fewer messages: text has been given out.
    return errors.UpstreamCut() if has_text and isinstance(failure, errors.ContextTooLong) else failure


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise errors.UpstreamBadReply
    return text


def _name(model: Any) -> str | None:
    return model if isinstance(model, str) else None


def _usage(counts: Any) -> Usage | None:
    """None also for counts that make no sense: they are no reason to lose a reply that is there."""
    if not isinstance(counts, Mapping):
        return None
    try:
        prompt, completion = int(counts.get("prompt_tokens") or 0), int(counts.get("completion_tokens") or 0)
        return Usage(prompt, completion, int(counts.get("total_tokens") or prompt + completion))
    except (TypeError, ValueError):
        return None
