"""A server with runs that are open: many that can be cancelled, and one that takes outputs of functions for ever."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from server.domain import ToolCall
from server.upstream.protocol import Completion, CompletionRequest
from tests.support.process import Served, serve
from tests.support.replies_over_http import over_http

MANY = 200
"""Of what can be cancelled or deleted only once."""

TOOL = {"type": "function", "function": {"name": "look"}}


class Unending:
    """Answers a question that begins with `wait` when it is released, and wants a function called after `look`."""

    def __init__(self) -> None:
        self._released = threading.Event()

    def __call__(self, call: CompletionRequest) -> Iterator[str | Completion]:
        *_, last = [{"role": "user", "content": ""}, *orjson.loads(call.messages)]
        if last["content"].startswith("wait"):
            self._released.wait()
        elif last["content"] == "look" or last["role"] == "tool":
            yield Completion("told", None, "tool_calls", (ToolCall("call_1", "look", "{}"),))
            return
        yield "Yes."

    def release(self) -> None:
        self._released.set()


@contextmanager
def served_with_open_runs(**env: str) -> Iterator[tuple[Served, dict[str, list[str]]]]:
    """The server, with `env` as further settings, and by their names the ids that can be had of it."""
    with over_http(Unending()) as url, serve(OPENAI_BASE_URL=url, MAX_WAITING_RUNS=str(MANY), **env) as served:
        # Its first run waits for outputs, and is not among those that can be cancelled: a question behind it is refused
        # at once, where it would have to wait behind one that is written.
        busy, asked = (made(served, "/threads", messages=[{"role": "user", "content": "look"}]) for _ in range(2))
        first = made(served, f"/threads/{busy}/runs", tools=[TOOL])
        for number in range(MANY):
            question = {"client_name": busy, "input": f"wait {number}"}
            assert served.ask("POST", "/query", question, Prefer="wait=0")[0] == 202
        answered = made(served, "/threads", messages=[{"role": "user", "content": str(n)} for n in range(MANY)])
        run = made(served, f"/threads/{answered}/runs")
        yield (
            served,
            {
                "BUSY": [busy],
                "CANCELLABLE": [each for each in ids(served, busy, "runs") if each != first],
                "ASKED": [asked],
                "ASKED_RUN": [made(served, f"/threads/{asked}/runs", tools=[TOOL])],
                "ANSWERED": [answered],
                "ANSWERED_RUN": [run],
                "ANSWERED_STEP": ids(served, answered, f"runs/{run}/steps"),
                "DELETABLE": ids(served, answered, "messages"),
                "DELETABLE_THREADS": [made(served, "/threads") for _ in range(MANY)],
            },
        )


def made(served: Served, path: str, **body: Any) -> str:
    """The id of what is made."""
    status, answer = served.ask("POST", f"/api/v1{path}", body)
    assert status == 200, answer
    return str(answer["id"])


def ids(served: Served, thread_id: str, what: str) -> list[str]:
    found: list[str] = []
    more = ""
    while True:
        _, page = served.ask("GET", f"/api/v1/threads/{thread_id}/{what}?limit=100{more}")
        found += [each["id"] for each in page["data"]]
        if not page["has_more"]:
            return found
        more = f"&after={page['last_id']}"
