"""Requests to an OpenAIUpstream, and what comes of them."""

from typing import Any

import pytest

from server import errors
from server.upstream.openai import OpenAIUpstream
from server.upstream.protocol import Completion, CompletionRequest
from tests.support.openai_server import (
    PATIENCE_SECONDS,
)

KEY = "sk-the-operators-own"
MESSAGES = '[ {"role": "user",  "content": "Grüße\u2028👋"}]'.encode()
"""Not as any library would write it."""


def call(
    model: str = "gpt-test", *, seconds: float = PATIENCE_SECONDS, streamed: bool = False, **parameters: Any
) -> CompletionRequest:
    return CompletionRequest(model, MESSAGES, seconds, streamed, parameters, "fingerprint")


def asked(upstream: OpenAIUpstream, model: str = "gpt-test", **changes: Any) -> str:
    """The whole text of one reply."""
    *pieces, reply = upstream.open_stream(call(model, **changes))
    assert isinstance(reply, Completion)
    return "".join(map(str, pieces))


def failure(upstream: OpenAIUpstream, **changes: Any) -> errors.AppError:
    """What one call fails with: ours, and in our words alone."""
    with pytest.raises(errors.AppError) as caught:
        list(upstream.open_stream(call(**changes)))
    assert str(caught.value) == caught.value.sentence
    return caught.value


either = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
