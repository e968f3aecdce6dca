"""OpenTelemetry spans of upstream calls: one for each, by the conventions, with nothing of what was said."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from server.domain import Run, Usage
from server.errors import ContextTooLong, UpstreamUnreachable
from server.runs.config import RunConfig
from server.runs.runner import Runner
from server.store.memory import MemoryStore
from server.upstream.protocol import Completion, CompletionRequest
from server.upstream.tracing import VARIABLES, Tracing, open_tracing
from tests.support.replies import SteeredUpstream

COMPLETION = Completion("m-2026", Usage(3, 2, 5), "stop")


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing("openai", provider.get_tracer("test"))


class Scene:
    """Asks a question, and tells the spans of the calls that it took."""

    def __init__(self, tracing: Tracing, exporter: InMemorySpanExporter) -> None:
        self.upstream = SteeredUpstream()
        self.runner = Runner(MemoryStore(10), self.upstream, RunConfig(), tracing=tracing)
        self._exporter = exporter

    def ask(self, *pieces: Any) -> Run:
        def answer(_: CompletionRequest) -> Iterator[Any]:
            for piece in pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece

        self.upstream.answer = answer
        return self.runner.ask(Run("planted", conversation="planted"), 20.0, lambda: True)

    def spans(self) -> list[ReadableSpan]:
        deadline = time.monotonic() + 20
        while not self._exporter.get_finished_spans() and time.monotonic() < deadline:
            time.sleep(0.01)
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def scene(tracing: Tracing, exporter: InMemorySpanExporter) -> Iterator[Scene]:
    scene = Scene(tracing, exporter)
    yield scene
    scene.runner.shut_down(0)


def test_a_call_is_a_span_with_the_attributes_of_the_conventions(scene: Scene) -> None:
    run = scene.ask("planted", COMPLETION)
    (span,) = scene.spans()
    assert (span.name, span.kind) == ("chat scripted-demo", SpanKind.CLIENT)
    told = dict(span.attributes or {})
    assert 0 <= float(str(told.pop("gen_ai.response.time_to_first_chunk"))) < 20
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "scripted-demo",
        "gen_ai.response.model": "m-2026",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 2,
        "conversation.run.id": run.id,
    }


def test_a_failed_call_has_the_code_of_its_error(scene: Scene) -> None:
    scene.ask(UpstreamUnreachable())
    (span,) = scene.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "upstream_unreachable"


def test_each_call_of_a_run_is_a_span_of_its_own(scene: Scene) -> None:
    scene.ask("first", COMPLETION)
    scene.ask(ContextTooLong())
    assert [(each.attributes or {}).get("error.type") for each in scene.spans()][:2] == [
        None,
        "context_length_exceeded",
    ]


def test_nothing_of_what_was_said_is_in_a_span(scene: Scene) -> None:
    scene.ask("planted", COMPLETION)
    assert "planted" not in "".join(span.to_json() for span in scene.spans())


@pytest.mark.parametrize("disabled", [True, False])
def test_without_a_configuration_nothing_is_traced(monkeypatch: pytest.MonkeyPatch, disabled: bool) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if disabled:
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert open_tracing("openai") is None


def test_an_exporter_that_is_not_installed_is_logged_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nowhere")
    tracing = open_tracing("openai")
    assert tracing is not None
    assert tracing.start_span(CompletionRequest("m", b"[]", 1.0), "run_1") is None
    assert "OTEL_TRACES_EXPORTER" in caplog.text
