"""A protected server: the key goes with every request, is never printed, and says which conversations there are."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import ServerProcess, eventually, serve
from tests.support.terminal import open_terminal
from tests.terminal.conftest import Run

ADMIN_KEY = "an administrator's long key"
COMMANDS = [["models"], ["ask", "hi"], ["history"], ["export"], ["batch", "q.txt"], ["import", "q.txt"]]


@pytest.fixture(scope="module")
def protected() -> Iterator[ServerProcess]:
    with serve(UPSTREAM="scripted", ADMIN_KEY=ADMIN_KEY) as served:
        yield served


@pytest.fixture
def served(protected: ServerProcess) -> ServerProcess:
    """What `run` talks with."""
    return protected


@pytest.fixture(scope="module")
def keys(protected: ServerProcess) -> dict[str, str]:
    """Keys by what they open."""

    def create(client_name: str) -> str:
        body = {"client_name": client_name}
        key: str = protected.ask("POST", "/api-keys", body, Authorization=f"Bearer {ADMIN_KEY}")[1]["key"]
        return key

    return {name: create(name) for name in ("kim", "team-*", "*")}


def names_of(protected: ServerProcess, key: str) -> set[str]:
    listed = protected.ask("GET", "/conversations?limit=100", Authorization=f"Bearer {key}")[1]["conversations"]
    return {each["client_name"] for each in listed}


@contextmanager
def record_headers() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The address of a server that notes the headers of each request, and those."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"data": []}')

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", seen
        server.shutdown()


class TestSending:
    @pytest.mark.parametrize("before", [True, False])
    def test_it_is_given_before_or_after_the_command_or_in_the_environment(
        self, run: Run, keys: dict[str, str], before: bool
    ) -> None:
        options = ["--key", keys["kim"]]
        ended = run(*(options if before else []), "models", *([] if before else options), CONVERSATION_KEY="wrong")
        assert (ended.returncode, ended.stdout) == (0, "scripted-demo\n")
        assert run("models", CONVERSATION_KEY=f" {keys['kim']}\n").returncode == 0

    def test_every_command_works_with_it(self, run: Run, tmp_path: Path, keys: dict[str, str]) -> None:
        (tmp_path / "q.txt").write_text("one\ntwo\n")
        (tmp_path / "m.json").write_text('[{"role": "user", "content": "from a file"}]')
        for arguments in (
            ["ask", "-c", "kim", "hello"],
            ["ask", "outside"],
            ["history"],
            ["models"],
            ["export", "--out", "kim.json"],
            ["import", "m.json"],
            ["batch", "q.txt"],
        ):
            ended = run(*arguments, CONVERSATION_KEY=keys["kim"])
            assert ended.returncode == 0, (arguments, ended.stderr)
            assert keys["kim"] not in ended.stdout + ended.stderr
        assert "hello" in (tmp_path / "kim.json").read_text()

    def test_a_password_in_the_address_keeps_its_header(self, run: Run, keys: dict[str, str]) -> None:
        with record_headers() as (address, seen):
            run("models", "--server", f"http://me:secret@{address}", CONVERSATION_KEY=keys["kim"])
            run("models", "--server", f"http://{address}", CONVERSATION_KEY=keys["kim"])
        assert seen[0]["authorization"].startswith("Basic ")
        assert seen[0]["x-api-key"] == keys["kim"]
        assert seen[1]["authorization"] == f"Bearer {keys['kim']}"


class TestRefusals:
    @pytest.mark.parametrize("arguments", COMMANDS, ids=lambda each: each[0])
    def test_without_one_each_command_is_one_sentence_and_exit_code_2(
        self, run: Run, tmp_path: Path, arguments: list[str]
    ) -> None:
        (tmp_path / "q.txt").write_text("one\n")
        ended = run(*arguments)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
        assert "The server needs a key. Set CONVERSATION_KEY" in ended.stderr

    def test_chat_says_so_too(self, served: ServerProcess, tmp_path: Path) -> None:
        with open_terminal("chat", "--server", served.url, XDG_STATE_HOME=str(tmp_path)) as terminal:
            assert terminal.wait_for_exit() == 2
            assert "The server needs a key." in terminal.text

    def test_a_wrong_one_is_told_and_not_printed(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "q.txt").write_text("one\n")
        for arguments in (["ask", "hi"], ["batch", "q.txt"]):
            ended = run(*arguments, "--key", "ck_a-wrong-one")
            assert (ended.returncode, ended.stdout) == (2, "")
            assert "The server does not accept the key." in ended.stderr
            assert "wrong-one" not in ended.stderr

    @pytest.mark.parametrize("key", ["ck_열쇠", "ck_a\nb"])
    def test_what_can_be_no_key_is_told_and_not_printed(self, run: Run, key: str) -> None:
        ended = run("models", CONVERSATION_KEY=key)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr == "The key has characters that no key has; copy it again into CONVERSATION_KEY.\n"

    def test_a_conversation_that_it_does_not_open_ends_with_1(self, run: Run, keys: dict[str, str]) -> None:
        ended = run("history", "-c", "lee", CONVERSATION_KEY=keys["kim"])
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "This key does not open that" in ended.stderr

    def test_a_batch_whose_key_ends_keeps_its_results_and_ends_with_2(
        self, run: Run, served: ServerProcess, tmp_path: Path
    ) -> None:
        def manage(method: str, path: str, body: Any = None) -> Any:
            return served.ask(method, path, body, Authorization=f"Bearer {ADMIN_KEY}")[1]

        created = manage("POST", "/api-keys", {"client_name": "brief"})
        questions = [f"question {number}" for number in range(4000)]
        (tmp_path / "q.txt").write_text("\n".join(questions))
        results_file = tmp_path / "q.txt.results.jsonl"

        def end_key() -> None:
            assert eventually(lambda: results_file.exists() and results_file.stat().st_size > 0)
            manage("DELETE", f"/api-keys/{created['id']}")

        deletion = threading.Thread(target=end_key)
        deletion.start()
        ended = run("batch", "q.txt", "--parallel", "4", CONVERSATION_KEY=created["key"])
        deletion.join()
        assert ended.returncode == 2, ended.stderr
        assert "The server does not accept the key." in ended.stderr
        results = [json.loads(line) for line in results_file.read_text().splitlines()]
        assert {each["status"] for each in results} <= {"completed"}


class TestNames:
    @pytest.mark.parametrize(("scope", "name"), [("kim", "kim"), ("team-*", "team-terminal"), ("*", "terminal")])
    def test_without_a_name_the_conversation_is_one_that_the_key_opens(
        self, run: Run, served: ServerProcess, keys: dict[str, str], scope: str, name: str
    ) -> None:
        body = {"client_name": name, "input": f"for {name}"}
        assert served.ask("POST", "/query", body, Authorization=f"Bearer {keys[scope]}")[0] == 200
        ended = run("history", CONVERSATION_KEY=keys[scope])
        assert (ended.returncode, ended.stderr) == (0, "")
        assert f"for {name}" in ended.stdout

    def test_chat_starts_new_ones_with_the_beginning_of_the_key(
        self, served: ServerProcess, keys: dict[str, str], tmp_path: Path
    ) -> None:
        env = {"CONVERSATION_KEY": keys["team-*"], "XDG_STATE_HOME": str(tmp_path)}
        with open_terminal("chat", "--server", served.url, **env) as terminal:
            terminal.wait_for_prompt()
            terminal.type("/new\r")
            terminal.wait_for("team-terminal-20")
            terminal.wait_for_prompt()
            terminal.type("hello\r")
            terminal.wait_for("● ")
            terminal.wait_for_prompt()
            terminal.type("/open lee\r")
            terminal.wait_for("This key does not open that")
            terminal.type("/new lee\r")
            terminal.wait_for(lambda: terminal.text.count("This key does not open that") == 2)
            terminal.wait_for_prompt()
            assert "team-terminal-20" in terminal.shown[-1]
            assert keys["team-*"].encode() not in terminal.received
        assert any(name.startswith("team-terminal-20") for name in names_of(served, keys["team-*"]))

    def test_chat_with_a_key_of_one_name_says_that_there_is_no_new_one(
        self, served: ServerProcess, keys: dict[str, str], tmp_path: Path
    ) -> None:
        env = {"CONVERSATION_KEY": keys["kim"], "XDG_STATE_HOME": str(tmp_path)}
        with open_terminal("chat", "--server", served.url, **env) as terminal:
            terminal.wait_for_prompt()
            terminal.type("/new\r")
            terminal.wait_for('The key opens "kim" and no other conversation')


class TestDoctor:
    @pytest.mark.parametrize(
        ("scope", "told"),
        [
            ("kim", 'opens the client_name "kim".'),
            ("team-*", 'opens every client_name that begins with "team-".'),
            ("*", "opens every client_name."),
        ],
    )
    def test_it_says_what_the_key_opens(self, run: Run, keys: dict[str, str], scope: str, told: str) -> None:
        ended = run("doctor", "--key", keys[scope])
        assert ended.returncode == 0, ended.stdout
        assert f"● access    The server is protected; the key is accepted, and {told}\n" in ended.stdout
        assert keys[scope] not in ended.stdout + ended.stderr

    def test_it_knows_the_administrators(self, run: Run) -> None:
        assert "opens everything: it is the administrator's." in run("doctor", CONVERSATION_KEY=ADMIN_KEY).stdout

    @pytest.mark.parametrize(
        ("key", "told"),
        [("", "The server is protected, and no key is set here."), ("ck_wrong", "and does not accept the key.")],
    )
    def test_a_key_that_is_missing_or_wrong_is_told(self, run: Run, key: str, told: str) -> None:
        ended = run("doctor", CONVERSATION_KEY=key)
        assert ended.returncode == run("models", CONVERSATION_KEY=key).returncode == 2
        assert "✕ access    The server is protected" in ended.stdout
        assert told in ended.stdout
        assert "✕ model" not in ended.stdout
        assert ended.stdout.endswith("Wrong: access.\n")

    def test_an_open_server_is_told(self, run: Run) -> None:
        with serve(UPSTREAM="scripted") as served:
            ended = run("doctor", "--server", served.url)
        assert "● access    The server is open: it needs no key.\n" in ended.stdout
