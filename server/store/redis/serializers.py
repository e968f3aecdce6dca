"""Conversations, runs and messages to and from the values that Redis stores and its scripts return."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import orjson

from server.domain import SETTINGS, Conversation, Message, Run
from server.store.rules import as_abandoned

_SETTINGS = [(name, name.encode()) for name in SETTINGS]


def question_hash(run: Run) -> bytes:
    """A hash of a run's question, options and the run that it replaces; empty if there is no question or such a run."""
    if not run.question and not run.replaces:
        return b""
    options = replace(run.options, details={})
    return sha256(orjson.dumps((run.question, run.replaces, options), option=orjson.OPT_SORT_KEYS)).digest()


def load_conversation(name: str, values: Sequence[Any]) -> Conversation:
    """A conversation from the result of `read_conversation` in the scripts."""
    message_count, flat = values
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    model = fields.get(b"model")
    return Conversation(
        name,
        None if model is None else model.decode(),
        message_count,
        orjson.loads(fields.get(b"context_starts", b"{}")),
        fields.get(b"history_id", b"").decode(),
        float(fields[b"created"]),
        float(fields[b"touched"]),
        orjson.loads(fields.get(b"metadata", b"{}")),
        {each: orjson.loads(fields[key]) for each, key in _SETTINGS if key in fields},
        fields.get(b"excerpt", b"").decode(),
        orjson.loads(fields.get(b"owner", b'[""]'))[0],
    )


def load_run(values: list[Any]) -> Run:
    """A run from the result of `read_run` in the scripts."""
    run_json, delivered, details, *rest = values
    run = Run.load(run_json)
    if details is not None:
        run = replace(run, options=replace(run.options, details=orjson.loads(details)))
    if len(rest) == 1:
        (reply_fragment,) = rest
        run = run if reply_fragment is None else replace(run, text=orjson.loads(reply_fragment)["content"])
    else:
        status, text, abandoned = rest
        run = replace(run, text=text.decode())
        if abandoned is None or status == b"running":
            run = replace(run, status=status.decode())
        run = run if abandoned is None else as_abandoned(run, float(abandoned))
    return replace(run, delivered=True) if delivered else run


def dump_message(message: Message) -> bytes:
    """Three lines: id, run and timestamp; metadata; fragment. Each is JSON, which has no line breaks."""
    header = message_head(message.id) + orjson.dumps((message.run_id, message.timestamp))[1:]
    return header + b"\n" + orjson.dumps(message.metadata) + b"\n" + message.fragment


def message_head(message_id: str) -> bytes:
    """The beginning of a message's lines, by which the scripts find it."""
    return b"[" + orjson.dumps(message_id) + b","


def load_message(lines: bytes) -> Message:
    header, metadata, fragment = lines.split(b"\n", 2)
    message_id, run_id, timestamp = orjson.loads(header)
    return Message(fragment, run_id, timestamp, message_id, orjson.loads(metadata))
