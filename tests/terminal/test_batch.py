"""`batch`: many questions, each paid for once."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import ServerProcess
from tests.support.replies import ScriptedReplies
from tests.support.terminal import open_terminal
from tests.terminal.conftest import Run

QUESTIONS = [f"question {number}" for number in range(30)]


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow", "slower")


@pytest.fixture
def file(tmp_path: Path, name: str) -> Path:
    """Its name is the test's own, so that no other test asks the same."""
    path = tmp_path / f"{name}.txt"
    path.write_text("\n".join(QUESTIONS) + "\n")
    return path


def results(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(f"{file}.results.jsonl").read_text().splitlines()]


class TestResults:
    def test_they_stand_in_the_order_of_the_questions(self, run: Run, file: Path) -> None:
        ended = run("batch", file.name)
        assert ended.returncode == 0, ended.stderr
        found = results(file)
        assert [each["input"] for each in found] == QUESTIONS
        assert [each["response"] for each in found] == [f"re: {question}" for question in QUESTIONS]
        assert [each["line"] for each in found] == list(range(1, 31))
        assert {each["status"] for each in found} == {"completed"}
        assert ended.stdout == ""
        assert "30 answered" in ended.stderr
        assert "\x1b" not in ended.stderr

    def test_a_second_run_pays_nothing_twice(self, run: Run, file: Path, replies: ScriptedReplies) -> None:
        run("batch", file.name)
        first = results(file)
        assert run("batch", file.name).returncode == 0
        assert len(replies.calls) == 30
        assert results(file) == first

    def test_it_pays_nothing_twice_even_if_the_results_are_lost(
        self, run: Run, file: Path, replies: ScriptedReplies
    ) -> None:
        run("batch", file.name)
        assert run("batch", file.name, "--out", "elsewhere.jsonl").returncode == 0
        assert len(replies.calls) == 30
        assert len((file.parent / "elsewhere.jsonl").read_text().splitlines()) == 30

    def test_questions_that_are_added_are_asked(self, run: Run, file: Path, replies: ScriptedReplies) -> None:
        run("batch", file.name)
        file.write_text("the first\n" + file.read_text())
        assert run("batch", file.name).returncode == 0
        assert len(replies.calls) == 31
        assert [each["input"] for each in results(file)] == ["the first", *QUESTIONS]
        assert [each["line"] for each in results(file)] == list(range(1, 32))

    def test_a_line_that_a_crash_cut_off_is_collected_again(
        self, run: Run, file: Path, replies: ScriptedReplies
    ) -> None:
        run("batch", file.name)
        whole = results(file)
        path = Path(f"{file}.results.jsonl")
        path.write_bytes(path.read_bytes()[:-40])
        run("batch", file.name)
        assert [{**each, "seconds": 0} for each in results(file)] == [{**each, "seconds": 0} for each in whole]
        assert len(replies.calls) == 30

    def test_the_same_question_twice_is_asked_twice(self, run: Run, file: Path, replies: ScriptedReplies) -> None:
        file.write_text("again\nagain\n")
        run("batch", file.name)
        assert replies.calls == ["again", "again"]

    def test_one_that_fails_is_told_and_asked_again_by_the_next_run(
        self, run: Run, file: Path, replies: ScriptedReplies
    ) -> None:
        file.write_text("one\nslow\nthree\n")
        replies.fail("slow", ConnectionResetError())
        ended = run("batch", file.name)
        assert ended.returncode == 1
        assert "Line 2: " in ended.stderr
        assert [each["status"] for each in results(file)] == ["completed", "failed", "completed"]
        replies.end("slow", "at last")
        assert run("batch", file.name).returncode == 0
        assert [each["response"] for each in results(file)] == ["re: one", "at last", "re: three"]
        assert len(replies.calls) == 4


class TestJsonLines:
    def test_each_line_has_its_own_conversation_and_system_prompt(
        self, run: Run, tmp_path: Path, served: ServerProcess, name: str
    ) -> None:
        lines = [{"input": f"q{n}", "client_name": name, "system_prompt": "Brief.", "id": n} for n in range(5)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        ended = run("batch", f"{name}.jsonl", "--out", "out.jsonl")
        assert ended.returncode == 0, ended.stderr
        assert served.history(name)[::2] == [f"q{n}" for n in range(5)]
        found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [each["id"] for each in found] == list(range(5))

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ('{"input": "unclosed', "is not JSON"),
            ("[1]", "is no JSON object"),
            ('{"question": "x"}', "has no input"),
            ('{"input": 1}', "has input as no text"),
            ('{"input": "x", "model": 5}', "has model as no text"),
        ],
    )
    def test_a_broken_line_is_named_before_anything_is_asked(
        self, run: Run, tmp_path: Path, replies: ScriptedReplies, line: str, told: str
    ) -> None:
        (tmp_path / "q.jsonl").write_text(f'{{"input": "fine"}}\n\n{line}\n{{"input": "fine"}}\n')
        ended = run("batch", "q.jsonl")
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.startswith(f"Line 3 of q.jsonl {told}")
        assert replies.calls == []
        assert not (tmp_path / "q.jsonl.results.jsonl").exists()

    def test_a_file_without_questions_is_told(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "q.txt").write_text("\n \n")
        assert run("batch", "q.txt").stderr == "q.txt has no questions.\n"


class TestParallel:
    def test_so_many_are_asked_at_the_same_time(
        self, served: ServerProcess, file: Path, replies: ScriptedReplies
    ) -> None:
        file.write_text("slow\nslower\n")
        arguments = ("batch", file.name, "--parallel", "2", "--server", served.url)
        with open_terminal(*arguments, folder=file.parent) as terminal:
            replies.await_call("slow")
            replies.await_call("slower")
            replies.end("slow", "x")
            replies.end("slower", "x")
            assert terminal.wait_for_exit() == 0

    def test_ctrl_c_ends_after_the_open_ones(self, served: ServerProcess, file: Path, replies: ScriptedReplies) -> None:
        file.write_text("one\nslow\nthree\n")
        arguments = ("batch", file.name, "--parallel", "1", "--server", served.url)
        with open_terminal(*arguments, folder=file.parent) as terminal:
            replies.await_call("slow")
            terminal.wait_for("1/3")
            terminal.type("\x03")
            terminal.wait_for("Stopping: waiting for the open replies.")
            replies.end("slow", "in time")
            assert terminal.wait_for_exit() == 130
            assert "2 answered · 1 not asked" in " ".join(terminal.text.split())
        assert [each["response"] for each in results(file)] == ["re: one", "in time"]
        assert "three" not in replies.calls

    def test_a_second_ctrl_c_leaves_at_once_and_the_next_run_collects_the_reply(
        self, served: ServerProcess, file: Path, replies: ScriptedReplies, run: Run
    ) -> None:
        file.write_text("slow\n")
        with open_terminal("batch", file.name, "--server", served.url, folder=file.parent) as terminal:
            replies.await_call("slow")
            terminal.type("\x03")
            terminal.wait_for("Stopping")
            terminal.type("\x03")
            assert terminal.wait_for_exit() == 130
        replies.end("slow", "nevertheless")
        assert run("batch", file.name).returncode == 0
        assert [each["response"] for each in results(file)] == ["nevertheless"]
        assert replies.calls == ["slow"]

    def test_the_bar_has_count_rate_and_time_left(
        self, served: ServerProcess, file: Path, replies: ScriptedReplies
    ) -> None:
        file.write_text("one\ntwo\nslow\n")
        with open_terminal("batch", file.name, "--server", served.url, folder=file.parent) as terminal:
            terminal.wait_for("2/3")
            terminal.wait_for("/s · ")
            terminal.wait_for(" left")
            replies.end("slow", "done")
            assert terminal.wait_for_exit() == 0
