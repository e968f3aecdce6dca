"""Server-sent events: a run's reply as frames, and an answer that always closes its source."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from flask import Response, request

from server.domain import Run
from server.errors import AppError, InvalidPosition
from server.runs.events import RunEvents, TextDelta, error_of

KEEPALIVE = b": the reply is still being written\n\n"
"""A comment, sent while the model writes nothing, so that no proxy takes the connection for idle."""

Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EventFormat:
    """How a dialect writes the events of a stream: each function gives the `data:` of a frame."""

    started: Callable[[str], Data]
    """Takes the stream's id."""
    delta: Callable[[str], Data]
    """Takes a piece of text."""
    completed: Callable[[Run], Data]
    cancelled: Callable[[Run], Data]
    failed: Callable[[AppError], Data]
    event: bytes = b""
    """The `event:` of each frame; empty for none."""


def accepts_event_stream() -> bool:
    """Whether the caller prefers an event stream to JSON."""
    accepted = request.headers.get("Accept", "").lower()
    if accepted == "text/event-stream":  # The usual case, without the cost of parsing the header.
        return True
    if "text/event-stream" not in accepted:
        return False
    return request.accept_mimetypes.best_match(["application/json", "text/event-stream"]) == "text/event-stream"


def read_last_event_id() -> int:
    """The number of characters that the caller has already, from `Last-Event-ID`; 0 without one.

    Raises InvalidPosition if it is not a number of at most 15 digits.
    """
    text = request.headers.get("Last-Event-ID", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InvalidPosition
    return int(text)


def forbid_last_event_id() -> None:
    """Raise InvalidPosition if a POST carries `Last-Event-ID`, as from clients that repeat their request to resume."""
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
    failed=lambda error: {"type": "ERROR", "error": str(error), "code": error.code},
    event=b"chunk",
)


def stream_run(stream_id: str, start: int, events: RunEvents, format_: EventFormat = CHAT_FORMAT) -> Response:
    """The answer that streams a run from character `start` on, in a dialect's format; the last frame tells its end.

    The `id:` of each frame is the number of characters delivered so far, which a client sends back to resume.
    """
    return stream_frames(stream_id, _frames(stream_id, start, events, format_), events)


def stream_frames(stream_id: str, frames: Iterator[bytes], events: RunEvents) -> Response:
    """The answer that sends `frames`, which are made from `events`.

    `events` is closed with the answer, even if its iteration never began or was left midway.
    """
    response = Response(frames, mimetype="text/event-stream")
    response.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Stream-ID": stream_id})
    # Not `finally` in the generator, which does not run if the generator was never started.
    response.call_on_close(events.close)
    return response


def _frames(stream_id: str, start: int, events: RunEvents, format_: EventFormat) -> Iterator[bytes]:
    name = b"event: %b\n" % format_.event if format_.event else b""
    delivered = start

    def frame(data: Data) -> bytes:
        return b"id: %d\n%bdata: %b\n\n" % (delivered, name, orjson.dumps(data))

    yield frame(format_.started(stream_id))
    try:
        for event in events:
            if event is None:
                yield KEEPALIVE
            elif isinstance(event, TextDelta):
                delivered = event.position
                yield frame(format_.delta(event.text))
            else:
                yield frame(_format_end(event, format_))
    except AppError as error:
        yield frame(format_.failed(error))


def _format_end(run: Run, format_: EventFormat) -> Data:
    if run.status == "cancelled":
        return format_.cancelled(run)
    error = error_of(run)
    return format_.completed(run) if error is None else format_.failed(error)
