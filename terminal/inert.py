"""Makes text of others harmless for a terminal: what would move the cursor or turn the text around becomes visible."""

import codecs
import re
from collections.abc import Iterable, Iterator

_BIDI = "\u061c\u202a-\u202e\u2066-\u2069"
"""Characters that reorder what follows them, beyond the end of the text that has them."""

_UNSAFE = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDI}\ud800-\udfff]")
_LINE_ENDS = re.compile("\r\n?|\x0b|\x0c|\x85|\u2028|\u2029")
_IN_JSON = re.compile(f"[\x7f-\x9f{_BIDI}]")


def make_inert(text: str) -> str:
    """`text` with newlines and tabs as its only control characters. The others become visible signs."""
    return show_controls(_LINE_ENDS.sub("\n", text))


def show_controls(text: str) -> str:
    """`text`, as long as before, with a visible sign for each character that is not inert."""
    return _UNSAFE.sub(_picture, text)


def make_inert_line(text: str) -> str:
    """`text` in one line, for titles, names and error sentences."""
    return " ".join(make_inert(text).split())


def escape_json(text: str) -> str:
    """JSON that means the same, with the control characters that JSON allows within strings written as escapes."""
    return _IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class InertPieces:
    """Makes a text inert that comes in pieces."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        # A carriage return at the end may be half of a line end.
        text = self._held + piece
        self._held = "\r" if text.endswith("\r") else ""
        return make_inert(text.removesuffix("\r") if self._held else text)


def decode_pieces(pieces: Iterable[bytes]) -> Iterator[str]:
    """The text of bytes in UTF-8 that may be cut within a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode has a picture of each of these.
    return "\u2421" if code == 0x7F else "\ufffd"
