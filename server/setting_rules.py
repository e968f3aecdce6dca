"""The values that a setting may have. `Settings` refuses every other value at the start, by name."""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from server import addresses, rates

HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+[ \t]*:[\t\x20-\x7e]*")
"""An HTTP header line (RFC 9110, 5) in ASCII."""

CHOICES = {"upstream": ("openai", "scripted"), "log_level": ("debug", "info", "warning", "error")}

ADMIN_KEY_CHARACTERS = 16

_MAX_COUNT = 1_000_000_000
BOUNDS: dict[str, tuple[float, float]] = {
    "default_temperature": (0, 2),
    "default_max_tokens": (1, _MAX_COUNT),
    "port": (1, 65535),
    "metrics_port": (1, 65535),
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
    "max_client_conversations": (1, _MAX_COUNT),
    "max_client_messages": (2, _MAX_COUNT),
    "max_client_bytes": (1_024, 1_000_000 * _MAX_COUNT),
    "max_client_open_runs": (1, _MAX_COUNT),
    "max_client_streams": (1, _MAX_COUNT),
    "retention_days": (0.01, 36_500),
    "max_waiting_runs": (0, _MAX_COUNT),
    "max_concurrent_runs": (1, 100_000),
    "daily_token_budget": (1, 1_000 * _MAX_COUNT),
    "max_conversations": (1, _MAX_COUNT),
    "max_records": (0, _MAX_COUNT),
    "max_input_chars": (1, _MAX_COUNT),
    "max_body_bytes": (1_024, _MAX_COUNT),
    "max_import_bytes": (1_024, 100 * _MAX_COUNT),
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


PARSERS: dict[str, tuple[Callable[[str], object], str]] = {
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
    "rate_limit": (rates.parse_rate, rates.FORM),
    "assistant_id": (_check_assistant_id, "at most 256 letters, digits, dots, hyphens and underscores"),
}
"""A function that raises ValueError for a bad text, and the form that the text must have."""

HEADER_SETTINGS = ("admin_key", "openai_api_key", "openai_org_id", "openai_project_id", "openai_custom_headers")
MULTILINE_SETTINGS = ("system_prompt", "assistant_instructions")


def require_text(name: str, text: str) -> None:
    """Raise ValueError if `text` was not UTF-8 or has control characters; NUL alone in multi-line settings."""
    if name in HEADER_SETTINGS:
        return
    if re.search(r"[\ud800-\udfff]", text):
        raise ValueError(f"{name.upper()}: must be text in UTF-8")
    if re.search(r"\x00" if name in MULTILINE_SETTINGS else r"[\x00-\x1f\x7f-\x9f]", text):
        raise ValueError(f"{name.upper()}: must have no control characters")
