"""The store's calls about runs and messages, each within one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from server.domain import Conversation, Message, Run, Status, excerpt_of
from server.errors import ConversationBusy, NotFound, NotLastTurn, RunExists
from server.store.limits import RunLimits
from server.store.protocol import CreatedRun, CreateOptions
from server.store.sqlite import limits
from server.store.sqlite.conversations import (
    add_context_starts,
    add_conversation,
    add_to_history,
    renew_history_id,
    require_conversation,
    require_published,
    set_excerpt,
    touch,
)
from server.store.sqlite.history import History, row_key_range
from server.store.sqlite.transaction import RunRow, Transaction
from server.store.sqlite.usage import add_usage

START_RUN = "UPDATE open_runs SET status = 'running', lease = ? WHERE row_key = ?"
APPEND_TEXT = """
UPDATE open_runs SET text = CAST(ifnull(CAST(substr(text, 1, ?) AS TEXT), '') || ? AS BLOB), lease = ?
WHERE row_key = ?
"""
SET_DETAILS = "UPDATE runs SET details = ? WHERE row_key = ?"


def create_run(
    tx: Transaction, name: str, run: Run, options: CreateOptions, *, waiting: int, start: bool, lease: float
) -> CreatedRun:
    """As `Store.create_run`; the lease expires at `lease`, in Unix seconds."""
    row = tx.find_conversation(name)
    if row is None and not options.create_conversation:
        raise NotFound
    if row is not None:
        require_published(tx, row)
    open_runs = end_abandoned_runs(tx, row.id) if row is not None and row.has_open_runs else []
    if row is not None:
        same = tx.find_run(run.id, name)
        if same is not None:
            return CreatedRun(same.run, row.conversation, is_new=True)
        existing = tx.find_run_to_join(row.id, run, open_runs)
        if existing is not None:
            return CreatedRun(existing, row.conversation, is_new=False)
    if run.replaces is not None and (row is None or not History(tx.db, row.id).count_newest(run.replaces)):
        raise NotLastTurn
    status: Status = "running" if start and not open_runs else "queued"
    queued = sum(each.run.status == "queued" for each in open_runs)
    if (options.reject_if_busy and open_runs) or (status == "queued" and queued >= waiting):
        raise ConversationBusy
    created = replace(run, status=status, conversation=name)
    rate = limits.take(tx, created, options.limits, lambda key: end_abandoned_runs(tx, key))
    row = row or add_conversation(tx, name, owner=options.owner)
    tx.add_open_run(row.id, created, lease)
    return CreatedRun(created, add_to_history(tx, row, options.messages, run.question), is_new=True, rate=rate)


def end_abandoned_runs(tx: Transaction, conversation_id: int) -> list[RunRow]:
    """Write the ends of abandoned runs. Returns the remaining open runs, oldest first."""
    rows = tx.list_open_runs(conversation_id)
    open_runs = [row for row in rows if row.run.is_open]
    if len(open_runs) < len(rows):
        for row in rows:
            if not row.run.is_open:
                _end_run(tx, row.row_key, row.run)
                tx.notify(row.worker, row.run.id)
        for oldest in open_runs[:1]:
            if oldest.run.status == "queued":
                tx.notify(oldest.worker, oldest.run.id)
    return open_runs


def may_start_run(tx: Transaction, name: str, run_id: str) -> bool:
    """Whether `start_run` may have something to write. Needs no write transaction."""
    conversation_id = tx.find_conversation_id(name)
    open_runs = [] if conversation_id is None else tx.list_open_runs(conversation_id)
    return any(not each.run.is_open for each in open_runs) or any(each.run.id == run_id for each in open_runs[:1])


def start_run(tx: Transaction, name: str, run_id: str, lease: float) -> Conversation | None:
    row = tx.find_conversation(name)
    oldest = [] if row is None else end_abandoned_runs(tx, row.id)[:1]
    if row is None or not any(each.run.id == run_id and each.run.status == "queued" for each in oldest):
        return None
    tx.db.execute(START_RUN, (lease, oldest[0].row_key))
    return row.conversation


def append_text(tx: Transaction, name: str, run_id: str, at: int, text: str, lease: float) -> bool:
    open_run = tx.find_open_run(run_id, name)
    if open_run is None or open_run.status != "running":
        return False
    tx.db.execute(APPEND_TEXT, (at, text, lease, open_run.row_key))
    return True


def finish_run(tx: Transaction, name: str, ended: Run, context_starts: Mapping[str, int]) -> Run | None:
    open_run = tx.find_open_run(ended.id, name)
    if open_run is None:
        row = tx.find_run(ended.id, name)
        return None if row is None else row.run
    conversation_id, messages, count = open_run.conversation_id, ended.history_messages(), open_run.message_count
    if messages and ended.replaces:
        count = _delete_replaced_turn(tx, name, ended)
    reply_row_key = row_key_range(conversation_id)[0] + count + len(messages) - 1
    _end_run(tx, open_run.row_key, ended, reply_row_key if messages else None)
    History(tx.db, conversation_id).add(count, messages)
    if context_starts:
        add_context_starts(tx, conversation_id, context_starts)
    touch(tx, conversation_id)
    is_mine = tx.is_mine(open_run.worker)
    if not is_mine:
        tx.notify(open_run.worker, ended.id)
    for following in tx.list_open_runs(conversation_id, 1) if open_run.has_successor else ():
        if following.run.status == "queued" and not (is_mine and tx.is_mine(following.worker)):
            tx.notify(following.worker, following.run.id)
    return ended


def _end_run(tx: Transaction, row_key: int, ended: Run, reply_row_key: int | None = None) -> None:
    tx.db.execute("DELETE FROM open_runs WHERE row_key = ?", (row_key,))
    tx.update_run(row_key, ended, reply_row_key)
    add_usage(tx, row_key >> 32, ended)
    limits.settle(tx, ended)


def _delete_replaced_turn(tx: Transaction, name: str, ended: Run) -> int:
    """Delete the newest messages, as far as they belong to the run that `ended` replaces. Returns how many are left."""
    row, replaced_id = require_conversation(tx, name), ended.replaces or ""
    history, count = History(tx.db, row.id), row.conversation.message_count
    left = count - history.count_newest(replaced_id)
    if left < count:
        replaced = tx.find_run(replaced_id, name)
        if replaced is not None and replaced.reply_row_key is not None:
            tx.update_run(replaced.row_key, replaced.run)  # From now on, the run's JSON has its text.
        history.delete_newest(left)
        starts = row.conversation.context_starts
        renew_history_id(tx, row.id, {model: min(start, left) for model, start in starts.items()})
    if not left and ended.question:
        set_excerpt(tx, row.id, excerpt_of(ended.question))
    return left


def replace_run(tx: Transaction, name: str, run: Run, earlier: Status, *, worker: str, lease: float) -> bool:
    """Replace an open run that has the status `earlier`; `worker` is empty if the run requires action from now on."""
    open_run = tx.find_open_run(run.id, name)
    if open_run is None:
        return False
    if open_run.status != earlier:  # This may be the same call, repeated.
        row = tx.find_run(run.id, name)
        return open_run.worker == worker and row is not None and row.run == run
    tx.update_open_run(open_run.row_key, run, worker, lease)
    return True


def resume_run(tx: Transaction, name: str, run: Run, run_limits: RunLimits, *, worker: str, lease: float) -> bool:
    row = None if run.charge is None else tx.find_run(run.id, name)
    if row is not None and row.run.charge is not None and row.run.status == "requires_action":
        reserved = row.run.charge.reserved
        limits.require_budget(
            tx, run.charge, reserved, run_limits.daily_tokens, lambda key: end_abandoned_runs(tx, key)
        )
    return replace_run(tx, name, run, "requires_action", worker=worker, lease=lease)


def set_run_details(tx: Transaction, name: str, run_id: str, details: Mapping[str, Any]) -> Run:
    row = tx.find_run(run_id, name)
    if row is None:
        raise NotFound
    tx.db.execute(SET_DETAILS, (orjson.dumps(details), row.row_key))
    return replace(row.run, options=replace(row.run.options, details=details))


def list_runs(tx: Transaction, name: str, status: Status | None, most: int, before: str | None) -> Sequence[Run]:
    if before is None:
        conversation_id = tx.find_conversation_id(name)
        return () if conversation_id is None else tx.list_runs(row_key_range(conversation_id), status, most)
    row = tx.find_run(before, name)
    if row is None:
        raise NotFound
    return tx.list_runs((row_key_range(row.row_key >> 32)[0], row.row_key - 1), status, most)


def mark_delivered(tx: Transaction, name: str, run_id: str) -> None:
    row = tx.find_run(run_id, name)
    if row is not None and row.worker is None:
        tx.update_run(row.row_key, replace(row.run, delivered=True), row.reply_row_key)


def add_messages(tx: Transaction, name: str, messages: Sequence[Message]) -> None:
    row = require_conversation(tx, name)
    require_published(tx, row)
    if History(tx.db, row.id).has_added(row.conversation.message_count, messages):
        return
    if end_abandoned_runs(tx, row.id):
        raise ConversationBusy
    add_to_history(tx, row, messages)


def import_history(tx: Transaction, name: str, messages: Sequence[Message], runs: Sequence[Run]) -> None:
    row = require_conversation(tx, name)
    count = row.conversation.message_count
    is_added = History(tx.db, row.id).has_added(count, messages)
    if is_added or any(tx.find_run(first.id, name) is not None for first in runs[:1]):
        return
    if any(tx.find_run(run.id) is not None for run in runs):
        raise RunExists
    first_row_key = row_key_range(row.id)[0] + count
    replies = {(each.run_id, each.id, each.content): key for key, each in enumerate(messages, first_row_key)}
    for run in runs:
        tx.add_run(row.id, replace(run, conversation=name), replies.get((run.id, run.reply_id, run.text)))
    add_to_history(tx, row, messages)


def delete_message(tx: Transaction, name: str, message_id: str) -> None:
    conversation = require_conversation(tx, name)
    history = History(tx.db, conversation.id)
    index = history.index_of(message_id)
    for message in history.read(index, index + 1):
        row = None if message.run_id is None else tx.find_run(message.run_id, name)
        if row is not None and row.reply_row_key == row_key_range(conversation.id)[0] + index:
            tx.update_run(row.row_key, row.run)  # From now on, the run's JSON has its text.
    history.delete(index)
    starts = conversation.conversation.context_starts
    renew_history_id(tx, conversation.id, {model: start - (index < start) for model, start in starts.items()})
