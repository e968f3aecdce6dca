"""OpenAI's objects, made of the core's: threads, messages, runs and their steps. Times are whole Unix seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from server.domain import Conversation, Message, Run, Status, Step, ToolCall

RUN_DEFAULTS: dict[str, Any] = {
    "instructions": "",
    "tools": [],
    "metadata": {},
    "temperature": None,
    "top_p": None,
    "max_completion_tokens": None,
    "reasoning_effort": None,
    "truncation_strategy": {"type": "auto", "last_messages": None},
    "response_format": "auto",
    "tool_choice": "auto",
    "parallel_tool_calls": True,
}
"""What a run is asked with, each with what it is where nothing was said. Kept in the run's details."""

STATUS: dict[Status, str] = {"running": "in_progress", "interrupted": "failed"}
"""Where OpenAI has another word for it."""

LIMITED = ("upstream_rate_limited", "upstream_quota_exhausted")
"""Codes of failures that OpenAI calls `rate_limit_exceeded`."""


def thread(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": conversation.name,
        "object": "thread",
        "created_at": int(conversation.created),
        "metadata": conversation.metadata,
        "tool_resources": {},
    }


def deleted(kind: str, deleted_id: str) -> dict[str, Any]:
    return {"id": deleted_id, "object": f"{kind}.deleted", "deleted": True}


def message(thread_id: str, said: Message, run: Run | None) -> dict[str, Any]:
    """A message of the history; `run` is the one that wrote it as its reply."""
    if run is not None:
        return reply(run, said.metadata)
    return {
        **_message(said.id, thread_id, said.role, said.content, said.metadata),
        "created_at": int(said.timestamp),
        "completed_at": int(said.timestamp),
    }


def reply(run: Run, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The message that a run writes, as far as it is written."""
    reason = _reason(run)
    status = "in_progress" if run.is_open else "completed" if reason is None else "incomplete"
    ended = None if run.ended is None else int(run.ended)
    return {
        **_message(run.reply_id, run.conversation, "assistant", run.text, metadata or {}),
        "created_at": int(run.created),
        "assistant_id": run.options.details.get("assistant_id"),
        "run_id": run.id,
        "status": status,
        "completed_at": ended if status == "completed" else None,
        "incomplete_at": ended if status == "incomplete" else None,
        "incomplete_details": None if reason is None else {"reason": reason},
    }


def _message(message_id: str, thread_id: str, role: str, text: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": message_id,
        "object": "thread.message",
        "thread_id": thread_id,
        "role": role,
        "content": [{"type": "text", "text": {"value": text, "annotations": []}}] if text else [],
        "attachments": [],
        "metadata": metadata,
        "assistant_id": None,
        "run_id": None,
        "status": "completed",
        "incomplete_at": None,
        "incomplete_details": None,
    }


def _reason(run: Run) -> str | None:
    """Why a run's message is incomplete."""
    if run.is_open:
        return None
    if run.status == "completed":
        return {"length": "max_tokens", "content_filter": "content_filter"}.get(run.finish_reason or "")
    return f"run_{STATUS.get(run.status, run.status)}"


def run(run: Run) -> dict[str, Any]:
    details = run.options.details
    status = status_of(run)
    ended = None if run.ended is None else int(run.ended)
    return {
        "id": run.id,
        "object": "thread.run",
        "created_at": int(run.created),
        "thread_id": run.conversation,
        "assistant_id": details["assistant_id"],
        "status": status,
        "required_action": _required_action(run),
        "last_error": _last_error(run),
        "incomplete_details": {"reason": "max_completion_tokens"} if status == "incomplete" else None,
        "started_at": None if run.status == "queued" else int(run.created),
        "expires_at": int(run.expires) if run.expires is not None and run.is_open else None,
        "completed_at": ended if run.status == "completed" else None,
        "cancelled_at": ended if run.status == "cancelled" else None,
        "failed_at": ended if status == "failed" else None,
        "model": details.get("model") or run.model or run.options.model or "",
        "max_prompt_tokens": None,
        "usage": None if run.is_open or run.usage is None else asdict(run.usage),
        **{word: details.get(word, default) for word, default in RUN_DEFAULTS.items()},
    }


def status_of(run: Run) -> str:
    if run.status == "completed" and run.finish_reason == "length":
        return "incomplete"
    return STATUS.get(run.status, run.status)


def _last_error(run: Run) -> dict[str, Any] | None:
    if run.error is None or run.status == "expired":
        return None
    code = "rate_limit_exceeded" if run.error.code in LIMITED else "server_error"
    return {"code": code, "message": run.error.sentence}


def _required_action(run: Run) -> dict[str, Any] | None:
    if run.status != "requires_action":
        return None
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in run.steps[-1].calls
    ]
    return {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}


def steps(run: Run) -> Sequence[dict[str, Any]]:
    """A run's steps, oldest first: the calls of functions, and the writing of its message where it has begun."""
    found = [tool_step(run, number) for number in range(len(run.steps))]
    if run.text:
        found.insert(_message_place(run), message_step(run))
    return found


def message_step(run: Run) -> dict[str, Any]:
    place = _message_place(run)
    created = run.steps[place - 1].ended if place else run.created
    details = {"type": "message_creation", "message_creation": {"message_id": run.reply_id}}
    # One call of the model was one step; of several, only the sum is known.
    usage = None if run.is_open or run.usage is None or run.steps else asdict(run.usage)
    return _step(run, "", created or run.created, None, details) | {"usage": usage}


def _message_place(run: Run) -> int:
    """How many steps had ended when the message was begun."""
    return next((place for place, step in enumerate(run.steps) if step.text), len(run.steps))


def tool_step(run: Run, number: int) -> dict[str, Any]:
    step: Step = run.steps[number]
    details = {"type": "tool_calls", "tool_calls": [tool_call(call) for call in step.calls]}
    return _step(run, f"_{number + 1}", step.created, step.ended, details)


def tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments, "output": call.output}
    return {"id": call.id, "type": "function", "function": function}


def _step(run: Run, suffix: str, created: float, done: float | None, details: dict[str, Any]) -> dict[str, Any]:
    """`done` is when it ended before its run did."""
    ended = done or run.ended
    status = "in_progress" if ended is None else "completed" if done else STATUS.get(run.status, run.status)
    times = {f"{end}_at": int(ended) if ended and status == end else None for end in _ENDS}
    return {
        "id": f"step_{run.id.removeprefix('run_')}{suffix}",
        "object": "thread.run.step",
        "created_at": int(created),
        "thread_id": run.conversation,
        "assistant_id": run.options.details["assistant_id"],
        "run_id": run.id,
        "type": details["type"],
        "status": status,
        "step_details": details,
        "last_error": _last_error(run) if status == "failed" else None,
        "metadata": {},
        "usage": None,
        **times,
    }


_ENDS = ("completed", "cancelled", "failed", "expired")
