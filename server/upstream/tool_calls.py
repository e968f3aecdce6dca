"""The calls of functions in a reply, put together from the pieces in which servers send them."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from server.domain import ToolCall
from server.errors import UpstreamBadReply
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
        earlier = list(self._calls)
        for part in parts if isinstance(parts, list) else [parts]:
            if not isinstance(part, dict):
                raise UpstreamBadReply
            self._add(part, earlier)

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

    def _add(self, part: Mapping[str, Any], earlier: Sequence[_Call]) -> None:
        """Take in one part, which may go on with one of the `earlier` calls."""
        function = part.get("function")
        function = function if isinstance(function, dict) else part
        call_id, name = _word(part.get("id")), _word(function.get("name"))
        arguments = _json_text(function.get("arguments"))
        call = _continued(earlier, part.get("index"), call_id, name, arguments)
        if call is None:
            call = _Call(part.get("index"))
            self._calls.append(call)
        call.id = call.id or call_id
        call.name = call.name or name
        call.arguments += arguments
        for key, value in part.items():
            if key not in KNOWN and function is not part:
                call.extra[key] = value


def _continued(earlier: Sequence[_Call], index: Any, call_id: str, name: str, arguments: str) -> _Call | None:
    """The call that a part goes on with; None if it begins another.

    Some servers give all calls the same index, or none; some repeat id and name with each part; some give no ids.
    """
    newest_first = [each for each in reversed(earlier) if index is None or each.index == index]
    call = next((each for each in newest_first if call_id and each.id == call_id), None)
    if call is None:
        if not newest_first or (call_id and (newest_first[0].id or index is None)):
            return None
        call = newest_first[0]
    if name and call.name and name != call.name:
        return None
    # One that is whole goes on with nothing but an empty part.
    return None if call.has_arguments and (arguments or (name and not call_id)) else call


def _word(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    raise UpstreamBadReply


def _json_text(arguments: Any) -> str:
    """Arguments are JSON in a string; some servers send the object itself, or nothing."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return orjson.dumps(mended(arguments)).decode()
