"""Threads, which are conversations, and their messages."""

from contextlib import suppress
from typing import Any

from flask import Blueprint

from server.core import Core
from server.dialects.openai import pagination
from server.dialects.openai.assistants import objects, requests
from server.dialects.openai.errors import busy_as_invalid_request, not_found_as, require_offered
from server.domain import Message
from server.errors import NotFound
from server.http.contract import Contract


def blueprint(contract: Contract, core: Core, max_characters: int) -> Blueprint:
    """`max_characters` is how long a message may be."""
    bp = Blueprint("threads", __name__)

    @contract.serves(bp, "createThread")
    def create_thread(body: dict[str, Any] | None) -> dict[str, Any]:
        options = parse_thread(body or {}, max_characters)
        return objects.dump_thread(core.conversations.create(core.conversations.new_name("thread"), **options))

    @contract.serves(bp, "getThread")
    def get_thread(thread_id: str) -> dict[str, Any]:
        with not_found_as("thread"):
            return objects.dump_thread(core.conversations.get(thread_id))

    @contract.serves(bp, "updateThread")
    def update_thread(thread_id: str, body: dict[str, Any]) -> dict[str, Any]:
        require_offered(body)
        with not_found_as("thread"):
            if "metadata" in body:
                core.conversations.update(thread_id, {"metadata": body["metadata"]}, create=False)
            return objects.dump_thread(core.conversations.get(thread_id))

    @contract.serves(bp, "deleteThread")
    def delete_thread(thread_id: str) -> dict[str, Any]:
        with not_found_as("thread"):
            core.conversations.get(thread_id)
            core.conversations.delete(thread_id)
        return objects.dump_deletion("thread", thread_id)

    @contract.serves(bp, "createMessage")
    def create_message(thread_id: str, body: dict[str, Any]) -> dict[str, Any]:
        message = requests.parse_message(body, max_characters)
        with not_found_as("thread"), busy_as_invalid_request("add messages"):
            (added,) = core.conversations.add_messages(thread_id, [message])
        return dump_message(thread_id, added)

    @contract.serves(bp, "listMessages")
    def list_messages(thread_id: str, run_id: str | None, **bounds: Any) -> dict[str, Any]:
        with not_found_as("thread"):
            count = core.conversations.get(thread_id).message_count
        if run_id is not None:
            replies = list_replies(thread_id, run_id)
            return pagination.paginate([dump_message(thread_id, each) for each in replies], **bounds)
        indexes, has_more = pagination.select_page(
            count, lambda message_id: core.conversations.message_index(thread_id, message_id), **bounds
        )
        messages = core.conversations.list_messages(thread_id, indexes.start, indexes.stop)
        return pagination.dump_page([dump_message(thread_id, each) for each in messages], has_more, bounds["order"])

    @contract.serves(bp, "getMessage")
    def get_message(thread_id: str, message_id: str) -> dict[str, Any]:
        with not_found_as("thread"):
            core.conversations.get(thread_id)
        with not_found_as("message"):
            return dump_message(thread_id, read_message(thread_id, message_id))

    @contract.serves(bp, "updateMessage")
    def update_message(thread_id: str, message_id: str, body: dict[str, Any]) -> dict[str, Any]:
        with not_found_as("message"):
            if "metadata" in body:
                core.conversations.set_message_metadata(thread_id, message_id, body["metadata"] or {})
            return dump_message(thread_id, read_message(thread_id, message_id))

    @contract.serves(bp, "deleteMessage")
    def delete_message(thread_id: str, message_id: str) -> dict[str, Any]:
        with not_found_as("message"):
            core.conversations.delete_message(thread_id, message_id)
        return objects.dump_deletion("thread.message", message_id)

    def read_message(thread_id: str, message_id: str) -> Message:
        index = core.conversations.message_index(thread_id, message_id)
        for message in core.conversations.list_messages(thread_id, index, index + 1):
            return message
        raise NotFound

    def list_replies(thread_id: str, run_id: str) -> list[Message]:
        """The reply of a run of the thread; empty if the run is unknown or the history has no reply of it."""
        with suppress(NotFound):
            run = core.replies.get(run_id)
            if run.conversation == thread_id:
                return [read_message(thread_id, run.reply_id)]
        return []

    def dump_message(thread_id: str, message: Message) -> dict[str, Any]:
        if message.role == "assistant" and message.run_id is not None:
            with suppress(NotFound):
                return objects.dump_message(thread_id, message, core.replies.get(message.run_id))
        return objects.dump_message(thread_id, message, None)

    return bp


def parse_thread(body: dict[str, Any], max_characters: int) -> dict[str, Any]:
    """The metadata and the messages of a thread, as `Conversations.create` takes them.

    Raises InvalidRequest if `body` has what is not offered.
    """
    require_offered(body)
    messages = requests.parse_messages(body.get("messages"), max_characters)
    return {"metadata": body.get("metadata") or {}, "messages": messages}
