"""Executes one run: from the request that goes upstream to the last of its text."""

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from itertools import takewhile
from typing import Any

from server import errors
from server.domain import PARAMETERS, Conversation, Run, Step, Usage
from server.runs import context
from server.runs.config import RunConfig
from server.runs.context import Transcript
from server.runs.live import LiveRun
from server.runs.observer import Observer
from server.runs.transcripts import Transcripts
from server.store.protocol import Store
from server.upstream.protocol import CompletionRequest, Upstream


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the upstream gave for one run."""

    fields: Mapping[str, Any]
    """Fields of the run, such as `model` and `usage`."""
    step: Step | None = None
    """The tool calls that the run waits for; None if the reply is complete."""
    context_starts: Mapping[str, int] = field(default_factory=dict)
    """By model, the index of the first message that the model could read, if it could not read them all."""


class Executor:
    """Has the upstream generate replies. Safe from any thread; each call blocks for as long as its run takes."""

    def __init__(
        self, store: Store, upstream: Upstream, config: RunConfig, clock: Callable[[], float], observer: Observer
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._observer = observer
        self._config = config
        self._clock = clock
        self._transcripts = Transcripts(store, clock)

    def execute(self, live: LiveRun, conversation: Conversation) -> Outcome:
        """Generate the reply of `live`, with the conversation as it was when the run started.

        If the model cannot read that much, the older half of the context is dropped, repeatedly, until it can. Raises
        RunTimedOut, UpstreamFailed, StoreUnavailable, ContextTooLong and UpstreamCut if the run ended meanwhile, and
        NotLastTurn if the turn that the run replaces is not the last one any more.
        """
        options = live.run.options
        if live.run.replaces is not None:
            conversation = self._leave_out_turn(conversation, live.run.replaces)
        count = conversation.message_count
        model = options.model or conversation.model or self._upstream.default_model()
        start = self._window_start(live.run, conversation, model)
        context_starts: dict[str, int] = {}
        offset = len(live.text())
        while True:
            keep = options.last_messages is None and live.run.replaces is None
            history = self._transcripts.get(conversation, start, keep=keep)
            try:
                request = self._request(live, model, conversation.settings, history.transcript)
                reply = self._observer.consume(live, request)
                break
            except errors.ContextTooLong:
                shorter = context.drop_oldest_half(start, count)
                # Without a question, at least one message must be left to answer.
                if start >= count or (shorter >= count and not live.run.question):
                    raise
                start = context_starts[model] = shorter
        counts = {"replayed": history.count, "omitted": count - history.count}
        usage = _add_usage(live.run.usage, reply.usage)
        fields: dict[str, Any] = {"model": reply.model or model, "usage": usage, **counts}
        fields |= {"finish_reason": reply.finish_reason, "logprobs": reply.logprobs}
        if reply.calls and "tools" in options.parameters:
            return Outcome(fields, Step(reply.calls, self._clock(), live.text(offset), extra=reply.extra))
        if not live.text():
            raise errors.UpstreamEmptyReply
        return Outcome(fields, context_starts=context_starts)

    def forget_history(self, name: str) -> None:
        """Drop what is cached of a conversation whose history is gone."""
        self._transcripts.forget(name)

    def close_idle(self) -> None:
        """Drop transcripts and close connections that were not used for a while."""
        self._transcripts.forget_unused()
        self._upstream.close_idle()

    def _leave_out_turn(self, conversation: Conversation, run_id: str) -> Conversation:
        """The conversation without its last turn. Raises NotLastTurn if that is not the turn of `run_id`."""
        count = conversation.message_count
        newest = self._store.list_messages(conversation.name, max(0, count - 2), count)
        turn = list(takewhile(lambda message: message.run_id == run_id, reversed(newest)))
        if not turn:
            raise errors.NotLastTurn
        return replace(conversation, message_count=count - len(turn))

    def _request(
        self, live: LiveRun, model: str, settings: Mapping[str, Any], history: Transcript
    ) -> CompletionRequest:
        """The request of a run: its own options come before the conversation's settings, those before the server's."""
        run = live.run
        seconds = run.resumed + self._config.run_timeout_seconds - self._clock()
        if seconds <= 0:
            raise errors.RunTimedOut
        prompts = run.options.system_prompt, settings.get("system_prompt"), self._config.system_prompt
        system_prompt = next(prompt for prompt in prompts if prompt is not None)
        parameters = {name: settings[name] for name in PARAMETERS if name in settings}
        return CompletionRequest(
            model,
            context.build_messages(system_prompt, history, run.question, run.steps),
            seconds,
            live.streamed,
            {**self._config.parameters, **parameters, **run.options.parameters},
            context.client_hash(live.name),
        )

    def _window_start(self, run: Run, conversation: Conversation, model: str) -> int:
        """The index of the first message to send: in blocks by the server's limit, exactly by the run's own limit."""
        count, limit = conversation.message_count, run.options.last_messages
        known_start = conversation.context_starts.get(model, 0)
        start = context.window_start(count, self._config.max_context_messages, known_start)
        return start if limit is None else max(start, count - limit)


def _add_usage(earlier: Usage | None, usage: Usage | None) -> Usage | None:
    """The tokens of all the upstream requests of a run."""
    if earlier is None or usage is None:
        return earlier or usage
    return Usage(*(a + b for a, b in zip(astuple(earlier), astuple(usage), strict=True)))
