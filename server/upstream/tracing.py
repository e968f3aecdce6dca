"""OpenTelemetry spans of calls to the upstream, by the conventions for generative AI; never with content.

https://github.com/open-telemetry/semantic-conventions-genai, v0.1.0. Nothing of it is imported unless it is configured.
"""

import logging
import os
import sys
import threading
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from server.upstream.protocol import Completion, CompletionRequest

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

log = logging.getLogger("server.upstream")

VARIABLES = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Any of them configures traces; the SDK itself reads the others of OpenTelemetry."""

EXPORTERS = {"otlp": "otlp_proto_http"}
"""Exporters that are registered under another name. gRPC does not work under gevent."""


class Tracing:
    """Safe from any thread. It opens nothing before the first span, so nothing before a fork."""

    def __init__(self, provider: str, tracer: "Tracer | None" = None) -> None:
        """`provider` is `gen_ai.provider.name`. Without a `tracer`, the environment configures one."""
        self._provider = provider
        self._tracer = tracer
        self._is_open = tracer is not None
        self._lock = threading.Lock()

    def start_span(self, request: CompletionRequest, run_id: str) -> "Span | None":
        """The span of a call, to be given to `end_span`; None if traces cannot be exported."""
        with self._lock:
            if not self._is_open:
                self._is_open = True
                self._tracer = _open_tracer()
        if self._tracer is None:
            return None
        from opentelemetry.trace import SpanKind

        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": self._provider,
            "gen_ai.request.model": request.model,
            "conversation.run.id": run_id,
        }
        return self._tracer.start_span(f"chat {request.model}", kind=SpanKind.CLIENT, attributes=attributes)


def end_span(span: "Span", reply: Completion | None, first_text: float | None, error: str | None) -> None:
    """End a span. `first_text` is in seconds since its start; `error` is a code of `server.errors`."""
    from opentelemetry.trace import StatusCode

    known: dict[str, Any] = {"gen_ai.response.time_to_first_chunk": first_text, "error.type": error}
    if reply is not None:
        known["gen_ai.response.model"] = reply.model
        known["gen_ai.response.finish_reasons"] = reply.finish_reason and [reply.finish_reason]
        if reply.usage is not None:
            known["gen_ai.usage.input_tokens"] = reply.usage.prompt_tokens
            known["gen_ai.usage.output_tokens"] = reply.usage.completion_tokens
    span.set_attributes({name: value for name, value in known.items() if value is not None})
    if error is not None:
        span.set_status(StatusCode.ERROR)
    span.end()


def open_tracing(provider: str) -> Tracing | None:
    """None unless OpenTelemetry's SDK is installed, and an exporter or the `opentelemetry-instrument` configured."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or find_spec("opentelemetry") is None:
        return None
    chosen = next(filter(None, map(os.environ.get, VARIABLES)), "none")
    if _find_global_provider() is None and (chosen == "none" or find_spec("opentelemetry.sdk") is None):
        return None
    return Tracing(provider)


def _find_global_provider() -> Any:
    """The SDK's provider that the process was started with, as by `opentelemetry-instrument`."""
    api = sys.modules.get("opentelemetry.trace")
    provider = None if api is None else api.get_tracer_provider()
    return provider if hasattr(provider, "add_span_processor") else None


def _open_tracer() -> "Tracer | None":
    provider = _find_global_provider()
    if provider is None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        name = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
        found = list(entry_points(group="opentelemetry_traces_exporter", name=EXPORTERS.get(name, name)))
        if not found:
            log.warning("traces are not exported: no package offers the exporter that OTEL_TRACES_EXPORTER names")
            return None
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    tracer: Tracer = provider.get_tracer("conversation-server")
    return tracer
