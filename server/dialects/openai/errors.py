"""Failures in OpenAI's shape, so that its packages raise their own exceptions, and what is refused by name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from server.errors import AppError, ConversationBusy, InvalidRequest, NotFound, Refused

NOT_OFFERED = {
    "tool_resources": "this server keeps no files",
    "attachments": "this server keeps no files",
    "max_prompt_tokens": "use truncation_strategy to send fewer messages",
    "file_search": "of tools there are functions only",
    "code_interpreter": "of tools there are functions only",
    "image_url": "messages have text only",
    "image_file": "messages have text only",
}
"""What OpenAI's API has and this server has not, and why."""


def error_body(problem: AppError) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    kind = "invalid_request_error" if isinstance(problem, Refused) else "server_error"
    return {"error": {"message": str(problem), "type": kind, "param": None, "code": problem.code}}


@contextmanager
def not_found_as(what: str) -> Iterator[None]:
    """Tell what it was that is not found: an address has several ids."""
    try:
        yield
    except NotFound:
        raise NotFound(f"No {what} found with that id.") from None


@contextmanager
def refused_while_a_run_is_open(what: str) -> Iterator[None]:
    """A conflict is a 400 here, since OpenAI's packages repeat what is answered with 409 or 429."""
    try:
        yield
    except ConversationBusy:
        raise InvalidRequest(f"This thread has an active run: {what} when it has ended, or cancel it.") from None


def require_offered(asked: Mapping[str, Any]) -> None:
    """Raises InvalidRequest where `asked` has what is not offered; without a value it is nothing."""
    fields = [name for name in ("tool_resources", "attachments", "max_prompt_tokens") if asked.get(name)]
    choice = asked.get("tool_choice")
    tools = [*(asked.get("tools") or ()), *([choice] if isinstance(choice, dict) else [])]
    for name in [*fields, *(tool["type"] for tool in tools)]:
        refuse(name)


def refuse(name: str) -> None:
    """Raises InvalidRequest where `name` is one of those that are not offered."""
    if name in NOT_OFFERED:
        raise InvalidRequest(f"{name} is not offered: {NOT_OFFERED[name]}. Leave it out.")
