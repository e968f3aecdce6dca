"""`python -m tests.chaos`: kill servers, and Redis, until it is enough; then tell whether anything was lost."""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

from tests.chaos.rounds import Outcome, Plan, play

KILLS_A_ROUND = 15
COLUMNS = (
    "kills",
    "of Redis",
    "before begin",
    "waiting",
    "while writing",
    "after finish",
    "at rest",
    "questions",
    "requests",
    "answered",
    "interrupted",
    "turns",
    "calls",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--sqlite", type=int, default=60, help="kills while a reply is written, over SQLite")
    parser.add_argument("--redis", type=int, default=30, help="kills while a reply is written, over Redis")
    chosen = parser.parse_args()
    print(f"SEED={chosen.seed}")
    print(row(("", *COLUMNS)))
    print(row(["---"] * (len(COLUMNS) + 1)), flush=True)
    outcomes = []
    for number, plan in enumerate(plans(chosen.sqlite, chosen.redis)):
        outcome = play(plan, chosen.seed + number)
        outcomes.append(outcome)
        print(row([outcome.title, *counted(outcome)]), flush=True)
    for outcome in outcomes:
        tell(outcome)
    if any(outcome.violations for outcome in outcomes):
        return 1
    kills = sum(outcome.kills.total() for outcome in outcomes)
    hits = sum(outcome.stages["while writing"] for outcome in outcomes)
    print(f"\nNothing was lost, and nothing was written twice: {kills} kills, {hits} while a reply was being written.")
    return 0


def tell(outcome: Outcome) -> None:
    """The violations of a round, by rule, with the first few of each."""
    if outcome.violations:
        print(f"\n{outcome.title}: BROKEN. Its logs, and its file, are in {outcome.folder}")
    for rule, count in Counter(each.rule for each in outcome.violations).items():
        print(f"- Not true: {rule}. {count} times, such as")
        for each in [each.found for each in outcome.violations if each.rule == rule][:3]:
            print(f"  - {each}")


def plans(sqlite: int, redis: int) -> Iterator[Plan]:
    quarter = sqlite // 4
    for kills in shares(sqlite - 2 * quarter):
        yield Plan("SQLite, 1 worker", "sqlite", 1, (1,), kills)
    for kills in shares(quarter):
        yield Plan("SQLite, 2 to 4 workers", "sqlite", 1, (2, 3, 4), kills)
    for kills in shares(quarter):
        yield Plan("SQLite, 2 servers", "sqlite", 2, (1,), kills)
    for kills in shares(redis):
        yield Plan("Redis, 2 servers", "redis", 2, (1,), kills)


def shares(kills: int) -> Iterator[int]:
    while kills > 0:
        yield min(kills, KILLS_A_ROUND)
        kills -= KILLS_A_ROUND


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def counted(outcome: Outcome) -> list[str]:
    kills = Counter({"kills": outcome.kills.total(), "of Redis": outcome.kills["redis"]})
    counts = kills + outcome.stages + outcome.counts
    return [str(counts[each]) for each in COLUMNS]


if __name__ == "__main__":
    sys.exit(main())
