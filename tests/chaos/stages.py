"""How far the questions had come that a kill hit: a count that shows what was tried, and accuses nobody."""

from bisect import bisect_right
from collections.abc import Iterable

from server.domain import Run
from tests.chaos.clients import Ask
from tests.chaos.evidence import Kill, Talk

STAGES = ("before begin", "waiting", "while writing", "after finish")


def stages(kill: Kill, talks: Iterable[Talk]) -> set[str]:
    """Those of the questions that were in flight at the killed server; none where it was at rest."""
    found = {
        _stage(ask, kill, talk)
        for talk in talks
        for ask in talk.asks
        if ask.life in kill.lives and ask.sent <= kill.began < ask.done
    }
    return found | {"while writing"} if kill.is_writing else found


def _stage(ask: Ask, kill: Kill, talk: Talk) -> str:
    run = _run_at(ask.question, kill.began, talk)
    if run is None or (run.created < ask.sent and _was_over(run, kill, talk)):
        return "before begin"
    if run.status == "completed" and run.ended is not None and run.ended <= kill.began:
        return "after finish"
    heard = [call for call in talk.calls if call.question == ask.question and run.created <= call.heard <= kill.began]
    return "while writing" if heard else "waiting"


def _run_at(question: str, at: float, talk: Talk) -> Run | None:
    """The newest run of a question that was there then."""
    runs = talk.begun.get(question, [])
    index = bisect_right(runs, at, key=lambda run: run.created)
    return runs[index - 1] if index else None


def _was_over(run: Run, kill: Kill, talk: Talk) -> bool:
    """Whether an earlier kill had ended it."""
    victims = [each.victim for each in talk.kills if run.created <= each.over and each.began < kill.began]
    return run.status == "failed" or (run.status == "interrupted" and talk.life_of(run) in victims)
