"""How far the runs had come when a kill hit them. The counts show what was tried; they prove no fault."""

from bisect import bisect_right
from collections.abc import Iterable

from server.domain import Run
from tests.chaos.clients import Ask
from tests.chaos.evidence import Evidence, Kill

STAGES = ("before creation", "queued", "while running", "after the end")


def find_stages(kill: Kill, conversations: Iterable[Evidence]) -> set[str]:
    """The stages of the questions that were open at the killed server; empty if there were none."""
    stages = {
        _find_stage(ask, kill, evidence)
        for evidence in conversations
        for ask in evidence.asks
        if ask.life in kill.lives and ask.sent <= kill.start < ask.done
    }
    return stages | {"while running"} if kill.is_running else stages


def _find_stage(ask: Ask, kill: Kill, evidence: Evidence) -> str:
    run = _find_run(ask.question, kill.start, evidence)
    if run is None or (run.created < ask.sent and _has_ended(run, kill, evidence)):
        return "before creation"
    if run.status == "completed" and run.ended is not None and run.ended <= kill.start:
        return "after the end"
    calls = [
        call for call in evidence.calls if call.question == ask.question and run.created <= call.received <= kill.start
    ]
    return "while running" if calls else "queued"


def _find_run(question: str, at: float, evidence: Evidence) -> Run | None:
    """The newest run of a question at that time; None if there was none."""
    runs = evidence.runs_by_question.get(question, [])
    index = bisect_right(runs, at, key=lambda run: run.created)
    return runs[index - 1] if index else None


def _has_ended(run: Run, kill: Kill, evidence: Evidence) -> bool:
    """Whether an earlier kill, or an error, ended the run."""
    victims = [each.victim for each in evidence.kills if run.created <= each.end and each.start < kill.start]
    return run.status == "failed" or (run.status == "interrupted" and evidence.life_of(run) in victims)
