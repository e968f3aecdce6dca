"""Servers are killed, at a small size; and the judge of what is left sees each thing that could be wrong."""

import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.chaos import checks, invented
from tests.chaos.checks import violations
from tests.chaos.evidence import Kill, Talk
from tests.chaos.invented import BROKEN, SOUND
from tests.chaos.rounds import Outcome, Plan, play
from tests.chaos.stages import stages
from tests.support.redis_server import needs_redis

SQLITE = Plan("SQLite", "sqlite", servers=1, workers=(1,), kills=5)
REDIS = Plan("Redis", "redis", servers=2, workers=(1,), kills=2)
SEED = random.randrange(1_000_000)


@pytest.fixture(scope="module")
def rounds() -> Iterator[dict[str, Future[Outcome]]]:
    """Both at once, since they mostly wait for servers to start."""
    with ThreadPoolExecutor(2) as threads:
        yield {plan.store: threads.submit(play, plan, SEED) for plan in (SQLITE, REDIS)}


def test_nothing_is_lost_where_a_server_on_sqlite_is_killed(rounds: dict[str, Future[Outcome]]) -> None:
    outcome = rounds["sqlite"].result()
    assert outcome.violations == [], f"SEED={SEED}"
    assert outcome.stages["while writing"] >= SQLITE.kills
    assert outcome.counts["answered"] > 0


@needs_redis
def test_nothing_is_lost_where_one_of_two_servers_or_redis_itself_is_killed(
    rounds: dict[str, Future[Outcome]],
) -> None:
    outcome = rounds["redis"].result()
    assert outcome.violations == [], f"SEED={SEED}"
    assert outcome.stages["while writing"] >= REDIS.kills
    assert outcome.counts["answered"] > 0


@pytest.mark.parametrize("talk", SOUND.values(), ids=SOUND)
def test_the_judge_accuses_nobody_where(talk: Talk) -> None:
    assert violations(talk) == []


@pytest.mark.parametrize(
    ("rule", "talk"),
    [pytest.param(rule, talk, id=name) for rule, talks in BROKEN.items() for name, talk in talks.items()],
)
def test_the_judge_finds(rule: checks.Rule, talk: Talk) -> None:
    assert list(rule(talk))


def test_each_rule_is_asked_and_is_known_to_be_breakable() -> None:
    assert list(BROKEN) == list(checks.RULES)


@pytest.mark.parametrize(
    ("at", "stage"),
    [(15, set()), (20.5, {"before begin"}), (21.5, {"waiting"}), (22.5, {"while writing"}), (33.5, {"after finish"})],
)
def test_a_kill_is_counted_by_how_far_the_questions_had_come(at: float, stage: set[str]) -> None:
    kill = Kill(at, at, "a.1", frozenset({"a.1", "a.2"}), is_writing=False)
    assert stages(kill, [replace(invented.SQLITE, kills=[])]) == stage
