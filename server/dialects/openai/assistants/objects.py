"""OpenAI's objects of threads, messages, runs and steps, from those of the core. Times are whole Unix seconds."""

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
"""The settings of a run, each with its value if the request does not set it. They are saved in the run's details."""

STATUS: dict[Status, str] = {"running": "in_progress", "interrupted": "failed"}
"""OpenAI's name of a status, if it differs."""

LIMITED = ("upstream_rate_limited", "upstream_quota_exhausted")
"""Codes of errors that OpenAI calls `rate_limit_exceeded`."""


def dump_thread(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": conversation.name,
        "object": "thread",
        "created_at": int(conversation.created),
        "metadata": conversation.metadata,
        "tool_resources": {},
    }


def dump_deletion(kind: str, deleted_id: str) -> dict[str, Any]:
    return {"id": deleted_id, "object": f"{kind}.deleted", "deleted": True}


def dump_message(thread_id: str, message: Message, run: Run | None) -> dict[str, Any]:
    """A message of the history. `run` is the run that wrote it as its reply, or None."""
    if run is not None:
        return dump_reply(run, message.metadata)
    return {
        **_build_message(message.id, thread_id, message.role, message.content, message.metadata),
        "created_at": int(message.timestamp),
        "completed_at": int(message.timestamp),
    }


def dump_reply(run: Run, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The reply of a run, with the text so far."""
    reason = _incomplete_reason(run)
    status = "in_progress" if run.is_open else "completed" if reason is None else "incomplete"
    ended = None if run.ended is None else int(run.ended)
    return {
        **_build_message(run.reply_id, run.conversation, "assistant", run.text, metadata or {}),
        "created_at": int(run.created),
        "assistant_id": run.options.details.get("assistant_id"),
        "run_id": run.id,
        "status": status,
        "completed_at": ended if status == "completed" else None,
        "incomplete_at": ended if status == "incomplete" else None,
        "incomplete_details": None if reason is None else {"reason": reason},
    }


def _build_message(
    message_id: str, thread_id: str, role: str, text: str, metadata: Mapping[str, Any]
) -> dict[str, Any]:
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


def _incomplete_reason(run: Run) -> str | None:
    """Why the reply of a run is incomplete; None if it is complete or the run is open."""
    if run.is_open:
        return None
    if run.status == "completed":
        return {"length": "max_tokens", "content_filter": "content_filter"}.get(run.finish_reason or "")
    return f"run_{STATUS.get(run.status, run.status)}"


def dump_run(run: Run) -> dict[str, Any]:
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
        "required_action": _dump_required_action(run),
        "last_error": _dump_last_error(run),
        "incomplete_details": {"reason": "max_completion_tokens"} if status == "incomplete" else None,
        "started_at": None if run.status == "queued" else int(run.created),
        "expires_at": int(run.expires) if run.expires is not None and run.is_open else None,
        "completed_at": ended if run.status == "completed" else None,
        "cancelled_at": ended if run.status == "cancelled" else None,
        "failed_at": ended if status == "failed" else None,
        "model": details.get("model") or run.model or run.options.model or "",
        "max_prompt_tokens": None,
        "usage": None if run.is_open or run.usage is None else asdict(run.usage),
        **{name: details.get(name, default) for name, default in RUN_DEFAULTS.items()},
    }


def status_of(run: Run) -> str:
    if run.status == "completed" and run.finish_reason == "length":
        return "incomplete"
    return STATUS.get(run.status, run.status)


def _dump_last_error(run: Run) -> dict[str, Any] | None:
    if run.error is None or run.status == "expired":
        return None
    code = "rate_limit_exceeded" if run.error.code in LIMITED else "server_error"
    return {"code": code, "message": run.error.sentence}


def _dump_required_action(run: Run) -> dict[str, Any] | None:
    if run.status != "requires_action":
        return None
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in run.steps[-1].calls
    ]
    return {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}


def dump_steps(run: Run) -> Sequence[dict[str, Any]]:
    """A run's steps, oldest first: the tool calls, and the creation of its message once it has text."""
    steps = [dump_tool_step(run, number) for number in range(len(run.steps))]
    if run.text:
        steps.insert(_message_step_index(run), dump_message_step(run))
    return steps


def dump_message_step(run: Run) -> dict[str, Any]:
    index = _message_step_index(run)
    created = run.steps[index - 1].ended if index else run.created
    details = {"type": "message_creation", "message_creation": {"message_id": run.reply_id}}
    # Of a run with several upstream calls, only the sum of their usage is known.
    usage = None if run.is_open or run.usage is None or run.steps else asdict(run.usage)
    return _build_step(run, "", created or run.created, None, details) | {"usage": usage}


def _message_step_index(run: Run) -> int:
    """The index of the message's step: how many tool steps ended before the run had text."""
    return next((index for index, step in enumerate(run.steps) if step.text), len(run.steps))


def dump_tool_step(run: Run, number: int) -> dict[str, Any]:
    step: Step = run.steps[number]
    details = {"type": "tool_calls", "tool_calls": [dump_tool_call(call) for call in step.calls]}
    return _build_step(run, f"_{number + 1}", step.created, step.ended, details)


def dump_tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments, "output": call.output}
    return {"id": call.id, "type": "function", "function": function}


def _build_step(run: Run, suffix: str, created: float, done: float | None, details: dict[str, Any]) -> dict[str, Any]:
    """`done` is the time at which the step ended; None if it ends with its run."""
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
        "last_error": _dump_last_error(run) if status == "failed" else None,
        "metadata": {},
        "usage": None,
        **times,
    }


_ENDS = ("completed", "cancelled", "failed", "expired")
