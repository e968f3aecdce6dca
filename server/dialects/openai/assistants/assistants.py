"""Assistants: those that callers created, and the default one of the operator."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flask import Blueprint

from server.core import Core
from server.dialects.openai import pagination
from server.dialects.openai.assistants import objects, requests
from server.dialects.openai.errors import not_found_as, require_offered
from server.domain import Run, new_id
from server.errors import InvalidRequest
from server.http.contract import Contract

KIND = "assistant"
"""The kind of their records."""

ASSISTANT_DEFAULTS: Mapping[str, Any] = {
    "name": None,
    "description": None,
    "instructions": None,
    "tools": [],
    "metadata": {},
    "temperature": None,
    "top_p": None,
    "response_format": "auto",
    "reasoning_effort": None,
}
"""The fields of an assistant, each with its value if the request does not set it."""


class Assistants:
    def __init__(self, core: Core, default_id: str, default_instructions: str) -> None:
        self._core = core
        self._default = {**ASSISTANT_DEFAULTS, "id": default_id, "created": 0.0, "model": None}
        self._default["instructions"] = default_instructions or None

    def get(self, assistant_id: str | None) -> dict[str, Any]:
        """The assistant with that id; the default one for None. Raises NotFound."""
        if assistant_id in (None, self._default["id"]):
            return self._default
        with not_found_as("assistant"):
            return self._core.records.get(KIND, assistant_id)

    def get_changeable(self, assistant_id: str) -> dict[str, Any]:
        """An assistant that a caller created. Raises NotFound, and InvalidRequest for the default one."""
        assistant = self.get(assistant_id)
        if assistant is self._default:
            raise InvalidRequest("The default assistant is the operator's, who sets ASSISTANT_INSTRUCTIONS.")
        return assistant

    def list_all(self) -> list[dict[str, Any]]:
        """Oldest first."""
        assistants = [self._default, *self._core.records.list(KIND)]
        return sorted(assistants, key=lambda each: (each["created"], each["id"]))

    def save(self, assistant: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        """Save the assistant with the values of `fields`; None there means the default. Returns the saved assistant.

        Raises InvalidRequest if `fields` has what is not offered.
        """
        require_offered(fields)
        changes = {
            name: ASSISTANT_DEFAULTS[name] if fields[name] is None else fields[name]
            for name in ASSISTANT_DEFAULTS
            if name in fields
        }
        assistant = assistant | changes | ({"model": fields["model"]} if fields.get("model") else {})
        self._core.records.put(KIND, assistant["id"], assistant)
        return assistant

    def assign_default(self, run: Run) -> Run:
        """The run. It has the default assistant if it was created through another dialect."""
        details = {"assistant_id": self._default["id"], **run.options.details}
        return replace(run, options=replace(run.options, details=details))

    def draft_run(self, thread_id: str, body: Mapping[str, Any], **arguments: Any) -> Run:
        """The run that `body` describes, with the settings of its assistant. `arguments` go to `requests.draft_run`.

        Raises NotFound if there is no such assistant or thread, and InvalidRequest as `requests.draft_run`.
        """
        assistant = self.get(body.get("assistant_id"))
        with not_found_as("thread"):
            model = body.get("model") or assistant["model"] or self._core.models.get(thread_id)
        return requests.draft_run(thread_id, body, assistant, model, **arguments)

    def dump(self, assistant: Mapping[str, Any]) -> dict[str, Any]:
        """OpenAI's object of an assistant."""
        return {
            **{name: assistant[name] for name in ASSISTANT_DEFAULTS},
            "id": assistant["id"],
            "object": "assistant",
            "created_at": int(assistant["created"]),
            "model": assistant["model"] or self._core.models.get_default(),
            "tool_resources": {},
        }


def blueprint(contract: Contract, core: Core, assistants: Assistants) -> Blueprint:
    bp = Blueprint("assistants", __name__)

    @contract.serves(bp, "createAssistant")
    def create_assistant(body: dict[str, Any]) -> dict[str, Any]:
        assistant = {**ASSISTANT_DEFAULTS, "id": new_id("asst"), "created": time.time()}
        return assistants.dump(assistants.save(assistant, body))

    @contract.serves(bp, "listAssistants")
    def list_assistants(**bounds: Any) -> dict[str, Any]:
        return pagination.paginate([assistants.dump(each) for each in assistants.list_all()], **bounds)

    @contract.serves(bp, "getAssistant")
    def get_assistant(assistant_id: str) -> dict[str, Any]:
        return assistants.dump(assistants.get(assistant_id))

    @contract.serves(bp, "updateAssistant")
    def update_assistant(assistant_id: str, body: dict[str, Any]) -> dict[str, Any]:
        return assistants.dump(assistants.save(assistants.get_changeable(assistant_id), body))

    @contract.serves(bp, "deleteAssistant")
    def delete_assistant(assistant_id: str) -> dict[str, Any]:
        assistants.get_changeable(assistant_id)
        core.records.delete(KIND, assistant_id)
        return objects.dump_deletion(KIND, assistant_id)

    return bp
