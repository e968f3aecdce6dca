"""Conversations, named by `client_name`: list, search, change, regenerate, count, export, import and delete them."""

from dataclasses import asdict
from hashlib import sha256
from typing import Any

import orjson
from flask import Blueprint, Response

from server.core import Core
from server.core.exports import ExportFormat
from server.core.imports import Imported
from server.core.messages import Statistics
from server.core.search import SearchResult
from server.core.usage import report_usage
from server.domain import (
    METADATA_CHARACTERS,
    SETTINGS,
    Conversation,
    Message,
    Run,
    Status,
    is_too_long,
    rfc3339,
)
from server.errors import InvalidRequest
from server.http import connection, files
from server.http.contract import Contract
from server.http.errors import register_error_handlers

FILE_TYPES: dict[ExportFormat, tuple[str, str]] = {
    "json": ("application/json", "json"),
    "jsonl": ("application/jsonl", "jsonl"),
    "markdown": ("text/markdown", "md"),
}
"""The media type of each format, and the suffix of its files."""


def blueprint(contract: Contract, core: Core, max_import_bytes: int, max_input_chars: int) -> Blueprint:
    """The limits are those of files to import, and of questions and system prompts in them."""
    bp = Blueprint("conversations", __name__)
    register_error_handlers(bp)
    _serve_files(bp, contract, core, max_import_bytes, max_input_chars)
    _serve_conversations(bp, contract, core)
    _serve_runs(bp, contract, core)
    _serve_counts(bp, contract, core)
    return bp


def _serve_conversations(bp: Blueprint, contract: Contract, core: Core) -> None:
    @contract.serves(bp, "listConversations")
    def list_conversations(q: str | None, limit: int | None, before: str | None) -> dict[str, Any]:
        page = core.search.list(q, before, limit or 50)
        return _with_next({"conversations": [_dump_entry(each) for each in page.found]}, page.next_cursor)

    @contract.serves(bp, "getConversation")
    def get_conversation(client_name: str) -> dict[str, Any]:
        return _dump_conversation(core, core.conversations.get(client_name))

    @contract.serves(bp, "updateConversation")
    def update_conversation(body: dict[str, Any]) -> dict[str, Any]:
        if body.get("model") is not None:
            core.models.require_listed(body["model"])
        changes = {name: body[name] for name in ("model", "metadata", *SETTINGS) if name in body}
        if is_too_long(changes.get("metadata")):
            raise InvalidRequest(f"metadata must have at most {METADATA_CHARACTERS} characters as JSON.")
        if changes.get("max_completion_tokens") is not None:
            changes["max_completion_tokens"] = int(changes["max_completion_tokens"])  # It may be 10.0.
        return _dump_conversation(core, core.conversations.update(body["client_name"], changes))

    @contract.serves(bp, "deleteConversation")
    def delete_conversation(client_name: str) -> dict[str, Any]:
        core.conversations.get(client_name)
        core.conversations.delete(client_name)
        return {"message": "The conversation is deleted, with its messages, its runs and its settings."}

    @contract.serves(bp, "listMessages")
    def list_messages(client_name: str, limit: int | None, before: str | None) -> dict[str, Any]:
        page = core.messages.list(client_name, None if before is None else int(before), limit or 100)
        messages = [_dump_message(*each) for each in page.messages]
        answer = {"messages": messages, "message_count": page.message_count}
        return _with_next(answer, str(page.start) if page.start else None)

    @contract.serves(bp, "generateTitle")
    def generate_title(body: dict[str, Any]) -> dict[str, Any]:
        return {"title": core.titles.generate(body["client_name"], connection.connection_probe())}


def _serve_runs(bp: Blueprint, contract: Contract, core: Core) -> None:
    @contract.serves(bp, "listRuns")
    def list_runs(client_name: str, status: Status | None, limit: int | None, before: str | None) -> dict[str, Any]:
        core.conversations.get(client_name)
        count = limit or 20
        runs = core.replies.list(client_name, status, count + 1, before)
        page = [_dump_run(each) for each in runs[:count]]
        return _with_next({"runs": page}, page[-1]["id"] if len(runs) > count else None)

    @contract.serves(bp, "cancelRun")
    def cancel_run(body: dict[str, Any]) -> dict[str, Any]:
        run = core.replies.find(body["client_name"], body["run_id"])
        return _dump_run(core.replies.cancel(run.id))

    @contract.serves(bp, "retryRun")
    def retry_run(body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        run = core.replies.find(body["client_name"], body["run_id"])
        return _dump_run(core.replies.retry(run.id)), 202

    @contract.serves(bp, "regenerate")
    def regenerate(body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        return _replace_turn(core, body, None), 202

    @contract.serves(bp, "editQuestion")
    def edit_question(body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        return _replace_turn(core, body, body["input"]), 202


def _serve_counts(bp: Blueprint, contract: Contract, core: Core) -> None:
    @contract.serves(bp, "getStatistics")
    def get_statistics(client_name: str) -> dict[str, Any]:
        return _dump_statistics(core.messages.count(client_name))

    @contract.serves(bp, "getUsage")
    def get_usage(client_name: str | None, since: str | None, until: str | None) -> dict[str, Any]:
        return report_usage(core.conversations.list_usage, client_name, since, until)


def _serve_files(bp: Blueprint, contract: Contract, core: Core, max_import_bytes: int, max_input_chars: int) -> None:
    @contract.serves(bp, "exportConversation")
    def export_conversation(client_name: str, format: ExportFormat | None) -> Response:
        mimetype, suffix = FILE_TYPES[format or "json"]
        exported = core.exports.write(client_name, format or "json")
        return files.send_file(exported.file, exported.size, mimetype, exported.title, suffix)

    @contract.serves(bp, "importConversations")
    def import_conversations(client_name: str | None, on_conflict: str | None) -> dict[str, Any]:
        with core.imports.admit(max_import_bytes) as take, files.receive_file(max_import_bytes, take) as file:
            copies, has_lines = on_conflict == "copy", files.is_json_lines()
            result = core.imports.load(file, client_name, max_input_chars, has_lines=has_lines, copies=copies)
        return {"conversations": [_dump_imported(each) for each in result.conversations], "skipped": result.skipped}


def _replace_turn(core: Core, body: dict[str, Any], question: str | None) -> dict[str, Any]:
    run_id, logprobs = body.get("run_id"), body.get("logprobs")
    return _dump_run(core.replies.replace_turn(body["client_name"], run_id, question, logprobs=logprobs))


def _with_next(answer: dict[str, Any], cursor: str | None) -> dict[str, Any]:
    return answer if cursor is None else {**answer, "next": cursor}


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _dump_entry(found: SearchResult) -> dict[str, Any]:
    conversation = found.entry.conversation
    title = conversation.settings.get("title")
    return {
        "client_name": conversation.name,
        "title": conversation.excerpt if title is None else title,
        "has_title": title is not None,
        "message_count": conversation.message_count,
        "created_at": rfc3339(conversation.created),
        "last_used_at": rfc3339(conversation.touched),
        **_without_none(status=found.entry.newest_status, match=found.passage),
    }


def _dump_conversation(core: Core, conversation: Conversation) -> dict[str, Any]:
    state = conversation.history_id, conversation.message_count, conversation.model, conversation.metadata
    revision = sha256(orjson.dumps([*state, conversation.settings], option=orjson.OPT_SORT_KEYS))
    return {
        "client_name": conversation.name,
        "model": conversation.model,
        **{name: conversation.settings.get(name) for name in SETTINGS},
        "metadata": conversation.metadata or None,
        "default_model": core.models.find_default(),
        "message_count": conversation.message_count,
        "revision": revision.hexdigest()[:16],
        "created_at": rfc3339(conversation.created),
        "last_used_at": rfc3339(conversation.touched),
        "open_runs": [_dump_run(each) for each in core.replies.list_open(conversation.name)],
    }


def _dump_message(message: Message, run: Run | None) -> dict[str, Any]:
    known: dict[str, Any] = {}
    if run is not None and message.role == "assistant":
        known = _dump_result(run)
    return {
        "id": message.id,
        "role": message.role,
        "content": message.content,
        "timestamp": rfc3339(message.timestamp),
        **_without_none(run_id=message.run_id, status=None if run is None else run.status),
        **known,
        **({"metadata": message.metadata} if message.metadata else {}),
    }


def _dump_run(run: Run) -> dict[str, Any]:
    error = None if run.error is None else {"error": run.error.sentence, "code": run.error.code}
    return {
        "id": run.id,
        "client_name": run.conversation,
        "status": run.status,
        "input": run.question,
        "text": run.text,
        "created_at": rfc3339(run.created),
        **_without_none(ended_at=None if run.ended is None else rfc3339(run.ended), error=error, replaces=run.replaces),
        **({"replayed": run.replayed, "omitted": run.omitted} if run.status == "completed" else {}),
        **_dump_result(run),
    }


def _dump_result(run: Run) -> dict[str, Any]:
    return _without_none(
        model=run.model,
        usage=None if run.usage is None else asdict(run.usage),
        seconds=None if run.ended is None else round(run.ended - run.created, 3),
        finish_reason=run.finish_reason,
        logprobs=run.logprobs,
    )


def _dump_statistics(counts: Statistics) -> dict[str, Any]:
    return {
        "client_name": counts.conversation.name,
        "message_count": counts.conversation.message_count,
        "question_count": counts.question_count,
        "reply_count": counts.reply_count,
        "runs": counts.runs,
        "usage": asdict(counts.usage),
        "created_at": rfc3339(counts.conversation.created),
        "last_used_at": rfc3339(counts.conversation.touched),
        **_without_none(reply_seconds=counts.reply_seconds),
    }


def _dump_imported(imported: Imported) -> dict[str, Any]:
    conversation = imported.conversation
    return {
        "client_name": conversation.name,
        "title": conversation.settings.get("title") or conversation.excerpt,
        "message_count": imported.message_count,
        "run_count": imported.run_count,
    }
