"""What an upstream says of a failure, fit for an operator's log: without keys, and without what was asked."""

import re
from collections.abc import Collection, Iterable

from server.upstream.refusals import MAX_TEXT

MAX_ASKED = 262_144
STRUCK = "…"

_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
_WORD = re.compile(r"[\w*.\-]+")
_PART = re.compile(r"[^\W_]+")
_KEY = re.compile(r".*\*.*|(?=.*\d)[\w.\-]{12,}|(?:sk|pk|rk|key|hf|gsk|xai|ghp)[-_].*", re.IGNORECASE)
"""A word with a part that was masked, a long one with a digit in it, and one that begins as keys do."""


def redacted(text: str, secrets: Iterable[str], asked: bytes, known: Collection[str]) -> str:
    """`text` with each word struck out that may be a key, or of which a part stands in `asked`.

    In one line. `known` are words that may stay. Of a request that is too long to be compared, no word is left.
    """
    secrets = [secret for secret in secrets if secret]
    if len(text) == MAX_TEXT:  # What was cut off may have been a secret, whose beginning is left.
        left = max(
            (size for secret in secrets for size in range(len(secret)) if text.endswith(secret[:size])), default=0
        )
        text = text[: len(text) - left]
    for secret in secrets:
        text = text.replace(secret, STRUCK)
    content = _unescaped(asked.decode("utf-8", "replace")).lower()
    is_long = len(asked) > MAX_ASKED

    def strike(found: re.Match[str]) -> str:
        word = found[0].strip(".")
        if word in known:
            return found[0]
        is_content = any(len(part) > 2 and part.lower() in content for part in _PART.findall(word))
        return STRUCK if is_long or is_content or not word.isascii() or _KEY.fullmatch(word) else found[0]

    line = "".join(character if character.isprintable() else " " for character in _unescaped(text))
    return _WORD.sub(strike, line)


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
