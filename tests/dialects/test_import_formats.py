"""Imports of other programs' files: lists of messages as OpenAI's APIs take them, and ChatGPT's conversations.json."""

import json
from contextlib import suppress
from typing import Any

import pytest
from flask.testing import FlaskClient

from server.core import import_chatgpt, import_records
from server.errors import InvalidImport
from server.store.memory import MemoryStore
from tests.dialects.test_bad_input import MARK
from tests.dialects.test_import import contents, names, refusal
from tests.support.conversations import export, import_file, load
from tests.support.pauses import busiest
from tests.support.replies import SteeredUpstream

PIXELS = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "첫째"},
    {"role": "user", "content": "둘째"},
    {"role": "assistant", "content": "both"},
    {"role": "assistant", "content": "and more"},
]


def imported(client: FlaskClient, messages: Any, **query: str) -> dict[str, Any]:
    """The export of an import with one conversation, with what its answer said was skipped."""
    answer = load(client, json.dumps(messages), **query)
    assert answer.status_code == 200, answer.text
    (told,) = answer.json["conversations"]
    return {**export(client, told["client_name"]).json, "skipped": answer.json["skipped"], "told": told}


def texts(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(each["role"], each["content"]) for each in messages]


class TestMessages:
    @pytest.mark.parametrize("form", [MESSAGES, {"model": "m", "messages": MESSAGES, "stream": True}])
    def test_a_list_is_a_conversation_whose_turns_are_runs(self, client: FlaskClient, form: Any) -> None:
        result = imported(client, form, client_name="ada")
        assert texts(result["messages"]) == [(each["role"], each["content"]) for each in MESSAGES[1:]]
        assert [(each["input"], each["text"]) for each in result["runs"]] == [("hi", "hello"), ("둘째", "both")]
        assert {each["status"] for each in result["runs"]} == {"completed"}
        assert result["conversation"]["system_prompt"] == "Be brief."
        assert result["told"] == {"client_name": "ada", "title": "hi", "message_count": 6, "run_count": 2}
        assert result["skipped"] == {}

    def test_the_last_turn_can_be_regenerated_and_edited(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        imported(client, MESSAGES[:3], client_name="ada")
        body = {"client_name": "ada", "input": "anew"}
        run_id = client.post("/conversations/edit", json=body).json["id"]
        client.get(f"/chat/stream/{run_id}").get_data()
        assert contents(client) == ["anew", "re: anew"]
        assert "Be brief." in upstream.requests[-1].messages.decode()

    def test_without_a_name_it_gets_a_new_one(self, client: FlaskClient) -> None:
        for _ in range(2):
            imported(client, MESSAGES)
        assert len(set(names(client))) == 2

    def test_parts_are_joined_and_what_is_no_text_is_counted(self, client: FlaskClient) -> None:
        result = imported(
            client,
            [
                {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
                {
                    "role": "user",
                    "content": [{"type": "input_text", "text": "what is "}, PIXELS, {"type": "text", "text": "this?"}],
                },
                {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1"}]},
                {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
                {"type": "function_call_output", "output": "a cat"},
                {"role": "assistant", "content": [{"type": "output_text", "text": "A cat."}, {"type": MARK}, 7]},
                {"role": "user", "content": [PIXELS]},
                {"role": "system", "content": "Be rude."},
                {"role": "user", "content": [{"type": "text", "text": {"value": "as the Assistants API returns it"}}]},
            ],
        )
        assert texts(result["messages"]) == [
            ("user", "what is this?"),
            ("assistant", "A cat."),
            ("user", "as the Assistants API returns it"),
        ]
        assert result["conversation"]["system_prompt"] == "Be kind."
        assert result["skipped"] == {"image_url": 2, "tool": 3, "other": 2, "system": 1}

    def test_a_history_of_this_server_keeps_its_times(self, client: FlaskClient) -> None:
        client.post("/query", json={"client_name": "ada", "input": "hi"})
        before = client.get("/history?client_name=ada").json
        imported(client, before, client_name="eve")
        assert client.get("/history?client_name=eve").json == before

    def test_each_line_of_training_data_is_a_conversation(self, client: FlaskClient) -> None:
        lines = [
            json.dumps({"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"r{n}"}]})
            for n in range(3)
        ]
        for kind in ("application/json", "application/jsonl", "application/x-ndjson"):
            answer = load(client, "\n".join(lines), kind)
            assert [each["title"] for each in answer.json["conversations"]] == ["q0", "q1", "q2"]
        assert refusal(client, "\n".join([*lines, '{"messages": [{"role": "user"']), "application/jsonl").startswith(
            "Line 4: "
        )

    @pytest.mark.parametrize(
        ("message", "told"),
        [
            (MARK, "a message must be an object"),
            ({"role": MARK, "content": "x"}, "the role of this message"),
            ({"role": ["user"], "content": "x"}, "the role of this message"),
            ({"content": "x"}, "the role of this message"),
            ({"role": "user", "content": {"text": MARK}}, "the content of this message"),
            ({"role": "user", "content": 7}, "the content of this message"),
            ({"role": "user", "content": "x\0"}, "the question has a NUL character"),
        ],
    )
    def test_a_message_that_does_not_fit_is_told_with_its_line(
        self, client: FlaskClient, message: Any, told: str
    ) -> None:
        content = (
            f'[{{"role": "user", "content": "hi"}},\n{json.dumps(message)},\n{{"role": "assistant", "content": "yes"}}]'
        )
        sentence = refusal(client, content)
        assert sentence.startswith("Line 2: ")
        assert told in sentence
        assert names(client) == []


def node(parent: str | None, role: str, *parts: Any, **more: Any) -> dict[str, Any]:
    message = {
        "author": {"role": role},
        "content": {"content_type": more.pop("kind", "text"), "parts": list(parts)},
        "metadata": more.pop("metadata", {}),
        **more,
    }
    return {"message": message, "parent": parent, "children": []}


def conversation(**changes: Any) -> dict[str, Any]:
    return {
        "title": "Cats\nand dogs",
        "create_time": 1_700_000_000.125,
        "update_time": 1_700_000_900.5,
        "conversation_id": "6554b2f6-8a4c-8009-9f0e-2b1f5d3c7a11",
        "current_node": "reply 2",
        "mapping": {
            "root": {"message": None, "parent": None, "children": []},
            "system": node("root", "system", ""),
            "context": node("system", "user", kind="user_editable_context"),
            "hidden": node("context", "user", "secret", metadata={"is_visually_hidden_from_conversation": True}),
            "question 1": node("hidden", "user", "hi", create_time=1_700_000_001.5),
            "reply 1, old": node("question 1", "assistant", "old", create_time=1_700_000_002.0),
            "thoughts": node("question 1", "assistant", kind="thoughts"),
            "reply 1": node(
                "thoughts", "assistant", "new", create_time=1_700_000_003.75, metadata={"model_slug": "gpt-5"}
            ),
            "question 2": node(
                "reply 1",
                "user",
                {"content_type": "image_asset_pointer", "asset_pointer": MARK},
                "what is this?",
                kind="multimodal_text",
                create_time=1_700_000_004.0,
            ),
            "call": node("question 2", "assistant", "search()", recipient="web"),
            "tool": node("call", "tool", "found"),
            "reply 2": node("tool", "assistant", "A cat.", create_time=None),
        },
        **changes,
    }


class TestChatgpt:
    NAME = "chatgpt-6554b2f6-8a4c-8009-9f0e-2b1f5d3c7a11"

    def test_the_branch_that_is_shown_is_imported_with_its_times(self, client: FlaskClient) -> None:
        result = imported(client, [conversation()])
        assert result["told"] == {
            "client_name": self.NAME,
            "title": "Cats and dogs",
            "message_count": 4,
            "run_count": 2,
        }
        assert texts(result["messages"]) == [
            ("user", "hi"),
            ("assistant", "new"),
            ("user", "what is this?"),
            ("assistant", "A cat."),
        ]
        times = [each["timestamp"] for each in result["messages"]]
        assert times == [1_700_000_001.5, 1_700_000_003.75, 1_700_000_004.0, 1_700_000_004.0]
        assert [each.get("model") for each in result["runs"]] == ["gpt-5", None]
        made = result["conversation"]
        assert (made["created_at"], made["last_used_at"]) == (1_700_000_000.125, 1_700_000_900.5)
        assert result["skipped"] == {
            "system": 1,
            "user_editable_context": 1,
            "hidden": 1,
            "thoughts": 1,
            "image_asset_pointer": 1,
            "tool": 2,
        }

    def test_all_conversations_are_imported(self, client: FlaskClient) -> None:
        many = [conversation(conversation_id=f"c{n}", update_time=1.7e9 + n, title=f"t{n}") for n in range(3)]
        answer = load(client, json.dumps(many))
        assert [each["title"] for each in answer.json["conversations"]] == ["t0", "t1", "t2"]
        assert names(client) == ["chatgpt-c2", "chatgpt-c1", "chatgpt-c0"]
        assert answer.json["skipped"]["tool"] == 6

    def test_a_second_import_is_refused_or_a_copy(self, client: FlaskClient) -> None:
        assert load(client, json.dumps([conversation()])).status_code == 200
        assert load(client, json.dumps([conversation()])).status_code == 409
        assert load(client, json.dumps([conversation()]), on_conflict="copy").status_code == 200
        assert sorted(names(client)) == [self.NAME, f"{self.NAME} (2)"]

    @pytest.mark.parametrize(
        "changes",
        [
            {"title": None, "create_time": None, "update_time": "x", "conversation_id": None},
            {"title": 7, "create_time": -1, "update_time": 1e300, "conversation_id": "../x"},
            {"title": "x" * 500, MARK: [MARK]},
        ],
    )
    def test_what_is_not_known_is_made_up(self, client: FlaskClient, changes: dict[str, Any]) -> None:
        assert imported(client, [conversation(**changes)])["told"]["message_count"] == 4

    def test_spoken_text_is_text(self, client: FlaskClient) -> None:
        spoken = {"content_type": "audio_transcription", "text": "spoken"}
        sound = {"content_type": "audio_asset_pointer"}
        mapping = {"a": node(None, "user", spoken, sound, kind="multimodal_text")}
        result = imported(client, [conversation(mapping=mapping, current_node="a")])
        assert texts(result["messages"]) == [("user", "spoken")]
        assert result["skipped"] == {"audio_asset_pointer": 1}

    def test_a_circle_ends(self, client: FlaskClient) -> None:
        mapping = {"a": node("b", "user", "hi"), "b": node("a", "assistant", "hello")}
        result = imported(client, [conversation(mapping=mapping, current_node="b")])
        assert texts(result["messages"]) == [("user", "hi"), ("assistant", "hello")]

    @pytest.mark.parametrize(
        ("broken", "told"),
        [
            (MARK, "a conversation must be an object"),
            ({"title": MARK}, "has no mapping"),
            (conversation(mapping=[]), "has no mapping"),
            (conversation(conversation_id="other", current_node=MARK), "the current_node"),
            (conversation(conversation_id="other", mapping={MARK: MARK}), "a node of the mapping"),
        ],
    )
    def test_one_that_is_broken_is_told_with_its_line_and_none_is_imported(
        self, client: FlaskClient, broken: Any, told: str
    ) -> None:
        sentence = refusal(client, f"[{json.dumps(conversation())},\n{json.dumps(broken)}]")
        assert sentence.startswith("Line 2: ")
        assert told in sentence
        assert names(client) == []


class TestManyNodes:
    def test_those_of_one_name_count_too(self, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(import_chatgpt, "MAX_NODES", 3)
        text = '{"mapping": {\n"a": {"parent": []}, %s "b": {"parent": "a"}}, "current_node": "b"}'
        assert "more than 3 messages" in refusal(client, text % ('"a": {},' * 2))
        assert load(client, text % '"a": {},').status_code == 200


class TestManyParts:
    """Others are served meanwhile, and one message cannot have any number of parts."""

    @pytest.mark.parametrize(
        "part", ["x", {"type": "text", "text": "x"}, PIXELS, {"content_type": "image_asset_pointer"}]
    )
    def test_a_message_with_too_many_is_refused_with_its_line(
        self, client: FlaskClient, part: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(import_records, "MAX_PARTS", 100)
        for count in (100, 101):
            messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [part] * count}]
            tree = {"a": node(None, "user", "hi"), "b": node("a", "assistant", *[part] * count, kind="multimodal_text")}
            files = messages, [conversation(mapping=tree, current_node="b")]
            for file in files:
                # The message that is too long has a line of its own.
                text = (
                    json.dumps(file)
                    .replace('{"role": "assistant", "con', '\n{"role": "assistant", "con')
                    .replace('"b": {', '\n"b": {')
                )
                if count == 100:
                    assert load(client, text, on_conflict="copy").status_code == 200
                else:
                    told = refusal(client, text, on_conflict="copy")
                    assert told == "Line 2: this message has more than 100 parts; split it."

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(json.dumps({"messages": [{"role": "tool"}] * 20_000}), id="tools"),
            pytest.param(json.dumps({"messages": [{"role": "user", "content": ""}] * 20_000}) + "\n{}", id="no text"),
            pytest.param(
                json.dumps(
                    conversation(
                        mapping={str(n): {"parent": str(n - 1), "message": None} for n in range(20_000)},
                        current_node="19999",
                    )
                ),
                id="nodes without a message",
            ),
        ],
    )
    def test_others_are_served_meanwhile(self, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for has_lines in (True, False):
            with busiest(monkeypatch) as steps, suppress(InvalidImport):
                import_file(MemoryStore(10), content.encode(), has_lines=has_lines)
            assert max(steps) < 200
