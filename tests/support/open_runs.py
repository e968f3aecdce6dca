"""Servers with runs of many states: some can be cancelled, one requires action again after each output, some failed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from server.domain import ToolCall
from server.upstream.protocol import Completion, CompletionRequest
from tests.support.process import ServerProcess, serve
from tests.support.replies_over_http import serve_replies

MANY = 200
"""How many of each there are of what can be cancelled or deleted only once."""

TOOL = {"type": "function", "function": {"name": "look"}}


class OpenReplies:
    """Blocks a question that begins with `wait` until `release`, and answers `look` with a tool call, repeatedly.

    A question that begins with `nothing` gets an empty reply, so that its run fails.
    """

    def __init__(self) -> None:
        self._released = threading.Event()

    def __call__(self, call: CompletionRequest) -> Iterator[str | Completion]:
        messages: list[Any] = orjson.loads(call.messages)
        last = messages[-1] if messages else {"role": "user", "content": ""}
        if last["content"].startswith("wait"):
            self._released.wait()
        elif last["content"] == "look" or last["role"] == "tool":
            yield Completion("told", None, "tool_calls", (ToolCall("call_1", "look", "{}"),))
            return
        elif last["content"].startswith("nothing"):
            return
        yield "Yes."

    def release(self) -> None:
        self._released.set()


@contextmanager
def serve_open_runs(**env: str) -> Iterator[tuple[ServerProcess, dict[str, list[str]]]]:
    """The server, with `env` as further settings, and the ids of its objects by their kinds."""
    with (
        serve_replies(OpenReplies()) as url,
        serve(tls=None, OPENAI_BASE_URL=url, MAX_WAITING_RUNS=str(MANY), **env) as served,
    ):
        # The first run requires action, and is not among those that can be cancelled. A question behind it is
        # refused at once; behind a running run it would wait.
        busy, paused = (create(served, "/threads", messages=[{"role": "user", "content": "look"}]) for _ in range(2))
        first = create(served, f"/threads/{busy}/runs", tools=[TOOL])
        for number in range(MANY):
            question = {"client_name": busy, "input": f"wait {number}"}
            assert served.ask("POST", "/query", question, Prefer="wait=0")[0] == 202
        answered = create(served, "/threads", messages=[{"role": "user", "content": str(n)} for n in range(MANY)])
        run = create(served, f"/threads/{answered}/runs")
        yield (
            served,
            {
                "BUSY": [busy],
                "CANCELLABLE": [each for each in list_ids(served, busy, "runs") if each != first],
                "ASKED": [paused],
                "ASKED_RUN": [create(served, f"/threads/{paused}/runs", tools=[TOOL])],
                "ANSWERED": [answered],
                "ANSWERED_RUN": [run],
                "ANSWERED_STEP": list_ids(served, answered, f"runs/{run}/steps"),
                "DELETABLE": list_ids(served, answered, "messages"),
                "DELETABLE_THREADS": [create(served, "/threads") for _ in range(MANY)],
            },
        )


@contextmanager
def serve_turns(name: str, **env: str) -> Iterator[tuple[ServerProcess, dict[str, list[str]]]]:
    """A server with a conversation `name` that has a completed and a failed run, and the ids of these.

    Many more conversations have one answered question, `lee` among them.
    """
    with serve_replies(OpenReplies()) as url, serve(tls=None, OPENAI_BASE_URL=url, **env) as served:
        for question in ("nothing", "really?"):
            served.ask("POST", "/query", {"client_name": name, "input": question})
        _, page = served.ask("GET", f"/conversations/runs?client_name={name}")
        completed, failed = page["runs"]
        assert (completed["status"], failed["status"]) == ("completed", "failed")
        names = [f"{name} {number}" for number in range(MANY)]
        for each in ("lee", *names):  # The document's examples are about Lee.
            assert served.ask("POST", "/query", {"client_name": each, "input": "really?"})[0] == 200
        yield (
            served,
            {
                "FAILED_RUN": [failed["id"]],
                "ENDED_RUN": [completed["id"], failed["id"]],
                "ANSWERED_NAMES": names,
            },
        )


def create(served: ServerProcess, path: str, **body: Any) -> str:
    """The id of the created object."""
    status, answer = served.ask("POST", f"/api/v1{path}", body)
    assert status == 200, answer
    return str(answer["id"])


def list_ids(served: ServerProcess, thread_id: str, kind: str) -> list[str]:
    ids: list[str] = []
    more = ""
    while True:
        _, page = served.ask("GET", f"/api/v1/threads/{thread_id}/{kind}?limit=100{more}")
        ids += [each["id"] for each in page["data"]]
        if not page["has_more"]:
            return ids
        more = f"&after={page['last_id']}"
