"""Finds out which format a file has, and reads its conversations."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from server.core.export_format import DESCRIBED, FORMAT, VERSION, find_fault, load_changes, load_message, load_run
from server.core.import_chatgpt import read_conversation
from server.core.import_openai import read_messages
from server.core.import_records import Header, Item
from server.core.json_file import JsonFile, Span
from server.domain import Message, Run
from server.errors import InvalidImport

UNKNOWN = "this is no export of this server, no list of messages and no conversations.json of ChatGPT"


def read_file(data: JsonFile, skipped: Counter[str], *, has_lines: bool) -> Iterator[Item]:
    """The conversations of a file, each with its runs and messages. Raises InvalidImport at the first fault.

    `has_lines` is whether the file is known to be JSON Lines. What is no text is counted in `skipped` by its kind.
    """
    root, now = data.root(), time.time()
    kind = data.kind(root)
    if has_lines or (kind == "{" and _is_json_lines(data)):
        yield from _read_lines(data, skipped, now)
    elif kind == "[":
        yield from _read_list(data, root, skipped, now)
    elif kind == "{":
        fields = data.fields(root)
        if "format" in fields:
            yield from _read_export(data, root, fields)
        elif "messages" in fields:
            yield from read_messages(data, root.start, _parse_each(data, fields["messages"]), skipped, now)
        elif "mapping" in fields:
            yield from read_conversation(data, root, skipped, now)
        else:
            raise data.error(root.start, UNKNOWN)
    else:
        data.parse(root)
        raise data.error(root.start, UNKNOWN)


def _is_json_lines(data: JsonFile) -> bool:
    """Whether the first line is an object of its own: a record of an export, or one of several."""
    try:
        lines = data.lines()
        first = data.parse(next(lines))
        return "type" in first or next(lines, None) is not None
    except InvalidImport:
        return False


def _read_list(data: JsonFile, root: Span, skipped: Counter[str], now: float) -> Iterator[Item]:
    """A list of messages, or of ChatGPT's conversations."""
    first = next(data.elements(root), None)
    if first is not None and data.kind(first) == "{" and "mapping" in data.fields(first):
        for span in data.elements(root):
            if data.kind(span) != "{":
                raise data.error(span.start, "a conversation must be an object")
            yield from read_conversation(data, span, skipped, now)
    else:
        yield from read_messages(data, root.start, _parse_each(data, root), skipped, now)


def _parse_each(data: JsonFile, span: Span) -> Iterator[tuple[Span, Any]]:
    if data.kind(span) != "[":
        raise data.error(span.start, "there must be a list here")
    return ((each, data.parse(each)) for each in data.elements(span))


def _read_export(data: JsonFile, root: Span, fields: Mapping[str, Span]) -> Iterator[Item]:
    for name in ("conversation", "runs", "messages"):
        if name not in fields:
            raise data.error(root.start, f"this export lacks {name}")
    _require_version(data, root, {name: data.parse(fields[name]) for name in ("format", "version") if name in fields})
    for name in fields.keys() - {"runs", "messages"}:
        data.parse(fields[name])  # Also what is ignored must be JSON.
    span = fields["conversation"]
    yield span, _load_header(data, span, data.parse(span))
    for each, record in _parse_each(data, fields["runs"]):
        yield each, _load_run(data, each, record)
    for each, record in _parse_each(data, fields["messages"]):
        yield each, _load_message(data, each, record)


def _read_lines(data: JsonFile, skipped: Counter[str], now: float) -> Iterator[Item]:
    """Records of exports, or a list of messages on each line."""
    header: Header | None = None
    for span in data.lines():
        record = data.parse(span)
        kind = record.get("type") if isinstance(record, dict) else None
        if kind == "conversation":
            _require_version(data, span, record)
            header = _load_header(data, span, record)
            yield span, header
        elif header is not None and kind == "run":
            yield span, _load_run(data, span, record)
        elif header is not None and kind == "message":
            yield span, _load_message(data, span, record)
        elif isinstance(record, dict) and isinstance(record.get("messages"), list):
            header = None
            messages = ((span, each) for each in record["messages"])
            yield from read_messages(data, span.start, messages, skipped, now)
        else:
            raise data.error(span.start, "this line is neither a record of an export nor a list of messages")


def _require_version(data: JsonFile, span: Span, record: Mapping[str, Any]) -> None:
    if record.get("format") != FORMAT:
        raise data.error(span.start, UNKNOWN)
    if record.get("version") != VERSION:
        raise data.error(span.start, "this export is of another version; a newer server can read it")


def _load_header(data: JsonFile, span: Span, record: Any) -> Header:
    _require_record(data, span, "conversation", record)
    counts = record.get("run_count"), record.get("message_count")
    return Header(
        record["client_name"],
        load_changes(record),
        float(record["created_at"]),
        float(record["last_used_at"]),
        has_ids=True,
        counts=(int(counts[0]), int(counts[1])) if None not in counts else None,
    )


def _load_run(data: JsonFile, span: Span, record: Any) -> Run:
    _require_record(data, span, "run", record)
    return load_run(record)


def _load_message(data: JsonFile, span: Span, record: Any) -> Message:
    _require_record(data, span, "message", record)
    return load_message(record)


def _require_record(data: JsonFile, span: Span, kind: str, record: Any) -> None:
    fault = find_fault(kind, record)
    if fault is not None:
        raise data.error(span.start, f"{fault}; {DESCRIBED}")
