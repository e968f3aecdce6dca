"""Files in requests and answers: both pass through a temporary file, piece by piece."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryFile
from typing import BinaryIO
from urllib.parse import quote

from flask import Response, request

from server.errors import BodyTooLarge, InvalidRequest
from server.http.body import INCOMPLETE_BODY

PIECE_BYTES = 65_536

JSON_LINES = ("application/jsonl", "application/x-ndjson")

NAME_CHARACTERS = 50
"""The longest name of a file, but for its date. Some systems take 255 bytes, of which a character needs up to 4."""

UNTITLED = "conversation"

UNSAFE = re.compile(
    r"[\s\x00-\x1f\x7f-\x9f\"%'*/:;<=>?\\|~\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+"
)
"""What a file's name must not have on some system, and what would show it otherwise than it is."""


def is_json_lines() -> bool:
    """Whether the request says that its body is JSON Lines."""
    return request.mimetype in JSON_LINES


@contextmanager
def receive_file(max_bytes: int, take: Callable[[int], None]) -> Iterator[BinaryIO]:
    """The request's body in a temporary file. Raises BodyTooLarge, and InvalidRequest if it is incomplete.

    `take` is called with the size of each piece before it is kept, and may raise.
    """
    length = request.content_length
    if length is not None and length > max_bytes:
        raise BodyTooLarge
    request.max_content_length = max_bytes + 1  # At its limit, Werkzeug cuts a chunked body without an error.
    size = 0
    with TemporaryFile() as file:
        while piece := _read_piece():
            size += len(piece)
            if size > max_bytes:
                raise BodyTooLarge
            take(len(piece))
            file.write(piece)
            time.sleep(0)  # Under gevent, a fast sender would let no other greenlet run.
        if length is not None and size < length:
            raise InvalidRequest(INCOMPLETE_BODY)
        file.flush()
        yield file


def _read_piece() -> bytes:
    try:
        return request.stream.read(PIECE_BYTES)
    except Exception as error:  # Of any kind from the HTTP server: malformed chunks, a closed connection.
        raise InvalidRequest(INCOMPLETE_BODY) from error


def send_file(file: BinaryIO, size: int, mimetype: str, title: str, suffix: str) -> Response:
    """An answer with a file to save, named by `title` and today's date (UTC), such as `kitchen-2026-11-20.json`.

    The file is closed when it is sent, or the caller is gone.
    """
    response = Response(iter(partial(file.read, PIECE_BYTES), b""), mimetype=mimetype)
    response.content_length = size
    response.call_on_close(file.close)
    response.headers["Content-Disposition"] = _disposition(title, time.strftime("-%Y-%m-%d.", time.gmtime()) + suffix)
    return response


def _disposition(title: str, rest: str) -> str:
    """`attachment` with the name of the file, and with one in ASCII for old programs (RFC 6266, appendix D)."""
    stem = UNSAFE.sub("-", title)[:NAME_CHARACTERS].strip("-. ") or UNTITLED
    plain = stem if stem.isascii() else UNTITLED
    return f"attachment; filename=\"{plain}{rest}\"; filename*=UTF-8''{quote(stem + rest, safe='')}"
