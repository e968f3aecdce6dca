"""The bodies of requests, with the settings of the assistant, as runs and messages of the core."""

from collections.abc import Iterable, Mapping
from typing import Any

from server.dialects.openai.assistants.objects import RUN_DEFAULTS
from server.dialects.openai.errors import require_offered, require_offered_feature
from server.domain import Run, RunOptions
from server.errors import InvalidRequest

INHERITED = ("instructions", "tools", "temperature", "top_p", "response_format", "reasoning_effort")
"""Fields that a run has from its assistant if the request does not set them."""

PARAMETERS = ("temperature", "top_p", "max_completion_tokens", "reasoning_effort")
"""Sent upstream unchanged."""


def draft_run(
    thread_id: str,
    body: Mapping[str, Any],
    assistant: Mapping[str, Any],
    model: str,
    *,
    question: str = "",
    request_id: str | None = None,
) -> Run:
    """The run that `body` describes. Without `question` it answers the thread as it is.

    Raises InvalidRequest if `body` has what is not offered, or a `tool_choice` that does not fit the tools.
    """
    require_offered(body)
    details = RUN_DEFAULTS | _pick(assistant, INHERITED) | _pick(body, RUN_DEFAULTS)
    additional = body.get("additional_instructions")
    details["instructions"] = "\n".join(part for part in (details["instructions"], additional) if part)
    details |= {"assistant_id": assistant["id"], "model": model}
    options = RunOptions(
        model=model,
        system_prompt=details["instructions"] or None,
        parameters=_build_parameters(details),
        last_messages=_parse_last_messages(details["truncation_strategy"]),
        details=details,
    )
    return Run(question, request_id, conversation=thread_id, options=options)


def parse_messages(bodies: Iterable[Mapping[str, Any]] | None, max_characters: int) -> list[dict[str, Any]]:
    """Messages as the core takes them. Raises InvalidRequest if one has what is not offered, or is too long."""
    return [parse_message(body, max_characters) for body in bodies or ()]


def parse_message(body: Mapping[str, Any], max_characters: int) -> dict[str, Any]:
    require_offered(body)
    content = _join_parts(body["content"])
    if len(content) > max_characters:
        raise InvalidRequest(f"content must have at most {max_characters} characters.")
    return {"role": body["role"], "content": content, "metadata": body.get("metadata")}


def _join_parts(content: str | list[dict[str, Any]]) -> str:
    """The content as one text, because a message has no parts here: each part begins on a line of its own."""
    if isinstance(content, str):
        return content
    for part in content:
        require_offered_feature(part["type"])
    return "\n".join(part["text"] for part in content)


def _pick(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: fields[name] for name in names if fields.get(name) is not None}


def _build_parameters(details: Mapping[str, Any]) -> dict[str, Any]:
    parameters = _pick(details, PARAMETERS)
    if "max_completion_tokens" in parameters:
        parameters["max_completion_tokens"] = int(parameters["max_completion_tokens"])  # It may be 10.0.
    if details["response_format"] != "auto":
        parameters["response_format"] = details["response_format"]
    tools, choice = details["tools"], details["tool_choice"]
    functions = {tool["function"]["name"] for tool in tools}
    if (choice == "required" and not tools) or (
        isinstance(choice, dict) and choice["function"]["name"] not in functions
    ):
        raise InvalidRequest("tool_choice demands a function that is not among the tools of this run.")
    if tools:
        parameters["tools"] = tools
        parameters |= {} if choice == "auto" else {"tool_choice": choice}
        parameters |= {} if details["parallel_tool_calls"] else {"parallel_tool_calls": False}
    return parameters


def _parse_last_messages(strategy: Mapping[str, Any]) -> int | None:
    """How many messages of the history are sent at most; None for as many as the server allows."""
    limit = strategy["last_messages"] if strategy["type"] == "last_messages" else None
    return None if limit is None else int(limit)
