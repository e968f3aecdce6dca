"""A large JSON file, read value by value. Memory stays flat, other callers are served, and errors name the line."""

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

from server.concurrency import Pauses
from server.errors import InvalidImport

MAX_VALUE_BYTES = 16 * 1_048_576
"""The longest value that is parsed at once: a message, a run, or a line."""

MAX_DEPTH = 100
"""How deeply a file may be nested: below what orjson can write, with room for the levels that the server adds."""

MAX_FIELDS = 1_000
"""The most fields of an object that is read field by field."""

RESIDENT_BYTES = 8 * 1_048_576
"""How much of the file is read before its pages are given back to the system."""

PIECE_BYTES = 262_144
"""How much is searched at once: others wait for its end, which comes within a few milliseconds."""

QUOTE = ord('"')

_BOM = b"\xef\xbb\xbf"
BLANKS = b" \t\r\n"

_BLANKS = re.compile(rb"[ \t\r\n]*+")
_SCALAR = re.compile(rb'[^ \t\r\n,:"\[\]{}]++')
# Possessive, so that no position is kept to go back to: memory stays flat in a text of any length.
_TEXT = re.compile(rb'(?>[^"\\\x00-\x1f]+|\\.)*+')
_UP_TO_BRACKET = re.compile(rb'(?>[^"\[\]{}]+|"(?>[^"\\\x00-\x1f]+|\\.)*+")*+')

EMPTY = "Line 1: the file is empty."
BROKEN = "this is no JSON in UTF-8; look for a missing quote, comma or bracket"
CUT_OFF = "the file ends here, in the middle; send all of it"
TOO_LONG = f"this value is longer than {MAX_VALUE_BYTES >> 20} MiB; split it"
TOO_DEEP = "this is nested too deeply"


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value stands, in bytes from the beginning of the file."""

    start: int
    end: int


class JsonFile:
    """A file with one JSON value, or with one on each line. Every method raises InvalidImport if the file is broken."""

    def __init__(self, file: BinaryIO) -> None:
        """`file` is a real file, which must not change any more."""
        self._size = file.seek(0, 2)
        if not self._size:
            raise InvalidImport(EMPTY)
        self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._pauses = Pauses()
        self._released = 0
        # Windows programs write a byte order mark, which a JSON parser may ignore (RFC 8259, 8.1).
        self._first = len(_BOM) if self._data[: len(_BOM)] == _BOM else 0

    def close(self) -> None:
        """Release the memory; the file itself stays open."""
        self._data.close()

    def root(self) -> Span:
        """The file as one value. Its end is checked when its elements or members have been read."""
        start = self._skip_blanks(self._first, self._size)
        if start == self._size:
            raise InvalidImport(EMPTY)
        return Span(start, self._size)

    def kind(self, span: Span) -> str:
        """The first character of a value, such as `{`."""
        return chr(self._data[span.start])

    def elements(self, array: Span) -> Iterator[Span]:
        """The elements of an array, in order."""
        return (value for _, value in self._read_items(array, has_keys=False))

    def members(self, record: Span) -> Iterator[tuple[str, Span]]:
        """The keys and values of an object, in order."""
        return self._read_items(record, has_keys=True)

    def fields(self, record: Span) -> dict[str, Span]:
        """The last member of each name, of an object that has no more than MAX_FIELDS members."""
        found: dict[str, Span] = {}
        for count, (name, span) in enumerate(self.members(record)):
            found[name] = span
            if count >= MAX_FIELDS:
                raise self.error(span.start, f"an object here has more than {MAX_FIELDS} fields")
        return found

    def lines(self) -> Iterator[Span]:
        """The values of a file with one on each line; empty lines are skipped."""
        start = self._skip_blanks(self._first, self._size)
        while start < self._size:
            stop = self._end_of_line(start)
            end = self._end_of(start, stop)
            if self._skip_blanks(end, stop) < stop:
                raise self.error(end, BROKEN)
            yield Span(start, end)
            start = self._skip_blanks(stop, self._size)

    def pause(self) -> None:
        """Let others run: to be called in every loop over parts of a value."""
        self._pauses.take()

    def parse(self, span: Span) -> Any:
        """The value of a span."""
        self.pause()
        if span.end - span.start > MAX_VALUE_BYTES:
            raise self.error(span.start, TOO_LONG)
        data = self._data[span.start : span.end]
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise self.error(span.start + _offset_of(error, data), BROKEN) from None

    def error(self, offset: int, sentence: str) -> InvalidImport:
        """An error that names the line of `offset`. `sentence` has neither its first capital nor its full stop."""
        newlines = 0
        for start in range(0, offset, PIECE_BYTES):
            newlines += self._data[start : min(start + PIECE_BYTES, offset)].count(b"\n")
            self._release(start)
        return InvalidImport(f"Line {newlines + 1}: {sentence}.")

    def cut_off(self) -> InvalidImport:
        """The error of a file that ends too early; it names the last line that is not empty."""
        end, kept = self._size, b""
        while end > 1 and not kept:
            start = max(1, end - PIECE_BYTES)
            kept = self._data[start:end].rstrip(BLANKS)
            end = start + len(kept)
            self._release(start)
        return self.error(end - 1, CUT_OFF)

    def _read_items(self, container: Span, *, has_keys: bool) -> Iterator[tuple[str, Span]]:
        closing = "}" if has_keys else "]"
        at = self._skip_blanks(container.start + 1, self._size)
        is_first = True
        while not is_first or self._peek(at) != closing:
            is_first = False
            key = ""
            if has_keys:
                key, at = self._read_key(at)
            end = self._end_of(at, self._size)
            yield key, Span(at, end)
            at = self._skip_blanks(end, self._size)
            if self._peek(at) == closing:
                break
            self._require(at, ",")
            at = self._skip_blanks(at + 1, self._size)
        if container.end == self._size and self._skip_blanks(at + 1, self._size) < self._size:
            raise self.error(self._skip_blanks(at + 1, self._size), BROKEN)

    def _read_key(self, start: int) -> tuple[str, int]:
        """The key that starts there, and where its value starts."""
        self._require(start, '"')
        end = self._end_of(start, self._size)
        colon = self._skip_blanks(end, self._size)
        self._require(colon, ":")
        key: str = self.parse(Span(start, end))
        return key, self._skip_blanks(colon + 1, self._size)

    def _end_of(self, start: int, stop: int) -> int:
        """The offset after the value that starts at `start`. It must end before `stop`: the end of its line or file.

        What is between the brackets of an array or an object is checked when it is parsed.
        """
        self._release(start)
        first = self._peek(start)
        if first in "[{":
            return self._end_of_container(start, stop)
        if first == '"':
            return self._end_of_text(start, stop)
        found = _SCALAR.match(self._data, start, min(stop, start + PIECE_BYTES))
        if found is None:
            raise self.error(start, BROKEN)
        return found.end()

    def _end_of_text(self, start: int, stop: int) -> int:
        at = start + 1
        while at - start < MAX_VALUE_BYTES:
            end = self._match(_TEXT, at, stop)
            if end < stop and self._data[end] == QUOTE:
                return end + 1
            if end == at:
                break
            at = end
            self._release(at)
        raise self._unended(start, at, stop)

    def _end_of_container(self, start: int, stop: int) -> int:
        levels, at = 0, start
        while True:
            end = self._match(_UP_TO_BRACKET, at, stop)
            mark = self._data[end] if end < stop else 0
            if mark in b"[{":
                levels += 1
            elif mark in b"]}":
                levels -= 1
            elif mark == QUOTE and end == at:  # A text that is longer than a piece, or has no end.
                end = self._end_of_text(end, stop) - 1
            elif end == at:
                raise self._unended(at, end, stop)
            else:
                end -= 1
            if levels > MAX_DEPTH:
                raise self.error(end, TOO_DEEP)
            at = end + 1
            if not levels:
                return at
            self._release(at)

    def _unended(self, start: int, end: int, stop: int) -> InvalidImport:
        """The error of a value whose end was looked for from `start`, and in vain from `end`."""
        if end - start >= MAX_VALUE_BYTES:
            return self.error(start, TOO_LONG)
        if self._end_of_line(end) == self._size:
            return self.cut_off()
        return self.error(min(end, stop - 1), BROKEN)

    def _skip_blanks(self, start: int, stop: int) -> int:
        """The offset of the first byte from `start` on that is not blank, at most `stop`."""
        while (end := self._match(_BLANKS, start, stop)) - start >= PIECE_BYTES:
            start = end
            self._release(start)
        return end

    def _end_of_line(self, start: int) -> int:
        """The offset of the first line end from `start` on; that of the file's end if there is none."""
        for at in range(start, self._size, PIECE_BYTES):
            found = self._data.find(b"\n", at, at + PIECE_BYTES)
            if found >= 0:
                return found
            self._release(at)
        return self._size

    def _match(self, pattern: re.Pattern[bytes], start: int, stop: int) -> int:
        """Where the match of a pattern ends, which may be empty; it is looked for in one piece."""
        found = pattern.match(self._data, start, min(stop, start + PIECE_BYTES))
        return start if found is None else found.end()

    def _peek(self, at: int) -> str:
        if at >= self._size:
            raise self.cut_off()
        return chr(self._data[at])

    def _require(self, at: int, mark: str) -> None:
        if self._peek(at) != mark:
            raise self.error(at, BROKEN)

    def _release(self, at: int) -> None:
        """Let others run, and give back memory after each RESIDENT_BYTES."""
        self.pause()
        if not 0 <= at - self._released < RESIDENT_BYTES:
            self._released = at
            if hasattr(mmap, "MADV_DONTNEED"):  # Not on Windows.
                self._data.madvise(mmap.MADV_DONTNEED)


def _offset_of(error: orjson.JSONDecodeError, data: bytes) -> int:
    """Where in `data` the error is, in bytes."""
    try:
        return len(data.decode()[: error.pos].encode())
    except UnicodeDecodeError as broken:
        return broken.start
