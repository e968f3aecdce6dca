"""A lenient parser of server-sent events, for servers that deviate from the standard."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import httpx2

from server import errors
from server.upstream.lenient_json import loads

BOM = b"\xef\xbb\xbf"
KNOWN_FIELDS = (b"", b"data", b"event", b"id", b"retry")
"""Of server-sent events; an empty field name marks a comment. Any other line is an error message in plain text."""


def read_first_bytes(chunks: Iterator[bytes]) -> bytes:
    """Read chunks until one has something other than white space; a byte order mark is removed."""
    start = b""
    for chunk in chunks:
        start += chunk
        if len(start) >= len(BOM) or not BOM.startswith(start):
            start = start.removeprefix(BOM).lstrip()
        if start and not BOM.startswith(start):
            break
    return start


def parse_events(start: bytes, chunks: Iterator[bytes]) -> Iterator[Any]:
    """The JSON of each event, None for `[DONE]`; an `error` event is wrapped as `{"error": …}`.

    Raises UpstreamBadReply for an event that is not JSON, RemoteProtocolError if the last event is incomplete.
    """
    data, is_error = b"", False
    for line in _split_lines(start, chunks):
        field, _, value = line.partition(b":")
        if line.startswith((b"{", b"[")):
            field, value = b"data", line
        if not line:
            if data:
                raise errors.UpstreamBadReply
            if is_error:  # An error event without data, or with its name after the data.
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
            except ValueError:  # Its JSON goes on in the next line.
                continue
            yield {"error": event} if is_error else event
            data = b""
    if data:
        raise httpx2.RemoteProtocolError("the last event is not whole")


def _split_lines(start: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Split at LF only: JSON may contain the other separators of `bytes.splitlines`."""
    rest = b""
    for chunk in chain([start], chunks):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield from _split_at_cr(line)
    yield from _split_at_cr(rest)


def _split_at_cr(line: bytes) -> list[bytes]:
    """Remove the CR at the end of a line; split it if the server ends lines with CR alone."""
    line = line.rstrip(b"\r")
    return line.split(b"\r") if b"\rdata:" in line else [line]
