"""Failures: each has a code that never changes, a status, and a sentence that gives nothing away."""

import logging
import re
from collections.abc import Iterator

import pytest
from flask import Flask, abort
from flask.testing import FlaskClient

from server import errors
from server.app import create_app
from server.errors import AppError
from server.http.errors import STATUS, register_error_handlers, status_of
from server.runs.events import error_from_code
from server.settings import Settings
from server.store.memory import MemoryStore
from tests.support.replies import ScriptedReplies, SteeredUpstream

CODES = {
    "body_too_large": 413,
    "conflict": 409,
    "context_length_exceeded": 400,
    "conversation_busy": 429,
    "internal_error": 500,
    "invalid_import": 400,
    "invalid_position": 400,
    "invalid_request": 400,
    "client_full": 403,
    "too_many_open_runs": 429,
    "too_many_streams": 429,
    "unauthorized": 401,
    "not_allowed": 403,
    "too_many_attempts": 429,
    "method_not_allowed": 405,
    "misdirected_request": 421,
    "not_configured": 503,
    "not_found": 404,
    "refused": 400,
    "budget_exhausted": 429,
    "rate_limited": 429,
    "request_id_conflict": 409,
    "run_cancelled": 409,
    "not_retryable": 409,
    "not_the_last_turn": 409,
    "not_editable": 409,
    "conversation_exists": 409,
    "run_exists": 409,
    "conversation_importing": 429,
    "import_lost": 409,
    "no_action_required": 409,
    "requires_action": 409,
    "run_expired": 504,
    "run_interrupted": 503,
    "run_timed_out": 504,
    "shutting_down": 503,
    "store_full": 503,
    "too_many_records": 400,
    "store_unavailable": 503,
    "unavailable": 503,
    "unknown_model": 400,
    "unsupported_media_type": 415,
    "upstream_bad_reply": 502,
    "upstream_cut": 502,
    "upstream_empty_reply": 502,
    "upstream_failed": 502,
    "upstream_quota_exhausted": 502,
    "upstream_rate_limited": 502,
    "upstream_refused": 502,
    "upstream_timed_out": 504,
    "upstream_unauthorized": 502,
    "upstream_unreachable": 502,
    "upstream_not_found": 502,
}
"""Programs depend on these: add to them, and change none."""

INTERNAL = {"error": errors.InternalError.sentence, "code": "internal_error"}

SECRET = "sk-secret at /etc/keys for ada"


def below(kind: type[AppError]) -> Iterator[type[AppError]]:
    for each in kind.__subclasses__():
        yield each
        yield from below(each)


KINDS = list(below(AppError))
LEAVES = [kind for kind in KINDS if not kind.__subclasses__()]
BEHIND = list(below(errors.Unavailable))


def name_of(kind: type[AppError]) -> str:
    return kind.__name__


class TestTable:
    @pytest.mark.parametrize("kind", [AppError, *KINDS], ids=name_of)
    def test_every_failure_has_a_status(self, kind: type[AppError]) -> None:
        assert status_of(kind()) in STATUS.values()

    def test_codes_and_their_statuses_are_what_they_always_were(self) -> None:
        assert {kind.code: status_of(kind()) for kind in KINDS} == CODES

    def test_no_two_failures_have_the_same_code(self) -> None:
        codes = [kind.code for kind in KINDS]
        assert sorted(codes) == sorted(set(codes))

    @pytest.mark.parametrize("kind", KINDS, ids=name_of)
    def test_what_the_caller_must_change_is_a_4xx_and_nothing_else_is(self, kind: type[AppError]) -> None:
        assert (400 <= status_of(kind()) < 500) == issubclass(kind, errors.Refused)
        assert (500 <= status_of(kind()) < 600) == issubclass(kind, errors.Unavailable)

    @pytest.mark.parametrize("kind", KINDS, ids=name_of)
    def test_a_kept_failure_comes_back_as_what_it_was(self, kind: type[AppError]) -> None:
        again = error_from_code(kind.code, "What happened.")
        assert (type(again), str(again)) == (kind, "What happened.")

    def test_a_code_that_nobody_knows_any_more_comes_back_as_an_internal_error(self) -> None:
        again = error_from_code("gone", "What happened.")
        assert (type(again), str(again)) == (errors.InternalError, "What happened.")


class TestSentences:
    @pytest.mark.parametrize("kind", KINDS, ids=name_of)
    def test_each_is_one_for_a_person_with_nothing_left_to_fill_in(self, kind: type[AppError]) -> None:
        assert re.fullmatch(r"[A-Z][^{}%<>]+\w\.", str(kind()))
        assert not re.search(r"TODO|XXX|\.\.\.|None", str(kind()))

    def test_each_leaf_has_its_own(self) -> None:
        sentences = [kind.sentence for kind in LEAVES if kind is not errors.InternalError]
        assert len(set(sentences)) == len(sentences)
        assert AppError.sentence not in sentences

    @pytest.mark.parametrize("kind", KINDS, ids=name_of)
    def test_none_names_a_class(self, kind: type[AppError]) -> None:
        assert not [each for each in KINDS if re.search(rf"\b{each.__name__}\b", kind.sentence)]


class TestPublished:
    """Whatever fails behind the server is a 500 here; the code tells which it was."""

    @pytest.fixture
    def replies(self) -> ScriptedReplies:
        return ScriptedReplies("hi")

    @pytest.mark.parametrize("kind", BEHIND, ids=name_of)
    def test_a_failure_of_the_upstream_is_a_500_with_its_code(
        self, client: FlaskClient, replies: ScriptedReplies, kind: type[AppError]
    ) -> None:
        replies.fail("hi", kind())
        answer = client.post("/query", json={"client_name": "ada", "input": "hi"})
        assert answer.status_code == 500
        assert answer.get_json() == {"error": kind.sentence, "code": kind.code}

    @pytest.mark.parametrize("kind", BEHIND, ids=name_of)
    def test_a_failed_question_is_not_in_the_history_and_may_be_asked_again(
        self, client: FlaskClient, replies: ScriptedReplies, kind: type[AppError]
    ) -> None:
        replies.fail("hi", kind())
        client.post("/query", json={"client_name": "ada", "input": "hi"})
        assert client.get("/history?client_name=ada").get_json() == []
        replies.end("hi", "hello")
        again = client.post("/query", json={"client_name": "ada", "input": "hi"})
        assert (again.status_code, again.get_json()) == (200, {"response": "hello"})

    @pytest.mark.parametrize(
        ("method", "path"), [("GET", "/model"), ("POST", "/query"), ("GET", "/history"), ("DELETE", "/history")]
    )
    def test_a_failure_of_the_store_is_a_500_with_its_code(
        self, client: FlaskClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, method: str, path: str
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise errors.StoreUnavailable

        for call in ("get_conversation", "create_run", "clear_conversation"):
            monkeypatch.setattr(store, call, fail)
        answer = client.open(f"{path}?client_name=ada", method=method, json={"client_name": "ada", "input": "hi"})
        assert (answer.status_code, answer.get_json()["code"]) == (500, "store_unavailable")

    def test_a_full_store_is_a_500_with_its_code(self, upstream: SteeredUpstream) -> None:
        app = create_app(Settings(), store=MemoryStore(max_conversations=0), upstream=upstream)
        answer = app.test_client().post("/model", json={"client_name": "ada", "model": "scripted-demo"})
        assert (answer.status_code, answer.get_json()["code"]) == (500, "store_full")

    def test_a_question_too_long_for_the_model_is_a_400(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        replies.fail("hi", errors.ContextTooLong())
        answer = client.post("/query", json={"client_name": "ada", "input": "hi"})
        assert (answer.status_code, answer.get_json()["code"]) == (400, "context_length_exceeded")


class TestWithoutAName:
    """Exceptions that nobody foresaw."""

    def test_one_out_of_the_upstream_is_an_internal_error_and_logged(
        self, client: FlaskClient, upstream: object, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: object) -> Iterator[str]:
            raise RuntimeError(SECRET)

        monkeypatch.setattr(upstream, "answer", fail)
        answer = client.post("/query", json={"client_name": "ada", "input": "hi"})
        assert (answer.status_code, answer.get_json()) == (500, INTERNAL)
        assert [each.exc_info is not None for each in caplog.records if each.name == "server.runs"] == [True]

    def test_one_out_of_a_view_is_an_internal_error_and_logged(
        self,
        client: FlaskClient,
        store: MemoryStore,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(_: str) -> None:
            raise RuntimeError(SECRET)

        monkeypatch.setattr(store, "get_conversation", fail)
        answer = client.get("/model?client_name=ada")
        assert (answer.status_code, answer.get_json()) == (500, INTERNAL)
        (record,) = [each for each in caplog.records if each.name == "server.errors"]
        assert record.levelno == logging.ERROR
        assert re.fullmatch(r"unhandled exception in request [0-9a-f]{16}", record.getMessage())
        assert SECRET in caplog.text  # With its traceback, for the operator alone.

    def test_one_after_the_view_is_an_internal_error_too(self, app: Flask) -> None:
        @app.after_request
        def fail(_: object) -> None:
            raise RuntimeError(SECRET)

        app.testing = False
        answer = app.test_client().get("/models")
        assert answer.status_code == 500
        assert answer.get_json() == INTERNAL

    @pytest.mark.parametrize("status", [500, 502, 503])
    def test_an_http_error_that_is_ours_is_an_internal_error(self, status: int) -> None:
        assert self.aborted(status) == (500, INTERNAL)

    @pytest.mark.parametrize("status", [400, 406, 418, 431])
    def test_an_http_error_that_is_the_callers_is_an_invalid_request(self, status: int) -> None:
        body = {"error": errors.InvalidRequest.sentence, "code": "invalid_request"}
        assert self.aborted(status) == (400, body)

    def aborted(self, status: int) -> tuple[int, object]:
        app = Flask(__name__)
        register_error_handlers(app)
        app.add_url_rule("/", "fail", lambda: abort(status, SECRET))
        answer = app.test_client().get("/")
        return answer.status_code, answer.get_json()
