"""A real server whose model answers as the test says, and the client as a program."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import ROOT, ServerProcess, serve
from tests.support.replies import ScriptedReplies
from tests.support.replies_over_http import SwitchableReplies, serve_replies
from tests.support.terminal import Terminal, clean_environment, open_terminal

Lasting = tuple[ServerProcess, SwitchableReplies]
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202etxt"
"""Clears the screen, sets the title, colours, and turns what follows around."""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def lasting() -> Iterator[Lasting]:
    switch = SwitchableReplies()
    with serve_replies(switch) as url, serve(OPENAI_BASE_URL=url) as served:
        yield served, switch


@pytest.fixture(scope="session")
def lasting_upstream() -> Iterator[str]:
    """The address of a program that is no conversation server."""
    with serve_replies(SwitchableReplies()) as url:
        yield url


@pytest.fixture
def replies() -> ScriptedReplies:
    """A test overrides it to answer some questions itself."""
    return ScriptedReplies("slow")


@pytest.fixture
def served(lasting: Lasting, replies: ScriptedReplies) -> Iterator[ServerProcess]:
    served, switch = lasting
    switch.current = replies
    yield served
    replies.release()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The name of a conversation that no other test uses."""
    return f"c{abs(hash(request.node.nodeid))}"


@pytest.fixture
def talk(served: ServerProcess, name: str, tmp_path: Path) -> Iterator[Terminal]:
    """`chat` at its first prompt."""
    with open_terminal("chat", "-c", name, "--server", served.url, XDG_STATE_HOME=str(tmp_path)) as terminal:
        terminal.wait_for_prompt()
        yield terminal


@pytest.fixture
def run(served: ServerProcess, tmp_path: Path) -> Run:
    """Runs the client with its output in pipes, in an empty folder."""

    def run(*arguments: str, piped: str | bytes = b"", **env: str) -> subprocess.CompletedProcess[str]:
        content = piped.encode() if isinstance(piped, str) else piped
        ended: subprocess.CompletedProcess[bytes] = subprocess.run(
            [sys.executable, "-m", "terminal", *arguments],
            cwd=tmp_path,
            env=clean_environment() | {"PYTHONPATH": str(ROOT), "CONVERSATION_SERVER": served.url} | env,
            input=content,
            capture_output=True,
            timeout=60,
        )
        told: Any = subprocess.CompletedProcess(
            ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode()
        )
        return told

    return run
