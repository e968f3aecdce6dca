"""A run as OpenAI's events: each has a name, and the whole object or what was added to it."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import orjson

from server.dialects.openai.assistants import objects
from server.dialects.openai.errors import error_body
from server.domain import Conversation, Run
from server.errors import AppError
from server.http import sse

RunEvents = Iterable[Any]
"""What `Replies.read` returns: text deltas, None as a keep-alive, and the run at last."""


def stream_new_run(run: Run, run_events: RunEvents, thread: Conversation | None = None) -> Iterator[bytes]:
    """The events of a run from its beginning, with its thread's if `thread` was created for it."""
    if thread is not None:
        yield _frame("thread.created", objects.dump_thread(thread))
    # A run that an earlier request created may have text, or have ended. Its events begin at its creation all the same.
    queued = replace(run, status="queued", text="", error=None, ended=None)
    yield _frame_run("created", queued)
    yield from _stream_events(queued, run.status == "running", run_events)


def stream_resumed_run(run: Run, run_events: RunEvents) -> Iterator[bytes]:
    """The events of a run from the submitted outputs on. The text before them is not sent again."""
    yield _frame("thread.run.step.completed", objects.dump_tool_step(run, len(run.steps) - 1))
    yield from _stream_events(run, run.status == "running", run_events)


def _stream_events(queued: Run, is_started: bool, run_events: RunEvents) -> Iterator[bytes]:
    """`queued` has an assistant, which the run at the end lacks if it was created through another dialect."""
    yield _frame_run("queued", queued)
    running = replace(queued, status="running")
    has_message = False
    if is_started:
        yield _frame_run("in_progress", running)
    try:
        for event in run_events:
            if event is None:
                yield sse.KEEPALIVE
                continue
            if not is_started:
                is_started = True
                yield _frame_run("in_progress", running)
            is_delta = not isinstance(event, Run)
            if not has_message and event.text and (is_delta or not event.is_open):
                has_message = True
                yield from _frame_message_start(running)
            if is_delta:
                yield _frame_delta(running, event.text)
            else:
                details = {**queued.options.details, **event.options.details}
                yield from _frame_run_end(replace(event, options=replace(event.options, details=details)), has_message)
    except AppError as error:
        yield _frame("error", error_body(error))
    yield b"event: done\ndata: [DONE]\n\n"


def _frame_message_start(run: Run) -> Iterator[bytes]:
    step, reply = objects.dump_message_step(run), objects.dump_reply(run)
    for event in ("created", "in_progress"):
        yield _frame(f"thread.run.step.{event}", step)
    for event in ("created", "in_progress"):
        yield _frame(f"thread.message.{event}", reply)


def _frame_delta(run: Run, text: str) -> bytes:
    content = [{"index": 0, "type": "text", "text": {"value": text, "annotations": []}}]
    return _frame(
        "thread.message.delta",
        {"id": run.reply_id, "object": "thread.message.delta", "delta": {"content": content}},
    )


def _frame_run_end(run: Run, has_message: bool) -> Iterator[bytes]:
    """The last events of a run that has ended or requires action."""
    if run.is_open:
        yield from _frame_calls(run)
    elif has_message:
        reply, step = objects.dump_reply(run), objects.dump_message_step(run)
        yield _frame(f"thread.message.{reply['status']}", reply)
        yield _frame(f"thread.run.step.{step['status']}", step)
    yield _frame_run(objects.status_of(run), run)


def _frame_calls(run: Run) -> Iterator[bytes]:
    step = objects.dump_tool_step(run, len(run.steps) - 1)
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


def _frame_run(event: str, run: Run) -> bytes:
    return _frame(f"thread.run.{event}", objects.dump_run(run))


def _frame(event: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event.encode(), orjson.dumps(data))
