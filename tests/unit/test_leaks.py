"""The search after every test finds each kind of leak in each place, and accuses no sound code."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask, request

from server.metrics import Metrics
from tests.support.leaks import LEAKS, Leaks, collect_reply
from tests.support.process import start_process

QUESTION, REPLY, KEY = "Who was Ada?", "A mathematician.", "ck_Zwingenberg"


def add_question(leaks: Leaks) -> str:
    leaks.add_request("/query", {}, json.dumps({"client_name": "ada", "input": QUESTION}).encode())
    return QUESTION


def add_search(leaks: Leaks) -> str:
    leaks.add_request("/conversations/search?q=Who%20was%20Ada?", {}, b"")
    return QUESTION


def add_reply(leaks: Leaks) -> str:
    leaks.add_answer("GET /history", 200, json.dumps([{"content": REPLY}]).encode())
    return REPLY


def add_bearers_key(leaks: Leaks) -> str:
    leaks.add_request("/query", {"Authorization": f"Bearer {KEY}"}, b"")
    return KEY


def add_key(leaks: Leaks) -> str:
    leaks.add_request("/query", {"X-API-Key": KEY}, b"")
    return KEY


def add_operators_key(leaks: Leaks) -> str:
    leaks.add_settings({"ADMIN_KEY": KEY})
    return KEY


def leak_into_log(leaks: Leaks, content: str, folder: Path) -> None:
    log = folder / "log"
    log.touch()
    leaks.watch_log(log)
    log.write_text(f"Booting worker\n{json.dumps({'message': f'asked: {content}'})}\n")


def leak_into_error(leaks: Leaks, content: str, _: Path) -> None:
    leaks.add_answer("POST /query", 400, json.dumps({"error": f"{content} is no question."}).encode())


def leak_into_metrics(leaks: Leaks, content: str, _: Path) -> None:
    metrics = Metrics()
    metrics.requests.add("query", content, "200")
    leaks.add_metrics(metrics)


@pytest.mark.parametrize("add", [add_question, add_search, add_reply, add_bearers_key, add_key, add_operators_key])
@pytest.mark.parametrize("leak", [leak_into_log, leak_into_error, leak_into_metrics])
def test_every_content_is_found_in_every_place(
    tmp_path: Path, add: Callable[[Leaks], str], leak: Callable[[Leaks, str, Path], None]
) -> None:
    leaks = Leaks()
    content = add(leaks)
    leak(leaks, content, tmp_path)
    (found,) = leaks.find_leaks()
    assert found.startswith(repr(content))
    assert leaks.find_leaks() == []  # It is told once.


@pytest.mark.parametrize("write", [json.dumps, repr, lambda content: json.dumps(content, ensure_ascii=False)])
@pytest.mark.parametrize("content", ['"\nGrüße aus Köln', 'it\'s\\mine and "yours"', "안녕하세요", "x" * 200 + "\x00"])
def test_a_content_is_found_however_it_is_written(content: str, write: Callable[[str], str]) -> None:
    leaks = Leaks()
    leaks.add_content(content)
    leaks.add_text("a log", f"asked: {write(content)[:100]}")
    assert len(leaks.find_leaks()) == 1


@pytest.mark.parametrize(
    "content",
    ["hi", "conversation_busy", "2026-11-29T18:04:14Z", "run_" + "0a" * 16, "12345", '"\n\x00'],
    ids=["short", "in the source", "time", "id", "number", "nothing plain"],
)
def test_what_a_sound_log_may_have_is_not_looked_for(content: str) -> None:
    leaks = Leaks()
    leaks.add_content(content)
    leaks.add_text("a log", f"conversation_busy {content}")
    assert leaks.find_leaks() == []


def test_the_requests_errors_logs_and_metrics_of_every_app_are_searched() -> None:
    app = Flask("leaky")
    app.extensions["metrics"] = metrics = Metrics()

    @app.post("/query")
    def query() -> tuple[dict[str, str], int]:
        question = request.json["input"]  # type: ignore[index]
        logging.getLogger("server.leaky").info("asked: %s", question)
        metrics.requests.add("query", question, "400")
        return {"error": question}, 400

    assert app.test_client().post("/query", json={"input": QUESTION}).status_code == 400
    found = [each.partition(" is in ")[2].partition(":")[0] for each in LEAKS.find_leaks()]
    assert sorted(found) == ["the answer 400 to POST /query", "the log of an app", "the metrics of an app"]


def test_a_reply_is_collected_whole_from_the_pieces_of_an_upstream() -> None:
    assert list(collect_reply(["A mathe", "matician."])) == ["A mathe", "matician."]
    logging.getLogger("server.leaky").info(REPLY)
    assert len(LEAKS.find_leaks()) == 1


def test_the_logs_of_every_server_process_are_searched(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os; print(os.environ['ADMIN_KEY'])"]
    assert start_process(command, tmp_path / "log", ADMIN_KEY=KEY).wait(60) == 0
    assert len(LEAKS.find_leaks()) == 1
