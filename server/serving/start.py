"""Checks at start: combinations of settings that are refused, and those that are warned of."""

from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches

from server.charges import REPLY_TOKENS
from server.environment import find_repeated_names, read_dotenv
from server.settings import Settings

SIMILARITY = 0.8
"""Of a misspelt name; `RENDER_EXTERNAL_HOSTNAME`, which Render sets beside its URL, has 0.74."""


def read_settings() -> Settings:
    """The settings. Raises SystemExit with a sentence for the operator if one does not fit."""
    try:
        return Settings.read()
    except ValueError as problem:
        raise SystemExit(f"The server cannot start. {problem}") from None


def require_shared_store(settings: Settings, workers: int) -> None:
    """Raises SystemExit if several workers would use the memory store, of which each process has its own.

    `workers` is gunicorn's number: an argument of gunicorn overrides WEB_CONCURRENCY.
    """
    if workers > 1 and settings.effective_store_url.partition(":")[0] == "memory":
        raise SystemExit(
            "The server cannot start: the memory store holds for one process. "
            "Set WEB_CONCURRENCY=1 (and no --workers), or choose a shared store with STORE_URL."
        )


def require_protection(settings: Settings) -> None:
    """Raises SystemExit if the server has a public address and is open, unless the operator says that it is meant."""
    if settings.sites and not settings.admin_key and not settings.allow_open:
        raise SystemExit(
            "The server cannot start: it has a public address (PUBLIC_URL or RENDER_EXTERNAL_URL) and is open to "
            "anybody, at your cost. Set ADMIN_KEY, which `openssl rand -hex 32` makes, or say ALLOW_OPEN=true."
        )


def warnings(settings: Settings) -> list[str]:
    """Sentences for the log about settings that are allowed, but seldom meant."""
    found = []
    if settings.ignores_database_url and not settings.store_url:
        found.append("DATABASE_URL is no SQLite file and is ignored; STORE_URL says where conversations live.")
    addresses = settings.openai_base_url or settings.llm_server_url
    if settings.upstream == "openai" and not (settings.openai_api_key or addresses):
        found.append(
            "No model is set, so every question is refused: set OPENAI_API_KEY, OPENAI_BASE_URL or UPSTREAM=scripted."
        )
    if not settings.admin_key:
        found.append(
            "This server is OPEN: anybody who reaches it can ask, read and delete. Set ADMIN_KEY to protect it."
        )
    elif settings.effective_store_url.partition(":")[0] == "memory":
        found.append(
            "The keys of clients are in the memory store and vanish at a restart, as the conversations do. "
            "STORE_URL=sqlite:///chatbot.db keeps both."
        )
    reply_tokens = settings.default_max_tokens or REPLY_TOKENS
    if settings.daily_token_budget is not None and settings.daily_token_budget <= reply_tokens:
        found.append(
            f"DAILY_TOKEN_BUDGET={settings.daily_token_budget} is too little for a question that does not limit its "
            f"reply, for which {reply_tokens} tokens are reserved: set a lower DEFAULT_MAX_TOKENS, or a higher budget."
        )
    if settings.upstream == "scripted":
        found.append("UPSTREAM=scripted: this is a DEMONSTRATION. No model is asked; every reply says so.")
    return found


def dotenv_warnings() -> list[str]:
    """Sentences for the log about names in the file `.env`."""
    repeated = [
        f"The file .env sets {name} more than once, and the last line counts; remove the others."
        for name in find_repeated_names()
    ]
    misspelt = [
        f"The file .env has {name}, which is no setting; write {setting} if that is meant."
        for name, setting in find_misspelt(read_dotenv()).items()
    ]
    return repeated + misspelt


def find_misspelt(names: Iterable[str]) -> dict[str, str]:
    """The names that no setting has and that resemble one, each with the name of that setting."""
    known = [each.name.upper() for each in fields(Settings)]
    similar = {name: get_close_matches(name.upper(), known, 1, SIMILARITY) for name in names if name not in known}
    return {name: found[0] for name, found in similar.items() if found}
