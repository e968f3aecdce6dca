"""Server-sent events: a run's reply as frames, with the run always let go of."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from flask import Response, request

from server.domain import Run
from server.errors import AppError, InvalidPosition
from server.runs.events import RunEvents, TextDelta, error_of

COMMENT = b": the reply is still being written\n\n"

Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EventFormat:
    """How a dialect tells what happens in a stream: each gives the `data:` of a frame."""

    started: Callable[[str], Data]
    """Takes the stream's id."""
    delta: Callable[[str], Data]
    """Takes a piece of text."""
    completed: Callable[[Run], Data]
    cancelled: Callable[[Run], Data]
    failed: Callable[[AppError], Data]
    event: bytes = b""
    """The `event:` of each frame; empty for none."""


def is_wanted() -> bool:
    """Whether the caller asks for an event stream rather than for JSON."""
    accepted = request.headers.get("Accept", "").lower()
    if accepted == "text/event-stream":  # Most ask for nothing else, and to weigh it would take long.
        return True
    if "text/event-stream" not in accepted:
        return False
    return request.accept_mimetypes.best_match(["application/json", "text/event-stream"]) == "text/event-stream"


def position() -> int:
    """The number of characters that the caller has already, from `Last-Event-ID`; 0 without one.

    Raises InvalidPosition where it is no number, or negative.
    """
    text = request.headers.get("Last-Event-ID", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InvalidPosition
    return int(text)


def require_a_new_question() -> None:
    """Raises InvalidPosition where a POST would resume a stream, as clients do that repeat their request."""
    if "Last-Event-ID" in request.headers:
        raise InvalidPosition("A stream is resumed with GET /chat/stream/{stream_id}, never by asking again.")


def _chat_completed(run: Run) -> Data:
    end = {"type": "END", "full_content": run.text, "usage": None if run.usage is None else asdict(run.usage)}
    return end if run.logprobs is None else {**end, "logprobs": run.logprobs}


CHAT_FORMAT = EventFormat(
    started=lambda stream_id: {"type": "START", "stream_id": stream_id},
    delta=lambda text: {"type": "CHUNK", "content": text},
    completed=_chat_completed,
    cancelled=lambda run: {"type": "STOPPED", "full_content": run.text},
    failed=lambda problem: {"type": "ERROR", "error": str(problem), "code": problem.code},
    event=b"chunk",
)


def event_stream(stream_id: str, start: int, reading: RunEvents, words: EventFormat = CHAT_FORMAT) -> Response:
    """What is read of a run from character `start` on, as frames in a dialect's words, the last of which tells its end.

    The `id:` of each is the number of characters delivered so far.
    """
    return streamed(stream_id, _frames(stream_id, start, reading, words), reading)


def streamed(stream_id: str, frames: Iterator[bytes], reading: RunEvents) -> Response:
    """The answer that sends `frames`, which are made of `reading`.

    The reading is closed when the answer is, also where it was never begun or is left midway.
    """
    response = Response(frames, mimetype="text/event-stream")
    response.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Stream-ID": stream_id})
    # `finally` in the generator would miss a body that nobody began to read.
    response.call_on_close(reading.close)
    return response


def _frames(stream_id: str, start: int, reading: RunEvents, words: EventFormat) -> Iterator[bytes]:
    event = b"event: %b\n" % words.event if words.event else b""
    delivered = start

    def frame(data: Data) -> bytes:
        return b"id: %d\n%bdata: %b\n\n" % (delivered, event, orjson.dumps(data))

    yield frame(words.started(stream_id))
    try:
        for happening in reading:
            if happening is None:
                yield COMMENT
            elif isinstance(happening, TextDelta):
                delivered = happening.position
                yield frame(words.delta(happening.text))
            else:
                yield frame(_ending(happening, words))
    except AppError as problem:
        yield frame(words.failed(problem))


def _ending(run: Run, words: EventFormat) -> Data:
    if run.status == "cancelled":
        return words.cancelled(run)
    problem = error_of(run)
    return words.completed(run) if problem is None else words.failed(problem)
