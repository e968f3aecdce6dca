"""Markdown as rows of a terminal: no boxes, only what a selection may copy.

A row is at most as wide as asked for, counted in the terminal's columns. A line break in the source is one here, too:
models mean it.
"""

from collections.abc import Iterable, Iterator

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from terminal.inert import show_controls
from terminal.tables import render_table

PARSER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
LEAST_WIDTH = 8
"""Columns of the narrowest text, whatever is left beside the signs before it."""

_WRAPPING = Console(width=80, color_system=None, highlight=False, emoji=False)
_STYLES = {"strong": "bold", "em": "italic", "s": "strike"}


def render(source: str, width: int, before: Text | None = None, number: int | None = None) -> list[Text]:
    """The rows of a Markdown text, which must be inert.

    `before` is the beginning of its first paragraph, or `number` the first number of the list that it begins with.
    """
    blocks = SyntaxTreeNode(PARSER.parse(source)).children
    if number is not None and blocks and blocks[0].type == "ordered_list":
        blocks[0].attrs["start"] = number
    lines = source.split("\n")
    if before is None or not blocks:
        return list(_render_blocks(blocks, lines, max(width, LEAST_WIDTH)))
    paragraph = before.copy().append_text(_inline(blocks[0]))
    later = list(_render_blocks(blocks[1:], lines, max(width, LEAST_WIDTH)))
    gap = [Text()] if later and (blocks[1].type == "heading" or _follows_blank_line(blocks[1], lines)) else []
    return [*wrap(paragraph, width), *gap, *later]


def wrap(text: Text, width: int) -> list[Text]:
    """The rows of a text: broken between words, and within those that are wider than a row."""
    rows = []
    for line in text.split("\n", allow_blank=True):
        line.expand_tabs(4)
        rows += list(line.wrap(_WRAPPING, max(width, 2), overflow="fold")) or [Text()]
    for row in rows:
        row.rstrip()
    return rows


def indent(rows: Iterable[Text], first: str, style: str = "") -> Iterator[Text]:
    """The rows with `first` before the first of them, and as many spaces before the rest."""
    for number, row in enumerate(rows):
        before = first if number == 0 else " " * cell_len(first)
        yield Text().append(before, style).append_text(row) if row or before.strip() else Text()


def fold(text: str, width: int) -> Iterator[Text]:
    """The rows of a line of code, which is broken anywhere and loses nothing."""
    row, used = "", 0
    for character in text.expandtabs(4):
        cells = cell_len(character)
        if used + cells > width and row:
            yield Text(row)
            row, used = "", 0
        row, used = row + character, used + cells
    yield Text(row)


def _render_blocks(blocks: list[SyntaxTreeNode], lines: list[str], width: int) -> Iterator[Text]:
    """Blocks below each other, with an empty row where the source has one, and before a heading."""
    for number, block in enumerate(blocks):
        if number and (block.type == "heading" or _follows_blank_line(block, lines)):
            yield Text()
        yield from _render_block(block, lines, width)


def _follows_blank_line(block: SyntaxTreeNode, lines: list[str]) -> bool:
    start = block.map[0] if block.map else 0
    return start > 0 and not lines[start - 1].strip(" \t>")


def _render_block(block: SyntaxTreeNode, lines: list[str], width: int) -> Iterator[Text]:
    match block.type:
        case "paragraph":
            yield from wrap(_inline(block), width)
        case "heading":
            text = _inline(block)
            text.stylize("bold")
            yield from wrap(text, width)
        case "fence" | "code_block":
            language = show_controls(block.info.split()[0]) if block.info.split() else ""
            if language:
                yield Text(language, "dim")
            for line in block.content.removesuffix("\n").split("\n") if block.content else ():
                yield from fold(line, width)
        case "bullet_list" | "ordered_list":
            yield from _render_list(block, lines, width)
        case "blockquote":
            rows = _render_blocks(block.children, lines, width - 2)
            yield from (Text().append("│ ", "dim").append_text(row) for row in rows)
        case "table":
            rows_of_cells = [
                [_inline(cell) for cell in row.children] for part in block.children for row in part.children
            ]
            aligned = [str(cell.attrs.get("style", "")) for cell in block.children[0].children[0].children]
            yield from render_table(rows_of_cells, ["right" in each for each in aligned], width, wrap)
        case "hr":
            yield Text("─" * min(width, 20), "dim")
        case _:
            yield from wrap(Text(block.content), width)


def _render_list(block: SyntaxTreeNode, lines: list[str], width: int) -> Iterator[Text]:
    first = int(block.attrs.get("start", 1))
    for number, item in enumerate(block.children):
        if number and _follows_blank_line(item, lines):
            yield Text()
        marker = f"{first + number:>2}. " if block.type == "ordered_list" else " • "
        rows = list(_render_blocks(item.children, lines, max(width - len(marker), LEAST_WIDTH)))
        yield from indent(rows or [Text()], marker)


def _inline(block: SyntaxTreeNode) -> Text:
    text = Text()
    for node in block.children:
        for child in node.children:
            _append(text, child, "")
    return text


def _append(text: Text, node: SyntaxTreeNode, style: str) -> None:
    match node.type:
        case "text":
            text.append(show_controls(node.content), style)
        case "softbreak" | "hardbreak":
            text.append("\n")
        case "code_inline":
            text.append(show_controls(node.content), f"{style} cyan".strip())
        case "link" | "image":
            _append_link(text, node, style)
        case _:
            added = _STYLES.get(node.type, "")
            for child in node.children:
                _append(text, child, f"{style} {added}".strip())
            if not node.children:
                text.append(show_controls(node.content), style)


def _append_link(text: Text, node: SyntaxTreeNode, style: str) -> None:
    """The words of a link, and its address if they do not have it."""
    start = len(text)
    for child in node.children:
        _append(text, child, f"{style} underline".strip())
    address = show_controls(str(node.attrs.get("href") or node.attrs.get("src") or ""))
    if address and address not in text.plain[start:]:
        text.append(f" ({address})", "dim")
