"""The words of the project: Conversation, Message, Run, Usage. Imports nothing of ours."""

import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self

import orjson

Role = Literal["user", "assistant"]
Status = Literal["queued", "running", "requires_action", "completed", "failed", "cancelled", "expired", "interrupted"]


def new_id(kind: str) -> str:
    """An id that nobody can guess, such as `run_` and 32 hexadecimal digits."""
    return f"{kind}_{secrets.token_hex(16)}"


def id_from(kind: str, door: str, key: str | None) -> str:
    """The id that belongs to `key` at a door, which only those can tell who know the key; a new one without a key."""
    if key is None:
        return new_id(kind)
    return f"{kind}_{hashlib.sha256(f'{door} {key}'.encode()).hexdigest()[:32]}"


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
    """One entry of a history, kept as the very bytes that a replay sends."""

    fragment: bytes
    """`{"role":…,"content":…}`, JSON in UTF-8."""
    run_id: str | None
    """The run that wrote it, if one did."""
    timestamp: float
    """Unix seconds: when a question was asked, when a reply was finished."""
    id: str = field(default_factory=lambda: new_id("msg"))
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What a client keeps with it; sent to nobody."""

    @classmethod
    def of(cls, role: Role, content: str, run_id: str | None, timestamp: float, **more: Any) -> Self:
        # Copied, since orjson's bytes keep the kilobytes of the buffer that they were written in.
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
    """Why a run ended without a reply: what `errors.revived` takes."""

    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What one run is asked with besides its question. Nothing of it is kept for the next run."""

    model: str | None = None
    """None: the conversation's."""
    system_prompt: str | None = None
    """None: the server's."""
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Fields of the upstream's request, such as `temperature`, `response_format` or `tools`."""
    last_messages: int | None = None
    """The most messages of the history that are replayed."""
    details: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    """What the dialect that began the run keeps with it; nobody else reads it."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants called, and what came of it."""

    id: str
    name: str
    arguments: str
    """JSON, as the model wrote it."""
    output: str | None = None
    """None until the client has told it."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further fields of the upstream's call, which are sent back with the output."""


@dataclass(frozen=True, slots=True)
class Step:
    """The calls that a reply waited for."""

    calls: tuple[ToolCall, ...]
    created: float
    """Unix seconds."""
    text: str = ""
    """What the model had written since the step before."""
    ended: float | None = None
    """When the outputs came, in Unix seconds; None while they have not."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Fields of the upstream's message, such as its reasoning, which are sent back with the outputs."""


@dataclass(frozen=True, slots=True)
class Run:
    """The writing of one reply. A value: each step of a run's life is a new one."""

    question: str
    """Empty where the run answers what is in the history already."""
    request_id: str | None = None
    created: float = field(default_factory=time.time)
    """Unix seconds."""
    id: str = field(default_factory=lambda: new_id("run"))
    status: Status = "queued"
    text: str = ""
    """The reply: so far, as the store last heard of it, or whole."""
    model: str | None = None
    usage: Usage | None = None
    error: RunError | None = None
    ended: float | None = None
    """Unix seconds; None while the run is open."""
    delivered: bool = False
    """Whether a request was waiting for the reply when it was finished."""
    replayed: int = 0
    """How many messages of the history were sent upstream."""
    omitted: int = 0
    """How many were left out."""
    conversation: str = ""
    """The name of the conversation that it belongs to, from when it was begun."""
    options: RunOptions = RunOptions()
    steps: tuple[Step, ...] = ()
    expires: float | None = None
    """Unix seconds: when a run that requires action ends as `expired`."""
    finish_reason: str | None = None
    """Why the model stopped, in the upstream's word, such as `stop` or `length`."""
    logprobs: list[Any] | None = field(default=None, hash=False)
    """The upstream's own, where they were asked for."""

    @property
    def is_open(self) -> bool:
        return self.ended is None

    @property
    def is_active(self) -> bool:
        """Whether the reply is being written, or will be without anybody doing anything."""
        return self.status in ("queued", "running")

    @property
    def reply_id(self) -> str:
        """The id of the message that the reply is, or will be."""
        return "msg_" + self.id.removeprefix("run_")

    @property
    def resumed(self) -> float:
        """Unix seconds: since when nobody but the server was waited for."""
        ends = [step.ended for step in self.steps if step.ended is not None]
        return ends[-1] if ends else self.created

    def ended_as(self, status: Status, now: float, **known: Any) -> "Run":
        """This run, ended."""
        return replace(self, status=status, ended=now, **known)

    def dump(self) -> bytes:
        """The run as JSON, for a store to keep; `unpacked` gives it back."""
        return orjson.dumps(self)

    @classmethod
    def load(cls, kept: bytes) -> Self:
        known = orjson.loads(kept)
        usage, error = known.pop("usage"), known.pop("error")
        options, steps = known.pop("options", {}), known.pop("steps", ())
        return cls(
            **known,
            usage=None if usage is None else Usage(**usage),
            error=None if error is None else RunError(**error),
            options=RunOptions(**options) if options else _NO_OPTIONS,
            steps=tuple(Step(**each | {"calls": tuple(ToolCall(**call) for call in each["calls"])}) for each in steps),
        )

    def history_messages(self) -> tuple[Message, ...]:
        """What the run's end adds to the history: question, where there was one, and reply; or nothing.

        A run that failed or was interrupted keeps its question and its text to itself, and so does a cancelled one
        that had not written anything.
        """
        if self.ended is None or self.status not in ("completed", "cancelled") or not self.text:
            return ()
        reply = Message.of("assistant", self.text, self.id, self.ended, id=self.reply_id)
        return (Message.of("user", self.question, self.id, self.created), reply) if self.question else (reply,)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one client has, besides its messages and runs."""

    name: str
    model: str | None = None
    """None while the client has not chosen one."""
    message_count: int = 0
    context_starts: Mapping[str, int] = field(default_factory=dict, hash=False)
    """By model, the place of the first message that is still replayed, since that model could not read more."""
    history_id: str = field(default="", compare=False)
    """Another one as soon as the history has changed other than by growing; empty if that is not known."""
    created: float = field(default=0.0, compare=False)
    """Unix seconds."""
    touched: float = field(default=0.0, compare=False)
    """Unix seconds: when it was last asked, answered or renewed."""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What a client keeps with it; sent to nobody."""


_NO_OPTIONS = RunOptions()
