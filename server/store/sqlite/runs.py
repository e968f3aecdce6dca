"""What a store's calls do with runs, each in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from server.domain import Conversation, Message, Run, Status
from server.errors import ConversationBusy, NotFound
from server.store.protocol import Begun, Terms
from server.store.sqlite.history import History, places
from server.store.sqlite.transaction import Found, View

START = "UPDATE open_runs SET status = 'running', lease = ? WHERE place = ?"
APPEND = """
UPDATE open_runs SET text = CAST(ifnull(CAST(substr(text, 1, ?) AS TEXT), '') || ? AS BLOB), lease = ? WHERE place = ?
"""
NOTE = "UPDATE runs SET details = ? WHERE place = ?"


def begin(view: View, name: str, run: Run, terms: Terms, *, waiting: int, start: bool, lease: float) -> Begun:
    """As `Store.begin`; the lease passes at `lease`, in Unix seconds."""
    found = view.find(name)
    if found is None and not terms.create:
        raise NotFound
    still = view.settle(found.id) if found is not None and found.has_open else []
    if found is not None:
        same = view.run(run.id, name)
        if same is not None:
            return Begun(same.run, found.conversation, fresh=True)
        known = view.answering(found.id, run, still)
        if known is not None:
            return Begun(known, found.conversation, fresh=False)
    status: Status = "running" if start and not still else "queued"
    queued = sum(each.run.status == "queued" for each in still)
    if (terms.alone and still) or (status == "queued" and queued >= waiting):
        raise ConversationBusy
    begun = replace(run, status=status, conversation=name)
    found = found or view.make(name, None, {})
    view.add(found.id, begun, lease)
    if found.is_made:
        view.touch(found.id)
    return Begun(begun, add_messages(view, found, terms.messages), fresh=True)


def add_messages(view: View, found: Found, messages: Sequence[Message]) -> Conversation:
    """The conversation once `messages` are at the end of its history."""
    count = found.conversation.message_count
    if messages:
        History(view.db, found.id).add(count, messages)
    return replace(found.conversation, message_count=count + len(messages))


def is_due(view: View, name: str, run_id: str) -> bool:
    """Whether `start` may have something to write."""
    found = view.find_id(name)
    open_runs = [] if found is None else view.open_runs(found)
    return any(not each.run.is_open for each in open_runs) or any(each.run.id == run_id for each in open_runs[:1])


def start(view: View, name: str, run_id: str, lease: float) -> Conversation | None:
    found = view.find(name)
    oldest = [] if found is None else view.settle(found.id)[:1]
    if found is None or not any(each.run.id == run_id and each.run.status == "queued" for each in oldest):
        return None
    view.db.execute(START, (lease, oldest[0].place))
    return found.conversation


def append(view: View, name: str, run_id: str, at: int, text: str, lease: float) -> bool:
    still = view.open_run(run_id, name)
    if still is None or still.status != "running":
        return False
    view.db.execute(APPEND, (at, text, lease, still.place))
    return True


def finish(view: View, name: str, ended: Run, context_starts: Mapping[str, int]) -> Run | None:
    still = view.open_run(ended.id, name)
    if still is None:
        known = view.run(ended.id, name)
        return None if known is None else known.run
    exchange = ended.exchange()
    reply = places(still.conversation)[0] + still.message_count + len(exchange) - 1
    view.end(still.place, ended, reply if exchange else None)
    History(view.db, still.conversation).add(still.message_count, exchange)
    if context_starts:
        view.add_context_starts(still.conversation, context_starts)
    if still.is_made:
        view.touch(still.conversation)
    is_mine = view.is_mine(still.writer)
    if not is_mine:
        view.tell(still.writer, ended.id)
    for following in view.open_runs(still.conversation, 1) if still.is_followed else ():
        if following.run.status == "queued" and not (is_mine and view.is_mine(following.writer)):
            view.tell(following.writer, following.run.id)
    return ended


def change(view: View, name: str, run: Run, earlier: Status, *, writer: str, lease: float) -> bool:
    """Replace an open run that has the status `earlier`; `writer` is empty where nobody writes it from now on."""
    still = view.open_run(run.id, name)
    if still is None:
        return False
    if still.status != earlier:  # It may be the same call made again.
        placed = view.run(run.id, name)
        return still.writer == writer and placed is not None and placed.run == run
    view.change(still.place, run, writer, lease)
    return True


def note(view: View, name: str, run_id: str, details: Mapping[str, Any]) -> Run:
    placed = view.run(run_id, name)
    if placed is None:
        raise NotFound
    view.db.execute(NOTE, (orjson.dumps(details), placed.place))
    return replace(placed.run, options=replace(placed.run.options, details=details))


def delete_message(view: View, name: str, message_id: str) -> None:
    found = view.find(name)
    if found is None:
        raise NotFound
    history = History(view.db, found.id)
    place = history.place(message_id)
    for message in history.read(place, place + 1):
        placed = None if message.run_id is None else view.run(message.run_id, name)
        if placed is not None and placed.reply == places(found.id)[0] + place:
            view.replace(placed.place, placed.run)  # The run takes its text back.
    history.take_out(place)
    starts = found.conversation.context_starts
    view.change_history(found.id, {model: start - (place < start) for model, start in starts.items()})
