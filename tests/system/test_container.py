"""The image and the compose file, without Docker: what they name exists, what they run is run, and values fit."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import Settings
from tests.support.process import ROOT, ServerProcess, free_port, serve
from tests.support.redis_server import needs_redis, redis_server
from tests.system.test_deployment import assert_converses, serve_folder

GUNICORN_SECONDS = 10
"""How much longer than GRACEFUL_SECONDS gunicorn waits before it kills a worker."""


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile, and its argument as one line."""
    text = re.sub(r"^#.*\n|\\\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, argument) for name, argument in lines]


INSTRUCTIONS = instructions()
LAST_STAGE = INSTRUCTIONS[max(at for at, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM") :]


def told(name: str) -> str:
    """The argument of the only instruction of that name in the last stage."""
    (argument,) = [argument for each, argument in LAST_STAGE if each == name]
    return argument


ENV = dict(each.split("=", 1) for each in shlex.split(told("ENV")))
HEALTH_CHECK: list[str] = json.loads(told("HEALTHCHECK").partition("CMD ")[2])
COPIED = [
    source
    for name, argument in INSTRUCTIONS
    if name == "COPY" and "--from" not in argument
    for source in argument.split()[:-1]
]
"""What the image has of the repository."""

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVER: dict[str, Any] = COMPOSE["services"]["server"]
REDIS: dict[str, Any] = COMPOSE["services"]["redis"]


def is_healthy(port: int, **env: str) -> bool:
    """What the image's health check finds at a port."""
    command = [sys.executable, *HEALTH_CHECK[1:]]
    ran = subprocess.run(command, env={**os.environ, "PORT": str(port), **env}, capture_output=True, timeout=20)
    return ran.returncode == 0


@contextmanager
def always(status: int) -> Iterator[int]:
    """The port of a server that answers everything with one status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestDockerfile:
    def test_it_serves_from_what_it_copies_and_nothing_else(self, tmp_path: Path) -> None:
        for name in COPIED:
            (tmp_path / name).symlink_to(ROOT / name)
        port = free_port()
        env = {**ENV, "PORT": str(port), "STORE_URL": f"sqlite:///{tmp_path}/chatbot.db"}
        del env["PATH"]
        command: list[str] = json.loads(told("CMD"))
        with serve_folder(tmp_path, command, port, UPSTREAM="scripted", **env) as server:
            assert_converses(server)
            assert server.ask("GET", "/openapi.json")[0] == 200
            assert is_healthy(port)
            assert f"Listening at: http://0.0.0.0:{port} " in server.log()

    def test_all_that_it_copies_is_let_through_and_nothing_more(self) -> None:
        lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        rules = [line for line in lines if line and not line.startswith("#")]
        assert rules[0] == "*"
        assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(COPIED)

    def test_it_has_two_stages_of_one_small_image_with_a_version(self) -> None:
        images = [argument.split()[0] for name, argument in INSTRUCTIONS if name == "FROM"]
        assert len(images) == 2
        assert len(set(images)) == 1
        assert re.fullmatch(r"python:3\.\d+-slim", images[0])
        assert tuple(map(int, images[0][len("python:") : -len("-slim")].split("."))) >= (3, 11)

    def test_it_installs_what_the_server_requires_without_a_cache(self) -> None:
        (install,) = [argument for name, argument in INSTRUCTIONS if name == "RUN" and "pip install" in argument]
        assert "--no-cache-dir" in install
        assert "requirements.txt" in install

    def test_its_user_is_a_number_who_alone_may_read_and_write_the_conversations(self) -> None:
        user = told("USER")
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
        owner, group = user.split(":")
        volume = told("VOLUME")
        (made,) = [argument for name, argument in LAST_STAGE if name == "RUN" and volume in argument]
        assert made == f"install --directory --mode 700 --owner {owner} --group {group} {volume}"
        assert ENV["STORE_URL"].startswith(f"sqlite:///{volume}/")

    def test_its_values_are_settings_that_fit(self) -> None:
        assert ENV.keys() - {"PATH"} <= {each.name.upper() for each in fields(Settings)}
        chosen = Settings.from_env(ENV)
        assert (chosen.host, str(chosen.port)) == ("0.0.0.0", told("EXPOSE"))

    def test_the_documented_commands_give_replies_the_time_to_end(self) -> None:
        text = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
        (seconds,) = re.findall(r"docker run .*--stop-timeout (\d+)", text)
        assert int(seconds) > Settings.from_env(ENV).graceful_seconds + GUNICORN_SECONDS

    def test_its_command_is_no_shell_that_would_keep_signals(self) -> None:
        assert json.loads(told("CMD")) == ["python", "run.py"]
        assert HEALTH_CHECK[0] == "python"


class TestHealthCheck:
    def test_a_server_that_is_ready_is_healthy_whatever_proxy_there_is(self, demo: ServerProcess) -> None:
        assert is_healthy(demo.port)
        assert is_healthy(demo.port, http_proxy=f"http://127.0.0.1:{free_port()}")

    def test_no_server_is_not(self) -> None:
        assert not is_healthy(free_port())

    @pytest.mark.parametrize(("status", "expected"), [(200, True), (503, False), (404, False)])
    def test_the_status_counts(self, status: int, expected: bool) -> None:
        with always(status) as port:
            assert is_healthy(port) is expected


class TestCompose:
    def test_it_does_not_start_without_a_key_and_says_how_to_make_one(self) -> None:
        (sentence,) = re.findall(r"^\$\{ADMIN_KEY:\?(.+)\}$", SERVER["environment"]["ADMIN_KEY"])
        assert "openssl rand" in sentence

    def test_its_values_are_settings_that_fit(self) -> None:
        given = {name: value for name, value in SERVER["environment"].items() if not value.startswith("$")}
        chosen = Settings.from_env(given)
        assert chosen.host == "0.0.0.0"
        assert SERVER["ports"][0].endswith(f":{chosen.port}")
        assert chosen.effective_store_url == "redis://redis:6379"
        assert SERVER["environment"]["OPENAI_API_KEY"] == "${OPENAI_API_KEY:-}"

    def test_the_server_is_built_here_and_has_longer_to_stop_than_replies_have_to_end(self) -> None:
        assert SERVER["build"] == "."
        (seconds,) = re.findall(r"^(\d+)s$", SERVER["stop_grace_period"])
        assert int(seconds) > float(SERVER["environment"]["GRACEFUL_SECONDS"]) + GUNICORN_SECONDS

    def test_only_this_machine_reaches_the_server_and_only_the_server_redis(self) -> None:
        assert [each for each in SERVER["ports"] if not each.startswith("127.0.0.1:")] == []
        assert "ports" not in REDIS

    def test_a_models_server_on_this_machine_has_the_documented_name(self) -> None:
        text = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
        (host,) = re.findall(r"^OPENAI_BASE_URL=http://([\w.]+):\d+/v1$", text, re.MULTILINE)
        assert SERVER["extra_hosts"] == [f"{host}:host-gateway"]

    def test_the_server_waits_for_a_redis_that_keeps_everything(self) -> None:
        assert SERVER["depends_on"]["redis"]["condition"] == "service_healthy"
        assert REDIS["healthcheck"]["test"][0] == "CMD"
        assert REDIS["volumes"] == [f"{name}:/data" for name in COMPOSE["volumes"]]
        assert re.fullmatch(r"valkey/valkey:\d+-alpine", REDIS["image"])

    @needs_redis
    def test_a_redis_with_these_arguments_is_healthy_and_keeps_what_was_said_when_it_is_killed(self) -> None:
        program, *arguments = REDIS["command"]
        assert program == "valkey-server"
        options = {
            name.removeprefix("--").replace("-", "_"): value
            for name, value in zip(arguments[::2], arguments[1::2], strict=True)
        }
        with redis_server(**options) as redis:
            with serve(UPSTREAM="scripted", STORE_URL=redis.url) as server:
                assert server.query("ada", "My cat is called Grace.")[0] == 200
                assert "set " not in server.log()
            redis.stop(signal.SIGKILL)
            redis.start()
            with serve(UPSTREAM="scripted", STORE_URL=redis.url) as server:
                assert server.history("ada")[0] == "My cat is called Grace."
