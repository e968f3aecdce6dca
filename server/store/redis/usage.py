"""The tokens that were used: a hash `TAG:usage` for each listed conversation, and a shared one for all others.

A field is `DAY|MODEL|KIND`. What is to be added to the shared hash, which may be on another node, is first an entry of
`TAG:outbox`, written in one step with the end of the run or with the deletion: `$` and a JSON array of an id, then each
field and its number. The shared hash takes the same id once within an hour. So nothing is lost if a process ends in
between: the next end of a run, deletion or sweep of the conversation adds it, but twice if it comes more than an hour
after a process that ended between the addition and the deletion of the entry.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import orjson

from server.domain import DailyUsage, Run, rfc3339
from server.store.redis.caller import ScriptCaller, tag_of
from server.store.redis.commands import Command, evalsha
from server.store.redis.use_order import UseOrder

UNLISTED = "{unlisted}"
"""The tag of the shared hash."""

KINDS = ("runs", "prompt_tokens", "completion_tokens", "total_tokens")


def dump_usage(ended: Run) -> bytes:
    """The entry of `outbox` for a run that has ended; empty if its usage is not known."""
    if ended.usage is None or ended.ended is None:
        return b""
    key = f"{rfc3339(ended.ended)[:10]}|{ended.model or ''}"
    counts = 1, ended.usage.prompt_tokens, ended.usage.completion_tokens, ended.usage.total_tokens
    fields = [part for kind, count in zip(KINDS, counts, strict=True) for part in (f"{key}|{kind}", str(count))]
    return b"$" + orjson.dumps([ended.id, *fields])


def add_to_unlisted(entry: bytes) -> Command:
    """The command that does what an entry of `outbox` says."""
    return evalsha("add_usage", f"{UNLISTED}:usage", *orjson.loads(entry[1:]))


def list_usage(
    scripts: ScriptCaller, use_order: UseOrder, name: str | None, since: str, until: str
) -> Sequence[DailyUsage]:
    """As `Store.list_usage`."""
    totals: dict[tuple[str, str, str], Counter[str]] = {}
    for listed, (exists, flat) in _read_usage(scripts, use_order, name):
        for field, count in zip(flat[::2], flat[1::2], strict=True):
            day, _, model_and_kind = field.decode().partition("|")
            model, _, kind = model_and_kind.rpartition("|")
            key = day, listed if exists else "", model
            if since <= day <= until and name in (None, key[1]):
                totals.setdefault(key, Counter())[kind] += int(count)
    newest_first = sorted(sorted(totals, key=lambda key: key[1:]), key=lambda key: key[0], reverse=True)
    return [DailyUsage(*key, *(totals[key][kind] for kind in KINDS)) for key in newest_first]


def _read_usage(
    scripts: ScriptCaller, use_order: UseOrder, name: str | None
) -> Iterator[tuple[str, tuple[int, list[bytes]]]]:
    """Names, each with the answer of the script `get_usage`."""
    batches = use_order.list_names() if name is None else [[name] if name else []]
    if not name:
        (shared,) = scripts.ask_all([scripts.command("get_usage", UNLISTED)])
        yield "", shared
    for names in batches:
        answers = scripts.ask_all([scripts.command("get_usage", tag_of(each)) for each in names])
        yield from zip(names, answers, strict=True)
