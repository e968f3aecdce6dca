"""One reply: from what is sent upstream to the last of its text."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

from server import errors
from server.concurrency import ThreadPool
from server.domain import Conversation, Run, Step, Usage
from server.runs import context
from server.runs.context import Transcript
from server.runs.live import LiveRun
from server.runs.local import run_error
from server.runs.transcripts import Transcripts
from server.store.protocol import Store
from server.upstream.protocol import CompletionRequest, Upstream

log = logging.getLogger("server.runs")


@dataclass(frozen=True)
class RunConfig:
    """How far runs may go; each is the setting of its name."""

    max_waiting_runs: int = 32
    max_concurrent_runs: int = 2000
    run_timeout_seconds: float = 600.0
    lease_seconds: float = 30.0
    max_context_messages: int | None = None
    system_prompt: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Sent with every call, such as `temperature`."""


class Executor:
    """Has the upstream write replies, each in a thread of its own."""

    def __init__(
        self,
        store: Store,
        upstream: Upstream,
        limits: RunConfig,
        clock: Callable[[], float],
        end: Callable[..., None],
        pause: Callable[..., None],
        done: Callable[[], None],
    ) -> None:
        """What came of a run is told with `end(live, status, **known)` or `pause(live, step, **known)`.

        One of them is called once for each run that is begun, and then `done`.
        """
        self._store = store
        self._upstream = upstream
        self._limits = limits
        self._clock = clock
        self._end = end
        self._pause = pause
        self._done = done
        self._threads = ThreadPool("writer", self._write)
        self._transcripts = Transcripts(store, clock)

    def start(self, live: LiveRun, conversation: Conversation) -> None:
        """Have the reply to `live` written, with the conversation as it is at the run's start."""
        try:
            self._threads.submit(live, conversation)
        except RuntimeError as problem:
            self._fail(live, problem)
            self._done()

    def forget(self, name: str) -> None:
        """A conversation's history is gone."""
        self._transcripts.forget(name)

    def tick(self) -> None:
        """Let go of what nobody has used for a while."""
        self._transcripts.forget_unused()
        self._upstream.close_idle()

    def _write(self, live: LiveRun, conversation: Conversation) -> None:
        """From a run's turn to its end. Nothing escapes."""
        try:
            self._have_written(live, conversation)
        except errors.AppError as problem:
            self._end(live, "failed", error=run_error(problem))
        except Exception as problem:  # noqa: BLE001 - It is logged, and the run ends with it.
            self._fail(live, problem)
        finally:
            self._done()

    def _fail(self, live: LiveRun, problem: Exception) -> None:
        log.error("a run failed for a reason that has no name", exc_info=problem)
        self._end(live, "failed", error=run_error(errors.InternalError()))

    def _have_written(self, live: LiveRun, conversation: Conversation) -> None:
        """Where the model cannot read so much, the older half is left out, and again, until it can."""
        options, count = live.run.options, conversation.message_count
        model = options.model or conversation.model or self._upstream.default_model()
        start = self._window_start(live.run, conversation, model)
        learnt: dict[str, int] = {}
        before = len(live.text())
        while True:
            history = self._transcripts.get(conversation, start, keep=options.last_messages is None)
            try:
                reply = live.consume(self._upstream.open_stream(self._call(live, model, history.transcript)))
                break
            except errors.ContextTooLong:
                shorter = context.drop_oldest_half(start, count)
                # Without a question there must be something left to answer.
                if start >= count or (shorter >= count and not live.run.question):
                    raise
                start = learnt[model] = shorter
        known = {
            "model": reply.model or model,
            "usage": _sum(live.run.usage, reply.usage),
            "replayed": history.count,
            "omitted": count - history.count,
            "finish_reason": reply.finish_reason,
            "logprobs": reply.logprobs,
        }
        if reply.calls and "tools" in options.parameters:
            self._pause(live, Step(reply.calls, self._clock(), live.text(before), extra=reply.extra), **known)
        elif not live.text():
            raise errors.UpstreamEmptyReply
        else:
            self._end(live, "completed", context_starts=learnt, **known)

    def _call(self, live: LiveRun, model: str, history: Transcript) -> CompletionRequest:
        run = live.run
        left = run.resumed + self._limits.run_timeout_seconds - self._clock()
        if left <= 0:
            raise errors.RunTimedOut
        system_prompt = run.options.system_prompt
        return CompletionRequest(
            model,
            context.build_messages(
                self._limits.system_prompt if system_prompt is None else system_prompt,
                history,
                run.question,
                run.steps,
            ),
            left,
            live.streamed,
            {**self._limits.parameters, **run.options.parameters},
            context.client_hash(live.name),
        )

    def _window_start(self, run: Run, conversation: Conversation, model: str) -> int:
        """Where the replay begins: in blocks by the server's own bound, and exactly where the run has one."""
        count, last = conversation.message_count, run.options.last_messages
        learnt = conversation.context_starts.get(model, 0)
        place = context.window_start(count, self._limits.max_context_messages, learnt)
        return place if last is None else max(place, count - last)


def _sum(before: Usage | None, now: Usage | None) -> Usage | None:
    """What all the calls of a run have cost."""
    if before is None or now is None:
        return before or now
    return Usage(*(a + b for a, b in zip(astuple(before), astuple(now), strict=True)))
