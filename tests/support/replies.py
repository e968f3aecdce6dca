"""Replies of an upstream that a test controls: a call blocks until the test says what it yields."""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import orjson

from server.upstream.protocol import Completion, CompletionRequest
from server.upstream.scripted import ScriptedStream, ScriptedUpstream, write_demo
from tests.support.leaks import LEAKS, collect_reply

PATIENCE_SECONDS = 20.0
"""How long a failing test may block."""


class ScriptedReplies:
    """The `answer` of a SteeredUpstream. A test addresses a call by its question.

    A question that is not in `silent` is answered at once, with `re: ` and itself.
    """

    def __init__(self, *silent: str) -> None:
        """The calls of `silent` questions block until `say`, `end`, `fail` or `release`."""
        self._silent = set(silent)
        self._queues: dict[str, deque[Any]] = defaultdict(deque)
        self._calls: list[str] = []
        self._changed = threading.Condition()
        self._released = False

    def __call__(self, call: CompletionRequest) -> Iterator[str]:
        question = orjson.loads(call.messages)[-1]["content"]
        with self._changed:
            self._calls.append(question)
            self._changed.notify_all()
        if question not in self._silent:
            yield f"re: {question}"
            return
        while True:
            item = self._next(question)
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def say(self, question: str, *pieces: str) -> None:
        self._put(question, *pieces)

    def end(self, question: str, *pieces: str) -> None:
        self._put(question, *pieces, None)

    def fail(self, question: str, error: Exception) -> None:
        self._put(question, error)

    def await_call(self, question: str, times: int = 1) -> None:
        """Wait until the upstream was called `times` times with `question`."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._calls.count(question) >= times, PATIENCE_SECONDS), question

    def release(self) -> None:
        """End every open call, and each further one at once."""
        with self._changed:
            self._released = True
            self._changed.notify_all()

    @property
    def calls(self) -> list[str]:
        """The questions in the order of the calls."""
        with self._changed:
            return list(self._calls)

    def _put(self, question: str, *items: Any) -> None:
        with self._changed:
            self._queues[question].extend(items)
            self._changed.notify_all()

    def _next(self, question: str) -> Any:
        with self._changed:
            queue = self._queues[question]
            assert self._changed.wait_for(lambda: queue or self._released, PATIENCE_SECONDS), (
                f"nothing to say to {question}"
            )
            return queue.popleft() if queue else None


class SteeredUpstream(ScriptedUpstream):
    """Answers each call with the pieces that `answer` yields. An exception that it raises is raised to the run.

    If `answer` yields a Completion, the reply ends with it; that can require tool calls.
    """

    def __init__(self, answer: Callable[[CompletionRequest], Iterable[str | Completion]] = write_demo) -> None:
        self.answer = answer
        self.requests: deque[CompletionRequest] = deque(maxlen=1000)
        """The newest requests, oldest first."""
        self.open_now = 0
        """How many calls are open."""
        self._lock = threading.Lock()

    def open_stream(self, request: CompletionRequest) -> ScriptedStream:
        return _Steered(self, request)

    def count(self, change: int) -> None:
        with self._lock:
            self.open_now += change


class _Steered(ScriptedStream):
    def __init__(self, upstream: SteeredUpstream, request: CompletionRequest) -> None:
        super().__init__(request, ())
        self._upstream = upstream

    def __iter__(self) -> Generator[str | Completion, None, None]:
        self._upstream.requests.append(self._request)
        self._upstream.count(+1)
        LEAKS.add_json(self._request.messages)
        try:
            self._pieces = collect_reply(self._upstream.answer(self._request))
            yield from super().__iter__()
        finally:
            self._upstream.count(-1)
