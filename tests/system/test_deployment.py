"""The server as it is deployed: by make, gunicorn and systemd, on Render and Heroku. Each one on a port of its own."""

import configparser
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import Settings
from tests.support.process import ROOT, ServerProcess, await_answer, free_port, start_process

PYTHON = [sys.executable, "run.py"]
GUNICORN = [sys.executable, "-m", "gunicorn", "run:app"]
BLUEPRINT = yaml.safe_load((ROOT / "render.yaml").read_text(encoding="utf-8"))
(SERVICE,) = BLUEPRINT["services"]
VARIABLES = {each["key"]: each.get("value") for each in SERVICE["envVars"]}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return link_project(tmp_path)


def link_project(base: Path) -> Path:
    """`base`, with links to the project and no `.env`."""
    base.mkdir(exist_ok=True)
    for name in ("server", "run.py", "gunicorn.conf.py", "openapi.json", "requirements.txt", "Makefile"):
        (base / name).symlink_to(ROOT / name)
    (base / ".venv").symlink_to(sys.prefix)
    return base


@contextmanager
def start(base: Path, command: list[str], **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` in `base`, with this Python as `python`. All its processes are killed at the end of the block."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = start_process(["env", "-C", str(base), *command], base / "log", PATH=path, **env)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def serve_folder(base: Path, command: list[str], port: int, **env: str) -> Iterator[ServerProcess]:
    with start(base, command, **env) as process:
        server = ServerProcess(port, process, base / "log")
        await_answer(server)
        yield server


def refusal(base: Path, command: list[str], **env: str) -> str:
    """What is told where the server refuses to start."""
    with start(base, command, PORT=str(free_port()), **env) as process:
        assert process.wait(20) != 0
    return (base / "log").read_text()


def assert_converses(server: ServerProcess) -> None:
    status, answer = server.query("ada", "My cat is called Grace.")
    assert (status, "no model was asked" in answer["response"]) == (200, True)
    status, answer = server.query("ada", "What is my cat called?")
    assert (status, answer["response"].endswith("called Grace.")) == (200, True)
    assert server.history("ada")[::2] == ["My cat is called Grace.", "What is my cat called?"]


def gunicorns_own(log: str) -> list[str]:
    """A log without the lines of requests, and without the numbers that differ from start to start."""
    lines = [re.sub(r"^\[.*?\] ", "", line) for line in log.splitlines() if not line.startswith("{")]
    return [re.sub(r"(?<=[\[(:])\d{3,}|(?<=pid: )\d+", "N", line).removeprefix("[N] [INFO] ") for line in lines]


def render(port: int) -> dict[str, str]:
    """What Render's runtime for Python puts into the environment, on a port of ours."""
    return {
        "PORT": str(port),
        "GUNICORN_CMD_ARGS": f"--preload --access-logfile - --bind=127.0.0.1:{port}",
        "FORWARDED_ALLOW_IPS": "*",
        "WEB_CONCURRENCY": "1",
        "RENDER_EXTERNAL_URL": "https://chat.onrender.com",
        "ALLOW_OPEN": "true",
    }


class TestGunicorn:
    def test_both_commands_serve_in_the_same_way_and_stop_cleanly(self, tmp_path: Path) -> None:
        logs = []
        with ExitStack() as stack:
            servers = []
            for name, command in {"python": PYTHON, "gunicorn": GUNICORN}.items():
                port = free_port()
                running = serve_folder(
                    link_project(tmp_path / name), command, port, UPSTREAM="scripted", PORT=str(port)
                )
                servers.append(stack.enter_context(running))
            for server in servers:
                assert_converses(server)
                server.process.send_signal(signal.SIGTERM)
            for server in servers:
                assert server.process.wait(20) == 0
                logs.append(gunicorns_own(server.log()))
        assert logs[0] == logs[1]
        assert "Listening at: http://127.0.0.1:N (N)" in logs[0]
        assert logs[0].count("Booting worker with pid: N") == 1
        assert "Traceback" not in logs[0]

    @pytest.mark.parametrize(
        ("command", "env"),
        [
            (PYTHON, {"WEB_CONCURRENCY": "2"}),
            (GUNICORN, {"WEB_CONCURRENCY": "2"}),
            (PYTHON, {"WEB_CONCURRENCY": "2", "STORE_URL": "memory"}),
            ([*PYTHON, "--workers", "2"], {}),
            (GUNICORN, {"GUNICORN_CMD_ARGS": "--workers=2", "WEB_CONCURRENCY": "1"}),
            (GUNICORN, {"GUNICORN_CMD_ARGS": "--preload --access-logfile -", "WEB_CONCURRENCY": "2"}),
        ],
        ids=["python", "gunicorn", "without a colon", "as an argument", "in gunicorn's variable", "as on Render"],
    )
    def test_several_workers_on_the_memory_store_are_refused(
        self, base: Path, command: list[str], env: dict[str, str]
    ) -> None:
        log = refusal(base, command, UPSTREAM="scripted", **env)
        assert "The server cannot start" in log
        assert "Set WEB_CONCURRENCY=1" in log
        assert "STORE_URL" in log
        assert "Traceback" not in log
        assert "Booting worker" not in log


class TestSettings:
    @pytest.mark.parametrize(
        ("command", "name"),
        [(PYTHON, "MAX_BODY_BYTES"), (GUNICORN, "LOG_LEVEL"), (PYTHON, "WEB_CONCURRENCY")],
    )
    def test_a_setting_that_does_not_fit_stops_the_start_and_is_named(
        self, base: Path, command: list[str], name: str
    ) -> None:
        log = refusal(base, command, **{name: "secret-word"})
        assert log.startswith(f"The server cannot start. {name}: ")
        assert "Traceback" not in log
        assert "secret-word" not in log

    def test_a_store_that_does_not_exist_stops_the_start_and_is_named(self, base: Path) -> None:
        log = refusal(base, GUNICORN, STORE_URL="postgres://secret-word")
        assert "The server cannot start. STORE_URL: " in log
        assert log.count("Booting worker") == 1
        assert "Traceback" not in log
        assert "secret-word" not in log

    def test_a_dotenv_file_is_read_and_the_environment_wins_over_it(self, base: Path) -> None:
        port = free_port()
        lines = ("UPSTREAM=scripted", f"PORT={port}", "MAX_INPUT_CHARS=4", "MAX_INPUT_CHARS=5", "HOST=127.0.0.2")
        (base / ".env").write_text("\n".join(lines))
        with serve_folder(base, PYTHON, port, MAX_INPUT_CHARS="7", HOST="127.0.0.1", WEB_CONCURRENCY="") as server:
            assert server.query("ada", "1234567")[0] == 200
            assert server.query("ada", "12345678")[0] == 400
            assert "The file .env sets MAX_INPUT_CHARS more than once" in server.log()


class TestRender:
    def test_it_serves_under_the_arguments_that_render_gives_to_gunicorn(self, base: Path) -> None:
        port = free_port()
        with serve_folder(base, GUNICORN, port, UPSTREAM="scripted", **render(port)) as server:
            assert_converses(server)
            assert '"POST /query HTTP/1.1" 200' in server.log()
            assert "Traceback" not in server.log()

    def test_its_start_command_and_its_variables_serve_with_our_own_configuration(self, base: Path) -> None:
        port = free_port()
        given = {name: value for name, value in VARIABLES.items() if value is not None}
        disk = SERVICE["disk"]["mountPath"]
        given["STORE_URL"] = VARIABLES["STORE_URL"].replace(f"sqlite:///{disk}/", f"sqlite:///{base}/")
        assert str(base) in given["STORE_URL"]
        command = ["bash", "-c", SERVICE["startCommand"]]
        with serve_folder(base, command, port, UPSTREAM="scripted", **(render(port) | given)) as server:
            assert_converses(server)
            assert server.ask("GET", SERVICE["healthCheckPath"])[0] == 200
            _, document = server.ask("GET", "/openapi.json")
            assert document["servers"] == [{"url": "https://chat.onrender.com"}]
            assert f"Listening at: http://0.0.0.0:{port} " in server.log()
            assert "GET /healthz HTTP" not in server.log()

    def test_its_conversations_live_on_its_disk(self) -> None:
        chosen = Settings.from_env(VARIABLES)
        assert chosen.effective_store_url.startswith(f"sqlite:///{SERVICE['disk']['mountPath']}/")
        assert SERVICE["disk"]["sizeGB"] >= 1
        assert SERVICE["plan"] != "free"

    def test_render_makes_up_the_key_that_protects_it(self) -> None:
        assert {"key": "ADMIN_KEY", "generateValue": True} in SERVICE["envVars"]

    def test_what_it_has_as_comments_is_the_other_store(self) -> None:
        text = (ROOT / "render.yaml").read_text(encoding="utf-8")
        (variable, service) = re.findall(r"(?:^ +# (?:- | ).*\n)+", text, re.MULTILINE)
        (other,) = yaml.safe_load(re.sub(r"^ +# ", "", variable, flags=re.MULTILINE))
        (store,) = yaml.safe_load(re.sub(r"^ +# ", "", service, flags=re.MULTILINE))
        assert (other["key"], other["fromService"]["name"]) == ("STORE_URL", store["name"])
        assert other["fromService"]["type"] == store["type"] == "keyvalue"
        assert (store["maxmemoryPolicy"], store["ipAllowList"]) == ("noeviction", [])
        assert store["plan"] != "free"

    def test_its_values_are_those_that_a_public_server_and_a_slow_stop_need(self) -> None:
        assert (SERVICE["type"], SERVICE["runtime"]) == ("web", "python")
        assert SERVICE["buildCommand"] == "pip install -r requirements.txt"
        assert SERVICE["healthCheckPath"] in ("/readyz", "/healthz")
        assert {"key": "OPENAI_API_KEY", "sync": False} in SERVICE["envVars"]
        assert re.fullmatch(r"3\.\d+\.\d+", VARIABLES["PYTHON_VERSION"])
        assert tuple(map(int, VARIABLES["PYTHON_VERSION"].split("."))) >= (3, 11)
        assert "preload" not in VARIABLES["GUNICORN_CMD_ARGS"]
        chosen = Settings.from_env(VARIABLES)
        assert (chosen.host, chosen.trusted_proxies) == ("0.0.0.0", 1)
        assert "ALLOW_OPEN" not in VARIABLES
        assert chosen.graceful_seconds + 10 < SERVICE["maxShutdownDelaySeconds"] <= 300

    def test_every_value_is_a_text_as_render_wants_it(self) -> None:
        assert [name for name, value in VARIABLES.items() if not isinstance(value, str | None)] == []


class TestSystemd:
    def test_the_documented_service_stops_in_time_and_writes_where_it_may(self) -> None:
        text = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
        (written,) = re.findall(r"^```ini\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        unit = configparser.ConfigParser(interpolation=None)
        unit.read_string(written)
        service = unit["Service"]
        program, *arguments = service["ExecStart"].split()
        assert (Path(program).name, arguments) == ("python", PYTHON[1:])
        assert Path(program).is_relative_to(service["WorkingDirectory"])
        chosen = Settings.from_env(dict([service["Environment"].split("=", 1)]))
        folder = f"/var/lib/{service['StateDirectory']}"
        assert chosen.effective_store_url == f"sqlite:///{folder}/chatbot.db"
        assert float(service["TimeoutStopSec"]) > chosen.graceful_seconds + 10
        assert service["KillMode"] == "mixed"
        assert "User" in service


class TestHeroku:
    def test_its_command_serves_one_worker_and_keeps_to_thirty_seconds(self, base: Path) -> None:
        kind, _, command = (ROOT / "Procfile").read_text(encoding="utf-8").strip().partition(": ")
        assert kind == "web"
        chosen = Settings.from_env(dict(each.split("=", 1) for each in shlex.split(command) if "=" in each))
        assert chosen.query_deadline_seconds < 30
        assert chosen.graceful_seconds + 10 < 30
        port = free_port()
        shell = ["bash", "-c", command]
        with serve_folder(base, shell, port, UPSTREAM="scripted", PORT=str(port), WEB_CONCURRENCY="2") as server:
            assert_converses(server)
            assert f"Listening at: http://0.0.0.0:{port} " in server.log()


class TestMake:
    def test_run_without_a_key_says_loudly_that_it_is_the_demonstration_and_stops_at_ctrl_c(self, base: Path) -> None:
        port = free_port()
        (base / ".env").write_text((ROOT / ".env.example").read_text(encoding="utf-8"))
        with serve_folder(base, ["make", "-o", ".venv/run", "run", f"PORT={port}"], port) as server:
            assert_converses(server)
            os.killpg(server.process.pid, signal.SIGINT)
            server.process.wait(20)  # Its code is that of make, which may see the server end before the signal.
            log = server.log()
            with pytest.raises(ConnectionRefusedError):
                server.ask("GET", "/healthz")
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        notice = readme.split("$ make run\n")[1].split("```")[0]
        assert len(notice.splitlines()) >= 5
        assert log.startswith(notice)
        assert "OPENAI_API_KEY" in notice
        assert "Traceback" not in log

    def test_run_does_not_pretend_where_somebody_chose_who_is_to_write(self, base: Path) -> None:
        port = free_port()
        (base / ".env").write_text(f"export UPSTREAM='openai'\nPORT={port}\n")
        with serve_folder(base, ["make", "-o", ".venv/run", "run"], port) as server:
            assert "DEMONSTRATION" not in server.log()
            assert "No model is set" in server.log()
            assert server.ask("GET", "/health")[1]["openai_api"] == "not_configured"
            status, answer = server.query("ada", "hi")
        assert (status, answer["code"]) == (500, "not_configured")
        assert "OPENAI_API_KEY" in answer["error"]

    @pytest.mark.parametrize(
        ("target", "changed"),
        [
            ("run", "requirements.txt"),
            ("test", "requirements.txt"),
            ("test", "requirements-dev.txt"),
            ("test", "requirements-terminal.txt"),
            ("chat", "requirements-terminal.txt"),
        ],
    )
    def test_a_change_of_requirements_installs_again(self, tmp_path: Path, target: str, changed: str) -> None:
        (tmp_path / ".venv").mkdir()
        (tmp_path / "Makefile").symlink_to(ROOT / "Makefile")
        written = ("requirements.txt", "requirements-dev.txt", "requirements-terminal.txt")
        installed = (".venv/run", ".venv/dev", ".venv/chat")
        for name in (*written, *installed):
            (tmp_path / name).touch()
            age = 2 if name in written else 1
            os.utime(tmp_path / name, (1_000_000 - age, 1_000_000 - age))
        assert "pip install" not in self.planned(tmp_path, target)
        os.utime(tmp_path / changed, (1_000_000, 1_000_000))
        assert "pip install" in self.planned(tmp_path, target)

    def planned(self, base: Path, target: str) -> str:
        """What make would do."""
        return subprocess.check_output(["make", "-n", "-C", str(base), target], text=True)


class TestCi:
    @pytest.mark.parametrize(("failing", "asked"), [("", ["check", "test"]), ("check", ["check"])])
    def test_it_checks_and_tests_and_stops_at_the_first_failure(
        self, tmp_path: Path, failing: str, asked: list[str]
    ) -> None:
        make = tmp_path / "make"
        make.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ "$1" != "{failing}" ]\n')
        make.chmod(0o755)
        env: dict[str, Any] = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        ran = subprocess.run([ROOT / ".ci" / "run"], env=env, cwd=tmp_path)
        assert (ran.returncode == 0) is (failing == "")
        assert (tmp_path / "asked").read_text().split() == asked
