"""`chat`, as a person sees it in a terminal of 80 × 24."""

import re
from pathlib import Path

from tests.support.process import ServerProcess, eventually, free_port, serve
from tests.support.relay import relay
from tests.support.replies import ScriptedReplies
from tests.support.terminal import Terminal, open_terminal

LINES = [f"line {number:03d}" for number in range(1, 121)]


def seen(terminal: Terminal) -> list[str]:
    """The numbered lines in the order in which they stand in the terminal, above and on its screen."""
    return re.findall(r"line \d{3}", terminal.text)


def count_messages(served: ServerProcess, name: str) -> int:
    return len(served.history(name))


class TestALongReply:
    def test_each_line_is_shown_once(self, talk: Terminal, replies: ScriptedReplies) -> None:
        talk.type("slow\r")
        for start in range(0, 120, 7):
            replies.say("slow", *(f"{line}\n\n" for line in LINES[start : start + 7]))
            talk.wait_for(lambda start=start: seen(talk)[-1:] == [LINES[min(start + 6, 119)]])
            assert seen(talk) == LINES[: start + 7]
        replies.end("slow")
        talk.wait_for("●")
        talk.wait_for_prompt()
        assert seen(talk) == LINES

    def test_each_line_of_one_paragraph_is_shown_once(self, talk: Terminal, replies: ScriptedReplies) -> None:
        talk.type("slow\r")
        replies.say("slow", "\n".join(LINES[:60]))
        talk.wait_for(LINES[59])
        replies.end("slow", "\n", "\n".join(LINES[60:]))
        talk.wait_for("●")
        assert seen(talk) == LINES

    def test_each_word_of_one_long_line_is_shown_once(self, talk: Terminal, replies: ScriptedReplies) -> None:
        words = [f"**w{number:04d}**" for number in range(600)]
        talk.type("slow\r")
        for start in range(0, 600, 50):
            replies.say("slow", " ".join(words[start : start + 50]) + " ")
            talk.wait_for(f"w{start + 49:04d}")
        replies.end("slow")
        talk.wait_for("●")
        assert re.findall(r"w\d{4}", talk.text) == [f"w{number:04d}" for number in range(600)]

    def test_a_table_longer_than_the_screen_is_shown_once(self, talk: Terminal, replies: ScriptedReplies) -> None:
        talk.type("slow\r")
        replies.say("slow", "| a | b |\n|---|---|\n", *(f"| {line} | x |\n" for line in LINES[:60]))
        talk.wait_for(LINES[59])
        replies.end("slow", "\n\nThe end.")
        talk.wait_for("●")
        assert seen(talk) == LINES[:60]

    def test_each_line_is_shown_once_after_a_resize(self, talk: Terminal, replies: ScriptedReplies) -> None:
        talk.type("slow\r")
        replies.say("slow", *(f"{line}\n\n" for line in LINES[:50]))
        talk.wait_for(LINES[49])
        talk.resize(50, 24)
        replies.say("slow", *(f"{line}\n\n" for line in LINES[50:90]))
        talk.wait_for(LINES[89])
        talk.resize(100, 24)
        replies.end("slow", *(f"{line}\n\n" for line in LINES[90:]))
        talk.wait_for("●")
        talk.wait_for_prompt()
        assert seen(talk) == LINES
        assert max(len(row) for row in talk.shown) <= 100


class TestAReply:
    def test_its_state_is_shown_while_it_is_written(self, talk: Terminal, replies: ScriptedReplies) -> None:
        talk.type("slow\r")
        talk.wait_for("◌ Waiting for the first word · ")
        replies.say("slow", "Some ", "words.")
        talk.wait_for("◌ Writing · ")
        (row,) = [row for row in talk.shown if "Writing" in row]
        assert re.fullmatch(r"◌ Writing · ≈ \d+ tokens · [\d.]+ s( · \d+ tok/s)? +Ctrl-C stops", row)
        assert talk.shown[talk.shown.index(row) + 1] == "─" * 80
        replies.end("slow")
        talk.wait_for("●")
        assert "Writing" not in talk.text

    def test_markdown_is_shown_without_boxes(self, talk: Terminal, replies: ScriptedReplies) -> None:
        talk.type("slow\r")
        table = "| Name | Count |\n|---|---:|\n| 된장 | 36 |\n| Anchovy | 500 |\n"
        replies.end("slow", f"# Head\n\nSome **strong** words.\n\n1. one\n2. two\n\n{table}\n```sql\nselect 1\n```\n")
        talk.wait_for("●")
        start = talk.shown.index("› slow")
        assert talk.shown[start + 1 : start + 17] == [
            *("", "  Head", "", "  Some strong words.", "", "   1. one", "   2. two", ""),
            *(
                "  Name      Count",
                "  ───────────────",
                "  된장         36",
                "  Anchovy     500",
            ),
            *("", "  sql", "  select 1", ""),
        ]

    def test_ctrl_c_stops_it_and_keeps_what_was_written(
        self, talk: Terminal, replies: ScriptedReplies, served: ServerProcess, name: str
    ) -> None:
        talk.type("slow\r")
        replies.say("slow", "The beginning")
        talk.wait_for("The beginning")
        talk.type("\x03")
        talk.wait_for("– Stopped · kept up to here")
        talk.wait_for_prompt()
        assert "  The beginning" in talk.rows
        assert eventually(lambda: served.history(name) == ["slow", "The beginning"])
        talk.type("next\r")
        talk.wait_for("re: next")

    def test_ctrl_d_leaves_and_it_is_finished(
        self, talk: Terminal, replies: ScriptedReplies, served: ServerProcess, name: str
    ) -> None:
        talk.type("slow\r")
        replies.say("slow", "The beginning, ")
        talk.wait_for("The beginning,")
        talk.type("\x04")
        assert talk.wait_for_exit() == 0
        assert [row for row in talk.shown if row][-2:] == [
            "  The beginning,",
            "◌ The reply is finished without you.",
        ]
        replies.end("slow", "the end.")
        assert eventually(lambda: served.history(name) == ["slow", "The beginning, the end."])

    def test_one_that_failed_says_why_and_can_be_asked_again(self, talk: Terminal, replies: ScriptedReplies) -> None:
        talk.type("slow\r")
        replies.say("slow", "Half of")
        talk.wait_for("Half of")
        replies.fail("slow", ConnectionResetError())
        talk.wait_for("/retry asks again")
        talk.wait_for_prompt()
        assert any(re.match(r"○ \w+", row) for row in talk.rows)
        assert any("upstream_cut · " in row for row in talk.rows)
        talk.type("/retry\r")
        replies.await_call("slow", 2)
        replies.end("slow", "The whole of it.")
        talk.wait_for("The whole of it.")
        talk.wait_for("●")

    def test_one_that_is_written_anew_and_stopped_leaves_the_earlier_one(
        self, talk: Terminal, replies: ScriptedReplies, served: ServerProcess, name: str
    ) -> None:
        talk.type("slow\r")
        replies.end("slow", "The first reply.")
        talk.wait_for("●")
        talk.wait_for_prompt()
        talk.type("/retry\r")
        replies.await_call("slow", 2)
        replies.say("slow", "Another")
        talk.wait_for("Another")
        talk.type("\x03")
        talk.wait_for("– Stopped · the earlier reply stays")
        talk.wait_for_prompt()
        assert "kept up to here" not in talk.text
        assert served.history(name) == ["slow", "The first reply."]

    def test_one_that_is_being_written_is_picked_up(
        self, served: ServerProcess, replies: ScriptedReplies, name: str, tmp_path: Path
    ) -> None:
        served.ask("POST", "/chat/stream", {"message": "slow", "client_name": name})
        replies.say("slow", "The first part, ")
        with open_terminal("chat", "-c", name, "--server", served.url, XDG_STATE_HOME=str(tmp_path)) as terminal:
            terminal.wait_for("› slow")
            terminal.wait_for("The first part,")
            replies.end("slow", "the second part.")
            terminal.wait_for("The first part, the second part.")
            terminal.wait_for("●")

    def test_its_control_sequences_are_inert(self, talk: Terminal, replies: ScriptedReplies) -> None:
        talk.type("slow\r")
        hostile = "\x1b[2J\x1b]0;owned\x07\x9b31mred\x1b[999;1H&#27;[2J `\x1b[7m` \u202eevil\r\n\x0b\x0ehidden"
        replies.end("slow", f"before {hostile} after\n\n```a\x1bc\n\x1bc\n```\n\n| a\x1bc |\n|---|\n| \x9bA |\n")
        talk.wait_for("●")
        assert "before ␛[2J␛]0;owned␇�31mred␛[999;1H" in talk.text
        sent = talk.received.decode()
        assert "\x1b]0" not in sent
        assert "\x1b[2J" not in sent
        assert "\x1b[999" not in sent
        assert "\x1bc" not in sent
        assert not set(sent) & {"\x9b", "\u202e", "\x0e", "\x07"}

    def test_no_colors_are_used_if_nobody_wants_them(self, served: ServerProcess, name: str, tmp_path: Path) -> None:
        env = {"XDG_STATE_HOME": str(tmp_path), "NO_COLOR": "1"}
        with open_terminal("chat", "-c", name, "--server", served.url, **env) as terminal:
            terminal.wait_for_prompt()
            terminal.type("**hi**\r")
            terminal.wait_for("●")
            assert set(re.findall(rb"\x1b\[([\d;]*)m", terminal.received)) <= {b"0"}


class TestTheScreen:
    def test_what_is_secondary_is_dim(self, talk: Terminal, replies: ScriptedReplies) -> None:
        talk.type("slow\r")
        replies.say("slow", "word ")
        talk.wait_for("Writing")
        for secondary in ("    /help commands", "  Ask anything.", "─" * 80):
            assert f"\x1b[2m{secondary}".encode() in talk.received
        replies.end("slow")


class TestThePrompt:
    def test_a_paste_of_several_lines_is_one_question(self, talk: Terminal, served: ServerProcess, name: str) -> None:
        talk.paste("first\n\nsecond 한국어")
        talk.wait_for("second 한")
        assert served.ask("GET", f"/history?client_name={name}")[1] == []
        talk.type("\r")
        talk.wait_for("●")
        assert served.history(name)[0] == "first\n\nsecond 한국어"

    def test_alt_enter_adds_a_line(self, talk: Terminal, served: ServerProcess, name: str) -> None:
        talk.type("one\x1b\rtwo\r")
        talk.wait_for("●")
        assert served.history(name)[0] == "one\ntwo"

    def test_ctrl_c_empties_it_and_ctrl_d_leaves(self, talk: Terminal) -> None:
        talk.type("never sent\x03")
        talk.wait_for_prompt()
        talk.type("\x04")
        assert talk.wait_for_exit() == 0

    def test_earlier_questions_come_back_also_the_next_time(
        self, served: ServerProcess, name: str, tmp_path: Path
    ) -> None:
        for keys in ("remember me\r", "\x1b[A\r"):
            with open_terminal("chat", "-c", name, "--server", served.url, XDG_STATE_HOME=str(tmp_path)) as terminal:
                terminal.wait_for_prompt()
                before = terminal.text.count("re: remember me")
                terminal.type(keys)
                terminal.wait_for(lambda t=terminal, n=before: t.text.count("re: remember me") > n)
                terminal.wait_for_prompt()
                terminal.type("\x04")
                terminal.wait_for_exit()
        assert served.history(name)[::2] == ["remember me"] * 2

    def test_what_is_typed_while_a_reply_is_written_waits(self, talk: Terminal, replies: ScriptedReplies) -> None:
        talk.type("slow\r")
        replies.say("slow", "word ")
        talk.wait_for("Writing")
        talk.type("the next")
        replies.end("slow", "end")
        talk.wait_for("› the next")
        assert talk.text.count("the next") == 1

    def test_what_is_typed_while_a_reply_is_written_outlives_its_stop(
        self, talk: Terminal, replies: ScriptedReplies, served: ServerProcess, name: str
    ) -> None:
        talk.type("slow\r")
        replies.say("slow", "word ")
        talk.wait_for("Writing")
        talk.type("the next\rquestion, 한국어\x03")
        talk.wait_for("– Stopped")
        talk.wait_for("› the next")
        talk.wait_for("question, 한국어")
        assert served.history(name) == ["slow", "word "]
        talk.type("\r")
        talk.wait_for("●")
        assert served.history(name)[2] == "the next\nquestion, 한국어"

    def test_a_question_that_is_sent_while_a_reply_is_written_is_asked_after_it(
        self, talk: Terminal, replies: ScriptedReplies
    ) -> None:
        talk.type("slow\r")
        replies.say("slow", "word ")
        talk.wait_for("Writing")
        talk.type("the next\r")
        replies.end("slow", "end")
        talk.wait_for("re: the next")

    def test_a_question_that_reached_no_server_comes_back(self, tmp_path: Path) -> None:
        with (
            serve(UPSTREAM="scripted") as served,
            open_terminal("chat", "--server", served.url, XDG_STATE_HOME=str(tmp_path)) as terminal,
        ):
            terminal.wait_for_prompt()
            served.kill()
            terminal.type("is anybody there?\r")
            terminal.wait_for(f"✕ No server answers at {served.url}; start it with")
            terminal.wait_for(lambda: terminal.text.count("› is anybody there?") == 2)
            assert "Enter asks again" in terminal.text

    def test_a_question_that_was_refused_comes_back_and_enter_asks_it_again(self, tmp_path: Path) -> None:
        with (
            serve(UPSTREAM="scripted", RATE_LIMIT="1/day") as served,
            open_terminal("chat", "-c", "kim", "--server", served.url, XDG_STATE_HOME=str(tmp_path)) as terminal,
        ):
            terminal.wait_for_prompt()
            terminal.type("the first\r")
            terminal.wait_for("● ")
            terminal.wait_for_prompt()
            terminal.type("the second\r")
            terminal.wait_for("Enter asks again")
            terminal.wait_for(lambda: [row for row in terminal.shown if row][-3:-2] == ["› the second"])
            terminal.type("\r")
            terminal.wait_for(lambda: terminal.text.count("rate_limited · ") == 2)
            assert "/retry" not in terminal.text
            assert served.history("kim")[::2] == ["the first"]


class TestALostLine:
    def test_the_reply_goes_on_where_it_was(
        self, served: ServerProcess, replies: ScriptedReplies, name: str, tmp_path: Path
    ) -> None:
        with relay(served.port) as line:
            address = f"http://127.0.0.1:{line.port}"
            with open_terminal("chat", "-c", name, "--server", address, XDG_STATE_HOME=str(tmp_path)) as terminal:
                terminal.wait_for_prompt()
                terminal.type("slow\r")
                for start in range(0, 120, 30):
                    replies.say("slow", *(f"{line}\n\n" for line in LINES[start : start + 30]))
                    terminal.wait_for(LINES[start + 29])
                    line.cut()
                replies.end("slow", "The end.")
                terminal.wait_for("●")
                assert seen(terminal) == LINES
                assert "The end." in terminal.text


class TestSlashCommands:
    def test_conversations_are_opened_listed_titled_and_cleared(
        self, talk: Terminal, served: ServerProcess, name: str
    ) -> None:
        def type_(command: str, expected: str) -> None:
            talk.type(f"{command}\r")
            talk.wait_for(expected)
            talk.wait_for_prompt()

        type_("hello", "re: hello")
        type_("/title A fine title", "Title: A fine title")
        type_(f"/new {name}-2", "new conversation")
        type_("second", "re: second")
        type_(f"/list {name}", "A fine title")
        type_(f"/open {name}", "re: hello")
        type_("/system Be brief.", "System prompt: Be brief.")
        assert served.ask("GET", f"/conversations/details?client_name={name}")[1]["system_prompt"] == "Be brief."
        type_("/system none", "No system prompt")
        type_("/model told", "● told")
        type_("/model other", 'There is no model "other"; /model lists them. (unknown_model)')
        assert "GET /models" not in talk.text
        talk.type("/clear\r")
        talk.wait_for("y/N")
        talk.type("n\r")
        talk.wait_for("Nothing was changed.")
        talk.wait_for_prompt()
        assert count_messages(served, name) == 2
        talk.type("/clear\r")
        talk.wait_for(lambda: talk.text.count("y/N") == 2)
        talk.type("y\r")
        talk.wait_for("The history is cleared.")
        assert count_messages(served, name) == 0

    def test_an_export_in_no_known_format_is_refused(self, served: ServerProcess, name: str, tmp_path: Path) -> None:
        served.query(name, "hi")
        folder = tmp_path / "here"
        folder.mkdir()
        with open_terminal(
            "chat", "-c", name, "--server", served.url, folder=folder, XDG_STATE_HOME=str(tmp_path)
        ) as talk:
            talk.wait_for_prompt()
            for count, wrong in enumerate(("xml", "notes.txt", "xml notes"), 1):
                talk.type(f"/export {wrong}\r")
                talk.wait_for(lambda count=count: talk.text.count("✕ /export takes json, jsonl or markdown") == count)
                talk.wait_for_prompt()
            assert list(folder.iterdir()) == []
            for right in ("my notes.md", "jsonl notes"):
                talk.type(f"/export {right}\r")
                talk.wait_for(f"Written to {right.removeprefix('jsonl ')}.")
                talk.wait_for_prompt()
        assert (folder / "my notes.md").read_text().startswith("#")
        assert len((folder / "notes").read_text().splitlines()) > 1

    def test_help_is_in_korean_in_a_korean_terminal(self, served: ServerProcess, name: str, tmp_path: Path) -> None:
        env = {"XDG_STATE_HOME": str(tmp_path), "LC_ALL": "ko_KR.UTF-8"}
        with open_terminal("chat", "-c", name, "--server", served.url, **env) as talk:
            talk.wait_for_prompt()
            talk.type("/help\r")
            talk.wait_for("나가기. 쓰던 답은 끝까지 써 둡니다")
            lines = [row for row in talk.rows if re.match(r"  (/|Enter|↑|Ctrl)", row)]
        assert len(lines) == 14
        assert all(re.search("[가-힣]", row) for row in lines)

    def test_an_unknown_one_is_no_question(self, talk: Terminal, served: ServerProcess, name: str) -> None:
        talk.type("/nonsense\r")
        talk.wait_for("/nonsense is no command; /help lists them.")
        assert count_messages(served, name) == 0

    def test_a_path_is_a_question(self, talk: Terminal, served: ServerProcess, name: str) -> None:
        talk.type("/etc/hosts is what?\r")
        talk.wait_for("re: /etc/hosts")


class TestWithoutATerminal:
    def test_a_pipe_is_told_to_use_ask(self, run) -> None:  # type: ignore[no-untyped-def]
        ended = run("chat")
        assert (ended.returncode, ended.stderr) == (2, "chat needs a terminal; in a pipe, use ask.\n")

    def test_a_server_that_is_down_is_one_sentence(self, tmp_path: Path) -> None:
        address = f"http://127.0.0.1:{free_port()}"
        with open_terminal("chat", "--server", address, XDG_STATE_HOME=str(tmp_path)) as terminal:
            assert terminal.wait_for_exit() == 2
            told = "".join(terminal.shown)
        advice = "start it with `make run`, or name another with CONVERSATION_SERVER or --server."
        assert told == f"No server answers at {address}; {advice}"
