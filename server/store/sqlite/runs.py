"""The store's calls that change runs, each within one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from server.domain import Conversation, Message, Run, Status
from server.errors import ConversationBusy, NotFound
from server.store.protocol import CreatedRun, CreateOptions
from server.store.sqlite.history import History, row_key_range
from server.store.sqlite.transaction import ConversationRow, Transaction

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
    open_runs = tx.end_abandoned_runs(row.id) if row is not None and row.has_open_runs else []
    if row is not None:
        same = tx.find_run(run.id, name)
        if same is not None:
            return CreatedRun(same.run, row.conversation, is_new=True)
        existing = tx.find_run_to_join(row.id, run, open_runs)
        if existing is not None:
            return CreatedRun(existing, row.conversation, is_new=False)
    status: Status = "running" if start and not open_runs else "queued"
    queued = sum(each.run.status == "queued" for each in open_runs)
    if (options.reject_if_busy and open_runs) or (status == "queued" and queued >= waiting):
        raise ConversationBusy
    created = replace(run, status=status, conversation=name)
    row = row or tx.create_conversation(name, None, {})
    tx.add_run(row.id, created, lease)
    if row.has_time_limit:
        tx.touch(row.id)
    return CreatedRun(created, add_messages(tx, row, options.messages), is_new=True)


def add_messages(tx: Transaction, row: ConversationRow, messages: Sequence[Message]) -> Conversation:
    """Add messages at the end of the history. Returns the conversation with its new message count."""
    count = row.conversation.message_count
    if messages:
        History(tx.db, row.id).add(count, messages)
    return replace(row.conversation, message_count=count + len(messages))


def may_start_run(tx: Transaction, name: str, run_id: str) -> bool:
    """Whether `start_run` may have something to write. Needs no write transaction."""
    conversation_id = tx.find_conversation_id(name)
    open_runs = [] if conversation_id is None else tx.list_open_runs(conversation_id)
    return any(not each.run.is_open for each in open_runs) or any(each.run.id == run_id for each in open_runs[:1])


def start_run(tx: Transaction, name: str, run_id: str, lease: float) -> Conversation | None:
    row = tx.find_conversation(name)
    oldest = [] if row is None else tx.end_abandoned_runs(row.id)[:1]
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
    conversation_id, messages = open_run.conversation_id, ended.history_messages()
    reply_row_key = row_key_range(conversation_id)[0] + open_run.message_count + len(messages) - 1
    tx.end_run(open_run.row_key, ended, reply_row_key if messages else None)
    History(tx.db, conversation_id).add(open_run.message_count, messages)
    if context_starts:
        tx.add_context_starts(conversation_id, context_starts)
    if open_run.has_time_limit:
        tx.touch(conversation_id)
    is_mine = tx.is_mine(open_run.worker)
    if not is_mine:
        tx.notify(open_run.worker, ended.id)
    for following in tx.list_open_runs(conversation_id, 1) if open_run.has_successor else ():
        if following.run.status == "queued" and not (is_mine and tx.is_mine(following.worker)):
            tx.notify(following.worker, following.run.id)
    return ended


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


def set_run_details(tx: Transaction, name: str, run_id: str, details: Mapping[str, Any]) -> Run:
    row = tx.find_run(run_id, name)
    if row is None:
        raise NotFound
    tx.db.execute(SET_DETAILS, (orjson.dumps(details), row.row_key))
    return replace(row.run, options=replace(row.run.options, details=details))


def mark_delivered(tx: Transaction, name: str, run_id: str) -> None:
    row = tx.find_run(run_id, name)
    if row is not None and row.worker is None:
        tx.update_run(row.row_key, replace(row.run, delivered=True), row.reply_row_key)


def delete_message(tx: Transaction, name: str, message_id: str) -> None:
    conversation = tx.find_conversation(name)
    if conversation is None:
        raise NotFound
    history = History(tx.db, conversation.id)
    index = history.index_of(message_id)
    for message in history.read(index, index + 1):
        row = None if message.run_id is None else tx.find_run(message.run_id, name)
        if row is not None and row.reply_row_key == row_key_range(conversation.id)[0] + index:
            tx.update_run(row.row_key, row.run)  # From now on, the run's JSON has its text.
    history.delete(index)
    starts = conversation.conversation.context_starts
    tx.renew_history_id(conversation.id, {model: start - (index < start) for model, start in starts.items()})
