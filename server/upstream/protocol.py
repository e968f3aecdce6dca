"""The interface of what generates replies: OpenAI, servers that speak its protocol, or the demonstration."""

from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from server.domain import ToolCall, Usage

UpstreamStatus = Literal["connected", "unreachable", "not_configured"]


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A request for one reply."""

    model: str
    messages: bytes
    """A JSON list, as `runs.context` builds it."""
    seconds: float
    """The timeout of the whole request; if streamed, until the response begins. The reader then aborts it in time."""
    streamed: bool = False
    """Whether the text comes in pieces as it is generated, or at once when it is complete, which costs less CPU."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the request, such as `temperature`; `max_completion_tokens` limits the reply's length."""
    client: str = ""
    """A hash that stands for the client, for the upstream's prompt cache."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What is known of a reply after its text has ended."""

    model: str | None
    usage: Usage | None
    finish_reason: str | None = None
    """Why the model stopped, as the upstream says it, such as `stop` or `length`."""
    calls: tuple[ToolCall, ...] = ()
    """The tool calls whose outputs the model needs before it goes on."""
    logprobs: list[Any] | None = None
    """The upstream's own, if the request asked for them."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the message with `calls` that the upstream needs back with their outputs, such as its reasoning."""


class CompletionStream(Protocol):
    """One reply while it is generated."""

    def __iter__(self) -> Generator[str | Completion, None, None]:
        """The text in pieces, none empty, then one Completion. It can be iterated once.

        Raises UpstreamFailed or NotConfigured; ContextTooLong, before any text, if the messages are longer than the
        model's context. A request that cannot have been charged, and may succeed later, is retried here.
        """

    def abort(self) -> None:
        """Close the connection, from any thread and at any time. The iteration then raises UpstreamCut at once."""


class Upstream(Protocol):
    """Safe from any thread. No connection is opened before the first request."""

    def open_stream(self, request: CompletionRequest) -> CompletionStream:
        """Prepare a reply. Nothing is sent before the iteration begins."""

    def list_models(self) -> list[dict[str, Any]]:
        """Each model as the upstream describes it, with at least `id`. Raises UpstreamFailed or NotConfigured."""

    def offered_models(self) -> Collection[str]:
        """The ids of the models, as far as they are known without waiting for a slow upstream; else empty."""

    def knows_model(self, model: str) -> bool:
        """Whether it is the default model, or in the list as far as that is known. Never waits for the upstream.

        For another model than the default one, a stale list is reloaded in the background.
        """

    def default_model(self) -> str:
        """The model for a client that chose none. Raises what `list_models` raises, if only the list can tell."""

    def check_health(self) -> UpstreamStatus:
        """Whether requests can succeed, without spending tokens, in less than two seconds."""

    def close_idle(self) -> None:
        """Close the connections that were not used for a minute. To be called periodically."""
