"""The conversations of the pictures, which a store has before a picture is taken, and the tokens that they cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

from scripts.screenshots import texts
from server.domain import Message, Run, RunError, Status, Usage
from server.store import open_store
from server.store.protocol import Store

MODEL = "gpt-5-mini"
MODELS = (
    {"id": MODEL, "object": "model", "created": 1754425777, "owned_by": "system", "shutdown_date": "2027-02-27"},
    {"id": "gpt-6-luna", "object": "model", "created": 1790000000, "owned_by": "system"},
)

HOUR = 14
"""What the clock in the pictures says, whenever they are taken: the browser is in a zone where it is so now."""

SENT = (3100, 4400, 2200, 0, 5200, 6100, 3600, 2800, 7400, 4900, 1000, 5600, 8200)
RECEIVED = (1400, 2200, 1100, 0, 2700, 2500, 1600, 1200, 3500, 2400, 600, 3000, 3700)
"""The tokens of the days before today, oldest first."""


@dataclass(frozen=True)
class Turn:
    question: str
    reply: str
    day: int
    """How many days ago."""
    clock: str
    """When the question was asked, such as `13:58`."""
    seconds: float = 2.4
    tokens: tuple[int, int] | None = None
    """Sent and received."""
    status: Status = "completed"
    error: str | None = None
    """A code."""


@dataclass(frozen=True)
class Sample:
    """A conversation that the list has."""

    name: str
    title: str
    turns: Sequence[Turn]
    system_prompt: str | None = None
    temperature: float | None = None


def short(name: str, title: str, day: int, clock: str) -> Sample:
    """A conversation that the pictures have in their list only."""
    return Sample(name, title, [Turn(title, "Done.", day, clock)])


ENGLISH = (
    Sample(
        "analytics",
        texts.SQL_TITLE,
        [Turn(texts.SQL_FIRST, texts.SQL_FIRST_REPLY, 0, "13:58", 2.9, (96, 204))],
        "You review SQL for PostgreSQL 17. Short answers, one query each.",
        0.2,
    ),
    short("onboarding", texts.QUEUE_TITLE, 0, "13:40"),
    short("bread", "Weekend sourdough schedule", 0, "09:18"),
    short("discord/run-club", "Running club notice, shorter", 1, "21:15"),
    Sample(
        "report-q3",
        texts.SALES_TITLE,
        [
            Turn(texts.SALES_STOPPED, texts.SALES_STOPPED_REPLY, 1, "16:21", 0.6, (640, 41), "cancelled"),
            Turn(
                *(texts.SALES_INTERRUPTED, texts.SALES_INTERRUPTED_REPLY, 1, "16:26", 0.5, None, "interrupted"),
                "run_interrupted",
            ),
            Turn(texts.SALES_FAILED, "", 1, "16:30", 30.0, None, "failed", "upstream_unreachable"),
        ],
    ),
    short("mail-draft", "A politer reply to the landlord", 3, "11:02"),
    short("trip", "Jeju, three days, if it rains", 4, "20:47"),
    short("dev/notebook", "Broken characters in a stream", 6, "10:31"),
    short("tutor", "Phases of the moon, grade 8", 12, "17:05"),
    short("moving", "Comparing three moving quotes", 26, "08:54"),
)

KOREAN = (
    Sample(
        "kitchen",
        texts.STEW_TITLE,
        [Turn(texts.STEW_FIRST, texts.STEW_FIRST_REPLY, 0, "13:58", 2.9, (412, 268))],
        texts.STEW_PROMPT,
        0.7,
    ),
    short("dev/notebook", "스트림에서 한글이 깨질 때", 0, "13:40"),
    short("bread", "주말 사워도우 일정", 0, "09:18"),
    short("discord/러닝크루", "러닝 크루 공지 다듬기", 1, "21:15"),
    short("report-q3", "분기 보고서 세 문단 요약", 1, "16:30"),
    short("mail-draft", "영어 이메일 정중하게 고치기", 3, "11:02"),
    short("trip", "제주 2박 3일, 비 오는 날 일정", 4, "20:47"),
    short("mcp:analytics", "월별 재구매율 SQL", 6, "10:31"),
    short("tutor.ko", "중학교 과학: 달의 위상 설명", 12, "17:05"),
    short("moving", "이사 견적 비교표", 26, "08:54"),
)


def zone_name() -> str:
    """The time zone in which it is HOUR o'clock now; the signs of these names are the wrong way round."""
    return f"Etc/GMT{datetime.now(UTC).hour - HOUR:+d}"


def seconds_of(day: int, clock: str) -> float:
    """Unix seconds of a time in that zone, so many days ago."""
    now = datetime.now(UTC)
    zone = timezone(timedelta(hours=HOUR - now.hour))
    hour, minute = map(int, clock.split(":"))
    then = now.astimezone(zone).replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (then - timedelta(days=day)).timestamp()


def write_store(path: Path, samples: Sequence[Sample]) -> str:
    """Make an SQLite file with the conversations and the usage of the days before. Returns its STORE_URL."""
    url = f"sqlite:///{path}"
    store = open_store(url, max_conversations=1000, lease_seconds=30)
    try:
        for sample in samples:
            _add_conversation(store, sample)
        _add_usage(store)
    finally:
        store.close()
    return url


def _add_conversation(store: Store, sample: Sample) -> None:
    runs = [_run_of(turn) for turn in sample.turns]
    messages: list[Message] = [message for run in runs for message in run.history_messages()]
    store.create_conversation(sample.name, 600, {}, is_unlisted=True)
    store.import_history(sample.name, messages, runs)
    settings = {"system_prompt": sample.system_prompt, "temperature": sample.temperature, "title": sample.title}
    store.update_conversation(sample.name, settings)
    store.publish_conversation(sample.name, runs[0].created, runs[-1].ended or runs[-1].created)


def _run_of(turn: Turn) -> Run:
    created = seconds_of(turn.day, turn.clock)
    usage = None if turn.tokens is None else Usage(*turn.tokens, sum(turn.tokens))
    error = None if turn.error is None else RunError(turn.error, "It failed.")
    run = Run(turn.question, created=created, model=MODEL, text=turn.reply, usage=usage, error=error, delivered=True)
    return run.ended_as(turn.status, created + turn.seconds)


def _add_usage(store: Store) -> None:
    """Runs count when they end, and imported ones do not: so these are run, in a conversation that no list has."""
    store.create_conversation("usage", None, {}, is_unlisted=True)
    for index, (sent, received) in enumerate(zip(SENT, RECEIVED, strict=True)):
        ended = seconds_of(len(SENT) - index, "12:00")
        for part in range(4 if sent else 0):
            run = Run(f"{index} {part}", created=ended, model=MODEL)
            run = store.create_run("usage", run, waiting=0, start=True).run
            usage = Usage(sent // 4, received // 4, (sent + received) // 4)
            store.finish_run("usage", replace(run.ended_as("completed", ended), text="Done.", usage=usage))
