"""Server-sent events: a run's reply as frames, with the run always let go of."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import orjson
from flask import Response, request

from server.errors import InvalidPosition, ServerError, revived
from server.live import Piece, Reading
from server.model import Run

COMMENT = b": the reply is still being written\n\n"


def is_wanted() -> bool:
    """Whether the caller asks for an event stream rather than for JSON."""
    accepted = request.headers.get("Accept", "")
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


def event_stream(stream_id: str, start: int, reading: Reading) -> Response:
    """What is read of a run from character `start` on, as frames: START, CHUNKs, and one of END, STOPPED and ERROR.

    The `id:` of each is the number of characters delivered so far. The reading is closed when the response is, also
    where it was never begun or is left midway.
    """
    response = Response(_frames(stream_id, start, reading), mimetype="text/event-stream")
    response.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Stream-ID": stream_id})
    # `finally` in the generator would miss a body that nobody began to read.
    response.call_on_close(reading.close)
    return response


def _frames(stream_id: str, start: int, reading: Reading) -> Iterator[bytes]:
    delivered = start
    yield _frame({"type": "START", "stream_id": stream_id}, delivered)
    try:
        for event in reading:
            if event is None:
                yield COMMENT
            elif isinstance(event, Piece):
                delivered = event.position
                yield _frame({"type": "CHUNK", "content": event.text}, delivered)
            else:
                yield _frame(_ending(event), delivered)
    except ServerError as failure:
        yield _frame(_error(failure), delivered)


def _frame(data: dict[str, Any], position: int) -> bytes:
    return b"id: %d\nevent: chunk\ndata: %s\n\n" % (position, orjson.dumps(data))


def _ending(run: Run) -> dict[str, Any]:
    if run.failure is not None:
        return _error(revived(run.failure.code, run.failure.sentence))
    if run.status == "cancelled":
        return {"type": "STOPPED", "full_content": run.text}
    return {"type": "END", "full_content": run.text, "usage": None if run.usage is None else asdict(run.usage)}


def _error(failure: ServerError) -> dict[str, Any]:
    return {"type": "ERROR", "error": str(failure), "code": failure.code}
