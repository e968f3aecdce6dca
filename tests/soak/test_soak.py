"""A short soak, and tests of its checks: they find a lost answer, and one that was paid for twice."""

from collections import Counter
from pathlib import Path

import pytest

from tests.soak.clients import Client, Turn
from tests.soak.soak import Plan, check_client, run_soak

SHORT = Plan(clients=60, turns=6, calm_turns=1, interval=3.0, reply_seconds=0.5, kill_every=1.0)


def test_every_answered_turn_is_kept_while_workers_are_killed_and_somebody_floods(tmp_path: Path) -> None:
    outcome = run_soak(SHORT, tmp_path)
    assert outcome.violations == []
    assert len(outcome.turns) == SHORT.clients * (SHORT.turns + SHORT.calm_turns)
    assert [turn for turn in outcome.turns if turn.answer is None] == []
    # It was disturbed, or nothing was tried.
    assert outcome.kills >= 1
    assert any(turn.failures for turn in outcome.turns)
    assert outcome.statuses["429"] > 0
    assert outcome.statuses["403"] > 0
    assert outcome.statuses["401"] > 0


def told(*turns: tuple[str, str], answered: Turn, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client that was answered one turn, at a server whose history is `turns`."""
    client = Client(1, 0, "", 0.0, 0.0, (0, 1))
    client.turns.append(answered)
    monkeypatch.setattr(client, "read_history", lambda: list(turns))
    return client


ANSWERED = Turn("why?", is_disturbed=True, answer="Because.", failures=["broken"])


@pytest.mark.parametrize(
    ("turns", "calls", "violations"),
    [
        ([("why?", "Because.")], 2, 0),
        ([("why?", "Because.")], 3, 1),
        ([], 2, 1),
        ([("why?", "Because.")] * 2, 2, 1),
        ([("why?", "Not so.")], 2, 1),
    ],
    ids=["kept", "paid for once too often", "lost", "kept twice", "another reply"],
)
def test_the_check_of_a_client_finds(
    turns: list[tuple[str, str]], calls: int, violations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = told(*turns, answered=ANSWERED, monkeypatch=monkeypatch)
    assert len(list(check_client(client, Counter({"why?": calls})))) == violations


def test_the_check_of_a_client_finds_a_failure_that_no_kill_explains(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = Turn("why?", is_disturbed=True, answer="Because.", failures=["429 rate_limited"])
    client = told(("why?", "Because."), answered=turn, monkeypatch=monkeypatch)
    assert len(list(check_client(client, Counter({"why?": 1})))) == 1
