"""What an operator may choose, read from the environment once, at start."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self, get_args, get_origin
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Settings:
    """Each field is read from the variable of its upper-case name. Units are in the names."""

    openai_api_key: str = field(default="", repr=False)
    """The upstream's key. Without it and without a base URL, questions fail with `not_configured`."""

    openai_base_url: str = ""
    """Another OpenAI-compatible server, such as `http://localhost:11434/v1`. Alone, it needs no key."""

    openai_org_id: str = ""
    """The organization that requests count for."""

    openai_project_id: str = ""
    """The project that requests count for."""

    openai_custom_headers: str = field(default="", repr=False)
    """Headers for every request to the upstream, `Name: value`, one a line."""

    llm_server_url: str = ""
    """Another name of `OPENAI_BASE_URL`, which wins."""

    upstream: str = "openai"
    """`openai`, or `scripted` for a demonstration that calls nobody."""

    default_model: str = ""
    """The model of a client that chose none. Empty: `gpt-6-luna`, or the first model that another server lists."""

    default_temperature: float | None = None
    """Sampling temperature, 0 to 2. Empty: the upstream's own."""

    default_max_tokens: int | None = None
    """The longest reply in tokens. Empty: the upstream's own."""

    system_prompt: str = ""
    """Sent before every history."""

    store_url: str = ""
    """Where conversations live: `memory://`, `sqlite:///chatbot.db`, `redis://host:6379`. Empty: `DATABASE_URL`."""

    database_url: str = field(default="", repr=False)
    """Read where `STORE_URL` is empty, as an SQLite file such as `chatbot.db`. Empty: `memory://`."""

    lease_seconds: float = 30.0
    """How long a reply counts as being written after its process was last heard of, on a shared store."""

    host: str = "127.0.0.1"
    """The address to listen on; `0.0.0.0` for every one."""

    port: int = 10000
    """The port to listen on."""

    web_concurrency: int = 1
    """Worker processes. The memory store allows one."""

    trusted_proxies: int = 0
    """How many proxies in front of the server are believed about the public address."""

    public_url: str = ""
    """The address that `/openapi.json` tells. Empty: `RENDER_EXTERNAL_URL`, else the request's own host."""

    render_external_url: str = ""
    """Set by Render."""

    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the server: a comma list or a JSON list; `*` for all. Empty: none."""

    max_context_messages: int | None = None
    """The most messages of a history that are replayed. Empty: all."""

    query_deadline_seconds: float = 300.0
    """How long `POST /query` waits before it answers 202. ChatGPT is answered within 40."""

    run_timeout_seconds: float = 600.0
    """How long a reply may take, from question to end."""

    graceful_seconds: float = 45.0
    """How long open replies may go on after SIGTERM."""

    session_timeout_hours: float = 24.0
    """How long a session is kept after it was last used."""

    stream_ttl_seconds: float = 3600.0
    """How long a chat without a `client_name` can still be read after its end."""

    assistant_id: str = "asst_default"
    """The id of the assistant that is there without being made."""

    assistant_instructions: str = ""
    """Its instructions."""

    max_waiting_runs: int = 32
    """Questions that may wait in one conversation."""

    max_concurrent_runs: int = 2000
    """Replies that one process writes at once; further ones wait."""

    max_conversations: int = 100_000
    """Conversations that the memory store holds."""

    max_input_chars: int = 100_000
    """The longest question, and the longest system prompt that comes with one, in characters."""

    max_body_bytes: int = 1_048_576
    """The largest request body."""

    models_ttl_seconds: float = 300.0
    """How long the upstream's list of models is kept."""

    log_level: str = "info"
    """`debug`, `info`, `warning` or `error`."""

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name.upper()}: say one of {', '.join(allowed)}")
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name.upper()}: must be between {least:g} and {most:g}")
        for name in ("openai_base_url", "llm_server_url"):
            if not _is_address(getattr(self, name)):
                raise ValueError(f"{name.upper()}: must be an address such as http://localhost:11434/v1")
        for name in ("openai_api_key", "openai_org_id", "openai_project_id"):
            value = getattr(self, name)
            if not value.isascii() or not value.isprintable():
                raise ValueError(f"{name.upper()}: must have no characters but those of ASCII")
        if any(not _HEADER.fullmatch(line) for line in _lines(self.openai_custom_headers)):
            raise ValueError("OPENAI_CUSTOM_HEADERS: must be lines such as api-key: abc")

    @property
    def upstream_headers(self) -> dict[str, str]:
        """`openai_custom_headers` by name."""
        pairs = [line.split(":", 1) for line in _lines(self.openai_custom_headers)]
        return {name.strip(): value.strip() for name, value in pairs}

    @property
    def effective_store_url(self) -> str:
        """`store_url`, or what stands for it: the SQLite file that `database_url` names, or memory."""
        if self.store_url or not self.database_url or self.ignores_database_url:
            return self.store_url or "memory://"
        return self.database_url if "://" in self.database_url else f"sqlite:///{self.database_url}"

    @property
    def ignores_database_url(self) -> bool:
        """Whether `database_url` is no SQLite file: Heroku sets it for its own databases."""
        scheme, found, _ = self.database_url.partition("://")
        return bool(found) and scheme != "sqlite"

    @classmethod
    def from_env(cls, env: Mapping[str, str | None]) -> Self:
        """Read each field from its upper-case name in `env`.

        An absent or empty variable leaves the default. Raises ValueError, naming the variable and not its value, where
        a text does not fit.
        """
        chosen: dict[str, Any] = {}
        for each in fields(cls):
            name = each.name.upper()
            text = (env.get(name) or "").strip()
            if text:
                try:
                    chosen[each.name] = _parse(text, each.type)
                except ValueError as problem:
                    raise ValueError(f"{name}: {problem}") from None
        return cls(**chosen)


_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+[ \t]*:[\t\x20-\x7e]*")
"""A field of HTTP (RFC 9110, 5.1) in ASCII."""

_CHOICES = {"upstream": ("openai", "scripted"), "log_level": ("debug", "info", "warning", "error")}

_MANY = 1_000_000_000
_BOUNDS: dict[str, tuple[float, float]] = {
    "default_temperature": (0, 2),
    "default_max_tokens": (1, _MANY),
    "port": (1, 65535),
    "web_concurrency": (1, 1024),
    "trusted_proxies": (0, 16),
    "max_context_messages": (2, _MANY),
    "query_deadline_seconds": (0, 86_400),
    "run_timeout_seconds": (1, 86_400),
    "lease_seconds": (1, 3_600),
    "graceful_seconds": (0, 3_600),
    "session_timeout_hours": (0.01, 87_600),
    "stream_ttl_seconds": (1, 31_536_000),
    "max_waiting_runs": (0, _MANY),
    "max_concurrent_runs": (1, 100_000),
    "max_conversations": (1, _MANY),
    "max_input_chars": (1, _MANY),
    "max_body_bytes": (1_024, _MANY),
    "models_ttl_seconds": (0, 86_400),
}


def _parse(text: str, kind: Any) -> Any:
    """`text` as a `kind`: one of str, int, float, either of them or None, or a tuple of words."""
    if get_origin(kind) is tuple:
        return _words(text)
    one: type = (get_args(kind) or (kind,))[0]
    try:
        return one(text)
    except ValueError:
        raise ValueError(f"must be {'a whole number' if one is int else 'a number'}") from None


def _is_address(text: str) -> bool:
    """Whether it is empty, or where a server for HTTP may be found."""
    try:
        port = urlsplit(text).port
    except ValueError:
        return False
    return not text or (port != 0 and re.fullmatch(r"https?://[^\s/?#:][^\s#]*", text, re.IGNORECASE) is not None)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _words(text: str) -> tuple[str, ...]:
    """A comma list or a JSON list, as its words."""
    if not text.startswith("["):
        return tuple(word.strip() for word in text.split(",") if word.strip())
    try:
        words = json.loads(text)
    except ValueError:
        raise ValueError("must be a comma list or a JSON list") from None
    if not all(isinstance(word, str) for word in words):
        raise ValueError("a JSON list must hold strings")
    return tuple(words)
