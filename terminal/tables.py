"""A Markdown table: a head, a rule, and rows, with spaces between the columns."""

from collections.abc import Callable, Iterator

from rich.text import Text

GAP = 3
LEAST_COLUMN = 4


def render_table(
    rows: list[list[Text]], is_right: list[bool], width: int, wrap: Callable[[Text, int], list[Text]]
) -> Iterator[Text]:
    """`rows` begins with the head; `is_right` tells for each column whether its cells stand at its right edge."""
    widths = fit([max(_width_of(row[n]) for row in rows) for n in range(len(rows[0]))], width)
    for number, row in enumerate(rows):
        cells = [wrap(cell, size) for cell, size in zip(row, widths, strict=True)]
        for line in range(max(map(len, cells))):
            found = [cell[line] if line < len(cell) else Text() for cell in cells]
            yield _join(found, widths, is_right)
        if number == 0:
            yield Text("─" * min(sum(widths) + GAP * (len(widths) - 1), width), "dim")


def fit(widths: list[int], width: int) -> list[int]:
    """The columns' widths, the widest ones narrowed until all fit, none below what can be read."""
    found = [max(each, 1) for each in widths]
    while sum(found) + GAP * (len(found) - 1) > width and max(found) > LEAST_COLUMN:
        found[found.index(max(found))] -= 1
    return found


def _width_of(cell: Text) -> int:
    return max((line.cell_len for line in cell.split("\n", allow_blank=True)), default=0)


def _join(cells: list[Text], widths: list[int], is_right: list[bool]) -> Text:
    row = Text()
    for cell, size, right in zip(cells, widths, is_right, strict=True):
        space = " " * max(size - cell.cell_len, 0)
        row.append(space if right else "").append_text(cell).append("" if right else space).append(" " * GAP)
    row.rstrip()
    return row
