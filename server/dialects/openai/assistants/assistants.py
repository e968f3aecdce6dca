"""Assistants: those that were made, and the one that is there without being made."""

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
"""The name that the core keeps them under."""

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
"""What an assistant is made of, each with what it is where nothing was said."""


class Assistants:
    def __init__(self, core: Core, default_id: str, default_instructions: str) -> None:
        self._core = core
        self._default = {**ASSISTANT_DEFAULTS, "id": default_id, "created": 0.0, "model": None}
        self._default["instructions"] = default_instructions or None

    def find(self, assistant_id: str | None) -> dict[str, Any]:
        """The assistant with that id; the default one for none. Raises NotFound."""
        if assistant_id in (None, self._default["id"]):
            return self._default
        with not_found_as("assistant"):
            return self._core.records.get(KIND, assistant_id)

    def of(self, run: Run) -> Run:
        """The run, as the default assistant's where another door began it."""
        details = {"assistant_id": self._default["id"], **run.options.details}
        return replace(run, options=replace(run.options, details=details))

    def made(self, assistant_id: str) -> dict[str, Any]:
        """One that can be changed. Raises NotFound, and InvalidRequest for the default one."""
        assistant = self.find(assistant_id)
        if assistant is self._default:
            raise InvalidRequest("The default assistant is the operator's, who sets ASSISTANT_INSTRUCTIONS.")
        return assistant

    def all(self) -> list[dict[str, Any]]:
        """Oldest first."""
        every = [self._default, *self._core.records.list(KIND)]
        return sorted(every, key=lambda each: (each["created"], each["id"]))

    def keep(self, assistant: dict[str, Any], words: Mapping[str, Any]) -> dict[str, Any]:
        """The assistant with `words` for what it was; None in them means nothing."""
        require_offered(words)
        said = {
            name: ASSISTANT_DEFAULTS[name] if words[name] is None else words[name]
            for name in ASSISTANT_DEFAULTS
            if name in words
        }
        assistant = assistant | said | ({"model": words["model"]} if words.get("model") else {})
        self._core.records.put(KIND, assistant["id"], assistant)
        return assistant

    def draft(self, thread_id: str, body: Mapping[str, Any], **more: Any) -> Run:
        """The run that `body` wants; `more` is as for `asked.draft`.

        Raises NotFound where it names an assistant that is not there, and InvalidRequest as `asked.draft` does.
        """
        assistant = self.find(body.get("assistant_id"))
        model = body.get("model") or assistant["model"] or self._core.models.get(thread_id)
        return requests.draft(thread_id, body, assistant, model, **more)

    def shape(self, assistant: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **{name: assistant[name] for name in ASSISTANT_DEFAULTS},
            "id": assistant["id"],
            "object": "assistant",
            "created_at": int(assistant["created"]),
            # Nobody's name is empty, so nobody has chosen a model under it.
            "model": assistant["model"] or self._core.models.get(""),
            "tool_resources": {},
        }


def blueprint(contract: Contract, core: Core, assistants: Assistants) -> Blueprint:
    bp = Blueprint("made", __name__)

    @contract.serves(bp, "createAssistant")
    def create(body: dict[str, Any]) -> dict[str, Any]:
        new = {**ASSISTANT_DEFAULTS, "id": new_id("asst"), "created": time.time()}
        return assistants.shape(assistants.keep(new, body))

    @contract.serves(bp, "listAssistants")
    def list_assistants(**bounds: Any) -> dict[str, Any]:
        return pagination.cut([assistants.shape(each) for each in assistants.all()], **bounds)

    @contract.serves(bp, "getAssistant")
    def show(assistant_id: str) -> dict[str, Any]:
        return assistants.shape(assistants.find(assistant_id))

    @contract.serves(bp, "updateAssistant")
    def update(assistant_id: str, body: dict[str, Any]) -> dict[str, Any]:
        return assistants.shape(assistants.keep(assistants.made(assistant_id), body))

    @contract.serves(bp, "deleteAssistant")
    def delete(assistant_id: str) -> dict[str, Any]:
        assistants.made(assistant_id)
        core.records.delete(KIND, assistant_id)
        return objects.deleted(KIND, assistant_id)

    return bp
