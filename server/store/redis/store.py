"""The Redis store: shared by any number of machines, and as durable as that Redis is.

TAG is `{SHA-256 of the name}`. A conversation has these keys, which are on one node of a Cluster: `TAG`, a hash of its
own fields; `TAG:messages`; `TAG:runs` and `TAG:open_runs`, the ids of all runs and of the open ones, oldest first;
`TAG:run:ID` for each run, and `TAG:text:ID` until it has ended; `TAG:request:REQUEST_ID` for each request id of the
last day; and `TAG:deleted_runs` while it is being deleted. These keys may be on any node: `run:ID`, the tag of each
run's conversation; `expiring`, the tags of conversations with a time limit, by when the next sweep has to look at them;
and `records:KIND`.

The text of a run whose reply is in the history is stored in that message only. If the message is deleted, the run gets
the text back.

The client repeats a call whose answer was lost. So every script that writes carries an id of its call, or recognises
its own earlier writes.
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

    Raises ValueError if `url` cannot be parsed. It connects at the first call.
    """

    is_durable = True

    def __init__(
        self, url: str, lease_seconds: float, clock: Callable[[], float] = time.time, *, max_records: int = 10_000
    ) -> None:
        self._redis = RedisClient(url)
        self._listener = RedisListener(self._redis)
        self._expiry = Expiry(self._redis, clock, self._script_on_key)
        self._lease_seconds = lease_seconds
        self._max_records = max_records
        self._clock = clock
        self._rest: Callable[[], None] = lambda: time.sleep(0)
        self._lock = threading.Lock()
        self._token = ""
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
        is_evictable: bool = False,
    ) -> Conversation:
        # In this order: a sweep removes a tag without a conversation, but never finds a conversation without its tag.
        schedule = [] if seconds is None else [("ZADD", "expiring", self._clock() + seconds, _tag(name))]
        fields = "" if seconds is None else seconds, orjson.dumps(metadata), secrets.token_hex(8)
        script = self._script("create_conversation", name, *fields, *map(dump_message, messages))
        return load_conversation(name, self._create(name, *schedule, script))

    def touch(self, name: str) -> bool:
        return bool(self._ask("touch", name))

    def set_model(self, name: str, model: str) -> None:
        self._create(name, self._script("set_model", name, model, secrets.token_hex(8)))

    def set_metadata(self, name: str, metadata: Mapping[str, Any]) -> Conversation:
        return load_conversation(name, _require(self._ask("set_metadata", name, orjson.dumps(metadata))))

    def create_run(
        self, name: str, run: Run, options: CreateOptions = DEFAULT_OPTIONS, *, waiting: int, start: bool
    ) -> CreatedRun:
        self._listener.open(self._worker)
        run = replace(run, conversation=name)
        request_key = "" if run.request_id is None else f"{_tag(name)}:request:{run.request_id}"
        fields = (run.id, run.dump(), sha256(run.question.encode()).digest(), request_key, int(start))
        limits = waiting, REQUEST_ID_SECONDS, REDELIVERY_SECONDS
        conditions = question_hash(run), int(options.reject_if_busy), int(options.create_conversation)
        messages = map(dump_message, options.messages)
        script = self._script("create_run", name, *fields, *limits, *conditions, *messages)
        answer = self._create(name, ("SET", f"run:{run.id}", _tag(name)), script)
        is_new = isinstance(answer, list) and answer[0] == 1
        if not is_new:
            self._redis.ask(("UNLINK", f"run:{run.id}"))
        if answer == b"busy":
            raise ConversationBusy
        if answer == b"conflict":
            raise RequestIdConflict
        if answer == b"missing":
            raise NotFound
        # The last value is the status of a run that was just created, or all values of an existing run.
        _, conversation, status_or_run = answer
        is_status = isinstance(status_or_run, bytes)
        answering = replace(run, status=status_or_run.decode()) if is_status else load_run(status_or_run)
        return CreatedRun(answering, load_conversation(name, conversation), is_new)

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
        messages = ended.history_messages()
        stored = replace(ended, text="") if messages else ended  # The reply's message has the text.
        fields = (ended.id, stored.dump(), ended.status, ended.ended or 0.0, int(ended.delivered))
        starts, reply_head = orjson.dumps(dict(context_starts)), message_head(ended.reply_id)
        answer = self._ask("finish_run", name, *fields, starts, reply_head, *map(dump_message, messages))
        if answer is None:
            # If `create_run` failed half-way, the key `run:ID` may exist without the run.
            if self._redis.ask(("GET", f"run:{ended.id}"))[0] == _tag(name).encode():
                self._redis.ask(("UNLINK", f"run:{ended.id}"))
            return None
        return ended if answer == b"ended" else load_run(answer)

    def pause_run(self, name: str, run: Run) -> bool:
        return bool(self._ask("pause_run", name, run.id, run.dump(), run.text, run.expires or 0.0))

    def resume_run(self, name: str, run: Run) -> bool:
        self._listener.open(self._worker)
        return bool(self._ask("resume_run", name, run.id, run.dump(), run.text))

    def set_run_details(self, name: str, run_id: str, details: Mapping[str, Any]) -> Run:
        return load_run(_require(self._ask("set_run_details", name, run_id, orjson.dumps(details))))

    def mark_delivered(self, name: str, run_id: str) -> None:
        self._ask("mark_delivered", name, run_id)

    def get_run(self, run_id: str) -> Run:
        (tag,) = self._redis.ask(("GET", f"run:{run_id}"))
        values = None if tag is None else self._redis.ask(self._script_on_key("get_run", tag.decode(), run_id))[0]
        return load_run(_require(values))

    def list_runs(self, name: str, status: Status | None, most: int) -> Sequence[Run]:
        return [load_run(values) for values in self._ask("list_runs", name, status or "", most)]

    def list_messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        if stop <= start:
            return ()
        # No script reads the list: it would copy each message twice, and Redis serves no other call meanwhile.
        conversation, messages = self._redis.ask(
            self._script("get_conversation", name), ("LRANGE", f"{_tag(name)}:messages", start, stop - 1)
        )
        return () if conversation is None else [load_message(each) for each in messages]

    def message_index(self, name: str, message_id: str) -> int:
        index: int = _require(self._ask("message_index", name, message_head(message_id)))
        return index

    def add_messages(self, name: str, messages: Sequence[Message]) -> None:
        answer = self._ask("add_messages", name, RECENT_MESSAGES, *map(dump_message, messages))
        if answer == b"busy":
            raise ConversationBusy
        if answer == b"missing":
            raise NotFound

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
        return self._expiry.clear(_tag(name))

    def delete_conversation(self, name: str) -> Sequence[str]:
        return self._expiry.delete(_tag(name))

    def renew_leases(self, leases: Mapping[str, str]) -> Collection[str]:
        by_name: dict[str, list[str]] = {}
        for run_id, name in leases.items():
            by_name.setdefault(name, []).append(run_id)
        scripts = [self._script("renew_leases", name, *run_ids) for name, run_ids in by_name.items()]
        return [run_id.decode() for ended in self._expiry.ask_all(scripts) for run_id in ended]

    def listen(self, followed: Collection[str], seconds: float) -> Collection[str]:
        return self._listener.listen(self._worker, followed, seconds)

    def sweep(self, seconds: float = SWEEP_SECONDS) -> bool:
        return self._expiry.sweep(seconds, self._rest)

    def ping(self) -> None:
        self._redis.ask(("SET", f"ping:{self._worker}", 1, "PX", 1))

    def close(self) -> None:
        self._listener.close()
        self._redis.close()

    @property
    def _worker(self) -> str:
        """The name of this worker."""
        if not self._token:
            with self._lock:  # Not chosen in the constructor: after a fork, each process is a worker of its own.
                self._token = self._token or secrets.token_hex(16)
        return self._token

    def _script(self, script: str, name: str, *arguments: Argument) -> Command:
        return self._script_on_key(script, _tag(name), *arguments)

    def _script_on_key(self, script: str, key: str, *arguments: Argument) -> Command:
        now = self._clock()
        return evalsha(script, key, now, now + self._lease_seconds, self._worker, *arguments)

    def _ask(self, script: str, name: str, *arguments: Argument) -> Any:
        return self._redis.ask(self._script(script, name, *arguments))[0]

    def _create(self, name: str, *commands: Command) -> Any:
        """The answer to the last command. An expired conversation of that name is deleted first."""
        while (answer := self._redis.ask(*commands)[-1]) == b"expired":
            self._expiry.expire(_tag(name))
        return answer


def _tag(name: str) -> str:
    return "{" + sha256(name.encode()).hexdigest() + "}"


def _require(answer: Any) -> Any:
    """Raises NotFound if the answer is None."""
    if answer is None:
        raise NotFound
    return answer
