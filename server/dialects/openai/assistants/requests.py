"""What a run is asked with: a request's words and its assistant's, as the core has them."""

from collections.abc import Iterable, Mapping
from typing import Any

from server.dialects.openai.assistants.objects import RUN_DEFAULTS
from server.dialects.openai.errors import refuse, require_offered
from server.domain import Run, RunOptions
from server.errors import InvalidRequest

INHERITED = ("instructions", "tools", "temperature", "top_p", "response_format", "reasoning_effort")
"""What a run has from its assistant where its request says nothing of it."""

PARAMETERS = ("temperature", "top_p", "max_completion_tokens", "reasoning_effort")
"""Sent upstream as they are."""


def draft(
    thread_id: str,
    asked: Mapping[str, Any],
    assistant: Mapping[str, Any],
    model: str,
    *,
    question: str = "",
    request_id: str | None = None,
) -> Run:
    """The run that `asked` wants; it answers the thread as it is, or `question`, where one is given.

    Raises InvalidRequest where it wants what is not offered, or what does not go together.
    """
    require_offered(asked)
    details = RUN_DEFAULTS | _pick(assistant, INHERITED) | _pick(asked, RUN_DEFAULTS)
    more = asked.get("additional_instructions")
    details["instructions"] = "\n".join(part for part in (details["instructions"], more) if part)
    details |= {"assistant_id": assistant["id"], "model": model}
    options = RunOptions(
        model=model,
        system_prompt=details["instructions"] or None,
        parameters=_parameters(details),
        last_messages=_last_messages(details["truncation_strategy"]),
        details=details,
    )
    return Run(question, request_id, conversation=thread_id, options=options)


def messages(asked: Iterable[Mapping[str, Any]] | None, most_characters: int) -> list[dict[str, Any]]:
    """Messages as the core takes them. Raises InvalidRequest where one has what is not offered, or is too long."""
    return [message(each, most_characters) for each in asked or ()]


def message(asked: Mapping[str, Any], most_characters: int) -> dict[str, Any]:
    require_offered(asked)
    content = _text(asked["content"])
    if len(content) > most_characters:
        raise InvalidRequest(f"content must have at most {most_characters} characters.")
    return {"role": asked["role"], "content": content, "metadata": asked.get("metadata")}


def _text(content: str | list[dict[str, Any]]) -> str:
    """A message is one text: several parts stand on lines of their own."""
    if isinstance(content, str):
        return content
    for part in content:
        refuse(part["type"])
    return "\n".join(part["text"] for part in content)


def _pick(words: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: words[name] for name in names if words.get(name) is not None}


def _parameters(details: Mapping[str, Any]) -> dict[str, Any]:
    parameters = _pick(details, PARAMETERS)
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


def _last_messages(strategy: Mapping[str, Any]) -> int | None:
    most: int | None = strategy["last_messages"] if strategy["type"] == "last_messages" else None
    return most
