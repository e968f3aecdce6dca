"""A short crash test, and tests of its checks: they find each fault and accuse no sound server."""

import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.chaos import checks, samples
from tests.chaos.checks import find_violations
from tests.chaos.evidence import Evidence, Kill
from tests.chaos.replacements import checks as replacement_checks
from tests.chaos.replacements import evidence as replacement_evidence
from tests.chaos.replacements import faults as replacement_faults
from tests.chaos.replacements import samples as replacement_samples
from tests.chaos.rounds import Outcome, Plan, run_round
from tests.chaos.samples import BROKEN, SOUND
from tests.chaos.stages import find_stages
from tests.support.redis_server import needs_redis

SQLITE = Plan("SQLite", "sqlite", servers=1, workers=(1,), kills=5)
REDIS = Plan("Redis", "redis", servers=2, workers=(1,), kills=2)
SEED = random.randrange(1_000_000)


@pytest.fixture(scope="module")
def rounds() -> Iterator[dict[str, Future[Outcome]]]:
    """Both rounds concurrently, since they mostly wait for servers to start."""
    with ThreadPoolExecutor(2) as threads:
        yield {plan.store: threads.submit(run_round, plan, SEED) for plan in (SQLITE, REDIS)}


def test_nothing_is_lost_if_a_server_on_sqlite_is_killed(rounds: dict[str, Future[Outcome]]) -> None:
    outcome = rounds["sqlite"].result()
    assert outcome.violations == [], f"SEED={SEED}"
    assert outcome.stages["while running"] >= SQLITE.kills
    assert outcome.counts["answered"] > 0
    assert outcome.counts["replaced"] > 0


@needs_redis
def test_nothing_is_lost_if_one_of_two_servers_or_redis_itself_is_killed(
    rounds: dict[str, Future[Outcome]],
) -> None:
    outcome = rounds["redis"].result()
    assert outcome.violations == [], f"SEED={SEED}"
    assert outcome.stages["while running"] >= REDIS.kills
    assert outcome.counts["answered"] > 0
    assert outcome.counts["replaced"] > 0


@pytest.mark.parametrize("evidence", SOUND.values(), ids=SOUND)
def test_the_checks_accuse_no_sound_server(evidence: Evidence) -> None:
    assert find_violations(evidence) == []


@pytest.mark.parametrize(
    ("rule", "evidence"),
    [
        pytest.param(rule, evidence, id=name)
        for rule, conversations in BROKEN.items()
        for name, evidence in conversations.items()
    ],
)
def test_the_checks_find(rule: checks.Rule, evidence: Evidence) -> None:
    assert list(rule(evidence))


def test_each_rule_is_asked_and_is_known_to_be_breakable() -> None:
    assert list(BROKEN) == list(checks.RULES)


@pytest.mark.parametrize("evidence", replacement_samples.SOUND.values(), ids=replacement_samples.SOUND)
def test_the_checks_of_replaced_turns_accuse_no_sound_server(evidence: replacement_evidence.Evidence) -> None:
    assert replacement_checks.find_violations(evidence) == []


@pytest.mark.parametrize(
    ("rule", "evidence"),
    [
        pytest.param(rule, evidence, id=name)
        for rule, conversations in replacement_faults.BROKEN.items()
        for name, evidence in conversations.items()
    ],
)
def test_the_checks_of_replaced_turns_find(
    rule: replacement_checks.Rule, evidence: replacement_evidence.Evidence
) -> None:
    assert list(rule(evidence))


def test_each_rule_of_replaced_turns_is_asked_and_is_known_to_be_breakable() -> None:
    assert list(replacement_faults.BROKEN) == list(replacement_checks.RULES)


@pytest.mark.parametrize(
    ("at", "stage"),
    [
        (15, set()),
        (20.5, {"before creation"}),
        (21.5, {"queued"}),
        (22.5, {"while running"}),
        (33.5, {"after the end"}),
    ],
)
def test_a_kill_is_counted_by_how_far_the_questions_had_come(at: float, stage: set[str]) -> None:
    kill = Kill(at, at, "a.1", frozenset({"a.1", "a.2"}), is_running=False)
    assert find_stages(kill, [replace(samples.SQLITE, kills=[])]) == stage
