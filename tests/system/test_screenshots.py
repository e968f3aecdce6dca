"""The pictures in README and docs/ are there, are small, and are those that `make screenshots` takes."""

import re
import struct
from pathlib import Path

import pytest

from scripts.screenshots.pictures import FOLDER, PICTURES
from tests.support.process import ROOT

PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [name for _, pictures in PICTURES for name in pictures]


def shown() -> set[Path]:
    """Every picture that a page shows."""
    found = set()
    for page in PAGES:
        for link in re.findall(r'!\[[^\]]*\]\(([^)]+)\)|<img src="([^"]+)"', page.read_text(encoding="utf-8")):
            found.add((page.parent / "".join(link)).resolve())
    return found


def test_every_picture_that_is_taken_is_shown_and_no_other() -> None:
    assert shown() == {FOLDER / name for name in NAMES}
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_large_enough_to_read_and_small_enough_to_load(name: str) -> None:
    data = (FOLDER / name).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert 700 <= width <= 1600
    assert 300 <= height <= 1600
    assert 5_000 < len(data) < 150_000


def test_every_picture_has_words_for_those_who_do_not_see_it() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert "![](" not in text
        assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img [^>]*>", text))
