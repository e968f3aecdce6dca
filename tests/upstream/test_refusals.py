"""What a refusal means, in the words of every known server; what is asked again; what the operator is told."""

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from server import errors
from server.core import Core
from server.domain import Message, Run
from server.runs.config import RunConfig
from server.runs.runner import Runner
from server.store.memory import MemoryStore
from server.store.protocol import CreateOptions
from server.upstream.abort import connect
from server.upstream.openai import OpenAIUpstream
from server.upstream.protocol import CompletionRequest
from tests.support.clock import Clock
from tests.support.openai_server import (
    PATIENCE_SECONDS,
    THEIRS,
    Exchange,
    OpenAIServer,
    Script,
    answers,
    event,
    good,
    piece,
    refuses,
    says,
    streams,
)
from tests.support.upstream_calls import KEY, asked, either, failure

Answer = tuple[int, Any]
"""A status, and JSON or, if it is a text, a page or a line."""


def table(kinds: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("kind", kinds.values(), ids=kinds)


def told(kind: Answer, **headers: str) -> Script:
    status, body = kind
    if not isinstance(body, str):
        return says(json.dumps(body).encode(), status, **({"Content_Type": "application/json"} | headers))
    content_type = "text/html" if body.lstrip().startswith("<") else "text/plain"
    return says(body.encode(), status, **({"Content_Type": content_type} | headers))


def error(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message} | fields}


def nginx(status: str) -> str:
    title = f"<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n<center><h1>{status}</h1></center>\r\n"
    return title + "<hr><center>nginx/1.25.3</center>\r\n</body>\r\n</html>\r\n"


# Context overflow

OPENAI_LONG = (
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens. Please reduce "
    "the length of the messages."
)
VLLM_OLD = (
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4900 in the messages, 100 "
    "in the completion). Please reduce the length of the messages or completion."
)
OVERFLOWS: dict[str, Answer] = {
    "OpenAI": (400, error(OPENAI_LONG, type="invalid_request_error", param="messages", code="context_length_exceeded")),
    "OpenAI, its code alone": (400, error(THEIRS, code="context_length_exceeded")),
    "OpenAI, new words": (
        400,
        error(
            "Your input exceeds the context window of this model. Please adjust your input and try again.",
            type="invalid_request_error",
            param="input",
            code=None,
        ),
    ),
    "Groq": (
        400,
        error(
            "Please reduce the length of the messages or completion.",
            type="invalid_request_error",
            code="context_length_exceeded",
        ),
    ),
    "vLLM, old": (
        400,
        {"object": "error", "message": VLLM_OLD, "type": "BadRequestError", "param": None, "code": 400},
    ),
    "vLLM, old, in an object": (400, error(VLLM_OLD, type="BadRequestError", param=None, code=400)),
    "vLLM, the limit": (
        400,
        error(
            "'max_tokens' or 'max_completion_tokens' is too large: 100. This model's maximum context length is 4096 "
            "tokens and your request has 4090 input tokens (100 > 4096 - 4090).",
            type="BadRequestError",
            code=400,
        ),
    ),
    "vLLM, the prompt": (
        400,
        error(
            "The decoder prompt (length 5012) is longer than the maximum model length of 4096. Make sure that "
            "`max_model_len` is no smaller than the number of text tokens.",
            type="BadRequestError",
            code=400,
        ),
    ),
    "vLLM, new": (
        400,
        error(
            "You passed 4097 input tokens and requested 0 output tokens. However, the model's context length is only "
            "4096 tokens, resulting in a maximum input length of 4096 tokens. Please reduce the length of the input "
            "prompt. (parameter=input_tokens, value=4097)",
            type="BadRequestError",
            param="input_tokens",
            code=400,
        ),
    ),
    "llama.cpp": (
        400,
        error(
            "the request exceeds the available context size (4096 tokens), try increasing it",
            code=400,
            type="exceed_context_size_error",
            n_prompt_tokens=5000,
            n_ctx=4096,
        ),
    ),
    "llama.cpp, request": (
        400,
        error("request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it", code=400),
    ),
    "llama.cpp, old": (
        400,
        error(
            "the request exceeds the available context size. try increasing the context size or enable context shift",
            code=400,
            type="invalid_request_error",
        ),
    ),
    "llama.cpp, 500": (500, error("the request exceeds the available context size", code=500, type="server_error")),
    "Ollama": (
        400,
        error("prompt too long; exceeded max context length by 12 tokens", type="invalid_request_error", code=None),
    ),
    "Ollama, a text": (400, {"error": "the input length exceeds the context length"}),
    "Ollama, 500": (500, error("the input length exceeds the context length", type="api_error", code=None)),
    "LiteLLM": (
        400,
        error(
            "litellm.ContextWindowExceededError: litellm.BadRequestError: ContextWindowExceededError: "
            f"OpenAIException - {OPENAI_LONG}. Received Model Group=gpt-4",
            type=None,
            param=None,
            code="400",
        ),
    ),
    "Mistral": (
        400,
        {
            "object": "error",
            "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum "
            "context length",
            "type": "invalid_request_prompt",
            "param": None,
            "code": "3051",
        },
    ),
    "Mistral, 422": (
        422,
        {
            "object": "error",
            "message": {"detail": [{"type": "value_error", "msg": "Prompt is longer than the maximum context length"}]},
        },
    ),
    "DeepSeek": (
        400,
        error(
            "This model's maximum context length is 65536 tokens. However, you requested 70000 tokens (66000 in the "
            "messages, 4000 in the completion). Please reduce the length of the messages or completion.",
            type="invalid_request_error",
            param=None,
            code="invalid_request_error",
        ),
    ),
    "OpenRouter": (
        400,
        error(
            "This endpoint's maximum context length is 8192 tokens. However, you requested about 9001 tokens (9001 of "
            'text input). Please reduce the length of either one, or use the "middle-out" transform to compress your '
            "prompt automatically.",
            code=400,
            metadata={"provider_name": None},
        ),
    ),
    "OpenRouter, its provider's words": (
        400,
        error("Provider returned error", code=400, metadata={"raw": json.dumps(error(OPENAI_LONG))}),
    ),
    "Gemini": (
        400,
        error(
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            code=400,
            status="INVALID_ARGUMENT",
        ),
    ),
    "Gemini, in a list": (
        400,
        [
            error(
                "The input token count exceeds the maximum number of tokens allowed 1048576.",
                code=400,
                status="INVALID_ARGUMENT",
            )
        ],
    ),
    "Anthropic": (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "prompt is too long: 210000 tokens > 200000 maximum",
            },
        },
    ),
    "Anthropic, with the limit": (
        400,
        error(
            "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length or "
            "`max_tokens` and try again",
            type="invalid_request_error",
        ),
    ),
    "Anthropic, 413": (
        413,
        {"type": "error", "error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}},
    ),
    "xAI": (
        400,
        {
            "code": "Client specified an invalid argument",
            "error": "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
        },
    ),
    "Moonshot": (
        400,
        error(
            "Invalid request: Your request exceeded model token limit: 8192 (requested: 9000)",
            type="invalid_request_error",
        ),
    ),
    "TGI": (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4090 `inputs` "
            "tokens and 100 `max_new_tokens`",
            "error_type": "validation",
        },
    ),
    "TGI, inputs": (
        422,
        error(
            "Input validation error: `inputs` must have less than 1024 tokens. Given: 1333",
            http_status_code=422,
        ),
    ),
    "SGLang": (
        400,
        {
            "object": "error",
            "message": "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    "SGLang, in all": (
        400,
        {
            "object": "error",
            "message": "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested "
            "a total of 5000 tokens: 4900 tokens from the input messages and 100 tokens for the completion.",
            "type": "BadRequestError",
            "code": 400,
        },
    ),
    "Cloudflare": (
        413,
        {
            "success": False,
            "errors": [
                {
                    "code": 5021,
                    "message": "AiError: The estimated number of input and maximum output tokens (9000) exceeded this "
                    "model context window limit (8192).",
                }
            ],
            "result": None,
        },
    ),
    "Cloudflare, 400": (
        400,
        {
            "success": False,
            "errors": [
                {
                    "code": 5021,
                    "message": "AiError: The estimated number of input and maximum output tokens (9000) exceeded this "
                    "model context window limit (8192).",
                }
            ],
        },
    ),
    "413 without words": (413, ""),
    "413 of nginx": (413, nginx("413 Request Entity Too Large")),
    "413 of Express": (413, {"error": "request entity too large"}),
}


@either
@table(OVERFLOWS)
def test_messages_that_are_too_long_are_known_by_every_servers_words(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: Answer, streamed: bool
) -> None:
    server.follow(told(kind))
    assert type(failure(upstream, streamed=streamed, max_completion_tokens=50)) is errors.ContextTooLong
    assert len(server.requests) == 1


NO_OVERFLOWS: dict[str, tuple[Answer, type[errors.AppError]]] = {
    "tokens per minute of OpenAI": (
        (
            429,
            error(
                "Rate limit reached for gpt-4 in organization org-x on tokens per min (TPM): Limit 8192, Used 8000, "
                "Requested 900. Please try again in 5s.",
                type="tokens",
                code="rate_limit_exceeded",
            ),
        ),
        errors.UpstreamRateLimited,
    ),
    "a request beyond the tokens per minute": (
        (429, error("Request too large for gpt-4: Limit 8192 tokens, Requested 9000. The input must be reduced.")),
        errors.UpstreamRateLimited,
    ),
    "tokens per minute of Groq": (
        (
            413,
            error(
                "Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 9000, please reduce "
                "your message size and try again.",
                type="tokens",
                code="rate_limit_exceeded",
            ),
        ),
        errors.UpstreamRateLimited,
    ),
    "tokens per minute of Anthropic": (
        (
            429,
            error(
                "This request would exceed your organization's rate limit of 40,000 input tokens per minute. Please "
                "reduce the prompt length or the maximum tokens requested.",
                type="rate_limit_error",
            ),
        ),
        errors.UpstreamRateLimited,
    ),
    "too many tokens at once": (
        (429, {"message": "Too many tokens, please wait before trying again."}),
        errors.UpstreamRateLimited,
    ),
    "a quota that mentions the context": (
        (429, error(f"You have no quota left. {OPENAI_LONG}", code="insufficient_quota")),
        errors.UpstreamQuotaExhausted,
    ),
    "a limit": ((400, error("max_completion_tokens is too large: 50.")), errors.UpstreamRefused),
    "a limit of OpenAI": (
        (
            400,
            error(
                "max_tokens is too large: 50. This model supports at most 16384 completion tokens, whereas you "
                "provided 50.",
                type="invalid_request_error",
                param="max_tokens",
                code="invalid_value",
            ),
        ),
        errors.UpstreamRefused,
    ),
    "a limit beyond the output": (
        (400, error("max_tokens: 200000 > 8192, which is the maximum allowed number of output tokens")),
        errors.UpstreamRefused,
    ),
    "a model": (
        (404, error("The model `gpt-9` does not exist or you do not have access to it.", code="model_not_found")),
        errors.UpstreamRefused,
    ),
    "a model, 400": ((400, error("Unknown model: gpt-9-long-context-length-32k")), errors.UpstreamRefused),
    "a stop sequence": ((400, error("'stop' has too many entries: at most 4 are allowed")), errors.UpstreamRefused),
    "no words": ((400, ""), errors.UpstreamRefused),
}


@either
@table(NO_OVERFLOWS)
def test_what_only_mentions_tokens_or_lengths_is_no_overflow(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: tuple[Answer, type[errors.AppError]], streamed: bool
) -> None:
    answer, expected = kind
    server.follow(told(answer))
    assert type(failure(upstream, streamed=streamed, max_completion_tokens=50)) is expected


def test_a_rate_told_in_a_stream_is_no_overflow(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    said = error("Too many tokens, please wait before trying again.", type="rate_limit_error")
    server.follow(streams(event(said)))
    assert type(failure(upstream, streamed=True)) is not errors.ContextTooLong


def messages_in(exchange: Exchange) -> int:
    return len(exchange.request.body["messages"])


REFUSED_LONG: dict[str, Script] = {
    "by status": told(OVERFLOWS["vLLM, new"]),
    "by status 413": told(OVERFLOWS["413 of nginx"]),
    "in a stream": streams(event(OVERFLOWS["OpenAI"][1])),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@table(REFUSED_LONG)
def test_a_conversation_that_overflows_is_answered_without_its_older_half(
    server: OpenAIServer, kind: Script, streamed: bool
) -> None:
    def script(exchange: Exchange) -> None:
        (kind if messages_in(exchange) > 5 else answers)(exchange)

    server.follow(script)
    clock = Clock()
    store = MemoryStore(10, clock)
    runner = Runner(store, OpenAIUpstream(KEY, server.url, default_model="m"), RunConfig(), clock)
    said = [Message.of("assistant" if n % 2 else "user", f"m{n}", None, clock.now) for n in range(8)]
    asking = partial(runner.ask, seconds=PATIENCE_SECONDS, is_connected=lambda: True, streamed=streamed)
    last = asking(Run("why?", conversation="ada"), options=CreateOptions(said))
    assert (last.status, last.text, last.replayed, last.omitted) == ("completed", "Hello", 4, 4)
    sent = [[each["content"] for each in heard.body["messages"]] for heard in server.requests]
    assert sent == [[*(f"m{n}" for n in range(8)), "why?"], ["m4", "m5", "m6", "m7", "why?"]]
    asking(Run("and?", conversation="ada"))
    assert [each.content for each in store.list_messages("ada", 8, 10)] == ["why?", "Hello"]
    assert server.requests[2].body["messages"][0]["content"] == "m4"
    runner.shut_down(0)


def test_a_question_that_is_too_long_alone_is_the_callers_fault(server: OpenAIServer) -> None:
    server.follow(told(OVERFLOWS["llama.cpp"]))
    clock = Clock()
    runner = Runner(MemoryStore(10, clock), OpenAIUpstream(KEY, server.url, default_model="m"), RunConfig(), clock)
    run = runner.create(Run("why?", conversation="ada"))
    last = runner.wait(run.id, PATIENCE_SECONDS, lambda: True)
    assert last.error is not None
    assert (last.status, last.error.code) == ("failed", "context_length_exceeded")
    runner.shut_down(0)


# Wrong addresses, wrong models and wrong keys

NOWHERE: dict[str, Answer] = {
    "FastAPI": (404, {"detail": "Not Found"}),
    "Go": (404, "404 page not found\n"),
    "Go at a path with models": (404, "404 page not found: /models/chat/completions\n"),
    "llama.cpp": (404, error("File Not Found", code=404, type="not_found_error")),
    "OpenAI": (404, error("Invalid URL (POST /chat/completions)", type="invalid_request_error", code=None)),
    "Azure": (404, error("Resource not found", code="404")),
    "Spring": (404, {"timestamp": 1, "status": 404, "error": "Not Found", "path": "/chat/completions"}),
    "nothing": (404, ""),
    "an empty object": (404, {}),
    "nginx": (404, nginx("404 Not Found")),
    "Express": (404, "<!DOCTYPE html>\n<html><body><pre>Cannot POST /chat/completions</pre></body></html>"),
    "a page about models": (404, "<html><h1>The model you look for is not here</h1></html>"),
    "405 of FastAPI": (405, {"detail": "Method Not Allowed"}),
    "405 of nginx": (405, nginx("405 Not Allowed")),
    "405 without words": (405, ""),
    "a page with 200": (200, "<!doctype html><html><title>Open WebUI</title></html>"),
    "a page with 200 after white space": (200, "\n\n  <html><title>Welcome</title></html>"),
    "a page with 400": (400, "<html><head><title>400</title></head><body>Bad Request</body></html>"),
    "a page with 400 that mentions a context length": (400, "<html>maximum context length</html>"),
}


@either
@table(NOWHERE)
def test_a_wrong_address_is_told_with_the_setting_to_look_at(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: Answer, streamed: bool
) -> None:
    server.follow(told(kind))
    problem = failure(upstream, streamed=streamed)
    assert type(problem) is errors.UpstreamNotFound
    assert "OPENAI_BASE_URL" in str(problem)
    assert "/v1" in str(problem)
    assert len(server.requests) == 1


NO_SUCH_MODEL: dict[str, Answer] = {
    "OpenAI": (
        404,
        error(
            "The model `gpt-9` does not exist or you do not have access to it.",
            type="invalid_request_error",
            code="model_not_found",
        ),
    ),
    "vLLM": (
        404,
        {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404},
    ),
    "vLLM, new": (404, error("The model `x` does not exist.", type="NotFoundError", param="model", code=404)),
    "Ollama": (404, error('model "x" not found, try pulling it first', type="not_found_error", code=None)),
    "Ollama, a text": (404, {"error": "model 'x' not found"}),
    "Gemini": (
        404,
        [
            error(
                "models/x is not found for API version v1main, or is not supported for generateContent. Call "
                "ListModels to see the list of available models and their supported methods.",
                code=404,
                status="NOT_FOUND",
            )
        ],
    ),
    "Azure": (
        404,
        error(
            "The API deployment for this resource does not exist. If you created the deployment within the last 5 "
            "minutes, please wait a moment and try again.",
            code="DeploymentNotFound",
        ),
    ),
    "OpenRouter": (404, error("No endpoints found for foo/bar.", code=404)),
    "Anthropic": (404, {"type": "error", "error": {"type": "not_found_error", "message": "model: claude-9"}}),
}


@either
@table(NO_SUCH_MODEL)
def test_a_model_that_is_not_there_is_no_wrong_address(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: Answer, streamed: bool
) -> None:
    server.follow(told(kind))
    assert type(failure(upstream, streamed=streamed)) is errors.UpstreamRefused


BAD_KEYS: dict[str, Answer] = {
    "OpenAI": (401, error("Incorrect API key provided: sk-ab***yz.", code="invalid_api_key")),
    "Gemini": (
        400,
        [
            error(
                "API key not valid. Please pass a valid API key.",
                code=400,
                status="INVALID_ARGUMENT",
                details=[
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "API_KEY_INVALID",
                        "domain": "googleapis.com",
                    }
                ],
            )
        ],
    ),
    "Gemini, its reason alone": (400, error(THEIRS, code=400, details=[{"reason": "API_KEY_INVALID"}])),
    "Gemini, expired": (400, error("API key expired. Please renew the API key.", code=400)),
    "xAI": (
        400,
        {
            "code": "Client specified an invalid argument",
            "error": "Incorrect API key provided: xa***ey. You can obtain an API key from https://console.x.ai.",
        },
    ),
    "generic": (400, error("Invalid API key")),
    "by its code": (400, error(THEIRS, code="invalid_api_key")),
    "a detail": (400, {"detail": "Missing API key"}),
    "a text": (400, {"error": "No API key provided"}),
    "no JSON": (400, "invalid api-key"),
    "403": (403, {"detail": "Forbidden"}),
}


@either
@table(BAD_KEYS)
def test_a_wrong_key_is_told_as_one_whatever_the_status(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: Answer, streamed: bool
) -> None:
    server.follow(told(kind))
    assert type(failure(upstream, streamed=streamed)) is errors.UpstreamRefusedKey
    assert len(server.requests) == 1


# What is asked again


@either
@pytest.mark.parametrize("status", [400, 401, 404, 422, 500, 502, 504, 529])
def test_a_server_may_ask_for_another_try_of_anything(
    server: OpenAIServer, upstream: OpenAIUpstream, status: int, streamed: bool
) -> None:
    server.follow(refuses(status, X_Should_Retry="true"), answers)
    assert asked(upstream, streamed=streamed) == "Hello"
    assert len(server.requests) == 2


@either
@pytest.mark.parametrize("status", [408, 409, 429, 503])
def test_a_server_may_forbid_another_try(
    server: OpenAIServer, upstream: OpenAIUpstream, status: int, streamed: bool
) -> None:
    server.follow(refuses(status, X_Should_Retry="false"), answers)
    failure(upstream, streamed=streamed)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "tries"), [(429, 2), (500, 1)])
@pytest.mark.parametrize("word", ["", "maybe", "1"])
def test_a_word_on_tries_that_makes_no_sense_is_none(
    server: OpenAIServer, upstream: OpenAIUpstream, word: str, status: int, tries: int
) -> None:
    server.follow(refuses(status, X_Should_Retry=word), answers)
    (asked if tries == 2 else failure)(upstream)
    assert len(server.requests) == tries


@either
@pytest.mark.parametrize(
    "code", ["insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached", "spend_limit_exceeded"]
)
@pytest.mark.parametrize("status", [400, 402, 429, 503])
def test_an_account_that_is_used_up_is_asked_once_even_if_the_server_wants_more(
    server: OpenAIServer, upstream: OpenAIUpstream, code: str, status: int, streamed: bool
) -> None:
    server.follow(refuses(status, code, X_Should_Retry="true"), answers)
    assert type(failure(upstream, streamed=streamed)) is errors.UpstreamQuotaExhausted
    assert len(server.requests) == 1


def breaks_in_the_head(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Ty")


def breaks_in_the_body(exchange: Exchange) -> None:
    exchange.begin(200, Content_Length="100")
    exchange.send(b'{"choices"')


def closes_after_the_request(exchange: Exchange) -> None:
    exchange.is_whole = False


ONCE: dict[str, Script] = {
    "500": refuses(500),
    "502": told((502, nginx("502 Bad Gateway"))),
    "504": told((504, nginx("504 Gateway Time-out"))),
    "520": refuses(520),
    "529": refuses(529),
    "closes": closes_after_the_request,
    "resets": Exchange.reset,
    "breaks in the head": breaks_in_the_head,
    "breaks in the body": breaks_in_the_body,
}


@either
@table(ONCE)
def test_what_may_have_been_paid_is_asked_once(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: Script, streamed: bool
) -> None:
    server.follow(kind, answers)
    assert isinstance(failure(upstream, streamed=streamed), errors.UpstreamFailed)
    assert len(server.requests) == 1


@either
@table(ONCE)
def test_what_may_have_been_paid_is_asked_once_on_a_kept_connection_too(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: Script, streamed: bool
) -> None:
    server.follow(answers, kind, answers)
    asked(upstream, streamed=streamed)
    assert isinstance(failure(upstream, streamed=streamed), errors.UpstreamFailed)
    assert [heard.connection for heard in server.requests] == [0, 0]


@either
def test_a_connection_that_is_refused_is_tried_again(
    server: OpenAIServer, upstream: OpenAIUpstream, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    gone = socket.create_server(("127.0.0.1", 0))
    dead = gone.getsockname()
    gone.close()
    addresses = [dead, dead, ("127.0.0.1", server.port)]
    monkeypatch.setattr("server.upstream.transport.connect", lambda _, __, *more: connect(*addresses.pop(0), *more))
    server.follow(answers)
    assert asked(upstream, streamed=streamed) == "Hello"
    assert addresses == []


@pytest.mark.parametrize(
    "headers", [{"Retry_After_Ms": "200"}, {"Retry_After_Ms": "200", "Retry_After": "60"}], ids=str
)
def test_a_wish_to_wait_may_be_told_in_milliseconds(
    server: OpenAIServer, upstream: OpenAIUpstream, headers: dict[str, str]
) -> None:
    server.follow(refuses(429, **headers), good)
    assert asked(upstream) == "Hello"
    first, second = (heard.at for heard in server.requests)
    assert second - first >= 0.19


@pytest.mark.parametrize("headers", [{"Retry_After_Ms": "60000"}, {"Retry_After": "60"}], ids=str)
def test_a_wish_to_wait_longer_than_the_call_may_take_ends_it(
    server: OpenAIServer, upstream: OpenAIUpstream, headers: dict[str, str]
) -> None:
    server.follow(refuses(503, **headers), good)
    failure(upstream, seconds=59)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "headers",
    [{"Retry_After_Ms": "soon"}, {"Retry_After_Ms": "soon", "Retry_After": "0"}, {"Retry_After_Ms": "nan"}],
    ids=str,
)
def test_milliseconds_that_make_no_sense_are_none(
    server: OpenAIServer, upstream: OpenAIUpstream, headers: dict[str, str]
) -> None:
    server.follow(refuses(429, **headers), good)
    assert asked(upstream) == "Hello"


# Megabytes

MEGABYTE = 1_000_000


def filled(unit: str) -> str:
    return (unit * (MEGABYTE // len(unit) + 1))[:MEGABYTE]


def nested(depth: int, opening: str, inner: str, closing: str) -> bytes:
    return (opening * depth + inner + closing * depth).encode()


UNITS = {
    "a long word": "a",
    "digits": "1",
    "quotes": "'",
    "double quotes": '"',
    "backslashes": "\\",
    "backslashes and quotes": '\\"',
    "opening brackets": "[",
    "braces": "{",
    "brackets and quotes": "['",
    "white space": " ",
    "newlines": "\n",
    "loc": "'loc': ('body', ",
    "extra_forbidden": "extra_forbidden loc body ",
    "unknown": "unknown ",
    "unknown parameters": "unknown parameter temperature ",
    "not permitted": "temperature extra not permitted, ",
    "names": "temperature ",
    "limits": "max_completion_tokens ",
    "context": "exceed context ",
    "context length": "longer than the context-length-",
    "inputs": "inputs must ",
    "keys": "invalid or api ",
    "NaN": "NaN ",
    "minus": "-",
    "escapes": "\\u0041",
    "surrogates": "\\ud83d",
    "non-ASCII": "ü",
    "dots": "a.",
    "stars": "*",
    "masked": "sk-*",
}
ERROR_BODIES: dict[str, Callable[[str], bytes]] = {
    "text": str.encode,
    "message": lambda text: json.dumps(error(text)).encode(),
    "detail": lambda text: json.dumps({"detail": [{"loc": ["body", text], "msg": text[:9], "type": text}]}).encode(),
    "broken": lambda text: b'{"error": {"message": "' + text.encode(),
}
MEGABYTES: dict[str, Callable[[], bytes]] = {
    f"{name} as {shape}": partial(lambda make, unit: make(filled(unit)), ERROR_BODIES[shape], unit)
    for name, unit in UNITS.items()
    for shape in ERROR_BODIES
    if shape == "message" or name in ("double quotes", "brackets and quotes", "loc", "unknown", "not permitted")
} | {
    "nested lists": lambda: nested(2000, "[", "1", "]"),
    "nested objects": lambda: nested(2000, '{"error":', '"x"', "}"),
    "nested lists without end": lambda: nested(MEGABYTE, "[", "", ""),
    "nested objects without end": lambda: nested(MEGABYTE // 5, '{"a":', "", ""),
    "a nested object with NaN": lambda: nested(2000, '{"error":', "NaN", "}"),
    "many fields": lambda: json.dumps({f"field{n}": "temperature unknown" for n in range(30_000)}).encode(),
    "many entries": lambda: json.dumps({"detail": [{"loc": ["body", "x"], "type": "extra"}] * 20_000}).encode(),
    "wide and deep": lambda: json.dumps({"error": [[[["unknown"] * 60] * 60] * 20]}).encode(),
}


@pytest.mark.parametrize("kind", MEGABYTES.values(), ids=MEGABYTES)
def test_a_refusal_that_echoes_a_megabyte_is_judged_quickly(
    server: OpenAIServer, upstream: OpenAIUpstream, caplog: pytest.LogCaptureFixture, kind: Callable[[], bytes]
) -> None:
    body = kind()
    server.follow(says(body, 422 if body.startswith(b'{"detail') else 400, Content_Type="application/json"))
    parameters = {"temperature": 0.5, "top_p": 0.9, "max_completion_tokens": 50, "seed": 1}
    with caplog.at_level(logging.DEBUG, "server"):
        began = time.thread_time()
        assert isinstance(failure(upstream, streamed=True, **parameters), errors.AppError)
        assert time.thread_time() - began < 1.5


@pytest.mark.parametrize("content", ["a", "unknown ", "ab.", "a1-", "\\u0041", "ü "])
def test_the_words_of_a_refusal_are_struck_out_quickly(
    server: OpenAIServer, upstream: OpenAIUpstream, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    server.follow(told((400, error(filled(content)))))
    messages = json.dumps([{"role": "user", "content": filled(content)[:200_000]}]).encode()
    with caplog.at_level(logging.DEBUG, "server"):
        began = time.thread_time()
        with pytest.raises(errors.AppError):
            list(upstream.open_stream(CompletionRequest("m", messages, PATIENCE_SECONDS)))
        assert time.thread_time() - began < 1.5


# What the operator is told


def lines(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("server"))


@either
@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("X_Request_Id", 400),
        ("X_Request_Id", 429),
        ("X_Request_Id", 500),
        ("Request_Id", 401),
        ("Apim_Request_Id", 404),
    ],
)
def test_the_operator_is_told_the_status_and_the_upstreams_request_id(
    server: OpenAIServer,
    upstream: OpenAIUpstream,
    caplog: pytest.LogCaptureFixture,
    status: int,
    header: str,
    streamed: bool,
) -> None:
    server.follow(refuses(status, **{header: "req_011CSHoEeqs5C35K2UUqR7Fy"}))
    with caplog.at_level(logging.INFO, "server"):
        problem = failure(upstream, streamed=streamed)
    assert problem.code in lines(caplog)
    assert str(status) in lines(caplog)
    assert "req_011CSHoEeqs5C35K2UUqR7Fy" in lines(caplog)


@pytest.mark.parametrize("value", ["", "x" * 200, "gr\xfc\xdfe", "a\tb"], ids=["empty", "long", "no ASCII", "a tab"])
def test_a_request_id_that_is_none_is_not_told(
    server: OpenAIServer, upstream: OpenAIUpstream, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    server.follow(refuses(400, X_Request_Id=value))
    with caplog.at_level(logging.INFO, "server"):
        failure(upstream)
    assert not value or value not in lines(caplog)


QUESTION = 'My name is Ada Lovelace, 안녕하세요, I live in Zwingenberg; my PIN is 482913. "Pennyroyal"\nTansy\'s: naïve'
PROMPT = "You are Marvin."
TOOL = {"type": "function", "function": {"name": "find_submarine", "description": "Ask Nemo", "parameters": {}}}
ECHOES: dict[str, tuple[str, tuple[str, ...]]] = {
    "the question": (QUESTION, ("Ada", "Lovelace", "안녕", "Zwingenberg", "482913", "Pennyroyal", "Tansy", "naïve")),
    "the question, escaped": (
        json.dumps(QUESTION),
        ("Lovelace", "안녕", "\\uc548", "Zwingenberg", "482913", "Pennyroyal", "Tansy", "naïve", "na\\u00efve"),
    ),
    "the question, escaped twice": (json.dumps(json.dumps(QUESTION)), ("Lovelace", "안녕", "uc548", "Pennyroyal")),
    "the question, as Python writes it": (repr({"content": QUESTION}), ("Lovelace", "안녕", "Pennyroyal", "Tansy")),
    "the question, in capitals": (QUESTION.upper(), ("LOVELACE", "ZWINGENBERG")),
    "a name and a full stop": ("I do not know any Ada.", ("Ada",)),
    "a name in dots": ("I do not know ...Lovelace...", ("Lovelace",)),
    "a name that was cut": ("I do not know Lovel...", ("Lovel",)),
    "a name in stars": ("I do not know **Lovelace**", ("Lovelace",)),
    "a name in a path": ("messages.0.Lovelace-Zwingenberg", ("Lovelace", "Zwingenberg")),
    "a name in a word": ("user_Lovelace", ("Lovelace",)),
    "a number in a word": ("PIN-482913.", ("482913",)),
    "the prompt": (f"I do not like '{PROMPT}'", ("Marvin",)),
    "the tools": (json.dumps(TOOL), ("find_submarine", "Nemo")),
    "the key": (f"Wrong key: {KEY}", (KEY, "operators-own")),
    "the key in the middle": (f"Bearer{KEY}!", (KEY, "operators-own")),
    "the key, masked": ("Wrong key: sk-th**************own", ("sk-th", "own")),
    "the key, masked with dots": ("Wrong key: sk-the...own.", ("sk-the", "own.")),
    "the key's end": ("Wrong key: ****************-own", ("-own",)),
    "another key": ("Wrong key: AIzaSyD-9tSrke72PouQMnMX", ("AIzaSyD", "MnMX")),
    "the end of another key": ("Wrong key: ab***yz", ("ab***", "***yz")),
    "a header": ("Wrong tenant: tenant secret, 7", ("tenant secret",)),
}


@either
@table(ECHOES)
def test_at_debug_alone_the_operator_is_told_the_upstreams_words_without_what_was_asked_and_keys(
    server: OpenAIServer,
    caplog: pytest.LogCaptureFixture,
    kind: tuple[str, tuple[str, ...]],
    streamed: bool,
) -> None:
    echo, secrets = kind
    upstream = OpenAIUpstream(KEY, server.url, headers={"X-Tenant": "tenant secret"})
    messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": QUESTION}]
    server.follow(told((400, error(f"Strange plumbing: {echo}"))))
    with caplog.at_level(logging.DEBUG, "server"), pytest.raises(errors.UpstreamRefused) as caught:
        list(
            upstream.open_stream(
                CompletionRequest("gpt-test", json.dumps(messages).encode(), 9.0, streamed, {"tools": [TOOL]})
            )
        )
    assert str(caught.value) == errors.UpstreamRefused.sentence
    debug = lines(caplog)
    assert "Strange plumbing" in debug
    assert not [secret for secret in secrets if secret in debug]
    assert all(record.levelno == logging.DEBUG for record in caplog.records if "plumbing" in record.getMessage())


def test_what_was_asked_unescaped_is_struck_out_too(
    server: OpenAIServer, upstream: OpenAIUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    server.follow(told((400, error("Strange plumbing: Lovelace 안녕 Zwingenberg"))))
    messages = '[{"role": "user", "content": "Lo\\u0076elace, 안녕 \\u005awingenberg"}]'.encode()
    with caplog.at_level(logging.DEBUG, "server"), pytest.raises(errors.UpstreamRefused):
        list(upstream.open_stream(CompletionRequest("gpt-test", messages, 9.0)))
    assert "plumbing" in lines(caplog)
    assert not [secret for secret in ("Lovelace", "안녕", "Zwingenberg") if secret in lines(caplog)]


def test_short_words_of_what_was_asked_are_struck_out_too(
    server: OpenAIServer, upstream: OpenAIUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    question = "I am Q. Xu,\nJ2 is mine: PIN 4 87"
    server.follow(told((400, error(f"Strange plumbing: {question} | Q-Xu | 4.87 | messages.0"))))
    messages = json.dumps([{"role": "user", "content": question}]).encode()
    with caplog.at_level(logging.DEBUG, "server"), pytest.raises(errors.UpstreamRefused):
        list(upstream.open_stream(CompletionRequest("gpt-test", messages, 9.0)))
    assert "Strange plumbing" in lines(caplog)
    said = lines(caplog).partition("plumbing")[2]
    assert not set(re.findall(r"\w+", question)) & set(re.findall(r"\w+", said))
    assert "messages" in said


def test_a_secret_at_the_end_of_what_is_looked_at_is_struck_out(
    server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = OpenAIUpstream(KEY, server.url, headers={"X-Tenant": "tenant-secret"})
    server.follow(told((400, error("x " * 2044 + "tenant-secret"))))
    with caplog.at_level(logging.DEBUG, "server"):
        failure(upstream)
    assert "upstream said" in lines(caplog)
    assert ("tenan" in lines(caplog)) is False, "a part of the header's value is told"


def test_a_question_that_is_too_long_to_be_compared_shows_none_of_the_upstreams_words(
    server: OpenAIServer, upstream: OpenAIUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    server.follow(told((400, error("Strange Lovelace"))))
    messages = json.dumps([{"role": "user", "content": "x" * 300_000 + " Lovelace"}]).encode()
    with caplog.at_level(logging.DEBUG, "server"), pytest.raises(errors.UpstreamRefused):
        list(upstream.open_stream(CompletionRequest("gpt-test", messages, 9.0)))
    assert "Lovelace" not in lines(caplog)


LOUD: dict[str, Script] = {
    "JSON": refuses(400),
    "JSON, 401": refuses(401),
    "JSON, 500": refuses(500),
    "a text": told((400, THEIRS)),
    "a page": told((400, f"<html>{THEIRS}</html>")),
    "a stream": streams(piece("Hel"), event({"error": {"message": THEIRS, "code": THEIRS}})),
    "a plain answer": says(json.dumps({"error": {"message": THEIRS}}).encode()),
    "a header": refuses(400, X_Request_Id=KEY[:3] + "é"),
}


@either
@table(LOUD)
def test_at_info_the_operator_is_told_none_of_the_upstreams_words(
    server: OpenAIServer, upstream: OpenAIUpstream, caplog: pytest.LogCaptureFixture, kind: Script, streamed: bool
) -> None:
    server.follow(kind)
    with caplog.at_level(logging.INFO):
        problem = failure(upstream, streamed=streamed)
    everything = "\n".join(record.getMessage() for record in caplog.records)
    assert problem.code in everything
    assert not [secret for secret in (THEIRS, KEY, str(server.port)) if secret in everything]


# Models and health


def listing(body: Any, status: int = 200) -> Script:
    return says(json.dumps(body).encode(), status)


LISTS: dict[str, tuple[Script, list[dict[str, Any]]]] = {
    "as it should be": (listing({"object": "list", "data": [{"id": "a"}]}), [{"id": "a"}]),
    "bare": (listing([{"id": "a"}]), [{"id": "a"}]),
    "bare texts": (listing(["a", "b"]), [{"id": "a"}, {"id": "b"}]),
    "texts": (listing({"data": ["a", "b"]}), [{"id": "a"}, {"id": "b"}]),
    "models": (listing({"models": [{"id": "a"}]}), [{"id": "a"}]),
    "null": (listing({"object": "list", "data": None}), []),
    "empty": (listing({"data": []}), []),
    "bare and empty": (listing([]), []),
    "without created and owned_by": (
        listing({"data": [{"id": "a", "object": "model"}]}),
        [{"id": "a", "object": "model"}],
    ),
    "odd fields": (
        listing({"data": [{"id": "a", "created": "yesterday", "owned_by": None}]}),
        [{"id": "a", "created": "yesterday", "owned_by": None}],
    ),
    "entries without id": (listing({"data": [{"name": "x"}, {"id": ""}, {"id": 7}, None, {"id": "a"}]}), [{"id": "a"}]),
    "NaN": (says(b'{"data": [{"id": "a", "price": NaN}]}'), [{"id": "a", "price": None}]),
}


@table(LISTS)
def test_a_list_of_models_may_have_many_shapes(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: tuple[Script, list[dict[str, Any]]]
) -> None:
    script, expected = kind
    server.follow(script)
    assert upstream.list_models() == expected


NO_LISTS: dict[str, Script] = {
    "404": told((404, {"detail": "Not Found"})),
    "404 page": told((404, nginx("404 Not Found"))),
    "405": told((405, {"detail": "Method Not Allowed"})),
}


@table(NO_LISTS)
def test_a_server_without_a_list_says_which_setting_is_missing(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: Script
) -> None:
    server.follow(kind)
    with pytest.raises(errors.UpstreamRefused) as caught:
        upstream.list_models()
    assert "DEFAULT_MODEL" in str(caught.value)


@table({name: script for name, (script, _) in LISTS.items()} | NO_LISTS)
def test_a_server_with_an_odd_list_or_none_is_connected(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: Script
) -> None:
    server.follow(kind)
    assert upstream.check_health() == "connected"


def by_path(chat: Script, models: Script) -> Script:
    return lambda exchange: (models if exchange.request.path.endswith("/models") else chat)(exchange)


BAD_LISTS: dict[str, Script] = NO_LISTS | {
    "401": refuses(401),
    "403": refuses(403),
    "500": refuses(500),
    "page": told((200, "<html>")),
    "closes": closes_after_the_request,
}


@either
@table(BAD_LISTS)
def test_a_server_that_has_answered_a_question_is_connected_whatever_its_list_says(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: Script, streamed: bool
) -> None:
    server.follow(by_path(answers, kind))
    asked(upstream, streamed=streamed)
    assert upstream.check_health() == "connected"


@either
@table(NO_LISTS)
@pytest.mark.parametrize(
    "chat", [refuses(401), refuses(402), told((404, {"detail": "Not Found"}))], ids=["401", "402", "wrong address"]
)
def test_a_server_that_has_failed_to_answer_and_has_no_list_is_unreachable(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: Script, chat: Script, streamed: bool
) -> None:
    server.follow(by_path(chat, kind))
    failure(upstream, streamed=streamed)
    assert upstream.check_health() == "unreachable"
    server.follow(by_path(answers, kind))
    asked(upstream, streamed=streamed)
    assert upstream.check_health() == "connected"


@table({"400": refuses(400), "429": refuses(429, X_Should_Retry="false"), "overflow": told(OVERFLOWS["OpenAI"])})
def test_a_refusal_of_one_question_says_nothing_of_health(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: Script
) -> None:
    server.follow(by_path(kind, NO_LISTS["404"]))
    failure(upstream)
    assert upstream.check_health() == "connected"


@pytest.fixture
def conversations(server: OpenAIServer) -> Iterator[Callable[..., Core]]:
    runners = []

    def make(**settings: Any) -> Core:
        clock = Clock()
        store, upstream = MemoryStore(10, clock), OpenAIUpstream(KEY, server.url, **settings)
        runners.append(Runner(store, upstream, RunConfig(), clock))
        return Core(store, upstream, runners[-1])

    yield make
    for runner in runners:
        runner.shut_down(0)


def test_with_a_default_model_no_question_asks_for_the_list(
    server: OpenAIServer, conversations: Callable[..., Core]
) -> None:
    server.follow(by_path(answers, refuses(500)))
    ours = conversations(default_model="chosen")
    for _ in range(2):
        assert ours.replies.answer(Run("why?", conversation="ada"), lambda: True).text == "Hello"
    assert {heard.path for heard in server.requests} == {"/v1/chat/completions"}
    assert {heard.body["model"] for heard in server.requests} == {"chosen"}


def test_without_a_default_model_the_list_is_asked_for_once(
    server: OpenAIServer, conversations: Callable[..., Core]
) -> None:
    server.follow(by_path(answers, listing(["local"])))
    ours = conversations()
    for _ in range(3):
        assert ours.replies.answer(Run("why?", conversation="ada"), lambda: True).text == "Hello"
    assert [heard.path for heard in server.requests].count("/v1/models") == 1


def test_a_slow_list_holds_no_question_up_that_names_its_model(
    server: OpenAIServer, conversations: Callable[..., Core]
) -> None:
    may_answer = threading.Event()

    def slow(exchange: Exchange) -> None:
        assert may_answer.wait(PATIENCE_SECONDS)
        listing(["local"])(exchange)

    server.follow(by_path(answers, slow))
    ours = conversations()
    for _ in range(3):
        ours.models.require_offered("any")
        assert not may_answer.is_set()
    assert len(server.requests) == 1
    may_answer.set()


def test_a_slow_list_is_waited_for_only_once(
    server: OpenAIServer, conversations: Callable[..., Core], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []
    may_answer = threading.Event()
    join = threading.Thread.join

    def noted(thread: threading.Thread, timeout: float | None = None) -> None:
        waits.append(timeout)
        join(thread, timeout)

    def slow(exchange: Exchange) -> None:
        assert may_answer.wait(PATIENCE_SECONDS)
        listing(["local"])(exchange)

    server.follow(slow)
    ours = conversations()
    monkeypatch.setattr(threading.Thread, "join", noted)
    for _ in range(3):
        ours.models.require_offered("any")
    may_answer.set()
    monkeypatch.undo()
    assert [wait for wait in waits if wait is not None and wait > 0.6] == []
    assert len([wait for wait in waits if wait]) == 1


def test_a_list_that_came_late_is_known_afterwards(server: OpenAIServer, conversations: Callable[..., Core]) -> None:
    server.follow(listing(["local"]))
    ours = conversations()
    ours.models.list()
    ours.models.require_offered("local")
    with pytest.raises(errors.UnknownModel):
        ours.models.require_offered("other")


@table(BAD_LISTS | {"empty": listing({"data": []}), "null": listing({"data": None})})
def test_any_model_may_be_chosen_while_there_is_no_list(
    server: OpenAIServer, conversations: Callable[..., Core], kind: Script
) -> None:
    server.follow(by_path(answers, kind))
    ours = conversations()
    ours.models.set("ada", "any")
    assert ours.models.get("ada") == "any"
    ours.models.require_offered("other")
    assert ours.replies.answer(Run("why?", conversation="ada"), lambda: True).text == "Hello"
    assert server.requests[-1].body["model"] == "any"


def test_only_a_model_of_the_list_may_be_chosen_where_there_is_one(
    server: OpenAIServer, conversations: Callable[..., Core]
) -> None:
    server.follow(listing(["local"]))
    ours = conversations()
    ours.models.set("ada", "local")
    with pytest.raises(errors.UnknownModel):
        ours.models.set("ada", "other")
    assert ours.models.get("ada") == "local"
