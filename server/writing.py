"""One reply: from what is sent upstream to the last of its text."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from server import errors, replay
from server.held import failure_of
from server.live import LiveRun
from server.model import Conversation
from server.store import Store
from server.upstream import Call, Upstream

log = logging.getLogger("server.runs")


@dataclass(frozen=True)
class Limits:
    """How far runs may go; each is the setting of its name."""

    max_waiting_runs: int = 32
    max_concurrent_runs: int = 2000
    run_timeout_seconds: float = 600.0
    lease_seconds: float = 30.0
    max_context_messages: int | None = None
    system_prompt: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Sent with every call, such as `temperature`."""


class Author:
    """Has the upstream write replies, each in a thread of its own."""

    def __init__(
        self,
        store: Store,
        upstream: Upstream,
        limits: Limits,
        clock: Callable[[], float],
        end: Callable[..., None],
        done: Callable[[], None],
    ) -> None:
        """`end(live, status, replay_from, **known)` is called once for each run, and then `done`."""
        self._store = store
        self._upstream = upstream
        self._limits = limits
        self._clock = clock
        self._end = end
        self._done = done
        self._threads = ThreadPoolExecutor(limits.max_concurrent_runs, "writer")

    def begin(self, live: LiveRun, conversation: Conversation) -> None:
        """Have the reply to `live` written, with the conversation as it is at the run's start."""
        self._threads.submit(self._write, live, conversation)

    def _write(self, live: LiveRun, conversation: Conversation) -> None:
        """From a run's turn to its end. Nothing escapes."""
        try:
            replay_from, known = self._written(live, conversation)
            self._end(live, "completed", replay_from, **known)
        except errors.ServerError as problem:
            self._end(live, "failed", None, failure=failure_of(problem))
        except Exception:
            log.exception("a run failed for a reason that has no name")
            self._end(live, "failed", None, failure=failure_of(errors.InternalError()))
        finally:
            self._done()

    def _written(self, live: LiveRun, conversation: Conversation) -> tuple[int | None, dict[str, Any]]:
        """Where the replay must begin from now on, if the model could not read all; what is known of the reply."""
        model = conversation.model or self._upstream.default_model()
        count = conversation.message_count
        place = replay.first_place(count, self._limits.max_context_messages, conversation.replay_from)
        shortened: int | None = None
        while True:
            try:
                reply = live.listen(self._upstream.open(self._call(live, conversation, model, place)))
            except errors.ContextTooLong:
                if place >= count:
                    raise
                place = shortened = replay.halved(place, count)
            else:
                known = {"model": reply.model or model, "usage": reply.usage, "replayed": count - place}
                return shortened, {**known, "omitted": place}

    def _call(self, live: LiveRun, conversation: Conversation, model: str, place: int) -> Call:
        left = live.run.created + self._limits.run_timeout_seconds - self._clock()
        if left <= 0:
            raise errors.RunTimedOut
        history = self._store.messages(conversation.name, place, conversation.message_count)
        return Call(
            model,
            replay.messages(self._limits.system_prompt, history, live.run.question),
            left,
            live.streamed,
            self._limits.parameters,
            replay.fingerprint(conversation.name),
        )
