"""The index of owners: the set `owned:OWNER`, of the names of all its conversations, listed or not.

It may be on another node than a conversation. So whoever creates a conversation writes its entry before and after, and
whoever has deleted one removes its entry, looks whether it was created again meanwhile, and writes the entry if so.
"""

from collections.abc import Sequence

import orjson

from server.store.limits import Holdings
from server.store.redis.caller import ScriptCaller, tag_of
from server.store.redis.commands import Command
from server.store.redis.serializers import load_conversation


class Owners:
    def __init__(self, scripts: ScriptCaller) -> None:
        self._scripts = scripts

    def list_names(self, owner: str) -> list[str]:
        """As `Store.list_owned`."""
        (members,) = self._scripts.ask_all([("SMEMBERS", _key(owner))])
        return self._find_owned([(owner, each.decode()) for each in members])

    def measure(self, owner: str) -> Holdings:
        """As `Store.measure_owner`. The bytes are those that Redis takes for the messages, by a sample of them."""
        if not owner:
            return Holdings(0, 0, 0, 0)
        names = set(self.list_names(owner))
        if self._scripts.ask("get_conversation", owner) is not None:
            names.add(owner)
        tags = [tag_of(name) for name in names]
        answers = [
            self._scripts.ask_all([("LLEN", f"{tag}:messages") for tag in tags]),
            self._scripts.ask_all([("MEMORY", "USAGE", f"{tag}:messages") for tag in tags]),
            self._scripts.ask_all([self._scripts.command("count_open_runs", tag) for tag in tags]),
        ]
        messages, size, open_runs = (sum(each or 0 for each in one) for one in answers)
        return Holdings(len(tags), messages, size, open_runs)

    def remove(self, entries: Sequence[bytes]) -> None:
        """Remove the entries of deleted conversations, as `dump_owner` wrote them."""
        gone = [(owner, name) for owner, name in map(orjson.loads, entries)]
        self._scripts.ask_all([("SREM", _key(owner), name) for owner, name in gone])
        again = set(self._find_owned(gone))
        self._scripts.ask_all([add_owned(owner, name) for owner, name in gone if name in again])

    def _find_owned(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """The names of those conversations that belong to the owner beside them."""
        answers = self._scripts.ask_all([self._scripts.command("get_conversation", tag_of(name)) for _, name in pairs])
        return [
            name
            for (owner, name), values in zip(pairs, answers, strict=True)
            if values is not None and load_conversation(name, values).owner == owner
        ]


def add_owned(owner: str, name: str) -> Command:
    """The command that writes the entry of a conversation."""
    return ("SADD", _key(owner), name)


def dump_owner(owner: str, name: str) -> bytes:
    """The owner as the scripts keep it; empty without one."""
    return orjson.dumps([owner, name]) if owner else b""


def _key(owner: str) -> str:
    return f"owned:{owner}"
