"""Counts the ends of runs, and counts and traces their calls to the upstream. Nothing of their content is used."""

import time
from collections import deque

from server.domain import Run, Usage
from server.errors import AppError, InternalError
from server.metrics import Metrics
from server.metrics.metrics import OTHER
from server.runs.live import LiveRun
from server.upstream.protocol import Completion, CompletionRequest, Upstream
from server.upstream.tracing import Tracing, end_span

REMEMBERED_DELIVERIES = 256
"""Of how many replies it is known that their delivery was counted, since several callers may fetch one at once."""


class Observer:
    """Safe from any thread."""

    def __init__(self, metrics: Metrics, upstream: Upstream, tracing: Tracing | None) -> None:
        self._metrics = metrics
        self._upstream = upstream
        self._tracing = tracing
        self._delivered: deque[str] = deque(maxlen=REMEMBERED_DELIVERIES)

    def count_end(self, run: Run) -> None:
        """Count a run that this process owns, once it has ended."""
        self._metrics.runs.add(run.status)
        if run.status == "completed" and not run.delivered:
            self._metrics.uncollected.change(+1)

    def count_delivery(self, run_id: str) -> None:
        """Count that a reply was fetched for which nobody had waited when it was completed."""
        if run_id not in self._delivered:
            self._delivered.append(run_id)
            self._metrics.uncollected.change(-1)

    def consume(self, live: LiveRun, request: CompletionRequest) -> Completion:
        """Call the upstream once and read the reply into `live`. Raises what `LiveRun.consume` raises."""
        span = None if self._tracing is None else self._tracing.start_span(request, live.run.id)
        started = time.monotonic()
        reply: Completion | None = None
        error: str | None = InternalError.code
        try:
            reply = live.consume(self._upstream.open_stream(request))
            error = None
        except AppError as failure:
            # A run that has ended closed the call itself.
            error = failure.code if live.run.is_open else None
            raise
        finally:
            first_text = live.first_text
            if first_text is not None and first_text < started:  # It came in an earlier call.
                first_text = None
            self._count_call(live, time.monotonic() - started, first_text, error)
            if reply is not None and reply.usage is not None:
                self._count_tokens(reply.usage, request.model)
            if span is not None:
                end_span(span, reply, None if first_text is None else first_text - started, error)
        return reply

    def _count_call(self, live: LiveRun, seconds: float, first_text: float | None, error: str | None) -> None:
        self._metrics.upstream.observe(seconds)
        if first_text is not None:
            self._metrics.first_text.observe(first_text - live.created)
        if error is not None:
            self._metrics.upstream_errors.add(error)

    def _count_tokens(self, usage: Usage, model: str) -> None:
        """Count them for the model that was asked for: a reply may name any."""
        if not self._upstream.knows_model(model):
            model = OTHER
        self._metrics.tokens.add("prompt", model, amount=usage.prompt_tokens)
        self._metrics.tokens.add("completion", model, amount=usage.completion_tokens)
