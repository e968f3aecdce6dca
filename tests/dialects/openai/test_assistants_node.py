"""OpenAI's npm package against a server under gunicorn. Its scripts are in tests/node/."""

import os
import subprocess
from collections.abc import Iterator

import orjson
import pytest

from server.domain import ToolCall
from server.upstream.protocol import Completion, CompletionRequest
from tests.support.process import ROOT, serve
from tests.support.replies_over_http import serve_replies
from tests.support.requirements import find_command

FOLDER = ROOT / "tests" / "node"


class Looking:
    """Repeats a question in two pieces; at `look` it requires a tool call, and then repeats its output."""

    def __call__(self, call: CompletionRequest) -> Iterator[str | Completion]:
        last = orjson.loads(call.messages)[-1]
        if last["role"] == "tool":
            yield f"It is {last['content']}."
        elif last["content"] == "look":
            yield Completion("told", None, "tool_calls", (ToolCall("call_1", "look", '{"at": "it"}'),))
        else:
            yield "re: "
            yield last["content"]

    def release(self) -> None:
        """Does nothing, since no reply blocks."""


def test_the_npm_package_does_threads_messages_runs_polls_and_streams() -> None:
    node = find_command("node", "nodejs npm")
    if not (FOLDER / "node_modules" / "openai").is_dir():
        missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        missing("OpenAI's npm package is missing: npm ci --prefix tests/node")
    with serve_replies(Looking()) as url, serve(OPENAI_BASE_URL=url) as served:
        run_script = subprocess.run(
            [node, "--test", "assistants.test.mjs"],
            cwd=FOLDER,
            env={**os.environ, "SERVER_URL": served.url},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert run_script.returncode == 0, run_script.stdout + run_script.stderr
    assert "fail 0" in run_script.stdout
    assert "pass 10" in run_script.stdout
