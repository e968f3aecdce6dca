"""Threads, which are conversations, and their messages."""

from contextlib import suppress
from typing import Any

from flask import Blueprint

from server.core import Core
from server.dialects.openai import pagination
from server.dialects.openai.assistants import objects, requests
from server.dialects.openai.errors import not_found_as, refused_while_a_run_is_open, require_offered
from server.domain import Conversation, Message, new_id
from server.errors import NotFound
from server.http.contract import Contract


def blueprint(contract: Contract, core: Core, most_characters: int) -> Blueprint:
    """`most_characters` is how long a message may be."""
    bp = Blueprint("threads", __name__)

    @contract.serves(bp, "createThread")
    def create(body: dict[str, Any] | None) -> dict[str, Any]:
        return objects.thread(made(core, new_id("thread"), body or {}, most_characters))

    @contract.serves(bp, "getThread")
    def show(thread_id: str) -> dict[str, Any]:
        with not_found_as("thread"):
            return objects.thread(core.conversations.get(thread_id))

    @contract.serves(bp, "updateThread")
    def update(thread_id: str, body: dict[str, Any]) -> dict[str, Any]:
        require_offered(body)
        with not_found_as("thread"):
            if "metadata" in body:
                core.conversations.set_metadata(thread_id, body["metadata"] or {})
            return objects.thread(core.conversations.get(thread_id))

    @contract.serves(bp, "deleteThread")
    def delete(thread_id: str) -> dict[str, Any]:
        with not_found_as("thread"):
            core.conversations.get(thread_id)
        core.conversations.delete(thread_id)
        return objects.deleted("thread", thread_id)

    @contract.serves(bp, "createMessage")
    def create_message(thread_id: str, body: dict[str, Any]) -> dict[str, Any]:
        said = requests.message(body, most_characters)
        with not_found_as("thread"), refused_while_a_run_is_open("add messages"):
            (added,) = core.conversations.add_messages(thread_id, [said])
        return shape(thread_id, added)

    @contract.serves(bp, "listMessages")
    def list_messages(thread_id: str, run_id: str | None, **bounds: Any) -> dict[str, Any]:
        with not_found_as("thread"):
            count = core.conversations.get(thread_id).message_count
        if run_id is not None:
            return pagination.cut([shape(thread_id, each) for each in written_by(run_id, thread_id)], **bounds)
        found, has_more = pagination.page(
            count, lambda message_id: core.conversations.message_index(thread_id, message_id), **bounds
        )
        messages = core.conversations.list_messages(thread_id, found.start, found.stop)
        return pagination.listed([shape(thread_id, each) for each in messages], has_more, bounds["order"])

    @contract.serves(bp, "getMessage")
    def show_message(thread_id: str, message_id: str) -> dict[str, Any]:
        with not_found_as("thread"):
            core.conversations.get(thread_id)
        with not_found_as("message"):
            return shape(thread_id, message(thread_id, message_id))

    @contract.serves(bp, "updateMessage")
    def update_message(thread_id: str, message_id: str, body: dict[str, Any]) -> dict[str, Any]:
        with not_found_as("message"):
            if "metadata" in body:
                core.conversations.set_message_metadata(thread_id, message_id, body["metadata"] or {})
            return shape(thread_id, message(thread_id, message_id))

    @contract.serves(bp, "deleteMessage")
    def delete_message(thread_id: str, message_id: str) -> dict[str, Any]:
        with not_found_as("message"):
            core.conversations.delete_message(thread_id, message_id)
        return objects.deleted("thread.message", message_id)

    def message(thread_id: str, message_id: str) -> Message:
        place = core.conversations.message_index(thread_id, message_id)
        for found in core.conversations.list_messages(thread_id, place, place + 1):
            return found
        raise NotFound

    def written_by(run_id: str, thread_id: str) -> list[Message]:
        """The reply that a run of the thread has written, if it has."""
        with suppress(NotFound):
            run = core.replies.get(run_id)
            if run.conversation == thread_id:
                return [message(thread_id, run.reply_id)]
        return []

    def shape(thread_id: str, said: Message) -> dict[str, Any]:
        if said.role == "assistant" and said.run_id is not None:
            with suppress(NotFound):
                return objects.message(thread_id, said, core.replies.get(said.run_id))
        return objects.message(thread_id, said, None)

    return bp


def made(core: Core, thread_id: str, body: dict[str, Any], most_characters: int) -> Conversation:
    """A new thread with what `body` says of it."""
    require_offered(body)
    messages = requests.messages(body.get("messages"), most_characters)
    return core.conversations.create(thread_id, metadata=body.get("metadata") or {}, messages=messages)
