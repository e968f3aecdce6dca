"""A growing text gives the same rows as the whole text, in whatever pieces it comes, and each of them once."""

from hypothesis import given, settings
from hypothesis import strategies as st

from terminal.growing import GrowingText
from terminal.inert import InertPieces, make_inert
from terminal.render import render

PARTS = (
    "# Head\n\nSome **strong** words and `code`, with [a link](http://x.example).\nA second line.\n\n",
    "1. one\n2. two, which is so long that it needs more than one row\n   - below\n\n     more\n3. three\n\n",
    "0. zero\n1. one\n",
    "| Name | Count |\n|---|---:|\n| 된장 | 36 |\n| Courgette | ½ each, or a little more than that |\n\n",
    "```python\ndef f():\n\n\treturn 1\n```\n",
    "> quoted\n> twice\n\n---\n",
    " ".join(f"word{number} **bold{number}**" for number in range(60)) + "\n\n",
    "가나다라 마바사아 " * 30 + "\n\n",
    "漢字" * 120 + "\n\n",
    "\n".join(f"row {number}" for number in range(20)) + "\n\n",
    "- a\n- b\n\n  with a paragraph\n\n- c * d\n",
    "Title\n=====\nTwo * three_four, 2 * 3\n",
)


@settings(max_examples=20)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4), st.lists(st.integers(1, 60), min_size=1), st.data())
def test_the_pieces_of_a_text_make_the_rows_of_the_whole(
    parts: list[str], sizes: list[int], data: st.DataObject
) -> None:
    width = data.draw(st.integers(20, 90))
    source = "".join(parts)
    text, rows, at, turn = GrowingText(), [], 0, 0
    while at < len(source):
        size = sizes[turn % len(sizes)]
        text.feed(source[at : at + size])
        rows += text.take_final(width)
        assert all(row.cell_len <= width for row in text.movable(width))
        at, turn = at + size, turn + 1
    rows += text.take_rest(width)
    assert [row.plain for row in rows] == [row.plain for row in render(source, width)]
    assert all(row.cell_len <= width for row in rows)


def test_few_rows_stay_movable_however_long_a_paragraph_grows() -> None:
    text = GrowingText()
    for number in range(500):
        text.feed(f"word{number} and **more** of it, ")
        text.take_final(78)
        assert len(text.movable(78)) < 10


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("\r\n\x1b\x9b\u202e")), st.integers(1, 5))
def test_a_text_in_pieces_is_as_inert_as_the_whole(text: str, size: int) -> None:
    pieces = InertPieces()
    made = "".join(pieces.feed(text[at : at + size]) for at in range(0, len(text), size))
    assert made == make_inert(text.removesuffix("\r"))
    assert not set(made) & {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u202e"} - {"\n", "\t"}
