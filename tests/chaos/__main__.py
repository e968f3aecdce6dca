"""`python -m tests.chaos`: kill servers, and Redis, as often as asked; then report whether anything was lost."""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

from tests.chaos.rounds import Outcome, Plan, run_round

KILLS_A_ROUND = 15
COLUMNS = (
    "kills",
    "of Redis",
    "before creation",
    "queued",
    "while running",
    "after the end",
    "at rest",
    "questions",
    "requests",
    "answered",
    "interrupted",
    "turns",
    "calls",
    "replacements",
    "replaced",
    "replacements hit",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--sqlite", type=int, default=60, help="kills while a run executes, over SQLite")
    parser.add_argument("--redis", type=int, default=30, help="kills while a run executes, over Redis")
    arguments = parser.parse_args()
    print(f"SEED={arguments.seed}")
    print(format_row(("", *COLUMNS)))
    print(format_row(["---"] * (len(COLUMNS) + 1)), flush=True)
    outcomes = []
    for number, plan in enumerate(make_plans(arguments.sqlite, arguments.redis)):
        outcome = run_round(plan, arguments.seed + number)
        outcomes.append(outcome)
        print(format_row([outcome.title, *count_cells(outcome)]), flush=True)
    for outcome in outcomes:
        print_violations(outcome)
    if any(outcome.violations for outcome in outcomes):
        return 1
    kills = sum(outcome.kills.total() for outcome in outcomes)
    hits = sum(outcome.stages["while running"] for outcome in outcomes)
    print(f"\nNothing was lost, and nothing was generated twice: {kills} kills, {hits} while a run was executing.")
    return 0


def print_violations(outcome: Outcome) -> None:
    """Print the violations of a round by rule, with the first three of each."""
    if outcome.violations:
        print(f"\n{outcome.title}: BROKEN. Its logs, and its file, are in {outcome.folder}")
    for rule, count in Counter(each.rule for each in outcome.violations).items():
        print(f"- Not true: {rule}. {count} times, such as")
        for each in [each.details for each in outcome.violations if each.rule == rule][:3]:
            print(f"  - {each}")


def make_plans(sqlite: int, redis: int) -> Iterator[Plan]:
    quarter = sqlite // 4
    for kills in split_kills(sqlite - 2 * quarter):
        yield Plan("SQLite, 1 worker", "sqlite", 1, (1,), kills)
    for kills in split_kills(quarter):
        yield Plan("SQLite, 2 to 4 workers", "sqlite", 1, (2, 3, 4), kills)
    for kills in split_kills(quarter):
        yield Plan("SQLite, 2 servers", "sqlite", 2, (1,), kills)
    for kills in split_kills(redis):
        yield Plan("Redis, 2 servers", "redis", 2, (1,), kills)


def split_kills(kills: int) -> Iterator[int]:
    while kills > 0:
        yield min(kills, KILLS_A_ROUND)
        kills -= KILLS_A_ROUND


def format_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def count_cells(outcome: Outcome) -> list[str]:
    kills = Counter({"kills": outcome.kills.total(), "of Redis": outcome.kills["redis"]})
    counts = kills + outcome.stages + outcome.counts
    return [str(counts[each]) for each in COLUMNS]


if __name__ == "__main__":
    sys.exit(main())
