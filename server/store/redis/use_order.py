"""The index of the listed conversations: the sorted set `listed:`, of names by the time of their last use.

It may be on another node than a conversation, so these rules keep the two together:

- A conversation's entry is written before the conversation, and deleted after it. So none is without an entry.
- A call that touches a conversation moves the entry afterwards, in the same round trip, and never back. The
  conversation's `touched` never moves back either. So both end as the latest time, in whichever order the calls came.
- Whatever may have left the two different is followed by `settle`; so is any difference that a reader of the index
  finds, since a process may end in between.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from server.domain import ConversationEntry
from server.store.redis.caller import BATCH, ScriptCaller, tag_of
from server.store.redis.client import RedisClient
from server.store.redis.commands import Command, evalsha
from server.store.redis.serializers import load_conversation

LISTED = "listed:"
"""The key of the index."""


class UseOrder:
    """Writes and reads the index."""

    def __init__(self, redis: RedisClient, scripts: ScriptCaller) -> None:
        self._redis = redis
        self._scripts = scripts

    def add(self, name: str, now: float) -> Command:
        """The command that writes the entry of a conversation that is about to be listed."""
        return ("ZADD", LISTED, "NX", now, name)

    def move(self, name: str, now: float, *, is_new: bool = False) -> Command:
        """The command that moves an entry after a script that touched its conversation.

        A conversation without an entry is unlisted. But the entry of a new one is written again: a reader that did not
        find the conversation yet may have deleted it.
        """
        return evalsha("move_entry", LISTED, *(() if is_new else ("XX",)), "GT", now, name)

    def settle(self, *names: str) -> None:
        """Make entries agree with their conversations."""
        # A conversation that is touched after its second reading has its entry moved after that too.
        written: dict[str, float | None] = {}
        found = self._read_times(names)
        while found:
            written = found
            found = {name: touched for name, touched in self._write(found).items() if touched != written[name]}

    def list_entries(self, before: tuple[float, str] | None, most: int) -> list[ConversationEntry]:
        """As `Store.list_conversations`."""
        entries: list[ConversationEntry] = []
        while len(entries) < most:
            wanted = min(most - len(entries), BATCH)
            (flat,) = self._redis.ask(evalsha("list_names", LISTED, wanted, *(before or ())))
            found = [(float(touched), name.decode()) for name, touched in zip(flat[::2], flat[1::2], strict=True)]
            answers = self._scripts.ask_all([self._read(name) for _, name in found])
            for (touched, name), answer in zip(found, answers, strict=True):
                entry = None if answer is None else load_entry(name, answer)
                if entry is None or entry.conversation.touched != touched:
                    self.settle(name)
                elif not answer[2]:  # It has not expired.
                    entries.append(entry)
            if len(found) < wanted:
                break
            before = found[-1]
        return entries

    def read_entries(self, names: Sequence[str]) -> list[ConversationEntry]:
        """As `Store.read_entries`."""
        answers = self._scripts.ask_all([self._read(name) for name in names])
        return [load_entry(name, each) for name, each in zip(names, answers, strict=True) if each and not each[2]]

    def list_names(self) -> Iterator[list[str]]:
        """All names, in batches. One that is listed or deleted meanwhile may be missed."""
        seen: set[str] = set()
        cursor = b"0"
        while True:
            cursor, flat = self._redis.ask(evalsha("scan_names", LISTED, cursor))[0]
            names = {name.decode() for name in flat[::2]} - seen
            seen |= names
            yield sorted(names)
            if cursor == b"0":
                return

    def _read(self, name: str) -> Command:
        return self._scripts.command("get_entry", tag_of(name))

    def _read_times(self, names: Sequence[str]) -> dict[str, float | None]:
        """When each was touched; None if it is not listed."""
        answers = self._scripts.ask_all([self._read(name) for name in names])
        return {name: _touched(name, answer) for name, answer in zip(names, answers, strict=True)}

    def _write(self, times: dict[str, float | None]) -> dict[str, float | None]:
        """Write entries with these times, and delete those without. Returns what the conversations say afterwards."""
        commands: list[Command] = []
        for name, touched in times.items():
            write = ("ZREM", LISTED, name) if touched is None else evalsha("move_entry", LISTED, touched, name)
            commands += [write, self._read(name)]
        answers = self._scripts.ask_all(commands)[1::2]
        return {name: _touched(name, answer) for name, answer in zip(times, answers, strict=True)}


def load_entry(name: str, answer: Sequence[Any]) -> ConversationEntry:
    """An entry from the answer of the script `get_entry`."""
    values, status, _ = answer
    return ConversationEntry(load_conversation(name, values), None if status is None else status.decode())


def _touched(name: str, answer: Sequence[Any] | None) -> float | None:
    return None if answer is None else load_entry(name, answer).conversation.touched
