"""A Markdown text that grows: which rows of it will not change any more, and which may."""

import re
from dataclasses import dataclass

from markdown_it.token import Token
from rich.cells import cell_len
from rich.text import Text

from terminal.render import PARSER, render

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_MARKS = ("`", "**", "__", "~~")
_LONE_MARK = re.compile(r"(?<=\s)[*_]+(?=\s)")
_TEXT = re.compile(r"[^\s|:=-]")
"""What the line below a heading's text, or below a table's head, does not have."""
_BLOCK_START = re.compile(r"[#>*+=`~|-]|\d+[.)]|\s")
_MAYBE_ITEM = re.compile(r"\s*(\d{1,9}[.)]?|[*+-])\s*")
"""What may become one more item of the list above it."""
_MOVABLE_ROWS = 4
"""So many rows of a long line stay movable; what is above them is final."""
_TRIED = 60
"""At how many places a long line is tried to be cut."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where the final part of the source ends."""

    end: int
    opening: str = ""
    """What has to stand before the rest, so that it means the same."""
    is_within_line: bool = False
    number: int | None = None
    """Of the item of a list that comes next: the source may number it otherwise."""


class GrowingText:
    """Takes pieces, and gives each row once: first in `movable`, as long as it may change, then from `take_final`."""

    def __init__(self) -> None:
        self._source = ""
        self._has_rows = False
        self._taken = ""
        """The end of what was taken, which tells whether an empty row comes before the next row."""
        self._is_within_code = False
        self._number: int | None = None
        self._begun: Text | None = None
        """The row, not yet final, that the rest of a long line continues."""

    def feed(self, piece: str) -> None:
        self._source += piece

    def take_final(self, width: int) -> list[Text]:
        """The rows that will not change, each given once."""
        rows: list[Text] = []
        while (cut := self._find_cut(width)) is not None:
            taken, rest = self._source[: cut.end], cut.opening + self._source[cut.end :]
            rows += self._take(taken, width)
            if cut.is_within_line:
                self._begun = rows.pop()
                self._begun.append(" " if taken.endswith(" ") else "")
            self._taken = taken[-80:]
            self._source = rest
            self._is_within_code = bool(cut.opening)
            self._number = cut.number
        return rows

    def take_rest(self, width: int) -> list[Text]:
        """All rows that are left, once the text is complete."""
        source, self._source = self._source, ""
        return self._take(source, width)

    def movable(self, width: int) -> list[Text]:
        """The rows that may change."""
        rows = self._rows(self._source, width)
        return [Text(), *rows] if rows and self._needs_gap(self._source) else rows

    def _take(self, source: str, width: int) -> list[Text]:
        rows = self._rows(source, width)
        if rows and self._needs_gap(source):
            rows.insert(0, Text())
        self._has_rows = self._has_rows or bool(rows)
        self._begun = None
        return rows

    def _rows(self, source: str, width: int) -> list[Text]:
        if not source.strip():
            return [] if self._begun is None else [self._begun]
        rows = render(source, width, self._begun, self._number)
        return rows[1:] if self._is_within_code and _language(source) else rows

    def _needs_gap(self, source: str) -> bool:
        if not self._has_rows or self._is_within_code or self._begun is not None:
            return False
        between = self._taken[len(self._taken.rstrip()) :] + source[: len(source) - len(source.lstrip())]
        return between.count("\n") > 1 or source.lstrip().startswith("#")

    def _find_cut(self, width: int) -> _Cut | None:
        """Where the final part ends; None if nothing is final."""
        tokens = PARSER.parse(self._source)
        starts = [token.map[0] for token in tokens if token.level == 0 and token.nesting >= 0 and token.map]
        if len(starts) > 1:
            end = self._offset(starts[-1])
            return None if _MAYBE_ITEM.fullmatch(self._source, end) else _Cut(end)
        if not starts:
            return None
        kind = tokens[0].type
        if kind in ("bullet_list_open", "ordered_list_open"):
            return self._cut_list(tokens)
        if kind == "fence":
            return self._cut_code(tokens[0])
        return self._cut_paragraph(width) if kind == "paragraph_open" else None

    def _offset(self, line: int) -> int:
        """The offset in the source at which a line begins."""
        return sum(len(each) + 1 for each in self._source.split("\n")[:line])

    def _cut_list(self, tokens: list[Token]) -> _Cut | None:
        """Before the last item."""
        items = [token.map[0] for token in tokens if token.type == "list_item_open" and token.level == 1 and token.map]
        if len(items) < 2:
            return None
        start = tokens[0].attrGet("start")
        first = self._number if self._number is not None else int(1 if start is None else start)
        return _Cut(self._offset(items[-1]), number=first + len(items) - 1)

    def _cut_code(self, fence: Token) -> _Cut | None:
        """After the last complete line of an open block of code; the rest begins with its opening line again."""
        assert fence.map
        lines = self._source.split("\n")
        opening, complete = lines[fence.map[0]], lines[fence.map[0] + 1 : -1]
        is_closed = any(line.strip() and not line.strip().strip(fence.markup[0]) for line in complete)
        is_closing = lines[-1].strip().startswith(fence.markup[0])
        if is_closed or not complete or is_closing or not _FENCE.match(opening):
            return None
        return _Cut(len(self._source) - len(lines[-1]), opening + "\n")

    def _cut_paragraph(self, width: int) -> _Cut | None:
        """Before the last line, if it cannot make what is above it a heading or a table; or within a long line."""
        lines = self._source.split("\n")
        for count in range(len(lines) - 1, 0, -1):
            before = "\n".join(lines[:count])
            if before.strip() and _TEXT.search(lines[count]) and _is_balanced(before):
                return _Cut(len(before) + 1)
        return self._cut_line(width) if len(lines) == 1 else None

    def _cut_line(self, width: int) -> _Cut | None:
        """Between two words so far from the end that a few rows stay movable, or between two wide characters."""
        source, tried = self._source, 0
        for end in range(len(source) - _MOVABLE_ROWS * width, width, -1):
            is_between = source[end - 1] == " " or cell_len(source[end - 1]) == cell_len(source[end]) == 2
            if is_between and not _BLOCK_START.match(source, end):
                if _is_balanced(source[:end]):
                    return _Cut(end, is_within_line=True)
                tried += 1
            if tried == _TRIED:
                break
        return None


def _is_balanced(source: str) -> bool:
    """Whether no mark of emphasis, code or link is open at the end, which later text could close."""
    source = _LONE_MARK.sub("", source)
    if any(source.count(mark) % 2 for mark in _MARKS) or source.endswith("\\"):
        return False
    return source.replace("**", "").count("*") % 2 == 0 and source.count("[") == source.count("]")


def _language(source: str) -> str:
    return source.partition("\n")[0].strip().lstrip("`~").strip()
