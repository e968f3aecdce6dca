"""The Redis store: shared by any number of machines, and as durable as that Redis is.

TAG is `{SHA-256 of the name}`. A conversation has these keys, which are on one node of a Cluster: `TAG`, a hash of its
own fields, of which each setting is one; `TAG:messages`; `TAG:runs` and `TAG:open_runs`, the ids of all runs and of the
open ones, oldest first; `TAG:run:ID` for each run, and `TAG:text:ID` until it has ended; `TAG:request:REQUEST_ID` for
each request id of the last day; `TAG:usage`, unless it is unlisted; and `TAG:outbox` while something is left to do on
other nodes. These keys may be on any node: `run:ID`, the tag of each run's conversation; `expiring`, the tags of
conversations with a time limit, by when the next sweep has to look at them; `listed:`, the names of the listed
conversations by the time of their last use; `owned:OWNER`, the names of all conversations of an owner;
`{unlisted}:usage`, the usage of all others, and, for each entry that was added to that within the last hour,
`{unlisted}:usage:added:ID`; `records:KIND`; and those of `limits.py`.

The text of a run whose reply is in the history is stored in that message only. If the message is deleted, also because
the turn is replaced, the run gets the text back.

The client repeats a call whose answer was lost. So every script that writes carries an id of its call, or recognises
its own earlier writes.
"""

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import orjson

from server.domain import Conversation, ConversationEntry, DailyUsage, Message, Run, Status
from server.errors import NotFound, RateLimited, RunExists, StoreUnavailable, TooManyRecords
from server.store.limits import NO_LIMITS, RunLimits
from server.store.protocol import (
    DEFAULT_OPTIONS,
    NO_CONTEXT_STARTS,
    RECENT_MESSAGES,
    SWEEP_SECONDS,
    CreatedRun,
    CreateOptions,
)
from server.store.redis import arguments
from server.store.redis.caller import ScriptCaller, tag_of
from server.store.redis.client import RedisClient
from server.store.redis.commands import Argument, Command, evalsha
from server.store.redis.expiry import Expiry
from server.store.redis.indexed_writes import LIMITED, REFUSALS, IndexedWrites
from server.store.redis.limits import RunLimiter, settle
from server.store.redis.listener import RedisListener
from server.store.redis.owners import Owners
from server.store.redis.serializers import dump_message, load_conversation, load_message, load_run, message_head
from server.store.redis.usage import dump_usage, list_usage
from server.store.redis.use_order import UseOrder
from server.store.rules import as_abandoned

T = TypeVar("T")


class RedisStore:
    """A Store for any number of processes, whose clocks agree to within a small part of `lease_seconds`.

    Raises ValueError if `url` cannot be parsed. It connects at the first call.
    """

    is_durable = True

    def __init__(
        self, url: str, lease_seconds: float, clock: Callable[[], float] = time.time, *, max_records: int = 10_000
    ) -> None:
        self._redis = RedisClient(url)
        self._listener = RedisListener(self._redis)
        self._scripts = ScriptCaller(self._redis, clock, lease_seconds)
        self._use_order = UseOrder(self._redis, self._scripts)
        owners = Owners(self._scripts)
        self.list_owned, self.measure_owner = owners.list_names, owners.measure
        self._expiry = Expiry(self._redis, clock, self._scripts, self._use_order, owners)
        self._writes = IndexedWrites(self._redis, clock, self._scripts, self._use_order, self._expiry)
        self._limits = RunLimiter(self._redis, clock, self._scripts, lease_seconds)
        self._max_records = max_records
        self._clock = clock
        self._rest: Callable[[], None] = lambda: time.sleep(0)
        self._lost_starts: dict[str, str] = {}
        """The call id of each `start_run` whose answer was lost, by the run's id."""

    def get_conversation(self, name: str) -> Conversation | None:
        values = self._ask("get_conversation", name)
        return None if values is None else load_conversation(name, values)

    def create_conversation(
        self,
        name: str,
        seconds: float | None,
        metadata: Mapping[str, Any],
        messages: Sequence[Message] = (),
        *,
        owner: str = "",
        is_unlisted: bool = False,
        is_importing: bool = False,
    ) -> Conversation:
        # In this order: a sweep removes a tag without a conversation, but never finds a conversation without its tag.
        schedule = [] if seconds is None else [("ZADD", "expiring", self._clock() + seconds, tag_of(name))]
        fields = "" if seconds is None else seconds, orjson.dumps(metadata), secrets.token_hex(8)
        rest = *fields, int(is_importing), arguments.first_excerpt(messages), *map(dump_message, messages)
        listed = "" if is_unlisted else name
        _, conversation = self._writes.create(
            "create_conversation", name, *rest, first=schedule, listed=listed, owner=owner, is_unlisted=is_unlisted
        )
        return _require(conversation)

    def touch(self, name: str) -> bool:
        answer = self._ask("touch", name)
        if answer == b"touched":
            self._use_order.settle(name)
        return answer is not None

    def update_conversation(
        self, name: str, changes: Mapping[str, Any], *, create: bool = True, owner: str = ""
    ) -> Conversation:
        rest = int(create), secrets.token_hex(8), *arguments.of_update(changes)
        return _require(self._writes.create("update_conversation", name, *rest, owner=owner)[1])

    def list_conversations(self, before: tuple[float, str] | None, most: int) -> Sequence[ConversationEntry]:
        return self._use_order.list_entries(before, most)

    def read_entries(self, names: Sequence[str]) -> Sequence[ConversationEntry]:
        return self._use_order.read_entries(names)

    def create_run(
        self, name: str, run: Run, options: CreateOptions = DEFAULT_OPTIONS, *, waiting: int, start: bool
    ) -> CreatedRun:
        self._listener.open(self._scripts.worker)
        run = replace(run, conversation=name)
        attempt = self._limits.begin(run, options.limits)
        only_join = attempt.refusal is not None
        rest = arguments.of_new_run(tag_of(name), run, options, waiting=waiting, start=start, only_join=only_join)
        first = [("SET", f"run:{run.id}", tag_of(name)), *attempt.commands]
        (_, *taken, answer), conversation = self._writes.create(
            "create_run", name, *rest, first=first, more_keys=attempt.keys, touches=True, owner=options.owner
        )
        self._limits.read(attempt, run, options.limits, taken)
        is_new = conversation is not None and answer[1] == 1
        if not is_new:
            self._redis.ask(("UNLINK", f"run:{run.id}"))
            self._limits.give_back(run, options.limits)
        if answer == LIMITED and not self._limits.may_try_again(attempt, run):
            raise attempt.refusal or RateLimited
        if answer == LIMITED:
            return self.create_run(name, run, options, waiting=waiting, start=start)
        if conversation is None:
            raise REFUSALS[answer]
        # The last value is the status of a run that was just created, or all values of an existing run.
        is_status = isinstance(answer[2], bytes)
        answering = replace(run, status=answer[2].decode()) if is_status else load_run(answer[2])
        return CreatedRun(answering, conversation, is_new, attempt.state if is_new else None)

    def start_run(self, name: str, run_id: str) -> Conversation | None:
        call_id = self._lost_starts.pop(run_id, None) or secrets.token_hex(8)
        try:
            values = self._ask("start_run", name, run_id, call_id)
        except StoreUnavailable:
            self._lost_starts[run_id] = call_id
            raise
        return None if values is None else load_conversation(name, values)

    def append_text(self, name: str, run_id: str, at: int, text: str) -> bool:
        return bool(self._ask("append_text", name, run_id, at, text))

    def finish_run(self, name: str, ended: Run, context_starts: Mapping[str, int] = NO_CONTEXT_STARTS) -> Run | None:
        answer = self._writes.touch("finish_run", name, *arguments.of_end(ended, context_starts), also=settle(ended))
        if answer is None:
            # If `create_run` failed half-way, the key `run:ID` may exist without the run.
            if self._redis.ask(("GET", f"run:{ended.id}"))[0] == tag_of(name).encode():
                self._redis.ask(("UNLINK", f"run:{ended.id}"))
            return None
        end, unlisted_usage = answer
        self._expiry.add_usage(tag_of(name), unlisted_usage)
        return ended if end == b"ended" else load_run(end)

    def pause_run(self, name: str, run: Run) -> bool:
        usage = dump_usage(as_abandoned(run, self._clock()))
        return bool(self._ask("pause_run", name, run.id, run.dump(), run.text, run.expires or 0.0, usage))

    def resume_run(self, name: str, run: Run, limits: RunLimits = NO_LIMITS) -> bool:
        self._listener.open(self._scripts.worker)
        self._limits.reserve_more(run, limits)
        return bool(self._ask("resume_run", name, run.id, run.dump(), run.text))

    def set_run_details(self, name: str, run_id: str, details: Mapping[str, Any]) -> Run:
        return load_run(_require(self._ask("set_run_details", name, run_id, orjson.dumps(details))))

    def mark_delivered(self, name: str, run_id: str) -> None:
        self._ask("mark_delivered", name, run_id)

    def get_run(self, run_id: str) -> Run:
        tag = _require(self._redis.ask(("GET", f"run:{run_id}"))[0]).decode()
        return load_run(_require(self._redis.ask(self._scripts.command("get_run", tag, run_id))[0]))

    def list_runs(self, name: str, status: Status | None, most: int, before: str | None = None) -> Sequence[Run]:
        return [load_run(each) for each in _require(self._ask("list_runs", name, status or "", most, before or ""))]

    def list_messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        if stop <= start:
            return ()
        # No script reads the list: it would copy each message twice, and Redis serves no other call meanwhile.
        conversation, messages = self._redis.ask(
            self._scripts.command("get_conversation", tag_of(name)),
            ("LRANGE", f"{tag_of(name)}:messages", start, stop - 1),
        )
        return () if conversation is None else [load_message(each) for each in messages]

    def message_index(self, name: str, message_id: str) -> int:
        return int(_require(self._ask("message_index", name, message_head(message_id))))

    def add_messages(self, name: str, messages: Sequence[Message]) -> None:
        excerpt = arguments.first_excerpt(messages)
        answer = self._writes.touch("add_messages", name, RECENT_MESSAGES, excerpt, *map(dump_message, messages))
        if answer in REFUSALS:
            raise REFUSALS[answer]

    def import_history(self, name: str, messages: Sequence[Message], runs: Sequence[Run]) -> None:
        keys: list[Command] = [("SET", f"run:{run.id}", tag_of(name), "NX") for run in runs]
        owners = self._scripts.ask_all([*keys, *(("GET", f"run:{run.id}") for run in runs)])[len(runs) :]
        own = [
            ("UNLINK", f"run:{run.id}") for run, tag in zip(runs, owners, strict=True) if tag == tag_of(name).encode()
        ]
        script = self._scripts.command("import_history", tag_of(name), *arguments.of_import(name, messages, runs))
        if len(own) < len(runs):
            self._scripts.ask_all(own)
            raise RunExists
        if not self._scripts.ask_all([script])[-1]:
            self._scripts.ask_all(own)
            raise NotFound

    def publish_conversation(self, name: str, created: float, touched: float) -> Conversation:
        script = self._scripts.command("publish_conversation", tag_of(name), name, created, touched)
        _, answer = self._redis.ask(self._use_order.add(name, touched), script)
        self._use_order.settle(name)
        return load_conversation(name, _require(answer)[0])

    def list_usage(self, name: str | None, since: str, until: str) -> Sequence[DailyUsage]:
        return list_usage(self._scripts, self._use_order, name, since, until)

    def set_message_metadata(self, name: str, message_id: str, metadata: Mapping[str, Any]) -> Message:
        lines = self._ask("set_message_metadata", name, message_head(message_id), orjson.dumps(metadata))
        return load_message(_require(lines))

    def delete_message(self, name: str, message_id: str) -> None:
        if not self._ask("delete_message", name, message_head(message_id), secrets.token_hex(8)):
            raise NotFound

    def put_record(self, kind: str, record_id: str, record: bytes) -> None:
        if not self._redis.ask(evalsha("put_record", f"records:{kind}", record_id, record, self._max_records))[0]:
            raise TooManyRecords

    def get_record(self, kind: str, record_id: str) -> bytes:
        record: bytes = _require(self._redis.ask(("HGET", f"records:{kind}", record_id))[0])
        return record

    def list_records(self, kind: str) -> Sequence[bytes]:
        records: list[bytes] = self._redis.ask(("HVALS", f"records:{kind}"))[0]
        return records

    def delete_record(self, kind: str, record_id: str) -> None:
        if not self._redis.ask(evalsha("delete_record", f"records:{kind}", record_id, secrets.token_hex(8)))[0]:
            raise NotFound

    def clear_conversation(self, name: str) -> Sequence[str]:
        return self._expiry.clear(name)

    def delete_conversation(self, name: str, *, unused_since: float | None = None) -> Sequence[str]:
        return self._expiry.delete(name, unused_since)

    def renew_leases(self, leases: Mapping[str, str]) -> Collection[str]:
        by_name: dict[str, list[str]] = {}
        for run_id, name in leases.items():
            by_name.setdefault(name, []).append(run_id)
        scripts = [self._scripts.command("renew_leases", tag_of(name), *ids) for name, ids in by_name.items()]
        return [run_id.decode() for ended in self._scripts.ask_all(scripts) for run_id in ended]

    def listen(self, followed: Collection[str], seconds: float) -> Collection[str]:
        return self._listener.listen(self._scripts.worker, followed, seconds)

    def sweep(self, seconds: float = SWEEP_SECONDS) -> bool:
        return self._expiry.sweep(seconds, self._rest)

    def ping(self) -> None:
        self._redis.ask(("SET", f"ping:{self._scripts.worker}", 1, "PX", 1))

    def close(self) -> None:
        self._listener.close()
        self._redis.close()

    def _ask(self, script: str, name: str, *given: Argument) -> Any:
        return self._redis.ask(self._scripts.command(script, tag_of(name), *given))[0]


def _require(answer: T | None) -> T:
    """Raises NotFound if the answer is None."""
    if answer is None:
        raise NotFound
    return answer
