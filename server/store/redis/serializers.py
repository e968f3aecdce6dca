"""Conversations, runs and messages as Redis keeps them and as its scripts give them."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import orjson

from server.domain import Conversation, Message, Run
from server.store.protocol import as_abandoned


def question_hash(run: Run) -> bytes:
    """A mark of what a run asks; empty where it has no question."""
    if not run.question:
        return b""
    options = replace(run.options, details={})
    return sha256(orjson.dumps((run.question, options), option=orjson.OPT_SORT_KEYS)).digest()


def load_conversation(name: str, snapshot: list[Any]) -> Conversation:
    model, message_count, context_starts, created, touched, metadata, history_id = snapshot
    return Conversation(
        name,
        None if model is None else model.decode(),
        message_count,
        orjson.loads(context_starts or b"{}"),
        (history_id or b"").decode(),
        float(created),
        float(touched),
        orjson.loads(metadata or b"{}"),
    )


def load_run(record: list[Any]) -> Run:
    """A run from what the scripts' `record` gives."""
    kept, delivered, details, *so_far = record
    run = Run.load(kept)
    if details is not None:
        run = replace(run, options=replace(run.options, details=orjson.loads(details)))
    if len(so_far) == 1:
        (reply,) = so_far
        run = run if reply is None else replace(run, text=orjson.loads(reply)["content"])
    else:
        status, text, lost = so_far
        run = replace(run, text=text.decode())
        run = replace(run, status=status.decode()) if lost is None else as_abandoned(run, float(lost))
    return replace(run, delivered=True) if delivered else run


def dump_message(message: Message) -> bytes:
    """Three lines: what is known of the message, its metadata, and its fragment; in JSON no line breaks."""
    known = message_head(message.id) + orjson.dumps((message.run_id, message.timestamp))[1:]
    return known + b"\n" + orjson.dumps(message.metadata) + b"\n" + message.fragment


def message_head(message_id: str) -> bytes:
    """How the lines of a message begin."""
    return b"[" + orjson.dumps(message_id) + b","


def load_message(kept: bytes) -> Message:
    known, metadata, fragment = kept.split(b"\n", 2)
    message_id, run_id, timestamp = orjson.loads(known)
    return Message(fragment, run_id, timestamp, message_id, orjson.loads(metadata))
