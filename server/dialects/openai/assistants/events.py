"""A run as OpenAI's events: each names what happened and has the whole object, or what is new of it."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import orjson

from server.dialects.openai.assistants import objects
from server.dialects.openai.errors import error_body
from server.domain import Conversation, Run
from server.errors import AppError
from server.http import sse

Reading = Iterable[Any]
"""What `Conversations.read` gives: pieces of text, None after each silence, and the run at last."""


def begun(run: Run, reading: Reading, thread: Conversation | None = None) -> Iterator[bytes]:
    """From the beginning of a run; `thread` where it was made for it."""
    if thread is not None:
        yield _frame("thread.created", objects.thread(thread))
    # An earlier request may have begun it, and it may be far along; it is read from its beginning all the same.
    queued = replace(run, status="queued", text="", error=None, ended=None)
    yield _run("created", queued)
    yield from _written(queued, run.status == "running", reading)


def resumed(run: Run, reading: Reading) -> Iterator[bytes]:
    """From the outputs of functions on; what was written before them is told no more."""
    yield _frame("thread.run.step.completed", objects.tool_step(run, len(run.steps) - 1))
    yield from _written(run, run.status == "running", reading)


def _written(queued: Run, has_turn: bool, reading: Reading) -> Iterator[bytes]:
    yield _run("queued", queued)
    writing = replace(queued, status="running")
    has_message = False
    if has_turn:
        yield _run("in_progress", writing)
    try:
        for happening in reading:
            if happening is None:
                yield sse.KEEPALIVE
                continue
            if not has_turn:
                has_turn = True
                yield _run("in_progress", writing)
            is_piece = not isinstance(happening, Run)
            if not has_message and happening.text and (is_piece or not happening.is_open):
                has_message = True
                yield from _message_begun(writing)
            if is_piece:
                yield _delta(writing, happening.text)
            else:
                yield from _left_off(happening, has_message)
    except AppError as problem:
        yield _frame("error", error_body(problem))
    yield b"event: done\ndata: [DONE]\n\n"


def _message_begun(run: Run) -> Iterator[bytes]:
    step, reply = objects.message_step(run), objects.reply(run)
    for event in ("created", "in_progress"):
        yield _frame(f"thread.run.step.{event}", step)
    for event in ("created", "in_progress"):
        yield _frame(f"thread.message.{event}", reply)


def _delta(run: Run, text: str) -> bytes:
    content = [{"index": 0, "type": "text", "text": {"value": text, "annotations": []}}]
    return _frame(
        "thread.message.delta",
        {"id": run.reply_id, "object": "thread.message.delta", "delta": {"content": content}},
    )


def _left_off(run: Run, has_message: bool) -> Iterator[bytes]:
    """A run that has ended, or waits for outputs."""
    if run.is_open:
        yield from _calls(run)
    elif has_message:
        reply, step = objects.reply(run), objects.message_step(run)
        yield _frame(f"thread.message.{reply['status']}", reply)
        yield _frame(f"thread.run.step.{step['status']}", step)
    yield _run(objects.status_of(run), run)


def _calls(run: Run) -> Iterator[bytes]:
    step = objects.tool_step(run, len(run.steps) - 1)
    empty = step | {"step_details": {"type": "tool_calls", "tool_calls": []}}
    for event in ("created", "in_progress"):
        yield _frame(f"thread.run.step.{event}", empty)
    calls = [{"index": index, **call} for index, call in enumerate(step["step_details"]["tool_calls"])]
    yield _frame(
        "thread.run.step.delta",
        {
            "id": step["id"],
            "object": "thread.run.step.delta",
            "delta": {"step_details": {"type": "tool_calls", "tool_calls": calls}},
        },
    )


def _run(event: str, run: Run) -> bytes:
    return _frame(f"thread.run.{event}", objects.run(run))


def _frame(event: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event.encode(), orjson.dumps(data))
