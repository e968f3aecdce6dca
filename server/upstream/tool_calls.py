"""The calls of functions in a reply, put together from the pieces in which servers send them."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from server.errors import UpstreamBadReply
from server.model import ToolCall
from server.upstream.lenient_json import loads, mended

KNOWN = ("index", "id", "type", "function")
"""What a call is made of; whatever else stands in one is sent back with its output."""


@dataclass(slots=True)
class _Call:
    index: Any
    id: str = ""
    name: str = ""
    arguments: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def has_arguments(self) -> bool:
        """Whether they are whole."""
        try:
            loads(self.arguments.encode("utf-8", "surrogatepass"))
        except ValueError:
            return False
        return True


class ToolCalls:
    """Takes the `tool_calls` of each message or delta, in order."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, message: Mapping[str, Any]) -> None:
        """Raises UpstreamBadReply if what is there is no list of calls."""
        parts = message.get("tool_calls") or []
        legacy = message.get("function_call")
        if legacy and not parts:
            parts = [{"index": 0, "function": legacy}]
        for part in parts if isinstance(parts, list) else [parts]:
            if not isinstance(part, Mapping):
                raise UpstreamBadReply
            self._add(part)

    def finish(self) -> tuple[ToolCall, ...]:
        """The calls, each with an id of its own and JSON as arguments. Raises UpstreamBadReply if one has no name."""
        seen: set[str] = set()
        found = []
        for call in self._calls:
            if not call.name:
                raise UpstreamBadReply
            if not call.id or call.id in seen:
                call.id = f"call_{secrets.token_hex(12)}"
            seen.add(call.id)
            arguments = mended(call.arguments.strip()) or "{}"
            found.append(ToolCall(mended(call.id), mended(call.name), arguments, extra=mended(call.extra)))
        return tuple(found)

    def _add(self, part: Mapping[str, Any]) -> None:
        function = part.get("function")
        function = function if isinstance(function, Mapping) else part
        call_id, name = _word(part.get("id")), _word(function.get("name"))
        call = self._earlier(part.get("index"), call_id, name)
        if call is None:
            call = _Call(part.get("index"))
            self._calls.append(call)
        call.id = call.id or call_id
        call.name = call.name or name
        call.arguments += _json_text(function.get("arguments"))
        for key, value in part.items():
            if key not in KNOWN and function is not part:
                call.extra[key] = value

    def _earlier(self, index: Any, call_id: str, name: str) -> _Call | None:
        """The call that a part with these continues; None for a new one.

        Some servers give all calls the same index, or none; some repeat id and name with each part; some give no ids.
        """
        if call_id:
            for call in reversed(self._calls):
                if call.id == call_id and (index is None or call.index == index):
                    return call
        newest = next((each for each in reversed(self._calls) if index is None or each.index == index), None)
        if newest is None or (call_id and (newest.id or index is None)):
            return None
        is_another = name and newest.name and (name != newest.name or newest.has_arguments)
        return None if is_another else newest


def _word(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    raise UpstreamBadReply


def _json_text(arguments: Any) -> str:
    """Arguments are JSON in a string; some servers send the object itself, or nothing."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return orjson.dumps(mended(arguments)).decode()
