"""What a store's calls do with runs, each in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from server.domain import Conversation, Message, Run, Status
from server.errors import ConversationBusy, NotFound
from server.store.protocol import CreatedRun, CreateOptions
from server.store.sqlite.history import History, row_key_range
from server.store.sqlite.transaction import ConversationRow, Transaction

START = "UPDATE open_runs SET status = 'running', lease = ? WHERE place = ?"
APPEND = """
UPDATE open_runs SET text = CAST(ifnull(CAST(substr(text, 1, ?) AS TEXT), '') || ? AS BLOB), lease = ? WHERE place = ?
"""
NOTE = "UPDATE runs SET details = ? WHERE place = ?"


def create_run(
    tx: Transaction, name: str, run: Run, options: CreateOptions, *, waiting: int, start: bool, lease: float
) -> CreatedRun:
    """As `Store.begin`; the lease passes at `lease`, in Unix seconds."""
    found = tx.find(name)
    if found is None and not options.create_conversation:
        raise NotFound
    still = tx.settle(found.id) if found is not None and found.has_open else []
    if found is not None:
        same = tx.get_run(run.id, name)
        if same is not None:
            return CreatedRun(same.run, found.conversation, is_new=True)
        known = tx.answering(found.id, run, still)
        if known is not None:
            return CreatedRun(known, found.conversation, is_new=False)
    status: Status = "running" if start and not still else "queued"
    queued = sum(each.run.status == "queued" for each in still)
    if (options.reject_if_busy and still) or (status == "queued" and queued >= waiting):
        raise ConversationBusy
    begun = replace(run, status=status, conversation=name)
    found = found or tx.make(name, None, {})
    tx.add(found.id, begun, lease)
    if found.is_made:
        tx.touch(found.id)
    return CreatedRun(begun, add_messages(tx, found, options.messages), is_new=True)


def add_messages(tx: Transaction, found: ConversationRow, messages: Sequence[Message]) -> Conversation:
    """The conversation once `messages` are at the end of its history."""
    count = found.conversation.message_count
    if messages:
        History(tx.db, found.id).add(count, messages)
    return replace(found.conversation, message_count=count + len(messages))


def is_due(tx: Transaction, name: str, run_id: str) -> bool:
    """Whether `start` may have something to write."""
    found = tx.find_id(name)
    open_runs = [] if found is None else tx.open_runs(found)
    return any(not each.run.is_open for each in open_runs) or any(each.run.id == run_id for each in open_runs[:1])


def start_run(tx: Transaction, name: str, run_id: str, lease: float) -> Conversation | None:
    found = tx.find(name)
    oldest = [] if found is None else tx.settle(found.id)[:1]
    if found is None or not any(each.run.id == run_id and each.run.status == "queued" for each in oldest):
        return None
    tx.db.execute(START, (lease, oldest[0].place))
    return found.conversation


def append_text(tx: Transaction, name: str, run_id: str, at: int, text: str, lease: float) -> bool:
    still = tx.open_run(run_id, name)
    if still is None or still.status != "running":
        return False
    tx.db.execute(APPEND, (at, text, lease, still.place))
    return True


def finish_run(tx: Transaction, name: str, ended: Run, context_starts: Mapping[str, int]) -> Run | None:
    still = tx.open_run(ended.id, name)
    if still is None:
        known = tx.get_run(ended.id, name)
        return None if known is None else known.run
    history_messages = ended.history_messages()
    reply = row_key_range(still.conversation)[0] + still.message_count + len(history_messages) - 1
    tx.end(still.place, ended, reply if history_messages else None)
    History(tx.db, still.conversation).add(still.message_count, history_messages)
    if context_starts:
        tx.add_context_starts(still.conversation, context_starts)
    if still.is_made:
        tx.touch(still.conversation)
    is_mine = tx.is_mine(still.writer)
    if not is_mine:
        tx.tell(still.writer, ended.id)
    for following in tx.open_runs(still.conversation, 1) if still.is_followed else ():
        if following.run.status == "queued" and not (is_mine and tx.is_mine(following.writer)):
            tx.tell(following.writer, following.run.id)
    return ended


def replace_run(tx: Transaction, name: str, run: Run, earlier: Status, *, writer: str, lease: float) -> bool:
    """Replace an open run that has the status `earlier`; `writer` is empty where nobody writes it from now on."""
    still = tx.open_run(run.id, name)
    if still is None:
        return False
    if still.status != earlier:  # It may be the same call made again.
        placed = tx.get_run(run.id, name)
        return still.writer == writer and placed is not None and placed.run == run
    tx.change(still.place, run, writer, lease)
    return True


def set_run_details(tx: Transaction, name: str, run_id: str, details: Mapping[str, Any]) -> Run:
    placed = tx.get_run(run_id, name)
    if placed is None:
        raise NotFound
    tx.db.execute(NOTE, (orjson.dumps(details), placed.place))
    return replace(placed.run, options=replace(placed.run.options, details=details))


def delete_message(tx: Transaction, name: str, message_id: str) -> None:
    found = tx.find(name)
    if found is None:
        raise NotFound
    history = History(tx.db, found.id)
    place = history.index_of(message_id)
    for message in history.read(place, place + 1):
        placed = None if message.run_id is None else tx.get_run(message.run_id, name)
        if placed is not None and placed.reply == row_key_range(found.id)[0] + place:
            tx.replace(placed.place, placed.run)  # The run takes its text back.
    history.take_out(place)
    starts = found.conversation.context_starts
    tx.change_history(found.id, {model: start - (place < start) for model, start in starts.items()})
