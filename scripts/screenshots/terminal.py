"""Draws what a terminal shows as an HTML page, in the terminal's 16 colours."""

from html import escape
from typing import Any

import pyte

COLORS = {
    "default": "#d5dad7",
    "black": "#1d2221",
    "red": "#f0917c",
    "green": "#82cdb6",
    "brown": "#e3b85f",
    "blue": "#8cc4ec",
    "magenta": "#cfa6ea",
    "cyan": "#7fcfd4",
    "white": "#d5dad7",
    "brightblack": "#8a948f",
}
"""By pyte's names, of which `brown` is yellow."""

PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: #151918; color: {default}; }}
pre {{ margin: 0; padding: 14px 16px; width: max-content; font: 15px/20px "Noto Sans Mono", "Noto Sans Mono CJK KR"; }}
i {{ display: inline-block; width: 9px; height: 20px; vertical-align: top; font-style: normal; white-space: pre; }}
.wide {{ width: 18px; font-size: 17px; }}
.bold {{ font-weight: 700; }}
.cursor {{ background: {default}; color: #151918; }}
</style><pre>{rows}</pre>"""
"""Every cell has a place of its own, since the font has some signs wider than terminals have them."""


class DimScreen(pyte.Screen):
    """A screen that shows dim text, which pyte does not know, as bright black."""

    def select_graphic_rendition(self, *codes: int, **private: Any) -> None:
        super().select_graphic_rendition(*(90 if code == 2 else code for code in codes), **private)


def draw_terminal(received: bytes, columns: int = 80, rows: int = 24) -> str:
    """An HTML page that shows a terminal which received these bytes."""
    screen = DimScreen(columns, rows)
    pyte.ByteStream(screen).feed(received)
    drawn = [_draw_row(screen, row) for row in range(rows)]
    return PAGE.format(rows="\n".join(drawn), **COLORS)


def _draw_row(screen: pyte.Screen, row: int) -> str:
    line, drawn = screen.buffer[row], ""
    for column in range(screen.columns):
        cell = line[column]
        if not cell.data:  # The second half of a wide character.
            continue
        is_wide = column + 1 < screen.columns and not line[column + 1].data
        is_cursor = not screen.cursor.hidden and (row, column) == (screen.cursor.y, screen.cursor.x)
        names = [name for name, holds in (("wide", is_wide), ("bold", cell.bold), ("cursor", is_cursor)) if holds]
        color = "" if cell.fg == "default" or is_cursor else f' style="color:{COLORS[cell.fg]}"'
        drawn += f'<i class="{" ".join(names)}"{color}>{escape(cell.data)}</i>'
    return drawn
