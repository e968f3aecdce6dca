"""The operator's settings, read from the environment once, at start."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self
from urllib.parse import urlsplit

from server import addresses
from server.environment import parse, read_environment


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

    store_url: str = field(default="", repr=False)
    """Where conversations live: `memory://`, `sqlite:///chatbot.db`, `redis://host:6379`. Empty: `DATABASE_URL`."""

    database_url: str = field(default="", repr=False)
    """Used if `STORE_URL` is empty: an SQLite file such as `chatbot.db`. Empty: `memory://`."""

    lease_seconds: float = 30.0
    """How long a reply counts as being written after its process was last heard of, on a shared store."""

    host: str = "127.0.0.1"
    """The address to listen on; `0.0.0.0` for every one, `::` for those of IPv6 too."""

    port: int = 10000
    """The port to listen on."""

    web_concurrency: int = 1
    """Worker processes. The memory store allows one."""

    trusted_proxies: int = 0
    """How many proxies in front of the server are believed about the public address."""

    public_url: str = ""
    """The address that callers use, which `/openapi.json` tells. Empty: `RENDER_EXTERNAL_URL`, else the request's."""

    render_external_url: str = ""
    """Set by Render."""

    allowed_hosts: tuple[str, ...] = ()
    """Further hosts that callers may use for the server: a comma list or a JSON list; `*` for all."""

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

    client_timeout_seconds: float = 30.0
    """How long nothing of an answer may be taken before its connection is closed."""

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

    max_records: int = 10_000
    """Assistants that the server keeps."""

    max_input_chars: int = 100_000
    """The longest question, and the longest system prompt that comes with one, in characters."""

    max_body_bytes: int = 1_048_576
    """The largest request body."""

    models_ttl_seconds: float = 300.0
    """How long the upstream's list of models is kept."""

    log_level: str = "info"
    """`debug`, `info`, `warning` or `error`."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.type is str:
                _require_text(each.name, getattr(self, each.name))
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name.upper()}: say one of {', '.join(allowed)}")
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name.upper()}: must be between {least:.12g} and {most:.12g}")
        for name, (parse_text, form) in _PARSERS.items():
            value = getattr(self, name)
            try:
                for text in [value] if isinstance(value, str) else value:
                    if text and value != ("*",):
                        parse_text(text)
            except ValueError:
                raise ValueError(f"{name.upper()}: must be {form}") from None
        for name in ("openai_api_key", "openai_org_id", "openai_project_id"):
            value = getattr(self, name)
            if not value.isascii() or not value.isprintable():
                raise ValueError(f"{name.upper()}: must have no characters but those of ASCII")
        if any(not _HEADER.fullmatch(line) for line in _split_lines(self.openai_custom_headers)):
            raise ValueError("OPENAI_CUSTOM_HEADERS: must be lines such as api-key: abc")

    @property
    def bind(self) -> str:
        """`host` and `port` in gunicorn's form."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def sites(self) -> list[addresses.Site]:
        """The configured public addresses, the preferred one first."""
        return [addresses.parse_site(url) for url in (self.public_url, self.render_external_url) if url]

    @property
    def upstream_headers(self) -> dict[str, str]:
        """`openai_custom_headers` by name."""
        pairs = [line.split(":", 1) for line in _split_lines(self.openai_custom_headers)]
        return {name.strip(): value.strip() for name, value in pairs}

    @property
    def effective_store_url(self) -> str:
        """`store_url`; if it is empty, the SQLite file that `database_url` names, else `memory://`."""
        if self.store_url or not self.database_url or self.ignores_database_url:
            return self.store_url or "memory://"
        return self.database_url if "://" in self.database_url else f"sqlite:///{self.database_url}"

    @property
    def ignores_database_url(self) -> bool:
        """Whether `database_url` names another kind of database, as Heroku sets it for its own."""
        scheme, found, _ = self.database_url.partition("://")
        return bool(found) and scheme != "sqlite"

    @classmethod
    def read(cls) -> Self:
        """Read the environment and, for variables that it lacks, the file `.env` of the working directory.

        Raises ValueError as `from_env` does, and if the file cannot be read.
        """
        return cls.from_env(read_environment())

    @classmethod
    def from_env(cls, env: Mapping[str, str | None]) -> Self:
        """Read each field from its upper-case name in `env`.

        An absent or empty variable leaves the default. Raises ValueError, which names the variable and not its value,
        if a text is invalid.
        """
        chosen: dict[str, Any] = {}
        for each in fields(cls):
            name = each.name.upper()
            text = (env.get(name) or "").strip()
            if text:
                try:
                    chosen[each.name] = parse(text.lower() if each.name in _CHOICES else text, each.type)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
        return cls(**chosen)


_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+[ \t]*:[\t\x20-\x7e]*")
"""An HTTP header line (RFC 9110, 5) in ASCII."""

_CHOICES = {"upstream": ("openai", "scripted"), "log_level": ("debug", "info", "warning", "error")}

_MAX_COUNT = 1_000_000_000
_BOUNDS: dict[str, tuple[float, float]] = {
    "default_temperature": (0, 2),
    "default_max_tokens": (1, _MAX_COUNT),
    "port": (1, 65535),
    "web_concurrency": (1, 1024),
    "trusted_proxies": (0, 16),
    "max_context_messages": (2, _MAX_COUNT),
    "query_deadline_seconds": (0, 86_400),
    "run_timeout_seconds": (1, 86_400),
    "lease_seconds": (1, 3_600),
    "graceful_seconds": (0, 3_600),
    "client_timeout_seconds": (1, 3_600),
    "session_timeout_hours": (0.01, 87_600),
    "stream_ttl_seconds": (1, 31_536_000),
    "max_waiting_runs": (0, _MAX_COUNT),
    "max_concurrent_runs": (1, 100_000),
    "max_conversations": (1, _MAX_COUNT),
    "max_records": (0, _MAX_COUNT),
    "max_input_chars": (1, _MAX_COUNT),
    "max_body_bytes": (1_024, _MAX_COUNT),
    "models_ttl_seconds": (0, 86_400),
}


def _check_upstream_url(text: str) -> None:
    port = urlsplit(text).port
    if port == 0 or not re.fullmatch(r"https?://[^\s/?#:][^\s#]*", text, re.IGNORECASE):
        raise ValueError("no address of HTTP")


def _check_store_url(text: str) -> None:
    if text.startswith("sqlite:") and (not re.fullmatch(r"sqlite:///.+", text) or text.endswith(":memory:")):
        raise ValueError("no file")


def _check_assistant_id(text: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9._~-]{1,256}", text):
        raise ValueError("no id")


_PARSERS: dict[str, tuple[Callable[[str], object], str]] = {
    "openai_base_url": (_check_upstream_url, "an address such as http://localhost:11434/v1"),
    "llm_server_url": (_check_upstream_url, "an address such as http://localhost:11434/v1"),
    "store_url": (_check_store_url, "such as sqlite:///chatbot.db, where it names an SQLite file"),
    "database_url": (_check_store_url, "such as chatbot.db or sqlite:///chatbot.db, where it names an SQLite file"),
    "host": (addresses.parse_host, "an address such as 127.0.0.1 or ::1, without scheme, port or brackets"),
    "public_url": (addresses.parse_site, "an address such as https://bot.example.com, without user, query or fragment"),
    "render_external_url": (addresses.parse_site, "an address such as https://bot.onrender.com"),
    "allowed_hosts": (
        addresses.parse_host_pattern,
        "hosts such as bot.example.com or *.example.com, without scheme or port",
    ),
    "cors_origins": (addresses.compile_origin, "* alone, or origins such as https://a.example or https://*.a.example"),
    "assistant_id": (_check_assistant_id, "at most 256 letters, digits, dots, hyphens and underscores"),
}
"""A function that raises ValueError for a bad text, and the form that the text must have."""

_HEADER_SETTINGS = ("openai_api_key", "openai_org_id", "openai_project_id", "openai_custom_headers")
_MULTILINE_SETTINGS = ("system_prompt", "assistant_instructions")


def _require_text(name: str, text: str) -> None:
    """Raise ValueError if `text` was not UTF-8 or has control characters; NUL alone in multi-line settings."""
    if name in _HEADER_SETTINGS:
        return
    if re.search(r"[\ud800-\udfff]", text):
        raise ValueError(f"{name.upper()}: must be text in UTF-8")
    if re.search(r"\x00" if name in _MULTILINE_SETTINGS else r"[\x00-\x1f\x7f-\x9f]", text):
        raise ValueError(f"{name.upper()}: must have no control characters")


def _split_lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]
