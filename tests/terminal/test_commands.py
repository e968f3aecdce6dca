"""The commands that do one thing and end, mostly in pipes, as scripts use them."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.process import ROOT, ServerProcess, free_port
from tests.support.replies import ScriptedReplies
from tests.support.terminal import clean_environment, open_terminal
from tests.terminal.conftest import HOSTILE, Run


class TestTheCommandLine:
    @pytest.mark.parametrize("before", [True, False])
    def test_the_server_is_named_before_or_after_the_command(
        self, run: Run, served: ServerProcess, before: bool
    ) -> None:
        options = ["--server", served.url]
        ended = run(
            *(options if before else []), "models", *([] if before else options), CONVERSATION_SERVER="http://x.invalid"
        )
        assert (ended.returncode, ended.stdout) == (0, "told\n")

    def test_an_address_without_its_scheme_is_taken(self, run: Run, served: ServerProcess) -> None:
        assert run("models", "--server", f"127.0.0.1:{served.port}").stdout == "told\n"

    def test_the_port_of_the_environment_is_asked_if_no_server_is_named(self, run: Run, served: ServerProcess) -> None:
        assert run("models", CONVERSATION_SERVER="", PORT=str(served.port)).stdout == "told\n"
        assert run("models", PORT=str(free_port())).stdout == "told\n"

    def test_make_chat_passes_the_port_on_as_make_run_does(self, tmp_path: Path) -> None:
        python = tmp_path / "python"
        python.write_text('#!/bin/sh\necho "$PORT" "$@"\n')
        python.chmod(0o755)
        command = ["make", "--silent", "--old-file=.venv/chat", "chat", "PORT=8000", f"BIN={tmp_path}"]
        assert subprocess.check_output(command, cwd=ROOT, env=clean_environment()) == b"8000 -m terminal chat\n"

    @pytest.mark.parametrize(
        "arguments", [["models"], ["ask", "hi"], ["history"], ["export"], ["batch", "q.txt"], ["import", "q.txt"]]
    )
    def test_a_server_that_is_down_is_one_sentence_and_exit_code_2(
        self, run: Run, tmp_path: Path, arguments: list[str]
    ) -> None:
        (tmp_path / "q.txt").write_text("one\n")
        address = f"http://127.0.0.1:{free_port()}"
        ended = run("--server", address, *arguments)
        advice = "start it with `make run`, or name another with CONVERSATION_SERVER or --server."
        assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"No server answers at {address}; {advice}\n")

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ([], "COMMAND"),
            (["sing"], "sing"),
            (["models", "--loud"], "--loud"),
            (["batch", "missing.txt"], "missing.txt cannot be read"),
            (["batch", "missing.txt", "--parallel", "0"], "must be a whole number above 0"),
            (["import", "missing.json"], "missing.json cannot be read"),
            (["models", "--server", "ftp://x"], "must be an address such as http://127.0.0.1:10000"),
            (["models", "--server", "http://x:port"], "must be an address"),
            (["ask"], "There is no question"),
        ],
    )
    def test_wrong_usage_is_one_sentence_and_exit_code_2(self, run: Run, arguments: list[str], told: str) -> None:
        ended = run(*arguments)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
        assert told in ended.stderr


class TestAsk:
    def test_the_reply_is_plain_text_in_a_pipe(self, run: Run) -> None:
        ended = run("ask", "**hello**")
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "re: **hello**\n", "")

    def test_what_is_piped_in_comes_below_the_question(self, run: Run) -> None:
        assert run("ask", "Translate:", piped="안녕\n세상\n").stdout == "re: Translate:\n\n안녕\n세상\n"
        assert run("ask", piped=b"\xef\xbb\xbfonly this\r\n").stdout == "re: only this\n"

    def test_a_named_one_belongs_to_its_conversation(self, run: Run, served: ServerProcess, name: str) -> None:
        assert run("ask", "-c", name, "hello", "there").returncode == 0
        assert served.history(name) == ["hello there", "re: hello there"]

    def test_one_that_fails_ends_with_1_and_says_why(self, run: Run, replies: ScriptedReplies) -> None:
        replies.say("slow", "Half")
        replies.fail("slow", ConnectionResetError())
        ended = run("ask", "slow")
        assert (ended.returncode, ended.stdout) == (1, "Half\n")
        assert re.fullmatch(r"○ .+ \(upstream_cut\)\n", ended.stderr)

    def test_a_refused_one_ends_with_1(self, run: Run) -> None:
        ended = run("ask", "hi", "--model", "nonsense")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "(unknown_model)" in ended.stderr

    def test_control_sequences_are_inert_in_a_pipe(self, run: Run, replies: ScriptedReplies) -> None:
        replies.end("slow", f"a{HOSTILE}\r", "\nb")
        assert run("ask", "slow").stdout == "a␛[2J␛]0;owned␇�31m�txt\nb\n"

    def test_in_a_terminal_it_streams_with_its_state_and_ends(
        self, served: ServerProcess, replies: ScriptedReplies
    ) -> None:
        with open_terminal("ask", "slow", "--server", served.url) as terminal:
            replies.say("slow", "A **strong** word")
            terminal.wait_for("A strong word")
            terminal.wait_for("Writing · ")
            replies.end("slow")
            assert terminal.wait_for_exit() == 0
            reply, state = (row for row in terminal.shown if row)
            assert reply == "  A strong word"
            assert state.startswith("● ")

    def test_ctrl_c_stops_it(self, served: ServerProcess, replies: ScriptedReplies, name: str) -> None:
        with open_terminal("ask", "-c", name, "slow", "--server", served.url) as terminal:
            replies.say("slow", "Begun")
            terminal.wait_for("Begun")
            terminal.type("\x03")
            assert terminal.wait_for_exit() == 130
        assert served.history(name) == ["slow", "Begun"]


class TestHistory:
    def test_it_is_plain_in_a_pipe_and_inert(self, run: Run, served: ServerProcess, name: str) -> None:
        served.query(name, f"hi{HOSTILE}")
        ended = run("history", "-c", name)
        inert = "hi␛[2J␛]0;owned␇�31m�txt"
        assert (ended.returncode, ended.stdout) == (0, f"› {inert}\n\nre: {inert}\n\n")

    def test_only_the_newest_are_shown_if_asked_for(self, run: Run, served: ServerProcess, name: str) -> None:
        for question in ("one", "two"):
            served.query(name, question)
        assert run("history", "-c", name, "--limit", "1").stdout == "re: two\n\n"

    def test_a_conversation_that_does_not_exist_is_told(self, run: Run) -> None:
        ended = run("history", "-c", "nobody")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert 'There is no conversation "nobody"' in ended.stderr


class TestModels:
    def test_the_model_of_a_conversation_is_marked(self, run: Run, name: str) -> None:
        assert run("models", "-c", name).stdout == "● told\n"
