"""What an upstream says of a failure, fit for an operator's log: without keys, and without what was asked."""

import re
from collections.abc import Iterable

MAX_ASKED = 262_144
STRUCK = "…"

_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
_WORD = re.compile(r"[\w*.\-]+")
_KEY = re.compile(r"(?=.*[\d*])[\w*.\-]{12,}|(?:sk|pk|rk|key|hf|gsk|xai|ghp)[-_].*", re.IGNORECASE)
"""A long word with a digit in it, as keys are, also where the server has masked a part of it."""


def redacted(text: str, secrets: Iterable[str], asked: bytes, known: str) -> str:
    """`text` with each word struck out that is a key, or that stands in `asked`; `known` is a word that may stay.

    Of a request that is too long to be compared, every word is struck out.
    """
    for secret in secrets:
        text = text.replace(secret, STRUCK) if secret else text
    content = _unescaped(asked.decode("utf-8", "replace")).lower()
    is_long = len(asked) > MAX_ASKED

    def strike(found: re.Match[str]) -> str:
        word = found[0]
        if word == known:
            return word
        is_content = len(word) > 2 and word.lower() in content
        return STRUCK if is_long or is_content or not word.isascii() or _KEY.fullmatch(word) else word

    return _WORD.sub(strike, _unescaped(text))


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
