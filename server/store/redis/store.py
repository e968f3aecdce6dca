"""Conversations in Redis: shared by any number of machines, and as durable as that Redis is.

TAG being `{SHA-256 of its name}`, a conversation has the keys `TAG`, what is known of it besides the rest;
`TAG:messages`; `TAG:runs` and `TAG:open`, the ids of its runs and of the open ones, oldest first; for each run
`TAG:run:ID`, and `TAG:text:ID` until it is ended; for each request id of the last day `TAG:request:REQUEST_ID`; and
`TAG:gone` while it is being forgotten. On whichever node of a Cluster there are `run:ID`, the tag of each run's
conversation; `expiring`, the tags of the conversations that expire, by when that may be; and `records:KIND`.

The text of a run that has a reply is in that message alone; with the message deleted, the run has it again.

The driver repeats a call whose answer was lost. Every script that changes something carries a mark of its call, or
finds what it did before.
"""

import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import orjson

from server.domain import Conversation, Message, Run, Status
from server.errors import ConversationBusy, NotFound, RequestIdConflict, StoreUnavailable, TooManyRecords
from server.store.protocol import (
    DEFAULT_OPTIONS,
    NO_CONTEXT_STARTS,
    RECENT_MESSAGES,
    REDELIVERY_SECONDS,
    REQUEST_ID_SECONDS,
    SWEEP_SECONDS,
    CreatedRun,
    CreateOptions,
)
from server.store.redis.client import RedisClient
from server.store.redis.commands import Argument, Command, evalsha
from server.store.redis.expiry import Expiry
from server.store.redis.listener import RedisListener
from server.store.redis.serializers import (
    dump_message,
    load_conversation,
    load_message,
    load_run,
    message_head,
    question_hash,
)


class RedisStore:
    """A Store for any number of processes, whose clocks agree to within a small part of `lease_seconds`.

    Raises ValueError where `url` cannot be read. Whether a Redis is there shows at the first call.
    """

    is_durable = True

    def __init__(
        self, url: str, lease_seconds: float, clock: Callable[[], float] = time.time, *, max_records: int = 10_000
    ) -> None:
        self._redis = RedisClient(url)
        self._listener = RedisListener(self._redis)
        self._forgetting = Expiry(self._redis, clock, self._tagged)
        self._lease_seconds = lease_seconds
        self._max_records = max_records
        self._clock = clock
        self._rest: Callable[[], None] = lambda: time.sleep(0)
        self._lock = threading.Lock()
        self._token = ""
        self._unanswered: dict[str, str] = {}
        """The mark of each `start` whose answer was lost, by the run's id."""

    def get_conversation(self, name: str) -> Conversation | None:
        snapshot = self._ask("conversation", name)
        return None if snapshot is None else load_conversation(name, snapshot)

    def create_conversation(
        self,
        name: str,
        seconds: float | None,
        metadata: Mapping[str, Any],
        messages: Sequence[Message] = (),
        *,
        is_evictable: bool = False,
    ) -> Conversation:
        # In this order: a tag without its conversation is swept away, a conversation without its tag never is.
        due = [] if seconds is None else [("ZADD", "expiring", self._clock() + seconds, _tag(name))]
        known = "" if seconds is None else seconds, orjson.dumps(metadata), secrets.token_hex(8)
        script = self._script("create", name, *known, *map(dump_message, messages))
        return load_conversation(name, self._make(name, *due, script))

    def touch(self, name: str) -> bool:
        return bool(self._ask("touch", name))

    def set_model(self, name: str, model: str) -> None:
        self._make(name, self._script("set_model", name, model, secrets.token_hex(8)))

    def set_metadata(self, name: str, metadata: Mapping[str, Any]) -> Conversation:
        return load_conversation(name, _there(self._ask("set_metadata", name, orjson.dumps(metadata))))

    def create_run(
        self, name: str, run: Run, options: CreateOptions = DEFAULT_OPTIONS, *, waiting: int, start: bool
    ) -> CreatedRun:
        self._listener.open(self._writer)
        run = replace(run, conversation=name)
        request = "" if run.request_id is None else f"{_tag(name)}:request:{run.request_id}"
        question = sha256(run.question.encode()).digest()
        limits = (
            waiting,
            REQUEST_ID_SECONDS,
            REDELIVERY_SECONDS,
            question_hash(run),
            int(options.reject_if_busy),
            int(options.create_conversation),
        )
        script = self._script(
            "begin",
            name,
            run.id,
            run.dump(),
            question,
            request,
            int(start),
            *limits,
            *map(dump_message, options.messages),
        )
        answer = self._make(name, ("SET", f"run:{run.id}", _tag(name)), script)
        is_fresh = isinstance(answer, list) and answer[0] == 1
        if not is_fresh:
            self._redis.ask(("UNLINK", f"run:{run.id}"))
        if answer == b"busy":
            raise ConversationBusy
        if answer == b"conflict":
            raise RequestIdConflict
        if answer == b"missing":
            raise NotFound
        _, snapshot, found = answer
        is_new = isinstance(found, bytes)
        begun = replace(run, status=found.decode()) if is_new else load_run(found)
        return CreatedRun(begun, load_conversation(name, snapshot), is_fresh)

    def start_run(self, name: str, run_id: str) -> Conversation | None:
        mark = self._unanswered.pop(run_id, None) or secrets.token_hex(8)
        try:
            snapshot = self._ask("start", name, run_id, mark)
        except StoreUnavailable:
            self._unanswered[run_id] = mark
            raise
        return None if snapshot is None else load_conversation(name, snapshot)

    def append_text(self, name: str, run_id: str, at: int, text: str) -> bool:
        return bool(self._ask("append", name, run_id, at, text))

    def finish_run(self, name: str, ended: Run, context_starts: Mapping[str, int] = NO_CONTEXT_STARTS) -> Run | None:
        history_messages = ended.history_messages()
        kept = replace(ended, text="") if history_messages else ended  # The text is in the history.
        known = (ended.id, kept.dump(), ended.status, ended.ended or 0.0, int(ended.delivered))
        starts, head = orjson.dumps(dict(context_starts)), message_head(ended.reply_id)
        answer = self._ask("finish", name, *known, starts, head, *map(dump_message, history_messages))
        if answer is None:
            # Where nobody heard whether it was begun, its key may be all that there is of it.
            if self._redis.ask(("GET", f"run:{ended.id}"))[0] == _tag(name).encode():
                self._redis.ask(("UNLINK", f"run:{ended.id}"))
            return None
        return ended if answer == b"ended" else load_run(answer)

    def pause_run(self, name: str, run: Run) -> bool:
        return bool(self._ask("pause", name, run.id, run.dump(), run.text, run.expires or 0.0))

    def resume_run(self, name: str, run: Run) -> bool:
        self._listener.open(self._writer)
        return bool(self._ask("resume", name, run.id, run.dump(), run.text))

    def set_run_details(self, name: str, run_id: str, details: Mapping[str, Any]) -> Run:
        return load_run(_there(self._ask("note", name, run_id, orjson.dumps(details))))

    def mark_delivered(self, name: str, run_id: str) -> None:
        self._ask("collect", name, run_id)

    def get_run(self, run_id: str) -> Run:
        (tag,) = self._redis.ask(("GET", f"run:{run_id}"))
        record = None if tag is None else self._redis.ask(self._tagged("run", tag.decode(), run_id))[0]
        if record is None:
            raise NotFound
        return load_run(record)

    def list_runs(self, name: str, status: Status | None, most: int) -> Sequence[Run]:
        return [load_run(record) for record in self._ask("runs", name, status or "", most)]

    def list_messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        if stop <= start:
            return ()
        # The list is not read by a script, which would copy it twice while all others wait.
        there, kept = self._redis.ask(
            self._script("conversation", name), ("LRANGE", f"{_tag(name)}:messages", start, stop - 1)
        )
        return () if there is None else [load_message(each) for each in kept]

    def message_index(self, name: str, message_id: str) -> int:
        place: int = _there(self._ask("place", name, message_head(message_id)))
        return place

    def add_messages(self, name: str, messages: Sequence[Message]) -> None:
        answer = self._ask("add", name, RECENT_MESSAGES, *map(dump_message, messages))
        if answer == b"busy":
            raise ConversationBusy
        if answer == b"missing":
            raise NotFound

    def set_message_metadata(self, name: str, message_id: str, metadata: Mapping[str, Any]) -> Message:
        changed = self._ask("change_message", name, message_head(message_id), orjson.dumps(metadata))
        return load_message(_there(changed))

    def delete_message(self, name: str, message_id: str) -> None:
        if not self._ask("delete_message", name, message_head(message_id), secrets.token_hex(8)):
            raise NotFound

    def put_record(self, kind: str, record_id: str, record: bytes) -> None:
        if not self._redis.ask(evalsha("put_record", f"records:{kind}", record_id, record, self._max_records))[0]:
            raise TooManyRecords

    def get_record(self, kind: str, record_id: str) -> bytes:
        record: bytes = _there(self._redis.ask(("HGET", f"records:{kind}", record_id))[0])
        return record

    def list_records(self, kind: str) -> Sequence[bytes]:
        records: list[bytes] = self._redis.ask(("HVALS", f"records:{kind}"))[0]
        return records

    def delete_record(self, kind: str, record_id: str) -> None:
        if not self._redis.ask(evalsha("delete_record", f"records:{kind}", record_id, secrets.token_hex(8)))[0]:
            raise NotFound

    def clear_conversation(self, name: str) -> Sequence[str]:
        return self._forgetting.clear(_tag(name))

    def delete_conversation(self, name: str) -> Sequence[str]:
        return self._forgetting.delete(_tag(name))

    def renew_leases(self, held: Mapping[str, str]) -> Collection[str]:
        by_name: dict[str, list[str]] = {}
        for run_id, name in held.items():
            by_name.setdefault(name, []).append(run_id)
        scripts = [self._script("renew", name, *run_ids) for name, run_ids in by_name.items()]
        return [run_id.decode() for gone in self._forgetting.ask_all(scripts) for run_id in gone]

    def listen(self, followed: Collection[str], seconds: float) -> Collection[str]:
        return self._listener.listen(self._writer, followed, seconds)

    def sweep(self, seconds: float = SWEEP_SECONDS) -> bool:
        return self._forgetting.sweep(seconds, self._rest)

    def ping(self) -> None:
        self._redis.ask(("SET", f"ping:{self._writer}", 1, "PX", 1))

    def close(self) -> None:
        self._listener.close()
        self._redis.close()

    @property
    def _writer(self) -> str:
        if not self._token:
            with self._lock:  # And not in the constructor: after a fork each process is a writer of its own.
                self._token = self._token or secrets.token_hex(16)
        return self._token

    def _script(self, script: str, name: str, *arguments: Argument) -> Command:
        return self._tagged(script, _tag(name), *arguments)

    def _tagged(self, script: str, key: str, *arguments: Argument) -> Command:
        now = self._clock()
        return evalsha(script, key, now, now + self._lease_seconds, self._writer, *arguments)

    def _ask(self, script: str, name: str, *arguments: Argument) -> Any:
        return self._redis.ask(self._script(script, name, *arguments))[0]

    def _make(self, name: str, *commands: Command) -> Any:
        """The last answer; for a conversation that has expired, that of a new one in its place."""
        while (answer := self._redis.ask(*commands)[-1]) == b"expired":
            self._forgetting.expire(_tag(name))
        return answer


def _tag(name: str) -> str:
    return "{" + sha256(name.encode()).hexdigest() + "}"


def _there(answer: Any) -> Any:
    """Raises NotFound for the answer of a script that found nothing."""
    if answer is None:
        raise NotFound
    return answer
