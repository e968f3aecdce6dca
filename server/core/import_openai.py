"""Lists of messages as OpenAI's APIs take them, and as `GET /history` returns them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from server.core.export_format import LAST_SECOND
from server.core.import_records import Header, Item, PlainMessage, pair_turns, require_few_parts
from server.core.json_file import JsonFile, Span
from server.domain import Role

ROLES: Mapping[str, Role] = {"user": "user", "assistant": "assistant"}
SYSTEM_ROLES = ("system", "developer")
TOOL_ROLES = ("tool", "function")

TEXT_PARTS = ("text", "input_text", "output_text")

OTHER_PARTS = ("image_url", "input_image", "image_file", "input_audio", "file", "input_file", "refusal")
"""Kinds of parts that are counted by their name; any others are counted as `other`."""


def read_messages(
    data: JsonFile, start: int, messages: Iterable[tuple[Span, Any]], skipped: Counter[str], now: float
) -> Iterator[Item]:
    """One conversation. A first system message becomes its system prompt; `start` is where it begins."""
    read = _read_texts(data, messages, skipped)
    first = next(read, None)
    if first is None:
        raise data.error(start, "there are no messages with text here")
    span, role, text, _ = first
    is_prompt = role in SYSTEM_ROLES
    yield span, Header(None, {"system_prompt": text} if is_prompt else {}, now, now)
    yield from pair_turns(_read_plain(read if is_prompt else _prepend(first, read), skipped, now))


Text = tuple[Span, str, str, Any]
"""Where a message stands, its role, its text and its time as the file has it."""


def _prepend(first: Text, others: Iterator[Text]) -> Iterator[Text]:
    yield first
    yield from others


def _read_plain(texts: Iterator[Text], skipped: Counter[str], now: float) -> Iterator[PlainMessage]:
    for span, role, text, timestamp in texts:
        if role in SYSTEM_ROLES:
            skipped["system"] += 1
        else:
            yield PlainMessage(span, ROLES[role], text, _parse_time(timestamp, now))


def _read_texts(data: JsonFile, messages: Iterable[tuple[Span, Any]], skipped: Counter[str]) -> Iterator[Text]:
    """Messages with text, but those of tools."""
    for span, message in messages:
        data.pause()
        if not isinstance(message, dict):
            raise data.error(span.start, "a message must be an object")
        role = message.get("role")
        if role in TOOL_ROLES or (role is None and isinstance(message.get("type"), str)):
            skipped["tool"] += 1
            continue
        if role not in (*ROLES, *SYSTEM_ROLES):
            raise data.error(span.start, "the role of this message is none of user, assistant, system and developer")
        if message.get("tool_calls") or message.get("function_call"):
            skipped["tool"] += 1
        text = _join_parts(data, span, message.get("content"), skipped)
        if text:
            yield span, role, text, message.get("timestamp", message.get("created_at"))


def _join_parts(data: JsonFile, span: Span, content: Any, skipped: Counter[str]) -> str:
    """The text of a message: its content, or the text parts of that."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise data.error(span.start, "the content of this message is neither a text nor a list of parts")
    require_few_parts(data, span, content)
    texts = []
    for part in content:
        text = part if isinstance(part, str) else _find_text(part)
        if text is None:
            kind = part.get("type") if isinstance(part, dict) else None
            skipped[kind if kind in OTHER_PARTS else "other"] += 1
        else:
            texts.append(text)
    return "".join(texts)


def _find_text(part: Any) -> str | None:
    if not isinstance(part, dict) or part.get("type") not in TEXT_PARTS:
        return None
    text = part.get("text")
    if isinstance(text, Mapping):  # As the Assistants API returns it.
        text = text.get("value")
    return text if isinstance(text, str) else None


def _parse_time(value: Any, now: float) -> float:
    """Unix seconds of a number or of a date and time in RFC 3339; `now` if it is neither."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value).timestamp()
        except ValueError:
            return now
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= LAST_SECOND else now
