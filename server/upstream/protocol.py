"""What writes the replies: OpenAI and whatever speaks its protocol, or the scripted one."""

from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from server.domain import ToolCall, Usage

UpstreamStatus = Literal["connected", "unreachable", "not_configured"]


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One request for a reply."""

    model: str
    messages: bytes
    """A JSON list, as `replay.messages` builds it."""
    seconds: float
    """How long the whole call may take; of a stream, until it begins: who reads it cuts it when its time is over."""
    streamed: bool = False
    """Whether the text is wanted as it is written, or at once when it is whole, which costs less."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the request, such as `temperature`; `max_completion_tokens` for the longest reply."""
    client: str = ""
    """A fingerprint of who asks, for the upstream's prompt cache."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What is known when the text has ended."""

    model: str | None
    usage: Usage | None
    finish_reason: str | None = None
    """Why the model stopped, in the upstream's word, such as `stop` or `length`."""
    calls: tuple[ToolCall, ...] = ()
    """What the model wants called before it goes on."""
    logprobs: list[Any] | None = None
    """The upstream's own, where they were asked for."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What the upstream sent along with `calls` and wants back with their outputs: fields of the message."""


class CompletionStream(Protocol):
    """One reply on its way."""

    def __iter__(self) -> Generator[str | Completion, None, None]:
        """The text in pieces, none empty, then the Reply. To be iterated once.

        Raises UpstreamFailed or NotConfigured; ContextTooLong, before any text, where the messages are more than the
        model can read. What cannot have been paid and may work a moment later is tried again in here.
        """

    def abort(self) -> None:
        """Close the connection, from any thread and at any time: the iteration then ends with UpstreamCut at once."""


class Upstream(Protocol):
    """Safe from any thread. Nothing is opened before the first call."""

    def open_stream(self, call: CompletionRequest) -> CompletionStream:
        """Prepare a reply. Nothing is sent before the iteration begins."""

    def list_models(self) -> list[dict[str, Any]]:
        """Each model as the upstream describes it, with at least `id`. Raises UpstreamFailed or NotConfigured."""

    def offered_models(self) -> Collection[str]:
        """The ids of the models, as far as they are known without waiting for a slow list; empty if they are not."""

    def default_model(self) -> str:
        """The model for a client that chose none. Raises what `models` raises, where only the list can tell."""

    def check_health(self) -> UpstreamStatus:
        """Whether calls can work, found out without spending tokens, in less than two seconds."""

    def close_idle(self) -> None:
        """Close the connections that nobody has used for a minute; to be called now and then."""
