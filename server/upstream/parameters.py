"""The request of a call: what it asks for, without the parameters that its model refuses."""

import logging
from typing import Any

import orjson

from server.upstream.protocol import CompletionRequest
from server.upstream.refusals import LIMITS, ErrorBody

log = logging.getLogger("server.upstream")

KEPT = ("messages", "model", "stream", "response_format", "tools", "tool_choice", "logprobs", "top_logprobs")
"""Never dropped, since a reply without them is not what was asked for."""
OWN = ("stream_options", "prompt_cache_key", "safety_identifier")
"""Sent besides what the call asks for."""


class UnknownParameters:
    """The parameters of ours that each model does not know, remembered for all calls.

    Nothing that a caller sent is remembered. `max_completion_tokens` is one of them: such a model knows it by its
    older name.
    """

    def __init__(self) -> None:
        self._by_model: dict[str, frozenset[str]] = {}

    def of(self, model: str) -> frozenset[str]:
        return self._by_model.get(model, frozenset())

    def note(self, model: str, unknown: frozenset[str]) -> None:
        if unknown != self.of(model):
            self._by_model[model] = unknown
            log.info("model %s does without %s from now on", model, ", ".join(sorted(unknown)) or "nothing")


class RequestBody:
    """The body of one call's request."""

    def __init__(self, call: CompletionRequest, unknown: UnknownParameters, *, is_openai: bool) -> None:
        self._call = call
        self._unknown = unknown
        self._is_openai = is_openai
        self._dropped = set(unknown.of(call.model))
        self._is_renamed = LIMITS[0] in self._dropped
        self._has_both_names = False
        """Whether the limit was sent under either name."""
        self._adapted = ""
        """What was dropped or renamed last: that the call then works is due to it."""

    def to_bytes(self) -> bytes:
        call = self._call
        fields: dict[str, Any] = {"model": call.model, "stream": call.streamed}
        if call.streamed:
            fields["stream_options"] = {"include_usage": True}
        if self._is_openai:
            fields |= {"prompt_cache_key": call.client, "safety_identifier": call.client}
        fields |= call.parameters
        if self._is_renamed and LIMITS[0] in fields:
            fields[LIMITS[1]] = fields[LIMITS[0]]
        kept = {name: value for name, value in fields.items() if name not in self._dropped}
        return b"".join((orjson.dumps(kept)[:-1], b',"messages":', call.messages, b"}"))

    def adapt(self, refusal: ErrorBody) -> bool:
        """Leave out what was refused, or rename the limit. False if the same call would be refused again."""
        sent = [name for name in (*self._call.parameters, *OWN) if name not in {*self._dropped, *LIMITS, *KEPT}]
        limit = LIMITS[self._is_renamed]
        if LIMITS[0] in self._call.parameters and not self._has_both_names:
            sent.append(limit)
        name = refusal.unknown(sent)
        if name is None:
            return False
        self._adapted = name
        if name != limit:
            self._dropped.add(name)
            return True
        self._has_both_names = True
        self._is_renamed = not self._is_renamed
        self._dropped ^= {LIMITS[0]}
        return True

    def learn(self) -> None:
        """The call has worked: remember for all what it did without, if that is ours."""
        model = self._call.model
        if self._adapted in LIMITS:
            renamed = frozenset({LIMITS[0]} if self._is_renamed else ())
            self._unknown.note(model, self._unknown.of(model) - {LIMITS[0]} | renamed)
        elif self._adapted in OWN:
            self._unknown.note(model, self._unknown.of(model) | {self._adapted})
