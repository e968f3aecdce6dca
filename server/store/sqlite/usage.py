"""The tokens that were used, by day, conversation and model. The column `owner` of their table is always empty."""

from collections import defaultdict

from server.domain import DailyUsage, Run, rfc3339
from server.store.sqlite.transaction import Transaction

ADD_COUNTS = """
ON CONFLICT DO UPDATE SET runs = runs + excluded.runs,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    total_tokens = total_tokens + excluded.total_tokens
"""
ADD_USAGE = f"""
INSERT INTO usage SELECT '', iif(unlisted, 0, id), ?, ?, 1, ?, ?, ? FROM conversations WHERE id = ? {ADD_COUNTS}
"""
FOLD_USAGE = f"""
INSERT INTO usage SELECT '', 0, day, model, runs, prompt_tokens, completion_tokens, total_tokens FROM usage
WHERE owner = '' AND conversation_id = ? {ADD_COUNTS}
"""
DELETE_USAGE = "DELETE FROM usage WHERE owner = '' AND conversation_id = ?"
COLUMNS = """
u.day, u.model, u.conversation_id, ifnull(c.name, ''), c.expires, u.runs, u.prompt_tokens, u.completion_tokens,
    u.total_tokens
"""
USAGE = f"""
SELECT {COLUMNS} FROM usage u LEFT JOIN conversations c ON c.id = u.conversation_id
WHERE u.owner = '' AND u.day BETWEEN ? AND ?
"""
USAGE_OF_ONE = f"{USAGE.rstrip()} AND u.conversation_id = ?"


def add_usage(tx: Transaction, conversation_id: int, ended: Run) -> None:
    """Add the usage of a run that has ended, if it is known."""
    if ended.usage is not None and ended.ended is not None:
        counts = ended.usage.prompt_tokens, ended.usage.completion_tokens, ended.usage.total_tokens
        tx.db.execute(ADD_USAGE, (rfc3339(ended.ended)[:10], ended.model or "", *counts, conversation_id))


def fold_usage(tx: Transaction, conversation_id: int) -> None:
    """Count the usage of a conversation that is deleted as that of unlisted ones."""
    tx.db.execute(FOLD_USAGE, (conversation_id,))
    tx.db.execute(DELETE_USAGE, (conversation_id,))


def list_usage(tx: Transaction, name: str | None, since: str, until: str) -> list[DailyUsage]:
    """As `Store.list_usage`."""
    if name is None:
        rows = tx.db.execute(USAGE, (since, until)).fetchall()
    else:
        rows = tx.db.execute(USAGE_OF_ONE, (since, until, tx.find_conversation_id(name))).fetchall()
    totals: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for day, model, conversation_id, found, expires, *counts in rows:
        key = day, "" if tx.has_expired(conversation_id, expires) else found, model
        totals[key] = [a + b for a, b in zip(totals[key], counts, strict=True)]
    listed = [DailyUsage(*key, *counts) for key, counts in sorted(totals.items())]
    return sorted(listed, key=lambda each: each.day, reverse=True)
