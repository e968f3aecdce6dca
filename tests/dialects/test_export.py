"""Exports: all of a conversation at one moment, in three formats, under a telling name."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient

from server.core import exports
from server.domain import Message, Run
from server.errors import StoreUnavailable, UpstreamCut
from server.store.memory import MemoryStore
from tests.support.conversations import export, put
from tests.support.replies import ScriptedReplies

DATE = r"\d{4}-\d\d-\d\d"


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow", "bad")


def ask(client: FlaskClient, question: str) -> None:
    assert client.post("/query", json={"client_name": "ada", "input": question}).status_code == 200


def start(client: FlaskClient, question: str) -> str:
    answer = client.post("/chat/stream", json={"message": question, "client_name": "ada"})
    return str(answer.json["stream_id"])


def disposition(client: FlaskClient, **settings: Any) -> str:
    client.patch("/conversations/details", json={"client_name": "ada", **settings})
    return export(client, "ada").headers["Content-Disposition"]


def find_faults(exported: dict[str, Any]) -> list[str]:
    """What is not as at one moment: runs without their messages, or messages without their run."""
    runs = {each["id"]: each for each in exported["runs"]}
    told = [each["run_id"] for each in exported["messages"]]
    lone = [run_id for run_id in told if run_id not in runs]
    completed = [run_id for run_id, each in runs.items() if each["status"] == "completed"]
    return lone + [run_id for run_id in completed if told.count(run_id) != 2]


class TestFormats:
    def test_json_is_the_default_and_has_a_record_on_each_line(self, client: FlaskClient) -> None:
        ask(client, "hi")
        answer = export(client, "ada")
        assert (answer.mimetype, answer.status_code) == ("application/json", 200)
        assert answer.content_length == len(answer.data)
        assert answer.data == export(client, "ada", "json").data
        exported = answer.json
        assert (exported["format"], exported["version"]) == ("conversation-server", 1)
        assert exported["conversation"]["client_name"] == "ada"
        assert [each["content"] for each in exported["messages"]] == ["hi", "re: hi"]
        assert [each["text"] for each in exported["runs"]] == ["re: hi"]
        lines = answer.text.splitlines()
        for record in (*exported["messages"], *exported["runs"]):
            assert record in [json.loads(line.rstrip(",")) for line in lines if line.startswith('{"id"')]

    def test_json_lines_have_the_same_records(self, client: FlaskClient) -> None:
        ask(client, "hi")
        ask(client, "bye")
        answer = export(client, "ada", "jsonl")
        assert (answer.mimetype, answer.content_length) == ("application/jsonl", len(answer.data))
        first, *rest = [json.loads(line) for line in answer.data.splitlines()]
        exported = export(client, "ada").json
        assert (first.pop("type"), first.pop("message_count"), first.pop("run_count")) == ("conversation", 4, 2)
        assert first == {"format": "conversation-server", "version": 1, **exported["conversation"]}
        assert rest == [
            *({"type": "run", **each} for each in exported["runs"]),
            *({"type": "message", **each} for each in exported["messages"]),
        ]

    def test_markdown_is_for_reading(self, client: FlaskClient) -> None:
        ask(client, "hi")
        client.patch("/conversations/details", json={"client_name": "ada", "title": "오늘의 인사"})
        answer = export(client, "ada", "markdown")
        assert answer.headers["Content-Type"] == "text/markdown; charset=utf-8"
        assert answer.content_length == len(answer.data)
        assert re.fullmatch(
            rf"# 오늘의 인사\n\n## Question · {DATE} \d\d:\d\d:\d\d UTC\n\nhi\n"
            rf"\n## Reply of scripted-demo · {DATE} \d\d:\d\d:\d\d UTC\n\nre: hi\n",
            answer.text,
        )

    def test_failed_runs_are_in_the_first_two(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        run_id = start(client, "bad")
        replies.say("bad", "half a reply")
        replies.fail("bad", UpstreamCut())
        client.get(f"/chat/stream/{run_id}").get_data()
        (run,) = export(client, "ada").json["runs"]
        assert (run["status"], run["text"]) == ("failed", "half a reply")
        assert run["error"] == {"code": "upstream_cut", "error": UpstreamCut.sentence}
        assert "half a reply" in export(client, "ada", "jsonl").text
        assert "half a reply" not in export(client, "ada", "markdown").text

    def test_one_without_messages_is_exported_too(self, client: FlaskClient) -> None:
        client.patch("/conversations/details", json={"client_name": "ada", "temperature": 0.5})
        exported = export(client, "ada").json
        assert exported["conversation"]["temperature"] == 0.5
        assert (exported["messages"], exported["runs"]) == ([], [])
        assert export(client, "ada", "markdown").text == "# ada\n"

    def test_one_of_thousands_is_in_order(self, client: FlaskClient, store: MemoryStore) -> None:
        runs = [Run(f"q{n}", created=n, status="completed", text=f"r{n}", ended=n + 0.5) for n in range(1_500)]
        put(store, "ada", runs, [message for run in runs for message in run.history_messages()])
        exported = export(client, "ada").json
        assert [each["input"] for each in exported["runs"]] == [f"q{n}" for n in range(1_500)]
        assert [each["content"] for each in exported["messages"]] == [
            text for n in range(1_500) for text in (f"q{n}", f"r{n}")
        ]

    def test_it_is_no_use_of_the_conversation(self, client: FlaskClient, store: MemoryStore) -> None:
        put(store, "ada", [], [])
        assert export(client, "ada").json["conversation"]["last_used_at"] == 1_700_000_100.25
        assert export(client, "ada").json["conversation"]["last_used_at"] == 1_700_000_100.25

    @pytest.mark.parametrize(
        ("name", "file_format", "status"), [("eve", "json", 404), ("ada", "xml", 400), ("", None, 400)]
    )
    def test_what_cannot_be_exported_is_refused(
        self, client: FlaskClient, name: str, file_format: str | None, status: int
    ) -> None:
        assert export(client, name, file_format).status_code == status

    def test_a_head_request_gets_the_same_length(self, client: FlaskClient) -> None:
        ask(client, "hi")
        answer = client.head("/conversations/export?client_name=ada")
        assert (answer.content_length, answer.data) == (len(export(client, "ada").data), b"")


class TestFileName:
    @pytest.mark.parametrize(
        ("title", "plain", "full"),
        [
            ("Dinner", "Dinner", "Dinner"),
            ("A week of meals", "A-week-of-meals", "A-week-of-meals"),
            ("저녁 메뉴", "conversation", "%EC%A0%80%EB%85%81-%EB%A9%94%EB%89%B4"),
            ('../a/b\\c:"d"?*<e>|%f', "a-b-c-d-e-f", "a-b-c-d-e-f"),
            ("...", "conversation", "conversation"),
            ("x\u202egnp.exe", "x-gnp.exe", "x-gnp.exe"),
            ("x" * 200, "x" * 50, "x" * 50),
            ("😀" * 200, "conversation", "%F0%9F%98%80" * 50),
        ],
    )
    def test_it_is_the_title_in_safe_characters_and_the_day(
        self, client: FlaskClient, title: str, plain: str, full: str
    ) -> None:
        told = disposition(client, title=title)
        found = re.fullmatch(rf"attachment; filename=\"(.*)-{DATE}\.json\"; filename\*=UTF-8''(.*)-{DATE}\.json", told)
        assert found is not None
        assert found.groups() == (plain, full)

    def test_without_a_title_it_is_the_first_question_or_the_name(self, client: FlaskClient) -> None:
        today = time.strftime("%Y-%m-%d", time.gmtime())
        assert f'"ada-{today}.json"' in disposition(client, temperature=1)
        ask(client, "What now?")
        assert f'"What-now-{today}.json"' in disposition(client)

    @pytest.mark.parametrize(("file_format", "suffix"), [("json", "json"), ("jsonl", "jsonl"), ("markdown", "md")])
    def test_it_has_the_suffix_of_its_format(self, client: FlaskClient, file_format: str, suffix: str) -> None:
        ask(client, "hi")
        assert f'.{suffix}"; ' in export(client, "ada", file_format).headers["Content-Disposition"]


class ChangingStore(MemoryStore):
    """Makes a change before certain reads of runs and messages."""

    def __init__(self) -> None:
        super().__init__(1000)
        self.changes: list[Callable[[], None]] = []

    def _change(self) -> None:
        if self.changes:
            self.changes.pop(0)()

    def list_runs(self, *arguments: Any, **more: Any) -> Any:
        self._change()
        return super().list_runs(*arguments, **more)

    def list_messages(self, *arguments: Any) -> Any:
        self._change()
        return super().list_messages(*arguments)


class TestConsistency:
    @pytest.fixture
    def store(self) -> ChangingStore:
        return ChangingStore()

    def test_while_a_reply_is_written_neither_it_nor_its_question_is_there(
        self, client: FlaskClient, replies: ScriptedReplies
    ) -> None:
        ask(client, "hi")
        run_id = start(client, "slow")
        replies.say("slow", "a beginning")
        stream = client.get(f"/chat/stream/{run_id}", buffered=False)
        next(chunk for chunk in stream.response if b"a beginning" in chunk)
        exported = export(client, "ada").json
        assert [each["content"] for each in exported["messages"]] == ["hi", "re: hi"]
        assert [each["input"] for each in exported["runs"]] == ["hi"]
        replies.end("slow", " and an end")
        b"".join(stream.response)
        exported = export(client, "ada").json
        assert [each["content"] for each in exported["messages"][2:]] == ["slow", "a beginning and an end"]
        assert find_faults(exported) == []

    @pytest.mark.parametrize("reads_before", [0, 1, 2, 3])
    def test_a_reply_that_ends_meanwhile_is_there_with_all_its_parts_or_not_at_all(
        self, client: FlaskClient, store: ChangingStore, reads_before: int
    ) -> None:
        ask(client, "hi")
        store.changes = [lambda: None] * reads_before + [lambda: ask(client, "meanwhile")]
        exported = export(client, "ada").json
        assert store.changes == []
        assert find_faults(exported) == []
        assert "hi" in [each["content"] for each in exported["messages"]]

    @pytest.mark.parametrize("reads_before", [0, 1, 2, 3])
    def test_if_the_history_is_cleared_meanwhile_it_is_the_new_one(
        self, client: FlaskClient, store: ChangingStore, reads_before: int
    ) -> None:
        def clear() -> None:
            client.delete("/history?client_name=ada")
            ask(client, "anew")

        ask(client, "hi")
        store.changes = [lambda: None] * reads_before + [clear]
        exported = export(client, "ada").json
        assert store.changes == []
        assert [each["content"] for each in exported["messages"]] == ["anew", "re: anew"]
        assert find_faults(exported) == []

    def test_if_it_is_deleted_meanwhile_it_is_not_found(self, client: FlaskClient, store: ChangingStore) -> None:
        ask(client, "hi")
        store.changes = [lambda: None, lambda: client.delete("/conversations/details?client_name=ada") and None]
        assert export(client, "ada").status_code == 404

    def test_if_it_changes_all_the_time_the_caller_is_told_to_try_again(
        self, client: FlaskClient, store: ChangingStore
    ) -> None:
        put(store, "ada", [], [Message.of("user", f"{n}", None, 1.0) for n in range(100)])

        def delete_one() -> None:
            store.delete_message("ada", MemoryStore.list_messages(store, "ada", 0, 1)[0].id)

        store.changes = [delete_one] * 100
        answer = export(client, "ada")
        assert (answer.status_code, answer.json["code"]) == (429, "conversation_busy")
        assert answer.json["error"] == exports.CHANGING

    def test_if_the_store_fails_meanwhile_the_caller_is_told(
        self, app: Flask, client: FlaskClient, store: ChangingStore
    ) -> None:
        def fail() -> None:
            raise StoreUnavailable

        ask(client, "hi")
        store.changes = [lambda: None, fail]
        answer = export(client, "ada")
        assert (answer.status_code, answer.json["code"]) == (503, "store_unavailable")
        assert orjson.loads(export(client, "ada").data)["messages"]
