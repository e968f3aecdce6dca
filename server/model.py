"""The words of the project: Conversation, Message, Run, Usage. Imports nothing of ours."""

import secrets
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self

import orjson

Role = Literal["user", "assistant"]
Status = Literal["queued", "running", "completed", "failed", "cancelled", "interrupted"]


def new_id(kind: str) -> str:
    """An id that nobody can guess, such as `run_` and 32 hexadecimal digits."""
    return f"{kind}_{secrets.token_hex(16)}"


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

    @classmethod
    def of(cls, role: Role, content: str, run_id: str | None, timestamp: float) -> Self:
        # Copied, since orjson's bytes keep the kilobytes of the buffer that they were written in.
        fragment = memoryview(orjson.dumps({"role": role, "content": content})).tobytes()
        return cls(fragment, run_id, timestamp)

    @property
    def role(self) -> Role:
        role: Role = orjson.loads(self.fragment)["role"]
        return role

    @property
    def content(self) -> str:
        content: str = orjson.loads(self.fragment)["content"]
        return content


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run ended without a reply: what `errors.revived` takes."""

    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Run:
    """The writing of one reply. A value: each step of a run's life is a new one."""

    question: str
    request_id: str | None = None
    created: float = field(default_factory=time.time)
    """Unix seconds."""
    id: str = field(default_factory=lambda: new_id("run"))
    status: Status = "queued"
    text: str = ""
    """The reply: so far, as the store last heard of it, or whole."""
    model: str | None = None
    usage: Usage | None = None
    failure: Failure | None = None
    ended: float | None = None
    """Unix seconds; None while the run is open."""
    collected: bool = False
    """Whether a request was waiting for the reply when it was finished."""
    replayed: int = 0
    """How many messages of the history were sent upstream."""
    omitted: int = 0
    """How many were left out."""
    conversation: str = ""
    """The name of the conversation that it belongs to, from when it was begun."""

    @property
    def is_open(self) -> bool:
        return self.ended is None

    def ending(self, status: Status, now: float, **known: Any) -> "Run":
        """This run, ended."""
        return replace(self, status=status, ended=now, **known)

    def packed(self) -> bytes:
        """The run as JSON, for a store to keep; `unpacked` gives it back."""
        return orjson.dumps(self)

    @classmethod
    def unpacked(cls, kept: bytes) -> Self:
        known = orjson.loads(kept)
        usage, failure = known.pop("usage"), known.pop("failure")
        return cls(
            **known,
            usage=None if usage is None else Usage(**usage),
            failure=None if failure is None else Failure(**failure),
        )

    def exchange(self) -> tuple[Message, ...]:
        """What the run's end adds to the history: question and reply, or nothing.

        A run that failed or was interrupted keeps its question and its text to itself, and so does a cancelled one
        that had not written anything.
        """
        if self.ended is None or self.status not in ("completed", "cancelled") or not self.text:
            return ()
        return (
            Message.of("user", self.question, self.id, self.created),
            Message.of("assistant", self.text, self.id, self.ended),
        )


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one client has, besides its messages and runs."""

    name: str
    model: str | None = None
    """None while the client has not chosen one."""
    message_count: int = 0
    replay_from: int = 0
    """The place of the first message that is still replayed, since the model could not read more."""
