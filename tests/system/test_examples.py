"""Every file in `examples/` runs as it says, against a server process."""

import http.client
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tests.support.browser import launch_chromium
from tests.support.process import ROOT, ServerProcess, serve
from tests.support.replies import ScriptedReplies
from tests.support.replies_over_http import serve_replies
from tests.support.requirements import find_command

ADMIN_KEY = "an administrator's long key"
EXAMPLES = ROOT / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_file())

ALONE = "[demo, no model was asked] You said: {} — nothing came with it, so this is the beginning of the conversation."
LATER = "[demo, no model was asked] You said: {} — {} earlier messages came with it, the first of them: {}"

STORY = "Tell me a story."
CAT = "My cat is called Grace."
CALLED = "What is my cat called?"

PROGRAMS = {"py": "python", "sh": "sh", "mjs": "node"}


def find_program(name: str) -> str:
    return PROGRAMS[name.rpartition(".")[2]]


class Target:
    """A server that the examples call, and the key for it, which may be empty."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url
        self.key = key


@pytest.fixture(scope="module")
def protected() -> Iterator[Target]:
    """A server that needs a key, and one for all that the examples use."""
    with serve(UPSTREAM="scripted", ADMIN_KEY=ADMIN_KEY) as served:
        yield Target(served.url, served.ask("POST", "/api-keys", {"client_name": "example*"})[1]["key"])


@pytest.fixture(params=["open", "protected"])
def target(request: pytest.FixtureRequest) -> Target:
    """Each kind of server."""
    if request.param == "open":
        return Target(request.getfixturevalue("demo").url)
    found: Target = request.getfixturevalue("protected")
    return found


def run_example(name: str, target: Target) -> subprocess.CompletedProcess[str]:
    path = {"python": sys.executable, "sh": "sh"}.get(find_program(name)) or find_command("node", "nodejs")
    env = {**os.environ, "BASE_URL": target.url, "CONVERSATION_KEY": target.key}
    command = [path, f"examples/{name}"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def read_output(name: str, target: Target) -> str:
    """The output of an example. Fails if it writes to stderr."""
    done = run_example(name, target)
    assert done.stderr == ""
    return done.stdout


def read_answers(name: str, target: Target) -> list[Any]:
    """Each line of JSON in the output of an example; of event streams, the data of each event."""
    lines = [line.removeprefix("data: ") for line in read_output(name, target).splitlines()]
    return [json.loads(line) for line in lines if re.match(r'[{\[]["{]', line)]


class TestCurl:
    def test_published(self, target: Target) -> None:
        models, model, first, second, *frames, history, cleared = read_answers("published.sh", target)
        assert models["data"][0]["id"] == model["model"] == "scripted-demo"
        assert first == {"response": ALONE.format(CAT)}
        assert second == {"response": LATER.format("고양이 이름이 뭐였지?", 2, CAT)}
        assert [each["type"] for each in (frames[0], frames[-1])] == ["START", "END"]
        assert frames[-1]["full_content"] == LATER.format("Thank you.", 4, CAT)
        assert [each["content"] for each in history][-1] == frames[-1]["full_content"]
        assert "cleared" in cleared["message"]

    def test_chat(self, target: Target) -> None:
        answer, started, *frames, stopped = read_answers("chat.sh", target)
        assert answer["response"] == LATER.format(CALLED, 2, CAT)
        assert stopped == {**started, "status": "stopped"}
        texts: list[str] = []
        for frame in frames:
            assert frame["type"] in ("START", "CHUNK", "END")
            texts += [""] if frame["type"] == "START" else []
            texts[-1] += frame["content"] if frame["type"] == "CHUNK" else ""
        assert texts == [ALONE.format(STORY), ALONE.format(STORY)[4:]]

    def test_conversations(self, target: Target) -> None:
        said, details, found, edited, *frames, messages, usage, copied, deleted, last = read_answers(
            "conversations.sh", target
        )
        assert said["response"] == ALONE.format("How do I fry tofu?")
        assert (details["title"], details["system_prompt"]) == ("Tofu", "Answer in one sentence.")
        assert [each["title"] for each in found["conversations"]] == ["Tofu"]
        assert edited["replaces"] and frames[-1]["full_content"] == ALONE.format("How do I bake tofu?")
        contents = [each["content"] for each in messages["messages"]]
        assert contents == ["How do I bake tofu?", frames[-1]["full_content"]]
        assert usage["total"]["questions"] == 2
        assert [(each["client_name"], each["message_count"]) for each in copied["conversations"]] == [
            ("example/copy", 2)
        ]
        assert "deleted" in deleted["message"] and deleted == last

    def test_sessions(self, target: Target) -> None:
        made, said, *events, messages, session, deleted = read_answers("sessions.sh", target)
        assert said["content"] == ALONE.format(CAT)
        assert "".join(each.get("content", "") for each in events) == LATER.format(CALLED, 2, CAT)
        assert events[-1]["done"] is True
        assert [each["content"] for each in messages["messages"]] == [CALLED, LATER.format(CALLED, 2, CAT)]
        assert (session["message_count"], session["metadata"]) == (4, {"user": "ada"})
        assert {each["session_id"] for each in (made, said, messages, session, deleted)} == {made["session_id"]}

    def test_assistants(self, target: Target) -> None:
        said, message, *events, listed, deleted = read_answers("assistants.sh", target)
        assert said["message"] == ALONE.format(CAT)
        assert message["content"][0]["text"]["value"] == CALLED
        assert events[-1]["status"] == "completed"
        contents = [each["content"][0]["text"]["value"] for each in listed["data"]]
        assert contents == [CAT, ALONE.format(CAT), CALLED, LATER.format(CALLED, 2, CAT)]
        assert deleted["deleted"] is True

    def test_operators(self, target: Target) -> None:
        alive, ready, health, service = read_answers("operators.sh", target)
        assert [each["status"] for each in (alive, ready, health)] == ["alive", "ready", "healthy"]
        assert service["docs"] == "/docs"


def test_the_official_package_with_another_base_url(target: Target) -> None:
    plain, streamed = ALONE.format(CAT), LATER.format(CALLED, 2, CAT)
    said = [f"user: {CAT}", f"assistant: {plain}", f"user: {CALLED}", f"assistant: {streamed}"]
    assert read_output("assistants.py", target).splitlines() == [plain, streamed, *said]


@contextmanager
def serve_http(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of an HTTP server for `handler`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Line(http.server.BaseHTTPRequestHandler):
    """A proxy that breaks the connection after each piece of a reply."""

    protocol_version = "HTTP/1.1"

    def __init__(self, port: int, positions: list[str | None], broken: Callable[[], None], *connection: Any) -> None:
        self.port, self.positions, self.broken = port, positions, broken
        super().__init__(*connection)

    def do_GET(self) -> None:
        self.positions.append(self.headers["Last-Event-ID"])
        self.pass_on()

    def do_POST(self) -> None:
        self.pass_on()

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        behind = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        behind.request(self.command, self.path, body, dict(self.headers))
        answer = behind.getresponse()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        breaks = False
        for line in answer:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
            breaks = breaks or b'"CHUNK"' in line
            if breaks and line == b"\n":
                self.close_connection = True
                behind.close()
                self.broken()
                return
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class Page(http.server.SimpleHTTPRequestHandler):
    """An origin that serves only the examples."""

    def __init__(self, *connection: Any) -> None:
        super().__init__(*connection, directory=str(EXAMPLES))

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def replies() -> ScriptedReplies:
    return ScriptedReplies(STORY)


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    with serve_http(Page) as url:
        yield url


@pytest.fixture(scope="module")
def steered(replies: ScriptedReplies, origin: str) -> Iterator[ServerProcess]:
    """A server whose replies the test controls, and which the pages of `origin` may call."""
    with serve_replies(replies) as url, serve(OPENAI_BASE_URL=url, CORS_ORIGINS=origin) as served:
        yield served


@pytest.mark.parametrize("name", ["streaming.py", "streaming.mjs"])
class TestStreaming:
    def test_it_prints_the_reply(self, target: Target, name: str) -> None:
        assert read_output(name, target) == f"{ALONE.format(STORY)}\n"

    def test_it_goes_on_where_it_was_each_time_that_the_line_breaks(
        self, replies: ScriptedReplies, steered: ServerProcess, name: str
    ) -> None:
        pieces = iter(["안녕, ", "😀 once\u2028", "upon a ", "time."])
        positions: list[str | None] = []

        def go_on() -> None:
            piece = next(pieces, None)
            replies.end(STORY) if piece is None else replies.say(STORY, piece)

        go_on()
        with serve_http(partial(Line, steered.port, positions, go_on)) as url:
            done = run_example(name, Target(url))
        assert done.stdout == "안녕, 😀 once\u2028upon a time.\n"
        assert positions == ["0", "4", "11", "18", "23"]
        assert done.stderr.count("characters]") == 4


READ = """async (url) => {
    const { ask } = await import("/streaming.mjs");
    let text = "";
    for await (const event of ask(url, "안녕")) text += event.content ?? "";
    return text;
}"""


def test_the_one_in_javascript_runs_in_a_page_of_another_origin(origin: str, steered: ServerProcess) -> None:
    with launch_chromium() as browser:
        page = browser.new_page()
        page.goto(origin)
        assert page.evaluate(READ, steered.url) == "re: 안녕"


@pytest.mark.parametrize("name", NAMES)
def test_each_says_at_its_top_how_it_is_run(name: str) -> None:
    top = [line.lstrip("#/ ") for line in (EXAMPLES / name).read_text(encoding="utf-8").splitlines()[:12]]
    run = f"{find_program(name)} examples/{name}"
    assert [line for line in top if line.startswith(run)]
    assert f"BASE_URL=https://chat.example.com {run}" in top


@pytest.mark.parametrize("name", NAMES)
def test_each_says_which_key_it_takes(name: str) -> None:
    assert "CONVERSATION_KEY is the key of a protected server" in (EXAMPLES / name).read_text(encoding="utf-8")


def test_readme_lists_each() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Examples\n")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| \[(.+?)\]\(examples/\1\) \|", section, re.MULTILINE)) == NAMES


def test_each_takes_the_address_of_a_server_on_this_machine_where_none_is_named() -> None:
    texts = {name: (EXAMPLES / name).read_text(encoding="utf-8") for name in NAMES}
    assert [name for name, text in texts.items() if "http://localhost:10000" not in text] == []
