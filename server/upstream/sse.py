"""Server-sent events as servers send them, which is not always as the standard has it."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import httpx2

from server import errors
from server.upstream.lenient_json import loads

BOM = b"\xef\xbb\xbf"
KNOWN_FIELDS = (b"", b"data", b"event", b"id", b"retry")
"""Of server-sent events; a line without a field is a comment. Any other line is an error in words."""


def first_bytes(chunks: Iterator[bytes]) -> bytes:
    """The first of the chunks, up to something that is no white space."""
    start = b""
    for chunk in chunks:
        start += chunk
        if len(start) >= len(BOM) or not BOM.startswith(start):
            start = start.removeprefix(BOM).lstrip()
        if start and not BOM.startswith(start):
            break
    return start


def events(start: bytes, chunks: Iterator[bytes]) -> Iterator[Any]:
    """The JSON of each server-sent event; None for `[DONE]`. Raises UpstreamBadReply for one that is no JSON."""
    data, is_error = b"", False
    for line in _lines(start, chunks):
        field, _, value = line.partition(b":")
        if line.startswith((b"{", b"[")):
            field, value = b"data", line
        if not line:
            if data:
                raise errors.UpstreamBadReply
            if is_error:  # Without data, or behind it.
                yield {"error": "error"}
        elif field == b"event":
            is_error = value.strip() == b"error"
        elif field not in KNOWN_FIELDS:
            raise errors.UpstreamBadReply
        if field != b"data":
            continue
        data = b"\n".join(filter(None, (data, value.strip())))
        if data == b"[DONE]":
            yield None
            return
        if data.endswith((b"}", b"]")):
            try:
                event = loads(data)
            except ValueError:  # More lines of it are to come.
                continue
            yield {"error": event} if is_error else event
            data = b""
    if data:
        raise httpx2.RemoteProtocolError("the last event is not whole")


def _lines(start: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Split at line ends only: a JSON text may hold other separators."""
    rest = b""
    for chunk in chain([start], chunks):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield from _split(line)
    yield from _split(rest)


def _split(line: bytes) -> list[bytes]:
    """A line without its CR, or the lines of a server that ends them with CR alone."""
    line = line.rstrip(b"\r")
    return line.split(b"\r") if b"\rdata:" in line else [line]
