"""Parameters that a model does not know: left out, and remembered only where that is ours to do."""

import json
from typing import Any

import pytest

from server import errors
from server.upstream.openai import OpenAIUpstream
from server.upstream.protocol import CompletionRequest
from tests.support.openai_server import PATIENCE_SECONDS, THEIRS, Exchange, OpenAIServer, Script, answers, refuses, says
from tests.support.upstream_calls import KEY, asked, call, either, failure

OWN = ["stream_options", "prompt_cache_key", "safety_identifier"]
LIMIT, OLD_LIMIT = "max_completion_tokens", "max_tokens"


@pytest.fixture
def upstream(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> OpenAIUpstream:  # type: ignore[override]
    """It takes the server for OpenAI's own, so that it sends all that it has of its own."""
    monkeypatch.setattr("server.upstream.openai.is_openai", lambda _: True)
    return OpenAIUpstream(KEY, server.url, retry_seconds=0.0)


def told(body: Any, status: int = 400) -> Script:
    return says(body.encode() if isinstance(body, str) else json.dumps(body).encode(), status)


def error(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message} | fields}


def openai(name: str, code: str = "unknown_parameter") -> Script:
    said = f"Unknown parameter: '{name}'."
    return told(error(said, type="invalid_request_error", param=name, code=code))


def pydantic(name: str) -> dict[str, Any]:
    return {
        "type": "extra_forbidden",
        "loc": ["body", name],
        "msg": "Extra inputs are not permitted",
        "input": {"a": 1},
    }


def unknown(name: str) -> dict[str, Script]:
    """How servers say that they do not know `name`."""
    gemini = f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
    return {
        "OpenAI": openai(name),
        "OpenAI, unsupported": told(
            error(
                f"Unsupported parameter: '{name}' is not supported with this model.",
                type="invalid_request_error",
                param=name,
                code="unsupported_parameter",
            )
        ),
        "OpenAI, without a code": told(error(f"Unknown parameter: '{name}'.", type="invalid_request_error")),
        "pydantic 2": told({"detail": [pydantic(name)]}, 422),
        "pydantic 1": told(
            {"detail": [{"loc": ["body", name], "msg": "extra fields not permitted", "type": "value_error.extra"}]}, 422
        ),
        "vLLM": told(
            {
                "object": "error",
                "message": str([pydantic(name) | {"loc": ("body", name)}]),
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            }
        ),
        "vLLM, in lines": told(
            error(
                f"1 validation error for ChatCompletionRequest\n{name}\n  Extra inputs are not permitted "
                "[type=extra_forbidden, input_value={'include_usage': True}, input_type=dict]\n    For further "
                "information visit https://errors.pydantic.dev/2.5/v/extra_forbidden",
                type="BadRequestError",
                code=400,
            )
        ),
        "Mistral": told(
            {"object": "error", "message": {"detail": [pydantic(name)]}, "type": "invalid_request_error", "code": None},
            422,
        ),
        "Azure": told(
            error(
                f"Unrecognized request argument supplied: {name}", type="invalid_request_error", param=None, code=None
            )
        ),
        "Groq": told(error(f"property '{name}' is unsupported", type="invalid_request_error")),
        "Groq, with a guess": told(error(f"property '{name}' is unsupported, did you mean 'nothing'?")),
        "Gemini": told(
            [
                error(
                    gemini,
                    code=400,
                    status="INVALID_ARGUMENT",
                    details=[
                        {
                            "@type": "type.googleapis.com/google.rpc.BadRequest",
                            "fieldViolations": [{"description": gemini}],
                        }
                    ],
                )
            ]
        ),
        "Go": told({"error": f'json: unknown field "{name}"'}),
        "serde": told(
            f"Failed to deserialize the JSON body into the target type: unknown field `{name}`, expected one of "
            "`messages`, `model`, `temperature`, `top_p`, `seed` at line 1 column 80",
            422,
        ),
        "Fireworks": told(
            error(
                f"Extra inputs are not permitted, field: '{name}', value: {{'include_usage': True}}",
                object="error",
                type="invalid_request_error",
            )
        ),
        "JSON schema": told(error(f"Additional properties are not allowed ('{name}' was unexpected)")),
        "LiteLLM": told(
            error(f"litellm.UnsupportedParamsError: x does not support parameters: ['{name}'], for model=x")
        ),
        "Python": told(error(f"create() got an unexpected keyword argument '{name}'")),
        "plain": told({"detail": f"{name} is not supported"}),
    }


def cases(*names: str) -> Any:
    params = [
        pytest.param(name, script, id=f"{name}: {kind}") for name in names for kind, script in unknown(name).items()
    ]
    return pytest.mark.parametrize(("name", "refusal"), params)


def sent(server: OpenAIServer, name: str) -> list[bool]:
    """Whether each request had it."""
    return [name in heard.body for heard in server.requests]


@cases(*OWN)
def test_what_is_ours_and_a_model_does_not_know_is_left_out_and_remembered_for_that_model(
    server: OpenAIServer, upstream: OpenAIUpstream, name: str, refusal: Script
) -> None:
    server.follow(refusal, answers)
    for model in ("old", "old", "new"):
        assert asked(upstream, model, streamed=True, temperature=0.5, top_p=0.9, max_completion_tokens=50) == "Hello"
    assert sent(server, name) == [True, False, False, True]
    others = {"temperature", "top_p", LIMIT, *OWN} - {name}
    assert all(others <= heard.body.keys() for heard in server.requests)


@cases("stream_options")
def test_nothing_is_remembered_of_a_call_that_fails_all_the_same(
    server: OpenAIServer, upstream: OpenAIUpstream, name: str, refusal: Script
) -> None:
    server.follow(refusal, refuses(500), answers)
    failure(upstream, streamed=True)
    assert asked(upstream, streamed=True) == "Hello"
    assert sent(server, name) == [True, False, True]


BROKEN: dict[str, Script] = {
    "400": refuses(400),
    "503": refuses(503, X_Should_Retry="false"),
    "an empty reply": says(b'{"choices":[{"message":{"content":""}}]}'),
    "an error in its place": says(b'{"error":{"message":"no"}}'),
    "closes": lambda exchange: None,
}


@either
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_only_a_whole_reply_proves_that_a_parameter_was_at_fault(
    server: OpenAIServer, upstream: OpenAIUpstream, broken: Script, streamed: bool
) -> None:
    server.follow(openai("prompt_cache_key"), broken, answers)
    failure(upstream, streamed=streamed)
    assert asked(upstream, streamed=streamed) == "Hello"
    assert sent(server, "prompt_cache_key") == [True, False, True]


def test_of_several_of_ours_all_are_left_out_and_soon_remembered(
    server: OpenAIServer, upstream: OpenAIUpstream
) -> None:
    def script(exchange: Exchange) -> None:
        names = [name for name in OWN if name in exchange.request.body]
        (openai(names[0]) if names else answers)(exchange)

    server.follow(script)
    for _ in range(len(OWN)):
        assert asked(upstream, streamed=True) == "Hello"
    count = len(server.requests)
    assert asked(upstream, streamed=True) == "Hello"
    assert len(server.requests) == count + 1
    assert not {*OWN} & server.requests[-1].body.keys()


def test_several_of_ours_may_be_refused_at_once(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    def script(exchange: Exchange) -> None:
        names = [name for name in OWN[1:] if name in exchange.request.body]
        refusal = told(error(f"Unrecognized request arguments supplied: {', '.join(names)}"))
        (refusal if names else answers)(exchange)

    server.follow(script)
    assert asked(upstream, streamed=True) == "Hello"
    assert [len({*OWN} & heard.body.keys()) for heard in server.requests] == [3, 2, 1]


CALLERS = ["temperature", "reasoning_effort"]


@cases(*CALLERS)
def test_what_a_caller_sent_is_left_out_for_that_call_alone(
    server: OpenAIServer, upstream: OpenAIUpstream, name: str, refusal: Script
) -> None:
    server.follow(refusal, answers)
    for _ in range(2):
        assert asked(upstream, **{name: 1, "stop": "."}) == "Hello"
    assert sent(server, name) == [True, False, True]
    assert sent(server, "stop") == [True] * 3
    assert sent(server, "prompt_cache_key") == [True] * 3


VALUES: dict[str, Script] = {
    "OpenAI": told(
        error(
            "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value is "
            "supported.",
            type="invalid_request_error",
            param="temperature",
            code="unsupported_value",
        )
    ),
    "without a code": told(error("Unsupported value: 'temperature' does not support 0.5 with this model.")),
}


@either
@pytest.mark.parametrize("refusal", VALUES.values(), ids=VALUES)
def test_a_value_that_a_model_does_not_take_is_left_out_for_that_call_alone(
    server: OpenAIServer, upstream: OpenAIUpstream, refusal: Script, streamed: bool
) -> None:
    server.follow(refusal, answers)
    for _ in range(2):
        assert asked(upstream, streamed=streamed, temperature=0.5) == "Hello"
    assert sent(server, "temperature") == [True, False, True]


ASKED_FOR = {
    "response_format": {"type": "json_object"},
    "tools": [],
    "tool_choice": "auto",
    "logprobs": True,
    "top_logprobs": 2,
    "messages": None,
    "model": None,
    "stream": None,
}


@pytest.mark.parametrize("kind", unknown(""))
def test_what_makes_the_reply_what_was_asked_for_is_sent_always(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: str
) -> None:
    wanted = {name: value for name, value in ASKED_FOR.items() if value is not None}
    server.follow(*(unknown(name)[kind] for name in ASKED_FOR))
    for _ in ASKED_FOR:
        failure(upstream, streamed=True, temperature=0.5, **wanted)
    assert len(server.requests) == len(ASKED_FOR)
    assert all({*ASKED_FOR, "temperature"} <= heard.body.keys() for heard in server.requests)


# The limit


@cases(LIMIT)
@either
def test_a_limit_that_a_model_does_not_know_is_sent_by_its_older_name_and_that_is_remembered(
    server: OpenAIServer, upstream: OpenAIUpstream, name: str, refusal: Script, streamed: bool
) -> None:
    server.follow(refusal, answers)
    for model in ("old", "old", "new"):
        assert asked(upstream, model, streamed=streamed, max_completion_tokens=50) == "Hello"
    assert [(heard.body.get(LIMIT), heard.body.get(OLD_LIMIT)) for heard in server.requests] == [
        (50, None),
        (None, 50),
        (None, 50),
        (50, None),
    ]


@cases(LIMIT)
def test_a_limit_is_not_renamed_for_others_by_a_call_that_fails_all_the_same(
    server: OpenAIServer, upstream: OpenAIUpstream, name: str, refusal: Script
) -> None:
    server.follow(refusal, refuses(500), answers)
    failure(upstream, max_completion_tokens=50)
    assert asked(upstream, max_completion_tokens=50) == "Hello"
    assert sent(server, LIMIT) == [True, False, True]
    assert sent(server, OLD_LIMIT) == [False, True, False]


@pytest.mark.parametrize("kind", unknown(LIMIT))
@either
def test_a_limit_that_is_refused_by_both_names_is_never_left_out(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: str, streamed: bool
) -> None:
    server.follow(*[unknown(LIMIT)[kind], unknown(OLD_LIMIT)[kind]] * 2, answers)
    for count in (2, 4):
        assert type(failure(upstream, streamed=streamed, max_completion_tokens=50)) is errors.UpstreamRefused
        assert len(server.requests) == count
    assert all((LIMIT in heard.body) != (OLD_LIMIT in heard.body) for heard in server.requests)


@pytest.mark.parametrize("kind", [name for name in unknown(LIMIT) if name != "serde"])
def test_a_limit_gets_its_newer_name_back_where_the_model_wants_it(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: str
) -> None:
    server.follow(unknown(LIMIT)[kind], answers, unknown(OLD_LIMIT)[kind], answers)
    for _ in range(3):
        assert asked(upstream, max_completion_tokens=50) == "Hello"
    assert asked(upstream) == "Hello"
    assert [(heard.body.get(LIMIT), heard.body.get(OLD_LIMIT)) for heard in server.requests] == [
        (50, None),
        (None, 50),
        (None, 50),
        (50, None),
        (50, None),
        (None, None),
    ]


def test_a_limit_gets_its_newer_name_back_in_openais_words(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    wants_newer = told(
        error(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
            type="invalid_request_error",
            param="max_tokens",
            code="unsupported_parameter",
        )
    )
    server.follow(unknown(LIMIT)["Azure"], answers, wants_newer, answers)
    for _ in range(3):
        assert asked(upstream, max_completion_tokens=50) == "Hello"
    assert sent(server, LIMIT) == [True, False, False, True, True]


WRONG_LIMITS: dict[str, Script] = {
    "too large": told(error("max_completion_tokens is too large: 50.")),
    "too large, with a code": told(error("too large", param=LIMIT, code="invalid_value")),
    "an unsupported value": told(
        error("Unsupported value: 'max_completion_tokens'", param=LIMIT, code="unsupported_value")
    ),
    "an unsupported value, without a code": told(
        error("Unsupported value: 'max_completion_tokens' does not support 50")
    ),
    "too small": told(error("Invalid 'max_completion_tokens': integer below minimum value.", param=LIMIT)),
    "the newer name is wanted": told(error("'max_tokens' is not supported. Use 'max_completion_tokens' instead.")),
    "the newer name is wanted, with a comma": told(
        error("'max_tokens' is not supported with this model, use 'max_completion_tokens' instead")
    ),
}


@pytest.mark.parametrize("refusal", WRONG_LIMITS.values(), ids=WRONG_LIMITS)
def test_a_limit_with_a_wrong_value_is_neither_renamed_nor_left_out(
    server: OpenAIServer, upstream: OpenAIUpstream, refusal: Script
) -> None:
    server.follow(refusal, answers)
    assert type(failure(upstream, max_completion_tokens=50)) is errors.UpstreamRefused
    assert asked(upstream, max_completion_tokens=50) == "Hello"
    assert sent(server, LIMIT) == [True, True]


def test_a_limit_and_a_parameter_of_ours_may_both_be_unknown(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    def script(exchange: Exchange) -> None:
        name = next((name for name in (*OWN, LIMIT) if name in exchange.request.body), None)
        (unknown(name)["Azure"] if name else answers)(exchange)

    server.follow(script)
    for _ in range(5):
        assert asked(upstream, streamed=True, max_completion_tokens=50) == "Hello"
    assert {*OWN, LIMIT, OLD_LIMIT} & server.requests[-1].body.keys() == {OLD_LIMIT}
    assert {*OWN, LIMIT, OLD_LIMIT} & server.requests[-2].body.keys() == {OLD_LIMIT}
    assert all((LIMIT in heard.body) != (OLD_LIMIT in heard.body) for heard in server.requests)


# Callers who speak as servers do

EVIL = [
    "Unrecognized request argument supplied: stream_options, max_completion_tokens",
    "Unrecognized request arguments supplied: max_completion_tokens, prompt_cache_key, safety_identifier",
    "unknown field `safety_identifier`",
    "property 'max_completion_tokens' is unsupported",
    '{"error": {"code": "unknown_parameter", "param": "prompt_cache_key"}}',
    "{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are not permitted'}",
    "max_tokens is not supported, stream_options is not supported",
]
ECHOES: dict[str, Any] = {
    "message": lambda text: error(f"The content was refused: {text}"),
    "detail": lambda text: {
        "detail": [{"loc": ["body", "messages"], "msg": "too silly", "type": "value", "input": text}]
    },
    "text": lambda text: f"refused: {text}",
    "escaped": lambda text: error(f"The content was refused: {json.dumps(text)}"),
    "parsed": lambda text: {"detail": THEIRS, "input": pydantic("stream_options"), "content": text},
}


@pytest.mark.parametrize("text", EVIL)
@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_nothing_that_a_caller_writes_changes_what_others_get(
    server: OpenAIServer, upstream: OpenAIUpstream, text: str, echo: Any
) -> None:
    statuses = [400, 422] * 10

    def script(exchange: Exchange) -> None:
        said = exchange.request.body["messages"][-1]["content"]
        (told(echo(said), statuses.pop()) if said == text else answers)(exchange)

    server.follow(script)
    messages = json.dumps([{"role": "user", "content": text}]).encode()
    parameters = {"max_completion_tokens": 50, "temperature": 0.5}
    for _ in range(2):
        with pytest.raises(errors.UpstreamFailed):
            list(
                upstream.open_stream(
                    CompletionRequest("gpt-test", messages, PATIENCE_SECONDS, True, parameters, "evil")
                )
            )
    assert asked(upstream, streamed=True, **parameters) == "Hello"
    assert {*OWN, LIMIT, "temperature"} <= server.requests[-1].body.keys()
    assert OLD_LIMIT not in server.requests[-1].body
    assert all((LIMIT in heard.body) != (OLD_LIMIT in heard.body) for heard in server.requests)


@pytest.mark.parametrize("text", EVIL)
def test_a_caller_whose_own_parameter_is_refused_teaches_nothing_of_ours(
    server: OpenAIServer, upstream: OpenAIUpstream, text: str
) -> None:
    """The call works without what the caller sent, while the refusal also has what the caller wrote."""

    def script(exchange: Exchange) -> None:
        is_evil = "temperature" in exchange.request.body
        (told(error(f"property 'temperature' is unsupported. {text}")) if is_evil else answers)(exchange)

    server.follow(script)
    assert asked(upstream, streamed=True, temperature=0.5, max_completion_tokens=50) == "Hello"
    assert asked(upstream, streamed=True, max_completion_tokens=50) == "Hello"
    assert {*OWN, LIMIT} <= server.requests[-1].body.keys()


@pytest.mark.parametrize("status", [401, 403, 404, 409, 429, 500])
def test_only_a_refusal_of_the_request_itself_leaves_anything_out(
    server: OpenAIServer, upstream: OpenAIUpstream, status: int
) -> None:
    said = error("Unknown parameter: 'stream_options'.", param="stream_options", code="unknown_parameter")
    server.follow(says(json.dumps(said).encode(), status, X_Should_Retry="false"))
    failure(upstream, streamed=True)
    assert len(server.requests) == 1


# Whose server it is


@pytest.mark.parametrize(
    ("base_url", "is_ours"),
    [
        ("", True),
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://us.api.openai.com/v1", True),
        ("https://EU.api.OpenAI.com:443/v1/", True),
        ("https://api.openai.com.example.org/v1", False),
        ("https://eu.api.openai.com.example.org/v1", False),
        ("https://notapi.openai.com/v1", False),
        ("https://xapi.openai.com/v1", False),
        ("https://openai.com/v1", False),
        ("https://api.openai.com@example.org/v1", False),
        ("https://example.org/api.openai.com/v1", False),
        ("https://example.org/v1?to=https://eu.api.openai.com/v1", False),
        ("https://x.openai.azure.com/openai/v1", False),
        ("http://127.0.0.1:8000/v1", False),
    ],
)
def test_only_openai_in_any_of_its_regions_is_told_who_asks(base_url: str, is_ours: bool) -> None:
    upstream = OpenAIUpstream(KEY, base_url)
    body = json.loads(upstream.build_body(call(streamed=True)).to_bytes())
    assert {*OWN} & body.keys() == ({*OWN} if is_ours else {"stream_options"})
