"""The operator's settings, read from the environment once, at start."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from server import addresses
from server.environment import parse, read_environment
from server.setting_rules import ADMIN_KEY_CHARACTERS, BOUNDS, CHOICES, HEADER, PARSERS, require_text


@dataclass(frozen=True)
class Settings:
    """Each field is read from the variable of its upper-case name. Units are in the names."""

    openai_api_key: str = field(default="", repr=False)
    """The upstream's key. Without it and without a base URL, questions fail with `not_configured`."""

    openai_base_url: str = field(default="", repr=False)  # Its query string may have a key.
    """Another OpenAI-compatible server, such as `http://localhost:11434/v1`. Alone, it needs no key."""

    openai_org_id: str = ""
    """The organization that requests count for."""

    openai_project_id: str = ""
    """The project that requests count for."""

    openai_custom_headers: str = field(default="", repr=False)
    """Headers for every request to the upstream, `Name: value`, one a line."""

    llm_server_url: str = field(default="", repr=False)
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

    metrics_port: int | None = None
    """A further port, on which `/metrics` alone is served, without a key. Empty: none."""

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

    admin_key: str = field(default="", repr=False)
    """Protects the server: the administrator's key, of 16 characters or more. Empty: the server is open to anybody."""

    allow_open: bool = False
    """Whether the server starts without `ADMIN_KEY` although it has a public address."""

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

    max_client_conversations: int | None = None
    """The most conversations that a key's client may have. Empty: any number."""

    max_client_messages: int | None = None
    """The most messages of all these together. Empty: any number."""

    max_client_bytes: int | None = None
    """The most bytes of all these messages together, about. Empty: any number."""

    max_client_open_runs: int | None = None
    """The most questions of a client that may be open at once. Empty: any number."""

    max_client_streams: int | None = None
    """The most streams that a client may read from one process at once. Empty: any number."""

    retention_days: float | None = None
    """After how many days without use a conversation is deleted. Empty: never."""

    max_waiting_runs: int = 32
    """Questions that may wait in one conversation."""

    max_concurrent_runs: int = 2000
    """Replies that one process writes at once; further ones wait."""

    rate_limit: str = ""
    """How many replies a key, or without one an address, may begin, such as `60/minute`. Empty: any number."""

    daily_token_budget: int | None = None
    """The tokens that a key, or a server without keys, may spend in a day (UTC). Empty: any number."""

    max_conversations: int = 100_000
    """Conversations that the memory store holds."""

    max_records: int = 10_000
    """Assistants that the server keeps."""

    max_input_chars: int = 100_000
    """The longest question, and the longest system prompt that comes with one, in characters."""

    max_body_bytes: int = 1_048_576
    """The largest request body."""

    max_import_bytes: int = 268_435_456
    """The largest file of conversations that is imported."""

    models_ttl_seconds: float = 300.0
    """How long the upstream's list of models is kept."""

    log_level: str = "info"
    """`debug`, `info`, `warning` or `error`."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.type is str:
                require_text(each.name, getattr(self, each.name))
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name.upper()}: say one of {', '.join(allowed)}")
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name.upper()}: must be between {least:.12g} and {most:.12g}")
        for name, (parse_text, form) in PARSERS.items():
            value = getattr(self, name)
            try:
                for text in [value] if isinstance(value, str) else value:
                    if text and value != ("*",):
                        parse_text(text)
            except ValueError:
                raise ValueError(f"{name.upper()}: must be {form}") from None
        if self.metrics_port == self.port:
            raise ValueError("METRICS_PORT: must not be PORT, which everybody reaches")
        for name in ("openai_api_key", "openai_org_id", "openai_project_id", "admin_key"):
            value = getattr(self, name)
            if not value.isascii() or not value.isprintable():
                raise ValueError(f"{name.upper()}: must have no characters but those of ASCII")
        if self.admin_key and len(self.admin_key) < ADMIN_KEY_CHARACTERS:
            raise ValueError(
                f"ADMIN_KEY: must have at least {ADMIN_KEY_CHARACTERS} characters; `openssl rand -hex 32` makes one"
            )
        if any(not HEADER.fullmatch(line) for line in _split_lines(self.openai_custom_headers)):
            raise ValueError("OPENAI_CUSTOM_HEADERS: must be lines such as api-key: abc")

    @property
    def bind(self) -> str:
        """`host` and `port` in gunicorn's form."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def binds(self) -> list[str]:
        """`bind`, and the same host with `metrics_port` if there is one."""
        further = [] if self.metrics_port is None else [replace(self, port=self.metrics_port, metrics_port=None).bind]
        return [self.bind, *further]

    @property
    def sites(self) -> list[addresses.Site]:
        """The configured public addresses, the preferred one first."""
        return [addresses.parse_site(url) for url in (self.public_url, self.render_external_url) if url]

    @property
    def is_public_over_https(self) -> bool:
        """Whether a configured public address is one of https."""
        return any(each.address.startswith("https://") for each in self.sites)

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
                    chosen[each.name] = parse(text.lower() if each.name in CHOICES else text, each.type)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
        return cls(**chosen)


def _split_lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]
