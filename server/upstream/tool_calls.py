"""Assembles the tool calls of a reply from the pieces in which servers send them."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from server.domain import ToolCall
from server.errors import UpstreamBadReply
from server.upstream.lenient_json import loads, repair

CALL_FIELDS = ("index", "id", "type", "function")
"""The fields of a call that are read. Other fields are kept and sent back with its output."""


@dataclass(slots=True)
class _Call:
    index: Any
    id: str = ""
    name: str = ""
    arguments: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def has_arguments(self) -> bool:
        """Whether the arguments are complete JSON."""
        try:
            loads(self.arguments.encode("utf-8", "surrogatepass"))
        except ValueError:
            return False
        return True


class ToolCalls:
    """Collects the `tool_calls` of each message or delta, in order."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, message: Mapping[str, Any]) -> None:
        """Add the calls of a message or delta, if any. Raises UpstreamBadReply if they are malformed."""
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
        """The calls, each with a unique id and arguments, `{}` if there were none.

        Raises UpstreamBadReply if a call has no name.
        """
        seen: set[str] = set()
        found = []
        for call in self._calls:
            if not call.name:
                raise UpstreamBadReply
            if not call.id or call.id in seen:
                call.id = f"call_{secrets.token_hex(12)}"
            seen.add(call.id)
            arguments = repair(call.arguments.strip()) or "{}"
            found.append(ToolCall(repair(call.id), repair(call.name), arguments, extra=repair(call.extra)))
        return tuple(found)

    def _add(self, part: Mapping[str, Any], earlier: Sequence[_Call]) -> None:
        """Add one part: to one of the `earlier` calls that it continues, else as a new call."""
        function = part.get("function")
        function = function if isinstance(function, dict) else part
        call_id, name = _require_str(part.get("id")), _require_str(function.get("name"))
        arguments = _dump_arguments(function.get("arguments"))
        call = _find_continued(earlier, part.get("index"), call_id, name, arguments)
        if call is None:
            call = _Call(part.get("index"))
            self._calls.append(call)
        call.id = call.id or call_id
        call.name = call.name or name
        call.arguments += arguments
        for key, value in part.items():
            if key not in CALL_FIELDS and function is not part:
                call.extra[key] = value


def _find_continued(earlier: Sequence[_Call], index: Any, call_id: str, name: str, arguments: str) -> _Call | None:
    """The call that a part continues; None if it begins another.

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
    # A call with complete arguments is continued by an empty part only.
    return None if call.has_arguments and (arguments or (name and not call_id)) else call


def _require_str(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    raise UpstreamBadReply


def _dump_arguments(arguments: Any) -> str:
    """The arguments as JSON in a string; some servers send the object itself, or nothing."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return orjson.dumps(repair(arguments)).decode()
