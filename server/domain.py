"""The domain: Conversation, Message, Run, Step, ToolCall, Usage. Of the server, it imports only `charges`."""

import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self

import orjson

from server.charges import Charge

Role = Literal["user", "assistant"]
Status = Literal["queued", "running", "requires_action", "completed", "failed", "cancelled", "expired", "interrupted"]

SETTINGS = ("title", "system_prompt", "temperature", "top_p", "max_completion_tokens", "response_format")
"""The names of a conversation's settings besides its model."""

PARAMETERS = ("temperature", "top_p", "max_completion_tokens", "response_format")
"""The settings that are fields of the upstream's request."""

METADATA_CHARACTERS = 16_384
"""How long the metadata of a conversation or a message may be as JSON."""

EXCERPT_CHARACTERS = 120
"""How much of a question is kept as a conversation's `excerpt`."""


def new_id(kind: str) -> str:
    """An id that nobody can guess, such as `run_` and 32 hexadecimal digits."""
    return f"{kind}_{secrets.token_hex(16)}"


def derive_id(kind: str, text: str) -> str:
    """The id that belongs to `text`, by SHA-256, so that only who knows the text can tell it."""
    return f"{kind}_{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def rfc3339(seconds: float) -> str:
    """Unix seconds as text in UTC, such as `2026-11-20T10:00:00.000Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the upstream counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of a history, stored as the bytes that are sent upstream when the history is replayed."""

    fragment: bytes
    """`{"role":…,"content":…}`, JSON in UTF-8."""
    run_id: str | None
    """The run whose question or reply it is; None if it was added without a run."""
    timestamp: float
    """Unix seconds: when a question was asked, when a reply was finished."""
    id: str = field(default_factory=lambda: new_id("msg"))
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The client's own data; never sent upstream."""

    @classmethod
    def of(cls, role: Role, content: str, run_id: str | None, timestamp: float, **more: Any) -> Self:
        # Copied, since the bytes that orjson returns hold its output buffer of a kilobyte or more.
        fragment = memoryview(orjson.dumps({"role": role, "content": content})).tobytes()
        return cls(fragment, run_id, timestamp, **more)

    @property
    def role(self) -> Role:
        role: Role = orjson.loads(self.fragment)["role"]
        return role

    @property
    def content(self) -> str:
        content: str = orjson.loads(self.fragment)["content"]
        return content


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run ended without a reply, as stored; `runs.events.error_from_code` makes an AppError of it."""

    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of one run. None of them apply to later runs of the conversation."""

    model: str | None = None
    """None: the conversation's."""
    system_prompt: str | None = None
    """None: the server's."""
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Fields of the upstream's request, such as `temperature`, `response_format` or `tools`."""
    last_messages: int | None = None
    """How many messages of the history are replayed at most; None: no limit of its own."""
    details: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    """Data of the dialect that created the run; no other part of the server reads it."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call that the model requests, and its output."""

    id: str
    name: str
    arguments: str
    """JSON, as the model wrote it."""
    output: str | None = None
    """None until the client has submitted it."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further fields of the call, which the upstream needs back with the output."""


@dataclass(frozen=True, slots=True)
class Step:
    """A pause of a run: the tool calls whose outputs the model needs before it goes on."""

    calls: tuple[ToolCall, ...]
    created: float
    """Unix seconds."""
    text: str = ""
    """The text that the model wrote since the previous step."""
    ended: float | None = None
    """Unix seconds: when the outputs were submitted; None until then."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Fields of the upstream's message, such as its reasoning, which it needs back with the outputs."""


@dataclass(frozen=True, slots=True)
class Run:
    """The generation of one reply. Immutable: each change of state makes a new value."""

    question: str
    """Empty if the run answers messages that are in the history already."""
    request_id: str | None = None
    created: float = field(default_factory=time.time)
    """Unix seconds."""
    id: str = field(default_factory=lambda: new_id("run"))
    status: Status = "queued"
    text: str = ""
    """The reply: while the run is open, as far as it was saved."""
    model: str | None = None
    usage: Usage | None = None
    error: RunError | None = None
    ended: float | None = None
    """Unix seconds; None while the run is open."""
    delivered: bool = False
    """Whether a request was waiting for the reply when the run ended, or has fetched it since."""
    replayed: int = 0
    """How many messages of the history were sent upstream."""
    omitted: int = 0
    """How many messages of the history were left out."""
    conversation: str = ""
    """The name of its conversation, set when the run is created."""
    options: RunOptions = RunOptions()
    steps: tuple[Step, ...] = ()
    expires: float | None = None
    """Unix seconds: when a run that requires action ends as `expired`."""
    finish_reason: str | None = None
    """Why the model stopped, as the upstream says it, such as `stop` or `length`."""
    logprobs: list[Any] | None = field(default=None, hash=False)
    """The upstream's own, if the request asked for them."""
    replaces: str | None = None
    """The id of the run whose question and reply this run's take the place of, if it completes."""
    charge: Charge | None = None

    @property
    def is_open(self) -> bool:
        return self.ended is None

    @property
    def is_active(self) -> bool:
        """Whether the reply is being generated, or will be without a further request."""
        return self.status in ("queued", "running")

    @property
    def reply_id(self) -> str:
        """The id of the reply's message, which is known before it exists."""
        return "msg_" + self.id.removeprefix("run_")

    @property
    def resumed(self) -> float:
        """Unix seconds: the last submission of tool outputs, else the creation; the timeout counts from here."""
        ends = [step.ended for step in self.steps if step.ended is not None]
        return ends[-1] if ends else self.created

    def ended_as(self, status: Status, now: float, *, is_sent: bool = False, **known: Any) -> "Run":
        """This run with its end; `known` are further fields to change. `is_sent`: it runs, although queued."""
        if self.charge is not None:
            usage, text = known.get("usage", self.usage), known.get("text", self.text)
            earlier, used = (None if each is None else each.total_tokens for each in (self.usage, usage))
            since = text[sum(len(step.text) for step in self.steps) :]
            is_sent = is_sent or self.status == "running"
            known["charge"] = self.charge.settle(status, earlier=earlier, used=used, text=since, is_sent=is_sent)
        return replace(self, status=status, ended=now, **known)

    def dump(self) -> bytes:
        """The run as JSON, for a store; `load` reverses it."""
        return orjson.dumps(self)

    @classmethod
    def load(cls, data: bytes) -> Self:
        known = orjson.loads(data)
        usage, error = known.pop("usage"), known.pop("error")
        options, steps, charge = known.pop("options", {}), known.pop("steps", ()), known.pop("charge", None)
        return cls(
            **known,
            usage=None if usage is None else Usage(**usage),
            error=None if error is None else RunError(**error),
            options=RunOptions(**options),
            steps=tuple(Step(**each | {"calls": tuple(ToolCall(**call) for call in each["calls"])}) for each in steps),
            charge=None if charge is None else Charge(**charge),
        )

    def history_messages(self) -> tuple[Message, ...]:
        """What the run's end adds to the history: the question, if there is one, and the reply; or nothing.

        A run that failed or was interrupted adds neither. A cancelled one only does if it has text and replaces none.
        """
        ends = ("completed",) if self.replaces else ("completed", "cancelled")
        if self.ended is None or self.status not in ends or not self.text:
            return ()
        reply = Message.of("assistant", self.text, self.id, self.ended, id=self.reply_id)
        return (Message.of("user", self.question, self.id, self.created), reply) if self.question else (reply,)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation's own fields, without its messages and runs."""

    name: str
    model: str | None = None
    """None until the client chooses one."""
    message_count: int = 0
    context_starts: Mapping[str, int] = field(default_factory=dict, hash=False)
    """By model, the index of the first message that is replayed to it, since its context is too short for more."""
    history_id: str = field(default="", compare=False)
    """It changes whenever the history changes other than by appending; empty if that is not known."""
    created: float = field(default=0.0, compare=False)
    """Unix seconds."""
    touched: float = field(default=0.0, compare=False)
    """Unix seconds: the last question, reply or `touch`."""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The client's own data; never sent upstream."""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Those of SETTINGS that the client made."""
    excerpt: str = field(default="", compare=False)
    """The beginning of its first question; empty if it has none."""
    owner: str = field(default="", compare=False)
    """Whom it belongs to since it was created; empty for nobody in particular."""


@dataclass(frozen=True, slots=True)
class ConversationEntry:
    """A conversation in a list."""

    conversation: Conversation
    newest_status: Status | None
    """Of its newest run; None if it has no run."""


@dataclass(frozen=True, slots=True)
class DailyUsage:
    """The tokens of one day (UTC), client and model."""

    day: str
    """Such as `2026-11-20`."""
    name: str
    """The conversation's name; empty for all unlisted ones together."""
    model: str
    runs: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def is_too_long(metadata: Mapping[str, Any] | None) -> bool:
    """Whether metadata has more than METADATA_CHARACTERS as JSON."""
    return metadata is not None and len(orjson.dumps(metadata).decode()) > METADATA_CHARACTERS


def excerpt_of(text: str) -> str:
    """The beginning of a question, on one line."""
    return " ".join(text[: 4 * EXCERPT_CHARACTERS].split())[:EXCERPT_CHARACTERS]
