"""The JSON body of a request for a completion, without the parameters that its model does not support."""

import logging
from typing import Any

import orjson

from server.upstream.protocol import CompletionRequest
from server.upstream.refusals import LIMIT_NAMES, ErrorBody

log = logging.getLogger("server.upstream")

NEVER_DROPPED = ("messages", "model", "stream", "response_format", "tools", "tool_choice", "logprobs", "top_logprobs")
"""Without these, the reply is not what the caller asked for."""
SERVER_PARAMETERS = ("stream_options", "prompt_cache_key", "safety_identifier")
"""Parameters that this server adds to those of the caller."""


class UnknownParameters:
    """The parameters that each model does not support, remembered for later requests. Safe from any thread.

    Only SERVER_PARAMETERS and `max_completion_tokens` are remembered; a model without the latter gets `max_tokens`, its
    older name. What a caller chose to send is tried again with each request.
    """

    def __init__(self) -> None:
        self._by_model: dict[str, frozenset[str]] = {}

    def get(self, model: str) -> frozenset[str]:
        return self._by_model.get(model, frozenset())

    def set(self, model: str, unknown: frozenset[str]) -> None:
        if unknown != self.get(model):
            self._by_model[model] = unknown
            log.info("model %s does without %s from now on", model, ", ".join(sorted(unknown)) or "nothing")


class RequestBody:
    """The body of one request, which `adapt` changes after the upstream has refused a parameter."""

    def __init__(self, request: CompletionRequest, unknown: UnknownParameters, *, is_openai: bool) -> None:
        self._request = request
        self._unknown = unknown
        self._is_openai = is_openai
        self._dropped = set(unknown.get(request.model))
        self._is_renamed = LIMIT_NAMES[0] in self._dropped
        self._has_both_names = False
        """Whether the token limit was refused under one of its names and sent under the other."""
        self._adapted = ""
        """The parameter that was dropped or renamed last; if the request then succeeds, this was the cause."""

    def to_bytes(self) -> bytes:
        request = self._request
        fields: dict[str, Any] = {"model": request.model, "stream": request.streamed}
        if request.streamed:
            fields["stream_options"] = {"include_usage": True}
        if self._is_openai:
            fields |= {"prompt_cache_key": request.client, "safety_identifier": request.client}
        fields |= request.parameters
        if self._is_renamed and LIMIT_NAMES[0] in fields:
            fields[LIMIT_NAMES[1]] = fields[LIMIT_NAMES[0]]
        kept = {name: value for name, value in fields.items() if name not in self._dropped}
        return b"".join((orjson.dumps(kept)[:-1], b',"messages":', request.messages, b"}"))

    def adapt(self, error: ErrorBody) -> bool:
        """Drop the parameter that was refused, or rename the limit. False if nothing can be changed."""
        sent = [
            name
            for name in (*self._request.parameters, *SERVER_PARAMETERS)
            if name not in {*self._dropped, *LIMIT_NAMES, *NEVER_DROPPED}
        ]
        limit = LIMIT_NAMES[self._is_renamed]
        if LIMIT_NAMES[0] in self._request.parameters and not self._has_both_names:
            sent.append(limit)
        name = error.find_unknown(sent)
        if name is None:
            return False
        self._adapted = name
        if name != limit:
            self._dropped.add(name)
            return True
        self._has_both_names = True
        self._is_renamed = not self._is_renamed
        self._dropped ^= {LIMIT_NAMES[0]}
        return True

    def remember(self) -> None:
        """Remember for later requests what this one, which has succeeded, went without, unless the caller chose it."""
        model = self._request.model
        if self._adapted in LIMIT_NAMES:
            limit = frozenset({LIMIT_NAMES[0]} if self._is_renamed else ())
            self._unknown.set(model, self._unknown.get(model) - {LIMIT_NAMES[0]} | limit)
        elif self._adapted in SERVER_PARAMETERS:
            self._unknown.set(model, self._unknown.get(model) | {self._adapted})
