"""How much happened in a round. The counts show what was tried; they prove no fault."""

from collections import Counter
from collections.abc import Sequence

from tests.chaos.clients import Ask
from tests.chaos.evidence import Evidence
from tests.chaos.replacements import evidence as replacement_evidence


def count_asks(asks: Sequence[Ask], conversations: Sequence[Evidence]) -> Counter[str]:
    return Counter(
        questions=len({ask.question for ask in asks}),
        requests=len(asks),
        answered=len({ask.question for ask in asks if ask.answer is not None}),
        interrupted=sum(run.status != "completed" for evidence in conversations for run in evidence.runs),
        turns=sum(len(evidence.turns) for evidence in conversations),
        calls=sum(len(evidence.calls) for evidence in conversations),
    )


def count_replacements(conversations: Sequence[replacement_evidence.Evidence]) -> Counter[str]:
    """The runs that were to replace a turn: all of them, those that did, and those that a kill ended."""
    runs = [run for evidence in conversations for run in evidence.runs if run.replaces]
    hit = [run for run in runs if run.error and run.error.code in ("run_interrupted", "store_unavailable")]
    replaced = [run for run in runs if run.status == "completed"]
    return Counter({"replacements": len(runs), "replaced": len(replaced), "replacements hit": len(hit)})
