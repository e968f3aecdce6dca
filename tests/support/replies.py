"""An upstream's answer in the hands of a test: each call waits for what it is told to say."""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import orjson

from server.upstream.protocol import Completion, CompletionRequest
from server.upstream.scripted import ScriptedStream, ScriptedUpstream, write_demo

PATIENCE_SECONDS = 20.0
"""How long a test that went wrong may hang."""


class Told:
    """The `answer` of a ScriptedUpstream. What a call is told is addressed by its question.

    A question that nobody speaks for is answered at once, with `re: ` and itself.
    """

    def __init__(self, *silent: str) -> None:
        """`silent` questions wait until they are told what to say."""
        self._silent = set(silent)
        self._script: dict[str, deque[Any]] = defaultdict(deque)
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
            said = self._next(question)
            if said is None:
                return
            if isinstance(said, Exception):
                raise said
            yield said

    def say(self, question: str, *pieces: str) -> None:
        self._tell(question, *pieces)

    def end(self, question: str, *pieces: str) -> None:
        self._tell(question, *pieces, None)

    def fail(self, question: str, problem: Exception) -> None:
        self._tell(question, problem)

    def await_call(self, question: str, times: int = 1) -> None:
        """Until the upstream was asked `question`, `times` times."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._calls.count(question) >= times, PATIENCE_SECONDS), question

    def release(self) -> None:
        """End every call, now and from now on."""
        with self._changed:
            self._released = True
            self._changed.notify_all()

    @property
    def calls(self) -> list[str]:
        """The questions in the order in which the upstream was asked them."""
        with self._changed:
            return list(self._calls)

    def _tell(self, question: str, *said: Any) -> None:
        with self._changed:
            self._script[question].extend(said)
            self._changed.notify_all()

    def _next(self, question: str) -> Any:
        with self._changed:
            told = self._script[question]
            assert self._changed.wait_for(lambda: told or self._released, PATIENCE_SECONDS), f"nobody told {question}"
            return told.popleft() if told else None


class SteeredUpstream(ScriptedUpstream):
    """Answers each call with the pieces that `answer` gives; an exception out of it is the upstream's failure.

    Where `answer` gives a Reply, that is the last of it: so it can want functions called.
    """

    def __init__(self, answer: Callable[[CompletionRequest], Iterable[str | Completion]] = write_demo) -> None:
        self.answer = answer
        self.heard: deque[CompletionRequest] = deque(maxlen=1000)
        """The newest calls, oldest first."""
        self.open_now = 0
        """Calls that have begun and not ended."""
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
        self._upstream.heard.append(self._request)
        self._upstream.count(+1)
        try:
            self._pieces = self._upstream.answer(self._request)
            yield from super().__iter__()
        finally:
            self._upstream.count(-1)
