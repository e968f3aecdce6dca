"""The records of an export: a conversation, its runs and its messages as JSON, and back. docs/api.md describes them.

Times are Unix seconds as plain numbers, so that an import has exactly the same ones. Fields without a value are left
out; unknown fields are ignored.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import jsonschema_rs

from server.core.export_options import OPTIONS, load_parameters
from server.domain import SETTINGS, Conversation, Message, Run, RunError, RunOptions, Step, ToolCall, Usage

FORMAT, VERSION = "conversation-server", 1

DESCRIBED = "docs/api.md describes the format"

ENDED_STATUSES = ("completed", "failed", "cancelled", "expired", "interrupted")

LAST_SECOND = 253_402_300_799
"""The end of the year 9999; no later time can be written as a date."""

_TIME = {"type": "number", "minimum": 0, "maximum": LAST_SECOND}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 10**9}
_TEXT = {"type": "string"}
_OBJECT = {"type": ["object", "null"]}


def _name(most: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most, "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$"}


def _id(kind: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{kind}_[0-9A-Za-z]{{1,64}}$"}


def _optional(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


_CALL = _object({"id": _TEXT, "name": _TEXT, "arguments": _TEXT}, {"output": _optional(_TEXT), "extra": _OBJECT})
_STEP = _object(
    {"calls": {"type": "array", "items": _CALL}, "created_at": _TIME},
    {"text": _TEXT, "ended_at": _optional(_TIME), "extra": _OBJECT},
)
SCHEMAS = {
    "conversation": _object(
        {"client_name": _name(256), "created_at": _TIME, "last_used_at": _TIME},
        {
            "model": _optional(_name(256)),
            "title": _optional(_name(200)),
            "system_prompt": _optional(_TEXT),
            "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
            "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
            "max_completion_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 10_000_000},
            "response_format": {
                **_OBJECT,
                "required": ["type"],
                "properties": {
                    "type": {"enum": ["text", "json_object", "json_schema"]},
                    "json_schema": {"type": "object"},
                },
            },
            "metadata": _OBJECT,
            "run_count": _optional(_COUNT),
            "message_count": _optional(_COUNT),
        },
    ),
    "message": _object(
        {"id": _id("msg"), "role": {"enum": ["user", "assistant"]}, "content": _TEXT, "timestamp": _TIME},
        {"run_id": _optional(_id("run")), "metadata": _OBJECT},
    ),
    "run": _object(
        {
            "id": _id("run"),
            "status": {"enum": ENDED_STATUSES},
            "input": _TEXT,
            "text": _TEXT,
            "created_at": _TIME,
            "ended_at": _TIME,
        },
        {
            "request_id": _optional(_TEXT),
            "model": _optional(_TEXT),
            "usage": {
                **_object({"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT}, {}),
                "type": ["object", "null"],
            },
            "error": {**_object({"code": _TEXT, "error": _TEXT}, {}), "type": ["object", "null"]},
            "delivered": {"type": "boolean"},
            "replayed": _COUNT,
            "omitted": _COUNT,
            "options": OPTIONS,
            "steps": {"type": "array", "items": _STEP},
            "expires_at": _optional(_TIME),
            "finish_reason": _optional(_TEXT),
            "logprobs": {"type": ["array", "null"]},
            "replaces": _optional(_id("run")),
        },
    ),
}
"""What each record must be."""

_VALIDATORS = {name: jsonschema_rs.Draft202012Validator(schema) for name, schema in SCHEMAS.items()}


def find_fault(kind: str, record: Any) -> str | None:
    """What is wrong with a record, in words that contain nothing of it; None if nothing is."""
    if _VALIDATORS[kind].is_valid(record):
        return None
    error = next(_VALIDATORS[kind].iter_errors(record))
    # Only the first part of the path: deeper ones may be names that a client chose.
    name = next((str(each) for each in error.instance_path if each in SCHEMAS[kind]["properties"]), None)
    if name is not None:
        return f"the {name} of this {kind} does not fit"
    missing = [each for each in SCHEMAS[kind]["required"] if not isinstance(record, dict) or each not in record]
    return f"this {kind} lacks {missing[0]}"


def dump_conversation(conversation: Conversation) -> dict[str, Any]:
    return {
        "client_name": conversation.name,
        "model": conversation.model,
        **{name: conversation.settings.get(name) for name in SETTINGS},
        "metadata": dict(conversation.metadata),
        "created_at": conversation.created,
        "last_used_at": conversation.touched,
    }


def load_changes(record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a conversation, as `Store.update_conversation` takes them."""
    changes = {name: record.get(name) for name in ("model", "metadata", *SETTINGS)}
    return {**changes, "max_completion_tokens": _whole(record.get("max_completion_tokens"))}


def dump_message(message: Message) -> dict[str, Any]:
    return _without_none(
        {"id": message.id, "role": message.role, "content": message.content, "timestamp": message.timestamp},
        run_id=message.run_id,
        metadata=dict(message.metadata) or None,
    )


def load_message(record: Mapping[str, Any]) -> Message:
    return Message.of(
        record["role"],
        record["content"],
        record.get("run_id"),
        float(record["timestamp"]),
        id=record["id"],
        metadata=record.get("metadata") or {},
    )


def dump_run(run: Run) -> dict[str, Any]:
    """`run` has ended."""
    options = run.options
    return _without_none(
        {
            "id": run.id,
            "status": run.status,
            "input": run.question,
            "text": run.text,
            "created_at": run.created,
            "ended_at": run.ended,
        },
        request_id=run.request_id,
        model=run.model,
        usage=None if run.usage is None else asdict(run.usage),
        error=None if run.error is None else {"code": run.error.code, "error": run.error.sentence},
        delivered=run.delivered or None,
        replayed=run.replayed or None,
        omitted=run.omitted or None,
        options=_without_none(
            {},
            model=options.model,
            system_prompt=options.system_prompt,
            parameters=dict(options.parameters) or None,
            last_messages=options.last_messages,
            details=dict(options.details) or None,
        )
        or None,
        steps=[_dump_step(step) for step in run.steps] or None,
        expires_at=run.expires,
        finish_reason=run.finish_reason,
        logprobs=run.logprobs,
        replaces=run.replaces,
    )


def load_run(record: Mapping[str, Any]) -> Run:
    usage, error, options = record.get("usage"), record.get("error"), record.get("options") or {}
    return Run(
        record["input"],
        record.get("request_id"),
        float(record["created_at"]),
        record["id"],
        record["status"],
        record["text"],
        record.get("model"),
        None if usage is None else Usage(**{each.name: int(usage[each.name]) for each in fields(Usage)}),
        None if error is None else RunError(error["code"], error["error"]),
        float(record["ended_at"]),
        delivered=record.get("delivered", False),
        replayed=int(record.get("replayed", 0)),
        omitted=int(record.get("omitted", 0)),
        options=RunOptions(
            options.get("model"),
            options.get("system_prompt"),
            load_parameters(options.get("parameters") or {}),
            _whole(options.get("last_messages")),
            options.get("details") or {},
        ),
        steps=tuple(_load_step(step) for step in record.get("steps", ())),
        expires=_seconds(record.get("expires_at")),
        finish_reason=record.get("finish_reason"),
        logprobs=record.get("logprobs"),
        replaces=record.get("replaces"),
    )


def _dump_step(step: Step) -> dict[str, Any]:
    calls = [
        _without_none(
            {"id": each.id, "name": each.name, "arguments": each.arguments},
            output=each.output,
            extra=dict(each.extra) or None,
        )
        for each in step.calls
    ]
    return _without_none(
        {"calls": calls, "created_at": step.created, "text": step.text},
        ended_at=step.ended,
        extra=dict(step.extra) or None,
    )


def _load_step(record: Mapping[str, Any]) -> Step:
    calls = tuple(
        ToolCall(each["id"], each["name"], each["arguments"], each.get("output"), each.get("extra") or {})
        for each in record["calls"]
    )
    ended = _seconds(record.get("ended_at"))
    return Step(calls, float(record["created_at"]), record.get("text", ""), ended, record.get("extra") or {})


def _seconds(number: float | None) -> float | None:
    return None if number is None else float(number)


def _whole(number: float | None) -> int | None:
    """A whole number as an integer: JSON Schema takes 1.0 for one."""
    return None if number is None else int(number)


def _without_none(record: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """`record` with those of `optional` that are not None."""
    return record | {name: value for name, value in optional.items() if value is not None}
