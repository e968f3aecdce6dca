"""Reads the environment and the file `.env`, and parses their texts into typed values."""

import json
import os
import re
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any, get_args, get_origin

from dotenv import dotenv_values
from dotenv.parser import parse_stream

_NUMBERS = {
    int: re.compile(r"[+-]?[0-9]+"),
    float: re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?", re.IGNORECASE),
}
"""Stricter than `int()` and `float()`, which also take underscores and digits of other scripts."""

_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_MAX_DIGITS = 1000
"""`int()` refuses numbers of more than 4,300 digits with a message that does not help an operator."""


_IPV6 = re.compile(r"\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]")
"""An IPv6 address in brackets, with which a comma list may begin. A JSON list never begins so."""


def read_environment() -> dict[str, str | None]:
    """Each variable by its name; the environment overrides the file `.env` of the working directory.

    Raises ValueError, with a sentence that says what to do, if the file exists and cannot be read.
    """
    return {**read_dotenv(), **os.environ}


def read_dotenv() -> dict[str, str | None]:
    """The variables of the file `.env` alone; empty if it does not exist. Raises ValueError as `read_environment`."""
    return dotenv_values(stream=_open_dotenv())


def find_repeated_names() -> list[str]:
    """The names that the file `.env` sets more than once. Raises ValueError as `read_environment`."""
    counts = Counter(binding.key for binding in parse_stream(_open_dotenv()) if binding.key)
    return [name for name, count in counts.items() if count > 1]


def _open_dotenv() -> StringIO:
    path = Path(".env")
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return StringIO()
    except OSError:
        raise ValueError(f"The file {path.name} cannot be read; look at its permissions.") from None
    # Windows' PowerShell writes UTF-16, and its Notepad begins UTF-8 with a byte order mark.
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise ValueError(_describe_encoding(path.name, "in UTF-16", "UTF-16"))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(
            _describe_encoding(path.name, "not in UTF-8, but perhaps in a Korean code page", "CP949")
        ) from None
    return StringIO(text, newline=None)


def _describe_encoding(name: str, found: str, encoding: str) -> str:
    return (
        f"The file {name} is {found}; save it again as UTF-8 with an editor,"
        f" or with: iconv -f {encoding} -t UTF-8 {name} > new && mv new {name}"
    )


def parse(text: str, kind: Any) -> Any:
    """Convert `text` to `kind`: str, bool, int, float, one of them or None, or a tuple of str. Raises ValueError."""
    if get_origin(kind) is tuple:
        return _parse_list(text)
    if kind is bool:
        if text.lower() not in _TRUTHS:
            raise ValueError("must be true or false")
        return _TRUTHS[text.lower()]
    one: type = (get_args(kind) or (kind,))[0]
    if one in _NUMBERS and (len(text) > _MAX_DIGITS or not _NUMBERS[one].fullmatch(text)):
        raise ValueError(f"must be {'a whole number' if one is int else 'a number'}")
    return one(text)


def _parse_list(text: str) -> tuple[str, ...]:
    """The entries of a comma list or a JSON list of strings, stripped; empty ones are dropped."""
    if not text.startswith("[") or _IPV6.match(text):
        return tuple(word.strip() for word in text.split(",") if word.strip())
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("must be a comma list or a JSON list") from None
    if not all(isinstance(word, str) for word in words):
        raise ValueError("a JSON list must hold strings")
    return tuple(word.strip() for word in words if word.strip())
