"""Errors in OpenAI's format, so that its packages raise their own exceptions, and what is refused by name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from server.errors import AppError, BudgetExhausted, ConversationBusy, InvalidRequest, NotFound, RateLimited, Refused

NOT_OFFERED = {
    "tool_resources": "this server keeps no files",
    "attachments": "this server keeps no files",
    "max_prompt_tokens": "use truncation_strategy to send fewer messages",
    "file_search": "of tools there are functions only",
    "code_interpreter": "of tools there are functions only",
    "image_url": "messages have text only",
    "image_file": "messages have text only",
}
"""Features of OpenAI's API that this server does not have, each with the reason that a caller reads."""

FIELDS = ("tool_resources", "attachments", "max_prompt_tokens")
"""Those of `NOT_OFFERED` that are fields of a body. The others are types of tools and of parts of a message."""

TYPES: Mapping[type[AppError], str] = {RateLimited: "rate_limit_exceeded", BudgetExhausted: "insufficient_quota"}
"""The types of errors that programs for OpenAI look for."""


def error_body(error: AppError) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    kind = "invalid_request_error" if isinstance(error, Refused) else "server_error"
    kind = TYPES.get(type(error), kind)
    return {"error": {"message": str(error), "type": kind, "param": None, "code": error.code}}


@contextmanager
def not_found_as(kind: str) -> Iterator[None]:
    """Name the `kind` of object in a NotFound, because an address can have several ids."""
    try:
        yield
    except NotFound:
        raise NotFound(f"No {kind} found with that id.") from None


@contextmanager
def busy_as_invalid_request(advice: str) -> Iterator[None]:
    """Raise InvalidRequest (400) for ConversationBusy, because OpenAI's packages repeat a request after 409 and 429."""
    try:
        yield
    except ConversationBusy:
        raise InvalidRequest(f"This thread has an active run: {advice} when it has ended, or cancel it.") from None


def require_offered(body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest if `body` has a field or a tool that is not offered. A field without a value is allowed."""
    fields = [name for name in FIELDS if body.get(name)]
    choice = body.get("tool_choice")
    tools = [*(body.get("tools") or ()), *([choice] if isinstance(choice, dict) else [])]
    for name in [*fields, *(tool["type"] for tool in tools)]:
        require_offered_feature(name)


def require_offered_feature(name: str) -> None:
    """Raises InvalidRequest if `name` is a feature that is not offered."""
    if name in NOT_OFFERED:
        raise InvalidRequest(f"{name} is not offered: {NOT_OFFERED[name]}. Leave it out.")
