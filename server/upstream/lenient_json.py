"""A lenient JSON parser, in linear time, for what servers send that is not quite JSON."""

import json
import re
from typing import Any

import orjson

_NUMBERS = re.compile(r'"(?:[^"\\]|\\.)*"?|[-+]?\b(?:nan|inf(?:inity)?)\b', re.IGNORECASE | re.DOTALL)
"""Strings, which stay as they are, and the numbers that JSON does not have, such as `NaN` and `-Infinity`."""


def loads(data: bytes) -> Any:
    """The value of `data`. Raises ValueError and RecursionError.

    Bytes that are not UTF-8 become U+FFFD, numbers that JSON does not have become null. Lone surrogates stay, since the
    other half may be in the next piece; `join` and `repair` replace them.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        text = _NUMBERS.sub(_replace_number, data.decode("utf-8-sig", "replace"))
        return json.loads(text, strict=False, parse_int=_parse_number, parse_float=_parse_number)


def join(first: str, second: str) -> tuple[str, str]:
    """Concatenate two texts, pair their surrogates, and replace lone ones by U+FFFD.

    Returns the text and, apart from it, a high surrogate at its end, whose other half may still come; else "".
    """
    text = first + second
    try:
        text.encode()
        return text, ""
    except UnicodeEncodeError:
        rest = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
        whole = text[: len(text) - len(rest)].encode("utf-16-le", "surrogatepass")
        return whole.decode("utf-16-le", "replace"), rest


def repair(value: Any) -> Any:
    """A JSON value with surrogates paired or replaced in all of its texts, since stores keep valid Unicode only."""
    if isinstance(value, str):
        text, rest = join("", value)
        return text + "\ufffd" if rest else text
    if isinstance(value, list):
        return [repair(each) for each in value]
    if isinstance(value, dict):
        return {repair(name): repair(each) for name, each in value.items()}
    return value


def _replace_number(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith('"') else "null"


def _parse_number(text: str) -> int | float | None:
    """An int below 10^18 in absolute value, else a float; None if it is infinite. orjson can write all of these."""
    if text.lstrip("-").isdigit() and len(text) < 19:
        return int(text)
    number = float(text)
    return number if abs(number) != float("inf") else None
