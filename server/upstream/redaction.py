"""Redacts an upstream's error text for the operator's log: no keys, and nothing of the caller's messages."""

import re
from collections.abc import Collection, Iterable

from server.upstream.refusals import MAX_TEXT

MAX_CONTENT_BYTES = 262_144
REDACTED = "…"

_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
_WORD = re.compile(r"[\w*.\-]+")
_PART = re.compile(r"[^\W_]+")
_KEY = re.compile(r".*\*.*|(?=.*\d)[\w.\-]{12,}|(?:sk|pk|rk|key|hf|gsk|xai|ghp)[-_].*", re.IGNORECASE)
"""A word with a masked part, a long one with a digit in it, and one that begins as keys do."""


def redact(text: str, secrets: Iterable[str], content: bytes, known: Collection[str]) -> str:
    """Replace each word of `text` that may be a key, or of which a part occurs in `content`; the result is one line.

    Most parts of one or two characters occur in it, so these go, too: they may be initials, or digits of a number.
    `secrets` are replaced wherever they occur. `known` are words that stay. If `content`, the request's messages and
    parameters, has more than MAX_CONTENT_BYTES, every other word is replaced.
    """
    secrets = [secret for secret in secrets if secret]
    if len(text) == MAX_TEXT:  # The text was truncated; the beginning of a secret may stand at its end.
        left = max(
            (size for secret in secrets for size in range(len(secret)) if text.endswith(secret[:size])), default=0
        )
        text = text[: len(text) - left]
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    searched = _unescape(content.decode("utf-8", "replace")).lower()
    is_long = len(content) > MAX_CONTENT_BYTES

    def redact_word(found: re.Match[str]) -> str:
        word = found[0].strip(".")
        if word in known:
            return found[0]
        is_content = any(part.lower() in searched for part in _PART.findall(word))
        return REDACTED if is_long or is_content or not word.isascii() or _KEY.fullmatch(word) else found[0]

    line = "".join(character if character.isprintable() else " " for character in _unescape(text))
    return _WORD.sub(redact_word, line)


def _unescape(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
