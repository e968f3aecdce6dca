"""`python -m tests.soak`: 1,000 clients ask 20 questions each in ten minutes; then report what it came to.

Exits with 1 if an answer was lost or paid for twice, if those whose worker lived waited too long beside the kills and
the flood, or if that worker has grown.
"""

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.soak.soak import Outcome, Plan, run_soak

PLAN = Plan(clients=1000, turns=20, calm_turns=4, interval=30.0, reply_seconds=3.0, kill_every=15.0)
MOST_SLOWER = 2.0
"""How long the 99th percentile may be, to that of the same clients while they are undisturbed."""
MOST_GROWTH = 1.05
"""How large the worker that lives may be in the last third of the time, to the second third."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--clients", type=int, default=PLAN.clients)
    parser.add_argument("--turns", type=int, default=PLAN.turns)
    arguments = parser.parse_args()
    plan = Plan(**{**vars(PLAN), **vars(arguments)})
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"{plan}\nThis takes {(plan.turns + plan.calm_turns) * plan.interval / 60:.0f} minutes and some.", flush=True)
    outcome = run_soak(plan, folder)
    shutil.rmtree(folder)
    faults = [*outcome.violations[:5], *report(outcome)]
    for fault in faults:
        print(f"NOT TRUE: {fault}")
    return 1 if faults else 0


def report(outcome: Outcome) -> list[str]:
    """Print the figures. Returns a sentence for each that is not as it must be."""
    calm = [turn.seconds for turn in outcome.turns if not turn.is_disturbed]
    living = [turn.seconds for turn in outcome.turns if turn.is_disturbed and not turn.failures]
    hit = [turn.seconds for turn in outcome.turns if turn.failures]
    print("\n| questions | of them | p50 s | p99 s |\n| --- | --- | --- | --- |")
    for name, seconds in {"undisturbed": calm, "beside kills and flood": living, "hit by a kill": hit}.items():
        if seconds:
            print(f"| {name} | {len(seconds):,} | {median(seconds):.2f} | {percentile(seconds):.2f} |")
    third = len(outcome.megabytes) // 3
    middle, last = median(outcome.megabytes[third:-third]), median(outcome.megabytes[-third:])
    failures = Counter(failure for turn in outcome.turns for failure in turn.failures)
    print(f"\n{outcome.kills} kills; attempts that failed: {dict(failures)}")
    print(f"The flood was answered: {dict(outcome.statuses.most_common())}")
    print(f"The worker that lives: {outcome.megabytes[0]:.1f} MB, then {middle:.1f}, in the end {last:.1f}")
    faults = []
    if percentile(living) > MOST_SLOWER * percentile(calm):
        faults.append(f"p99 is {percentile(living) / percentile(calm):.2f} x the undisturbed one")
    if last > MOST_GROWTH * middle:
        faults.append(f"the worker that lives has grown by {last - middle:.1f} MB")
    return faults


def percentile(seconds: Sequence[float]) -> float:
    """The 99th."""
    return sorted(seconds)[int(len(seconds) * 0.99)]


if __name__ == "__main__":
    sys.exit(main())
