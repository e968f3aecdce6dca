"""Keys and clients, for the administrator of a protected server; and what a key opens, for its holder."""

from dataclasses import asdict
from typing import Any

from flask import Blueprint

from server.core import Core
from server.core.usage import report_usage
from server.domain import rfc3339
from server.http.contract import Contract
from server.http.errors import register_error_handlers

TIMES = {"created": "created_at", "expires": "expires_at"}


def blueprint(contract: Contract, core: Core) -> Blueprint:
    bp = Blueprint("access", __name__)
    register_error_handlers(bp)

    @contract.serves(bp, "createApiKey")
    def create_key(body: dict[str, Any]) -> dict[str, Any]:
        limits = [body.get(name) for name in ("expires_in_days", "rate_limit", "daily_token_budget")]
        key, text = core.clients.create_key(body["client_name"], *limits)
        return {"key": text, **_dump_key(asdict(key))}

    @contract.serves(bp, "listApiKeys")
    def list_keys() -> dict[str, Any]:
        return {"keys": [_dump_key(asdict(each)) for each in core.clients.list_keys()]}

    @contract.serves(bp, "deleteApiKey")
    def delete_key(key_id: str) -> dict[str, Any]:
        core.clients.delete_key(key_id)
        return {"message": "The key is deleted; it opens nothing from now on."}

    @contract.serves(bp, "getCaller")
    def get_caller() -> dict[str, Any]:
        return {"client_name": core.caller.scope, "is_admin": core.caller.is_admin}

    @contract.serves(bp, "getUsage")
    def get_usage(client_name: str | None, since: str | None, until: str | None) -> dict[str, Any]:
        return report_usage(core.clients.list_usage, client_name, since, until)

    @contract.serves(bp, "deleteClient")
    def delete_client(client_name: str) -> dict[str, Any]:
        return {"client_name": client_name, "deleted": asdict(core.clients.delete(client_name))}

    return bp


def _dump_key(key: dict[str, Any]) -> dict[str, Any]:
    """A key without its digest, and without the fields that it has not."""
    known = {name: value for name, value in key.items() if value is not None and name != "digest"}
    return {TIMES.get(name, name): rfc3339(value) if name in TIMES else value for name, value in known.items()}
