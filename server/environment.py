"""The environment of the process, the file `.env` beneath it, and what their texts mean."""

import json
import os
import re
from io import StringIO
from pathlib import Path
from typing import Any, get_args, get_origin

from dotenv import dotenv_values

_NUMBERS = {
    int: re.compile(r"[+-]?[0-9]+"),
    float: re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?", re.IGNORECASE),
}
"""Python itself takes underscores and the digits of every script, too."""

_MOST_DIGITS = 1000


_IPV6 = re.compile(r"\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]")
"""An address that a comma list may begin with; a JSON list holds strings."""


def read_environment() -> dict[str, str | None]:
    """Each variable by its name; the environment wins over the file `.env` of the working directory.

    Raises ValueError, with what to do, if there is such a file and it cannot be read.
    """
    return {**_read_dotenv(Path(".env")), **os.environ}


def _read_dotenv(path: Path) -> dict[str, str | None]:
    """What the file sets; nothing if there is none."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return {}
    except OSError:
        raise ValueError(f"The file {path.name} cannot be read; look at its permissions.") from None
    # Windows' PowerShell writes UTF-16, and its Notepad begins UTF-8 with a byte order mark.
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise ValueError(_not_utf8(path.name, "in UTF-16", "UTF-16"))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(_not_utf8(path.name, "not in UTF-8, but perhaps in a Korean code page", "CP949")) from None
    return dotenv_values(stream=StringIO(text, newline=None))


def _not_utf8(name: str, found: str, encoding: str) -> str:
    return (
        f"The file {name} is {found}; save it again as UTF-8 with an editor,"
        f" or with: iconv -f {encoding} -t UTF-8 {name} > new && mv new {name}"
    )


def parse(text: str, kind: Any) -> Any:
    """`text` as a `kind`: one of str, int, float, either of them or None, or a tuple of words. Raises ValueError."""
    if get_origin(kind) is tuple:
        return _words(text)
    one: type = (get_args(kind) or (kind,))[0]
    if one in _NUMBERS and (len(text) > _MOST_DIGITS or not _NUMBERS[one].fullmatch(text)):
        raise ValueError(f"must be {'a whole number' if one is int else 'a number'}")
    return one(text)


def _words(text: str) -> tuple[str, ...]:
    """A comma list or a JSON list, as its words."""
    if not text.startswith("[") or _IPV6.match(text):
        return tuple(word.strip() for word in text.split(",") if word.strip())
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("must be a comma list or a JSON list") from None
    if not all(isinstance(word, str) for word in words):
        raise ValueError("a JSON list must hold strings")
    return tuple(word.strip() for word in words if word.strip())
