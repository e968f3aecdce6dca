"""Classifies the error bodies of every known server: context too long, bad key, billing, unknown parameter.

Only structured fields and the first MAX_TEXT characters are searched, with expressions that take linear time: servers
repeat what callers sent, which may be a megabyte that was written to be slow to search.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

MAX_TEXT = 4_096
MAX_DEPTH = 8
MAX_ENTRIES = 64
LIMIT_NAMES = ("max_completion_tokens", "max_tokens")
"""The two names of the token limit of a reply. Some servers know only one of them."""

BILLING_CODES = ("insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached", "billing_not_active")

_TOO_LONG = re.compile(
    # OpenAI, vLLM, DeepSeek, OpenRouter, Mistral, llama.cpp, Ollama, LiteLLM, Cloudflare, SGLang, LM Studio, Anthropic
    r"context_length_exceeded|exceed_context_size|context ?window ?exceeded"
    r"|maximum context length|(?:exceed\w*|larger than|longer than|beyond|greater than|overflow\w*|reached)"
    r"[^.\n]{0,60}\b(?:context[ _-](?:length|size|window|limit)|max_seq_len|maximum (?:model|prompt|input) length)"
    r"|context[ _-](?:length|size|window|limit)[^.\n]{0,40}\b(?:exceed|overflow|too (?:small|short))"
    r"|(?:prompt|inputs?|messages|conversation) (?:is|are|was|were) too (?:long|large)"
    r"|\bprompt(?: tokens?)? too long|loaded with context length of only"
    # Gemini, xAI, Cohere, Moonshot, Zhipu, Qwen, TGI
    r"|token count[^\n]{0,60}\bexceeds the maximum number of tokens|maximum prompt length is"
    r"|too many tokens|exceeded model token limit|prompt exceeds max|range of input length should be"
    r"|inputs[^\n]{0,60}must (?:be <=|have less than)|reduce the length of (?:the|your) (?:input|messages|prompt)",
    re.IGNORECASE,
)

_BAD_KEY = re.compile(
    r"invalid_api_key|api_key_invalid|no_db_connection"  # The last is LiteLLM's, for an unknown key.
    r"|\b(?:incorrect|invalid|missing|expired|wrong|no|unknown)[ _-](?:or \w+ )?api[ _-]?key"
    r"|\bapi[ _-]?key\b[^.\n]{0,40}\b(?:invalid|incorrect|expired|missing|not valid|not found|required|revoked)",
    re.IGNORECASE,
)

_NO_SUCH_MODEL = re.compile(r"model|deployment|engine|endpoints? found", re.IGNORECASE)

_UNKNOWN = (
    r"(?:unrecogni[sz]ed|unknown|unsupported|unexpected|extraneous|not? (?:permitted|allowed|supported|such)"
    r"|(?:do|does) not support|doesn't support|extra_forbidden|extra (?:inputs|fields) not permitted)"
)


_KNOWN_LIMIT = r"\b(?:value|use)\b|tokens\W.*\b(?:not|n't) support\b"


class ErrorBody:
    """The content of an error: a JSON object, a list of one, or a text."""

    def __init__(self, body: Any) -> None:
        """`body` is that of a response, or an error within a reply."""
        self._body = body[0] if isinstance(body, list) and len(body) == 1 else body
        error = self._body.get("error") if isinstance(self._body, Mapping) else None
        self._error = error or self._body
        self.text = " ".join(islice(_find_texts(self._body), MAX_ENTRIES))[:MAX_TEXT]
        """All of its texts, joined by spaces and truncated to MAX_TEXT characters."""

    def field(self, name: str) -> str | None:
        value = self._error.get(name) if isinstance(self._error, Mapping) else None
        return value[:MAX_TEXT] if isinstance(value, str) else None

    @property
    def code(self) -> str | None:
        return self.field("code")

    @property
    def status(self) -> int | None:
        """The HTTP status that the body names, if any; some errors come in a response with status 200."""
        return find_status(self._error)

    @property
    def is_too_long(self) -> bool:
        """Whether the messages are longer than the model's context."""
        return _TOO_LONG.search(self.text) is not None

    @property
    def is_bad_key(self) -> bool:
        return _BAD_KEY.search(self.text) is not None

    @property
    def is_rate_limit(self) -> bool:
        return any("rate_limit" in kind for kind in (self.code, self.field("type")) if kind)

    @property
    def is_billing(self) -> bool:
        kinds = [self.code, self.field("type")]
        return any(
            kind in BILLING_CODES or (kind.endswith("_limit_exceeded") and kind != "rate_limit_exceeded")
            for kind in kinds
            if kind
        )

    @property
    def is_about_model(self) -> bool:
        """Whether the model was not found, rather than the address."""
        return isinstance(self._body, Mapping) and _NO_SUCH_MODEL.search(self.text) is not None

    def find_unknown(self, names: Sequence[str]) -> str | None:
        """The first of `names` that the server does not support; None if the error has another reason."""
        if self.code in ("unsupported_parameter", "unsupported_value", "unknown_parameter"):
            param = self.field("param")
            is_value_of_limit = self.code == "unsupported_value" and param in LIMIT_NAMES
            return param if param in names and not is_value_of_limit else None
        forbidden = set(_find_forbidden(self._body))
        return next((name for name in names if name in forbidden or _says_unknown(self.text, name)), None)


def find_status(error: Any) -> int | None:
    """The HTTP status in an error's fields, a number or a text; None if there is none."""
    for name in ("code", "status", "status_code", "error_code") if isinstance(error, Mapping) else ():
        if re.fullmatch("[45][0-9][0-9]", str(error.get(name))):
            return int(error[name])
    return None


def _says_unknown(text: str, name: str) -> bool:
    between = r"[\w ,:'\"`(\[]"
    patterns = (
        rf"\b{_UNKNOWN}\b[\w ,:]{{0,60}}\W{{0,4}}\b{name}\b",
        rf"\b{name}\b\W{{0,4}}[\w ]{{0,30}}\b{_UNKNOWN}\b",
        rf"extra_forbidden{between}{{0,20}}loc{between}{{0,20}}body{between}{{0,6}}{name}\b",
        rf"\bloc{between}{{0,20}}body{between}{{0,6}}{name}\b[^\n]{{0,40}}\b(?:extra|not permitted)\b",
    )
    if name not in text:
        return False
    found = [match[0] for pattern in patterns if (match := re.search(pattern, text, re.IGNORECASE))]
    # A limit is known if its value is what is not supported, or if the text says to use it instead.
    return any(name not in LIMIT_NAMES or not re.search(_KNOWN_LIMIT, match, re.IGNORECASE) for match in found)


def _find_forbidden(body: Any, depth: int = 0) -> Iterator[str]:
    """The parameters that pydantic reports as extra: the last part of each `loc`."""
    if isinstance(body, Mapping) and depth < MAX_DEPTH:
        loc, kind = body.get("loc"), body.get("type")
        if isinstance(loc, list) and loc and isinstance(kind, str) and "extra" in kind:
            yield str(loc[-1])[:MAX_TEXT]
        for value in islice(body.values(), MAX_ENTRIES):
            if isinstance(value, list | Mapping):
                yield from _find_forbidden(value, depth + 1)
    elif isinstance(body, list) and depth < MAX_DEPTH:
        for value in islice(body, MAX_ENTRIES):
            yield from _find_forbidden(value, depth + 1)


def _find_texts(body: Any, depth: int = 0) -> Iterator[str]:
    """The texts in an error, outermost first, each truncated to MAX_TEXT characters."""
    if isinstance(body, str):
        yield body[:MAX_TEXT]
    elif isinstance(body, Mapping) and depth < MAX_DEPTH:
        for value in sorted(islice(body.values(), MAX_ENTRIES), key=lambda each: not isinstance(each, str)):
            yield from _find_texts(value, depth + 1)
    elif isinstance(body, list) and depth < MAX_DEPTH:
        for value in islice(body, MAX_ENTRIES):
            yield from _find_texts(value, depth + 1)
