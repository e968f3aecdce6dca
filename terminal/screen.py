"""The end of a terminal's screen: rows that stay, and below them a few that are drawn anew again and again.

Rows that stay are written once and never touched again, so that they scroll, wrap and copy as any output does.
"""

import os
import re
import select
import shutil
import sys
import termios
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style
from rich.text import Text

ANSWER_SECONDS = 0.25
"""How long a terminal may take to say where its cursor is."""
CTRL_D = b"\x04"
_CURSOR = re.compile(rb"\x1b\[(\d+);(\d+)R")


def make_console(*, is_error: bool = False) -> Console:
    """A console in the terminal's own 16 colours; plain in a pipe, with NO_COLOR and on a dumb terminal."""
    stream = sys.stderr if is_error else sys.stdout
    has_colors = stream.isatty() and not is_plain()
    return Console(
        file=stream,
        color_system="standard" if has_colors else None,
        force_terminal=stream.isatty(),
        no_color=not has_colors,
        highlight=False,
        emoji=False,
        markup=False,
    )


def is_plain() -> bool:
    """Whether the terminal is to have no colours."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def terminal_size() -> tuple[int, int]:
    """Columns and rows of the terminal as it is now."""
    size = shutil.get_terminal_size((80, 24)) if not sys.stdout.isatty() else os.get_terminal_size(sys.stdout.fileno())
    return size.columns or 80, size.lines or 24


class Screen:
    """Writes to a terminal. Not for several threads."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._colors = None if console.color_system is None else ColorSystem.STANDARD
        self.typed = b""
        """Keys that were read outside of the prompt."""
        self._drawn: list[int] = []
        """The widths of the rows that are drawn and not final."""
        self._size = terminal_size()

    @property
    def width(self) -> int:
        return terminal_size()[0]

    @property
    def height(self) -> int:
        return terminal_size()[1]

    def write(self, rows: Iterable[Text], live: Sequence[Text] = ()) -> None:
        """Write rows that stay, in the place of those that are drawn, and draw `live` below them."""
        # Each row is erased before it is written: behind a row as wide as the terminal, that would erase its end.
        output = [self._go_to_start(), *(f"\x1b[2K{self._styled(row)}\r\n" for row in rows)]
        kept = live[-max(self.height - 1, 1) :]
        output.append("\r\n".join(f"\x1b[2K{self._styled(row)}" for row in kept))
        sys.stdout.write("".join(output) + "\x1b[J")
        sys.stdout.flush()
        self._drawn = [row.cell_len for row in kept]
        self._size = terminal_size()

    def read_keys(self) -> None:
        """Add the keys that were typed to `typed`, without waiting for any. The keyboard's end counts as Ctrl-D."""
        while select.select([sys.stdin], [], [], 0)[0]:
            received = os.read(sys.stdin.fileno(), 1024)
            self.typed += received or CTRL_D
            if not received:
                break

    def _styled(self, row: Text) -> str:
        # rich gives no style to the segment of a text without spans.
        base = self._console.get_style(row.style, default=Style.null())
        return "".join(
            (segment.style or base).render(segment.text, color_system=self._colors)
            for segment in row.render(self._console)
        )

    def _go_to_start(self) -> str:
        """Move the cursor to the first row that is drawn."""
        if not self._drawn:
            return "\r"
        rows = len(self._drawn)
        width = terminal_size()[0]
        if width < self._size[0] and max(self._drawn) > width and self._has_wrapped(width):
            rows = sum(max(1, -(-cells // width)) for cells in self._drawn)
        return f"\r\x1b[{rows - 1}A" if rows > 1 else "\r"

    def _has_wrapped(self, width: int) -> bool:
        """Whether the terminal, made narrower, has wrapped the rows that are drawn; some do, and some cut them off.

        The cursor is behind the last row, which is wider than the terminal now. Cut off, it is at the right edge.
        """
        if self._drawn[-1] < width:
            return False
        column = self._ask_cursor_column()
        return column is not None and column < width

    def _ask_cursor_column(self) -> int | None:
        """The cursor's column, from 1; None if the terminal does not tell it."""
        if not sys.stdin.isatty():
            return None
        sys.stdout.write("\x1b[6n")
        sys.stdout.flush()
        received, until = b"", time.monotonic() + ANSWER_SECONDS
        while (left := until - time.monotonic()) > 0 and select.select([sys.stdin], [], [], left)[0]:
            received += os.read(sys.stdin.fileno(), 1024)
            if found := _CURSOR.search(received):
                self.typed += received[: found.start()] + received[found.end() :]
                return int(found[2])
        self.typed += received
        return None


@contextmanager
def quiet_keys(outlive_ctrl_c: bool = False) -> Iterator[None]:
    """Keys typed within the block are not echoed, and stay to be read after it; Ctrl-C is still a signal.

    With `outlive_ctrl_c`, those before a Ctrl-C stay, too.
    """
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = termios.tcgetattr(sys.stdin)
    quiet[0] &= ~termios.ICRNL
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    quiet[3] |= termios.NOFLSH if outlive_ctrl_c else 0
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


@contextmanager
def hidden_cursor() -> Iterator[None]:
    sys.stdout.write("\x1b[?25l")
    sys.stdout.flush()
    try:
        yield
    finally:
        sys.stdout.write("\x1b[?25h")
        sys.stdout.flush()


def spread(left: Text, right: str, width: int, style: str = "dim") -> Text:
    """`left`, and `right` at the row's end if there is room. One column stays free on either side of the end."""
    row = left.copy()
    row.truncate(max(width - 2, 1), overflow="ellipsis")
    space = width - 2 - row.cell_len - cell_len(right)
    return row.append(" " * space).append(right, style) if space > 1 else row
