"""Imports of this server's own exports: identical afterwards, or refused with the line and without any change."""

import json
import re
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core import export_format, import_check, imports
from server.core.exports import ExportFormat
from server.domain import Message, Run, RunError, Usage
from server.errors import InvalidImport, StoreUnavailable
from server.store.memory import MemoryStore
from tests.dialects.test_bad_input import MARK, assert_says_nothing_of_us
from tests.support.conversations import (
    CHANGES,
    NAMES,
    empty_server,
    export,
    export_file,
    histories,
    import_file,
    load,
    put,
    serve_store,
    take,
)
from tests.support.replies import ScriptedReplies, SteeredUpstream

KINDS = {"json": "application/json", "jsonl": "application/jsonl"}
FORMATS = pytest.mark.parametrize("file_format", KINDS)

QUESTION, ANSWER, FAILED = (f"run_{digit * 32}" for digit in "abc")


@pytest.fixture
def exported(file_format: str) -> bytes:
    """A file with two completed runs, a failed one, and a message without a run."""
    store, client = empty_server()
    usage = Usage(7, 2, 9)
    first = Run("hi", id=QUESTION, created=1.5, status="completed", text="re: hi", usage=usage, ended=2.5)
    second = Run("and\nthen", "r1", 3.0, ANSWER, "completed", "that", ended=4.0, replaces=QUESTION)
    failed = Run("bad", id=FAILED, created=5.0, status="failed", ended=6.0, error=RunError("upstream_cut", "It broke."))
    lone = Message.of("assistant", "by the way", None, 7.0, metadata={"a": [1]})
    messages = [*first.history_messages(), *second.history_messages(), lone]
    put(store, "ada", [first, second, failed], messages, title="Greetings", temperature=0.5, metadata={"b": 2})
    return export(client, "ada", file_format).data


def refusal(client: FlaskClient, content: bytes | str, kind: str = "application/json", **query: str) -> str:
    answer = load(client, content, kind, **query)
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_import"), answer.text
    sentence: str = answer.json["error"]
    assert_says_nothing_of_us(sentence.replace("ChatGPT", ""))
    assert re.fullmatch(r"Line \d+: [a-z].*\.", sentence)
    return sentence


def names(client: FlaskClient) -> list[str]:
    return [each["client_name"] for each in client.get("/conversations").json["conversations"]]


def contents(client: FlaskClient, name: str = "ada") -> list[str]:
    return [each["content"] for each in client.get("/history", query_string={"client_name": name}).json]


class TestRoundTrip:
    @FORMATS
    @given(history=histories(), changes=CHANGES, name=NAMES)
    @settings(max_examples=25)
    def test_everything_is_identical_afterwards(
        self, file_format: ExportFormat, history: tuple[list[Run], list[Message]], changes: dict[str, Any], name: str
    ) -> None:
        before, after = MemoryStore(10), MemoryStore(10)
        put(before, name, *history, **changes)
        first = export_file(before, name, file_format)
        (told,) = import_file(after, first).conversations
        assert (told.conversation.name, told.run_count, told.message_count) == (name, *map(len, history))
        assert take(after, name) == take(before, name)
        assert export_file(after, name, file_format) == first

    @FORMATS
    def test_what_the_server_wrote_itself_is_identical_afterwards(self, client: FlaskClient, file_format: str) -> None:
        for question in ("hi", "오늘은?", "bye"):
            client.post("/query", json={"client_name": "ada", "input": question, "request_id": f"id of {question}"})
        first = export(client, "ada", file_format)
        _, other = empty_server()
        assert load(other, first.data, KINDS[file_format]).json == {
            "conversations": [{"client_name": "ada", "title": "hi", "message_count": 6, "run_count": 3}],
            "skipped": {},
        }
        assert export(other, "ada", file_format).data == first.data
        for path in ("messages", "runs", "statistics"):
            assert (
                other.get(f"/conversations/{path}?client_name=ada").json
                == client.get(f"/conversations/{path}?client_name=ada").json
            )

    def test_a_reply_to_an_imported_question_goes_on_with_it(
        self, client: FlaskClient, upstream: SteeredUpstream
    ) -> None:
        load(
            client,
            json.dumps([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]),
            client_name="ada",
        )
        client.post("/query", json={"client_name": "ada", "input": "more"})
        assert [each["content"] for each in json.loads(upstream.requests[-1].messages)] == ["hi", "hello", "more"]

    @FORMATS
    def test_the_type_of_the_body_may_be_wrong(self, client: FlaskClient, exported: bytes, file_format: str) -> None:
        assert load(client, exported, "application/json").status_code == 200

    @pytest.mark.parametrize("file_format", ["jsonl"])
    def test_several_exports_in_one_file_are_several_conversations(self, client: FlaskClient, exported: bytes) -> None:
        other = (
            exported.replace(b'"ada"', b'"eve"')
            .replace(b"aaaa", b"dddd")
            .replace(b"bbbb", b"eeee")
            .replace(b"cccc", b"ffff")
        )
        answer = load(client, exported + other, "application/x-ndjson")
        assert [each["client_name"] for each in answer.json["conversations"]] == ["ada", "eve"]
        assert contents(client, "eve") == contents(client, "ada")

    @pytest.mark.parametrize("file_format", ["json"])
    @pytest.mark.parametrize(
        "change", [{"indent": 2}, {"sort_keys": True}, {"ensure_ascii": True, "separators": (",", ":")}]
    )
    def test_a_file_that_another_program_has_written_anew_is_the_same(
        self, client: FlaskClient, exported: bytes, change: dict[str, Any]
    ) -> None:
        answer = load(client, json.dumps(json.loads(exported), **change))
        assert answer.status_code == 200
        assert export(client, "ada").data == exported

    @pytest.mark.parametrize("file_format", ["json"])
    def test_unknown_fields_are_ignored(self, client: FlaskClient, exported: bytes) -> None:
        data = json.loads(exported)
        for each in (data, data["conversation"], *data["messages"], *data["runs"]):
            each["of tomorrow"] = [{"a": 1}]
        assert load(client, json.dumps(data)).status_code == 200
        assert export(client, "ada").data == exported


class TestBrokenFiles:
    @FORMATS
    def test_every_prefix_is_refused_with_its_last_line_and_changes_nothing(
        self, exported: bytes, file_format: str
    ) -> None:
        store, has_lines = MemoryStore(10), file_format == "jsonl"
        for stop in range(len(exported.rstrip())):
            last = exported[:stop].rstrip().count(b"\n") + 1
            with pytest.raises(InvalidImport) as refused:
                import_file(store, exported[:stop], has_lines=has_lines)
            assert str(refused.value).startswith(f"Line {last}: "), stop
        assert store.get_conversation("ada") is None
        import_file(store, exported.rstrip(), has_lines=has_lines)

    @FORMATS
    @given(data=st.data())
    @settings(max_examples=60)
    def test_with_any_byte_changed_it_is_imported_or_refused_with_a_line(
        self, data: st.DataObject, file_format: ExportFormat
    ) -> None:
        before, after = MemoryStore(10), MemoryStore(10)
        run = Run("hi", id=QUESTION, created=1.5, status="completed", text="re: hi", ended=2.5)
        put(before, "ada", [run], list(run.history_messages()))
        content = bytearray(export_file(before, "ada", file_format))
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        try:
            import_file(after, bytes(content))
        except InvalidImport as refused:
            assert re.match(r"Line \d+: ", str(refused))
            assert after.list_conversations(None, 10) == []

    @FORMATS
    @pytest.mark.parametrize(
        ("old", "new", "told"),
        [
            ('"role":"user","content":"and', '"role":"tool","content":"and', "the role of this message"),
            ('"content":"by the way"', f'"content":["{MARK}"]', "the content of this message"),
            ('"content":"by the way"', '"content":"by \\ud800"', "no JSON"),
            ('"content":"by the way",', "", "this message lacks content"),
            ('"timestamp":7.0', f'"timestamp":"{MARK}"', "the timestamp of this message"),
            ('"timestamp":7.0', '"timestamp":-1', "the timestamp of this message"),
            ('"timestamp":7.0', '"timestamp":1e300', "the timestamp of this message"),
            ('"timestamp":7.0', '"timestamp":NaN', "no JSON"),
            ('"metadata":{"a":[1]}', f'"metadata":["{MARK}"]', "the metadata of this message"),
            ('"metadata":{"a":[1]}', f'"metadata":{"[" * 200}{"]" * 200}', "nested too deeply"),
            ('"metadata":{"a":[1]}', f'"metadata":{{"{MARK}":"{"x" * 16_384}"}}', "the metadata has more than 16384"),
            ('"metadata":{"b":2}', f'"metadata":{{"{MARK}":"{"x" * 16_384}"}}', "the metadata has more than 16384"),
            ('"status":"failed"', '"status":"running"', "the status of this run"),
            ('"status":"failed"', f'"status":"{MARK}"', "the status of this run"),
            ('"ended_at":6.0', '"ended_at":null', "the ended_at of this run"),
            ('"input":"bad",', "", "this run lacks input"),
            ('"input":"bad"', '"input":"bad\\u0000"', "the question has a NUL character"),
            ('"error":{"code":"upstream_cut"', f'"error":{{"{MARK}":1', "the error of this run"),
            (f'"id":"{FAILED}"', f'"id":"{MARK} 1"', "the id of this run"),
            (f'"id":"{FAILED}"', f'"id":"{ANSWER}"', "this run has the id of an earlier one"),
            (f'"replaces":"{QUESTION}"', '"replaces":"x"', "the replaces of this run"),
            ('"client_name":"ada"', '"client_name":""', "the client_name of this conversation"),
            ('"client_name":"ada"', f'"client_name":"{MARK}\\n"', "the client_name of this conversation"),
            ('"client_name":"ada"', f'"client_name":"{MARK * 40}"', "the client_name of this conversation"),
            ('"title":"Greetings"', f'"title":"{MARK * 40}"', "the title of this conversation"),
            ('"temperature":0.5', '"temperature":2.5', "the temperature of this conversation"),
            (
                '"response_format":null',
                f'"response_format":{{"type":"{MARK}"}}',
                "the response_format of this conversation",
            ),
            ('"prompt_tokens":7', '"prompt_tokens":1000000001', "the usage of this run"),
            ('"version":1', '"version":2', "another version"),
            ('"format":"conversation-server"', f'"format":"{MARK}"', "no export of this server"),
        ],
    )
    def test_a_record_that_does_not_fit_is_told_with_its_line(
        self, client: FlaskClient, exported: bytes, file_format: str, old: str, new: str, told: str
    ) -> None:
        text = exported.decode()
        assert text.count(old) == 1
        broken = text.replace(old, new)
        line = text[: text.index(old)].count("\n") + 1
        sentence = refusal(client, broken, KINDS[file_format])
        assert sentence.startswith(f"Line {line}: ")
        assert told in sentence
        assert names(client) == []

    @FORMATS
    def test_messages_have_ids_of_their_own_and_runs_that_are_there(
        self, client: FlaskClient, exported: bytes, file_format: str
    ) -> None:
        text = exported.decode()
        (reply,) = re.findall(r'"id":"(msg_a+)"', text)
        line = text[: text.index("by the way")].count("\n") + 1
        twice = re.sub(r'"id":"msg_\w+"(,"role":"assistant","content":"by)', rf'"id":"{reply}"\1', text)
        assert refusal(client, twice, KINDS[file_format]) == f"Line {line}: this message has the id of an earlier one."
        foreign = text.replace('"metadata":{"a":[1]}', f'"run_id":"run_{"9" * 32}"')
        told = refusal(client, foreign, KINDS[file_format])
        assert told == f"Line {line}: this message belongs to a run that does not come before it."

    @pytest.mark.parametrize("file_format", ["jsonl"])
    @pytest.mark.parametrize("missing", range(1, 9))
    def test_lines_that_are_missing_are_noticed(self, client: FlaskClient, exported: bytes, missing: int) -> None:
        lines = exported.splitlines(keepends=True)
        assert refusal(client, b"".join(lines[:missing] + lines[missing + 1 :]), KINDS["jsonl"])
        assert refusal(client, b"".join(lines[1:]), KINDS["jsonl"]).startswith("Line 1: ")

    @pytest.mark.parametrize("file_format", ["jsonl"])
    @pytest.mark.parametrize("count", ['"x"', "[]", "1.5", "-1", "1e300", "{}"])
    def test_counts_that_are_none_are_told(self, client: FlaskClient, exported: bytes, count: str) -> None:
        for name in ("run_count", "message_count"):
            broken = re.sub(rf'"{name}":\d+', f'"{name}":{count}', exported.decode())
            assert refusal(client, broken, KINDS["jsonl"]).startswith(f"Line 1: the {name} of this conversation")

    @pytest.mark.parametrize("file_format", ["json"])
    @pytest.mark.parametrize("name", ["conversation", "messages", "runs", "version"])
    def test_parts_that_are_missing_or_of_another_kind_are_noticed(
        self, client: FlaskClient, exported: bytes, name: str
    ) -> None:
        data = json.loads(exported)
        for other in ({}, {name: MARK}, {name: 7}, {name: None}):
            changed = {each: value for each, value in data.items() if each != name} | other
            assert refusal(client, json.dumps(changed)).startswith("Line 1: ")

    @pytest.mark.parametrize(
        "content",
        ["", " \n", MARK, "7", "null", '"x"', "{}", f'{{"{MARK}": 1}}', "[]", "[1]", "[[]]", "[{}]", "{", "[", "]"],
    )
    def test_what_is_no_file_of_conversations_is_refused(self, client: FlaskClient, content: str) -> None:
        for kind in (*KINDS.values(), "application/x-ndjson"):
            assert refusal(client, content, kind).startswith("Line 1: ")
        assert names(client) == []

    @pytest.mark.parametrize("file_format", ["json"])
    def test_a_question_may_be_as_long_as_the_server_takes(self, exported: bytes) -> None:
        client = serve_store(MemoryStore(10), max_input_chars=7).test_client()
        assert "MAX_INPUT_CHARS" in refusal(client, exported)
        client = serve_store(MemoryStore(10), max_input_chars=8).test_client()
        assert load(client, exported).status_code == 200
        prompt = [{"role": "system", "content": "123456789"}, {"role": "user", "content": "x"}]
        assert "the system prompt has more than 8 characters" in refusal(client, json.dumps(prompt))

    def test_a_file_has_not_too_many_parts(self, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(import_check, "MAX_RECORDS", 10)
        monkeypatch.setattr(import_check, "MAX_CONVERSATIONS", 3)
        line = '{"messages": [{"role": "user", "content": "hi"}]}\n'
        assert load(client, line * 3).status_code == 200
        assert refusal(client, line * 4) == "Line 4: the file has more than 3 conversations; split it."
        messages = ",\n".join(['{"role": "user", "content": "hi"}'] * 10)
        assert "more than 10 messages and runs" in refusal(client, f"[{messages}]")


def turn(options: dict[str, Any], **fields: Any) -> str:
    """An export with one turn."""
    run = Run("hi", id=QUESTION, created=1.5, status="completed", text="hello", ended=2.5)
    asked, replied = (export_format.dump_message(each) for each in run.history_messages())
    conversation = {"client_name": "ada", "created_at": 1, "last_used_at": 2, **fields}
    known = {"format": "conversation-server", "version": 1, "conversation": conversation}
    return json.dumps(
        {**known, "runs": [{**export_format.dump_run(run), "options": options}], "messages": [asked, replied]}
    )


class TestOptions:
    """A run that is repeated goes upstream with its options, so they are only such as a request can make."""

    @pytest.mark.parametrize(
        "options",
        [
            *(
                {"parameters": {name: value}}
                for name, value in {
                    "model": "evil",
                    "n": 3,
                    "stream": True,
                    "store": True,
                    "user": "x",
                    "safety_identifier": "x",
                    "stream_options": None,
                    "extra_headers": {"a": "b"},
                    "messages": [],
                    "timeout": 1,
                    "temperature": "hot",
                    "top_p": 2,
                    "max_completion_tokens": 1.5,
                    "reasoning_effort": "x",
                    "response_format": {"type": "json_schema"},
                    "logprobs": "x",
                    "top_logprobs": 99,
                    "tools": 5,
                    "tool_choice": "auto",
                    "parallel_tool_calls": 1,
                }.items()
            ),
            {"parameters": {"tools": [{"type": "file_search"}]}},
            {"model": ""},
            {"model": "a\n"},
            {"system_prompt": "a\0b"},
            {"last_messages": 10**10},
        ],
    )
    def test_any_others_are_refused(self, client: FlaskClient, options: dict[str, Any]) -> None:
        assert "the options of this run" in refusal(client, turn(options))

    def test_a_whole_number_may_be_written_as_a_decimal_one(
        self, client: FlaskClient, upstream: SteeredUpstream
    ) -> None:
        decimal = {"last_messages": 1.0, "parameters": {"max_completion_tokens": 7.0, "top_logprobs": 2.0}}
        assert load(client, turn(decimal, max_completion_tokens=9.0)).status_code == 200
        exported = export(client, "ada").json
        options = exported["runs"][0]["options"]
        numbers = (
            options["last_messages"],
            *options["parameters"].values(),
            exported["conversation"]["max_completion_tokens"],
        )
        assert [repr(each) for each in numbers] == ["1", "7", "2", "9"]
        run_id = client.post("/conversations/regenerate", json={"client_name": "ada"}).json["id"]
        assert "re: hi" in client.get(f"/chat/stream/{run_id}").text
        assert upstream.requests[-1].parameters == {"max_completion_tokens": 7, "top_logprobs": 2}


class TestRequest:
    @pytest.mark.parametrize("kind", ["", "text/plain", "application/zip", "multipart/form-data; boundary=x", MARK])
    def test_another_media_type_is_refused(self, client: FlaskClient, kind: str) -> None:
        answer = load(client, "[]", kind)
        assert (answer.status_code, answer.json["code"]) == (415, "unsupported_media_type")

    def test_a_charset_does_not_matter(self, client: FlaskClient) -> None:
        assert load(client, '[{"role": "user", "content": "hi"}]', "application/json; charset=utf-8").status_code == 200

    @pytest.mark.parametrize("query", [{"client_name": ""}, {"client_name": "a\n"}, {"on_conflict": "replace"}])
    def test_parameters_are_checked(self, client: FlaskClient, query: dict[str, str]) -> None:
        answer = load(client, "[", **query)
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")

    def test_a_file_may_be_larger_than_other_bodies_but_not_than_its_own_limit(self) -> None:
        client = serve_store(MemoryStore(10), max_body_bytes=1024, max_import_bytes=4096).test_client()
        content = b'[{"role": "user", "content": "hi"}]'
        assert load(client, content.ljust(4096)).status_code == 200
        answer = load(client, content.ljust(4097))
        assert (answer.status_code, answer.json["code"]) == (413, "body_too_large")
        assert client.post("/query", data=content.ljust(1025), content_type="application/json").status_code == 413

    def test_only_so_much_is_received_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        client = serve_store(MemoryStore(10), max_import_bytes=1024).test_client()
        for _ in range(imports.MAX_FILES + 2):  # The room is given back, also after a failure.
            assert load(client, b"[]".ljust(1024)).status_code == 400
        monkeypatch.setattr(imports, "MAX_FILES", 0)
        answer = load(client, "[]")
        assert (answer.status_code, answer.json["error"]) == (429, imports.TOO_MANY)

    def test_any_number_of_slow_senders_leaves_room_for_others(self, client: FlaskClient) -> None:
        content, answers = b'[{"role": "user", "content": "hi"}]', []

        class SlowBody(BytesIO):
            """Its second half comes when all later senders are served."""

            def readinto(self, buffer: Any) -> int:
                if self.tell() == 10 and len(waiting) < 40:
                    send()
                return super().readinto(memoryview(buffer)[:10])

        def send() -> None:
            waiting.append(SlowBody(content))
            request = {"input_stream": waiting[-1], "content_length": len(content), "content_type": "application/json"}
            answers.append(client.application.test_client().post("/conversations/import", **request).status_code)

        waiting: list[SlowBody] = []
        send()
        assert answers == [200] * 40

    def test_a_client_name_is_for_one_conversation(self, client: FlaskClient) -> None:
        answer = load(client, '{"messages": [{"role": "user", "content": "hi"}]}\n' * 2, client_name="eve")
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
        assert names(client) == []

    def test_a_long_name_is_cut_for_its_number(self, client: FlaskClient) -> None:
        for name in ("x" * 256, "x" * 252 + " (2)"):
            answer = load(client, '[{"role": "user", "content": "hi"}]', client_name="x" * 256, on_conflict="copy")
            assert answer.json["conversations"][0]["client_name"] == name


@pytest.mark.parametrize("file_format", ["json"])
class TestNames:
    def test_one_that_exists_is_refused_and_nothing_changes(self, client: FlaskClient, exported: bytes) -> None:
        client.post("/query", json={"client_name": "ada", "input": "mine"})
        answer = load(client, exported)
        assert (answer.status_code, answer.json["code"]) == (409, "conversation_exists")
        assert contents(client) == ["mine", "re: mine"]

    def test_a_fault_of_the_file_is_told_before_a_name_that_exists(self, client: FlaskClient, exported: bytes) -> None:
        client.post("/query", json={"client_name": "ada", "input": "mine"})
        assert "Line" in refusal(client, exported[: len(exported) // 2])
        assert contents(client) == ["mine", "re: mine"]

    def test_a_copy_gets_a_number_and_runs_with_new_ids(self, client: FlaskClient, exported: bytes) -> None:
        for name in ("ada", "ada (2)", "ada (3)"):
            (told,) = load(client, exported, on_conflict="copy").json["conversations"]
            assert told["client_name"] == name
        original, copy = (export(client, name).json for name in ("ada", "ada (3)"))
        new_ids = dict(zip(*([run["id"] for run in each["runs"]] for each in (original, copy)), strict=True))
        assert len({*new_ids, *new_ids.values()}) == 6
        text = json.dumps({**original, "conversation": copy["conversation"]})
        for old, new in new_ids.items():
            text = text.replace(old, new).replace(old.replace("run_", "msg_"), new.replace("run_", "msg_"))
        assert json.loads(text) == copy
        assert copy["runs"][1]["replaces"] == copy["runs"][0]["id"]

    def test_a_name_of_the_callers_is_taken_instead(self, client: FlaskClient, exported: bytes) -> None:
        (told,) = load(client, exported, client_name="eve").json["conversations"]
        assert (told["client_name"], told["title"]) == ("eve", "Greetings")
        assert names(client) == ["eve"]

    def test_one_that_comes_twice_in_a_file_exists_too(self, client: FlaskClient, exported: bytes) -> None:
        _, other = empty_server()
        load(other, exported)
        lines = export(other, "ada", "jsonl").data
        again = lines.replace(b"aaaa", b"dddd").replace(b"bbbb", b"eeee").replace(b"cccc", b"ffff")
        assert load(client, lines + again).status_code == 409
        assert names(client) == []
        assert load(client, lines + again, on_conflict="copy").status_code == 200
        assert sorted(names(client)) == ["ada", "ada (2)"]

    def test_the_list_has_it_where_it_was_used_last(self, client: FlaskClient, exported: bytes) -> None:
        client.post("/query", json={"client_name": "new", "input": "hi"})
        load(client, exported)
        assert names(client) == ["new", "ada"]


class FailingStore(MemoryStore):
    """Fails, or does something else, at a certain call."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__(most)
        self.calls: list[str] = []
        self.before: dict[int, Callable[[], None]] = {}

    def _note(self, name: str) -> None:
        self.calls.append(name)
        self.before.pop(len(self.calls), lambda: None)()

    def create_conversation(self, *arguments: Any, **more: Any) -> Any:
        self._note("create")
        return super().create_conversation(*arguments, **more)

    def update_conversation(self, *arguments: Any, **more: Any) -> Any:
        self._note("update")
        return super().update_conversation(*arguments, **more)

    def import_history(self, *arguments: Any) -> Any:
        self._note("import")
        return super().import_history(*arguments)

    def publish_conversation(self, *arguments: Any) -> Any:
        self._note("publish")
        return super().publish_conversation(*arguments)


class TestWriting:
    TWO = '{"messages": [{"role": "user", "content": "hi"}]}\n' * 2

    @pytest.fixture
    def store(self) -> FailingStore:
        return FailingStore()

    @pytest.mark.parametrize("call", range(1, 9))
    def test_if_the_store_fails_nothing_is_there(self, client: FlaskClient, store: FailingStore, call: int) -> None:
        def fail() -> None:
            raise StoreUnavailable

        store.before = {call: fail}
        answer = load(client, self.TWO)
        assert (answer.status_code, answer.json["code"]) == (503, "store_unavailable")
        assert store.calls == ["create", "update", "import", "create", "update", "import", "publish", "publish"][:call]
        assert store._table.states == {}

    def test_nothing_is_listed_before_the_end(self, client: FlaskClient, store: FailingStore) -> None:
        listed: list[list[str]] = []
        store.before = {n: lambda: listed.append(names(client)) for n in range(1, 8)}
        assert load(client, self.TWO).status_code == 200
        assert listed == [[]] * 7
        assert len(names(client)) == 2

    @pytest.mark.parametrize("file_format", ["json"])
    def test_if_somebody_takes_the_name_meanwhile_theirs_stays(
        self, client: FlaskClient, store: FailingStore, exported: bytes, replies: ScriptedReplies
    ) -> None:
        store.before = {1: lambda: client.post("/query", json={"client_name": "ada", "input": "mine"}) and None}
        assert load(client, exported).status_code == 409
        assert contents(client) == ["mine", "re: mine"]

    @pytest.mark.parametrize("file_format", ["json"])
    def test_what_somebody_creates_after_deleting_it_stays(
        self, client: FlaskClient, store: FailingStore, exported: bytes
    ) -> None:
        def take_over() -> None:
            client.delete("/conversations/details?client_name=ada")
            client.post("/query", json={"client_name": "ada", "input": "mine"})
            raise StoreUnavailable

        store.before = {3: take_over}
        assert load(client, exported).status_code == 503
        assert contents(client) == ["mine", "re: mine"]

    def test_a_question_in_one_that_is_listed_already_is_not_lost(
        self, client: FlaskClient, store: FailingStore
    ) -> None:
        def ask_and_fail() -> None:
            client.post("/query", json={"client_name": names(client)[0], "input": "mine"})
            raise StoreUnavailable

        store.before = {8: ask_and_fail}
        assert load(client, self.TWO).status_code == 503
        (name,) = names(client)
        assert contents(client, name) == ["hi", "mine", "re: hi\n\nmine"]

    @pytest.mark.parametrize("file_format", ["json"])
    @pytest.mark.parametrize("call", [2, 3, 4])
    def test_if_somebody_deletes_it_meanwhile_that_is_told(
        self, client: FlaskClient, store: FailingStore, exported: bytes, call: int
    ) -> None:
        store.before = {call: lambda: client.delete("/conversations/details?client_name=ada") and None}
        answer = load(client, exported)
        assert (answer.status_code, answer.json["code"]) == (409, "import_lost")
        assert "deleted while it was imported" in answer.json["error"]
        assert store._table.states == {}

    @pytest.mark.parametrize("file_format", ["json"])
    def test_times_to_come_become_the_present(self, client: FlaskClient, exported: bytes) -> None:
        future = {"created_at": 253402300799, "last_used_at": 253402300799}
        data = json.loads(exported)
        data["conversation"] |= future
        assert load(client, json.dumps(data)).status_code == 200
        made = export(client, "ada").json["conversation"]
        assert {round(time.time() - made[name]) for name in future} <= {0, 1, 2}
        client.post("/query", json={"client_name": "eve", "input": "hi"})
        assert names(client) == ["eve", "ada"]

    def test_a_full_store_takes_nothing(self) -> None:
        store = FailingStore(most=2)
        client = serve_store(store).test_client()
        client.post("/query", json={"client_name": "ada", "input": "hi"})
        answer = load(client, self.TWO)
        assert (answer.status_code, answer.json["code"]) == (409, "import_lost")
        assert names(client) == ["ada"]
        assert len(store._table.states) == 1

    def test_it_is_written_in_parts(self, client: FlaskClient, store: FailingStore) -> None:
        pair = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x" * 10_000}]
        assert load(client, json.dumps(pair * 100), client_name="ada").status_code == 200
        assert 2 < store.calls.count("import") < 20
        assert contents(client) == ["hi", "x" * 10_000] * 100
