"""JSON as servers send it: text that is not quite JSON is read all the same, in linear time."""

import json
import re
from typing import Any

import orjson

_NUMBERS = re.compile(r'"(?:[^"\\]|\\.)*"?|[-+]?\b(?:nan|inf(?:inity)?)\b', re.IGNORECASE | re.DOTALL)
"""Strings, which are left alone, and the numbers that JSON does not know, such as `NaN` and `-Infinity`."""


def loads(data: bytes) -> Any:
    """The value of `data`. Raises ValueError and RecursionError.

    Bytes that are no UTF-8 become U+FFFD, numbers that JSON does not know null. Lone surrogates stay: `join` mends
    them, since the other half may be in the next piece.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        text = _NUMBERS.sub(_known, data.decode("utf-8-sig", "replace"))
        return json.loads(text, strict=False, parse_int=_number, parse_float=_number)


def join(first: str, second: str) -> tuple[str, str]:
    """`first` and `second` with surrogates joined or, if they are alone, replaced by U+FFFD.

    Also the high surrogate at the end, if there is one, whose other half may still come.
    """
    text = first + second
    try:
        text.encode()
        return text, ""
    except UnicodeEncodeError:
        rest = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
        whole = text[: len(text) - len(rest)].encode("utf-16-le", "surrogatepass")
        return whole.decode("utf-16-le", "replace"), rest


def mended(value: Any) -> Any:
    """`value`, of JSON, with surrogates joined or replaced in all of its texts: a store keeps valid Unicode only."""
    if isinstance(value, str):
        text, rest = join("", value)
        return text + "\ufffd" if rest else text
    if isinstance(value, list):
        return [mended(each) for each in value]
    if isinstance(value, dict):
        return {mended(name): mended(each) for name, each in value.items()}
    return value


def _known(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith('"') else "null"


def _number(text: str) -> int | float | None:
    """Numbers that fit into 64 bits, as orjson reads and writes them."""
    if text.lstrip("-").isdigit() and len(text) < 19:
        return int(text)
    number = float(text)
    return number if abs(number) != float("inf") else None
