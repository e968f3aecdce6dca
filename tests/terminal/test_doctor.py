"""`doctor`: what it finds, and that it prints no secret."""

from pathlib import Path

import pytest

from tests.support.process import ServerProcess, free_port, serve
from tests.terminal.conftest import Run

KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"


def test_nothing_is_wrong_with_a_server_that_works(run: Run, served: ServerProcess) -> None:
    ended = run("doctor")
    assert ended.returncode == 0, ended.stdout
    assert f"● server    {served.url} answers, version v" in ended.stdout
    assert "● store     " in ended.stdout
    assert "● model     The model's server answers, with 1 model." in ended.stdout
    assert ended.stdout.endswith("Nothing is wrong.\n")


def test_a_server_that_is_down_is_told_and_ends_with_2(run: Run) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    ended = run("doctor", "--server", address)
    assert ended.returncode == 2
    assert f"✕ server    Nothing listens at {address}.\n            → Start it with `make run`." in ended.stdout


def test_another_port_in_the_settings_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=8000\n")
    ended = run("doctor", "--server", f"http://127.0.0.1:{free_port()}")
    assert "PORT here is 8000" in ended.stdout
    assert "--server http://127.0.0.1:8000" in ended.stdout


def test_another_program_on_the_port_is_told(run: Run, lasting_upstream: str) -> None:
    ended = run("doctor", "--server", lasting_upstream.removesuffix("/v1"))
    assert ended.returncode == 2
    assert "✕ server    Another program listens at " in ended.stdout


@pytest.mark.parametrize(
    ("settings", "told", "advice"),
    [
        ("", "○ key       No model key is set here", "put OPENAI_API_KEY=sk-... into the file .env"),
        ("OPENAI_API_KEY=sk-...", "✕ key       OPENAI_API_KEY is a placeholder", "Copy the whole key"),
        (f"OPENAI_API_KEY='{KEY[:9]} {KEY[9:]}'", "✕ key       OPENAI_API_KEY has spaces", "Copy the whole key"),
        ("OPENAI_API_KEY=sk-short", "✕ key       OPENAI_API_KEY has 8 characters", "Copy the whole key"),
        (f"OPENAI_API_KEY={KEY}", "● key       OPENAI_API_KEY is set.", ""),
        ("UPSTREAM=scripted", "● key       UPSTREAM=scripted is the demonstration", ""),
        ("OPENAI_BASE_URL=localhost:11434", "✕ key       OPENAI_BASE_URL is no address", "http://localhost:11434/v1"),
        ("OPENAI_BASE_URL=http://x/v1/chat/completions", "✕ key       OPENAI_BASE_URL names an operation", "End it"),
        (f"OPENAI_KEY={KEY}", "✕ settings  The file .env has OPENAI_KEY", "Name it OPENAI_API_KEY."),
        ("one two = three", "✕ settings  Line 1 of .env is no NAME=value.", "Write it as NAME=value"),
        ("STORE_URL=mysql://x", "✕ store     STORE_URL names no store.", "sqlite:///FILE"),
        ("STORE_URL=sqlite:///nowhere/x.db", "✕ store     The folder of the SQLite file does not exist", "mkdir -p"),
    ],
)
def test_what_is_wrong_with_the_settings_is_told_with_what_to_do(
    run: Run, tmp_path: Path, settings: str, told: str, advice: str
) -> None:
    (tmp_path / ".env").write_text(f"{settings}\n")
    ended = run("doctor", "--server", f"http://127.0.0.1:{free_port()}")
    assert told in ended.stdout
    assert advice in ended.stdout


@pytest.mark.parametrize(
    ("settings", "told", "advice"),
    [
        ("DEFAULT_TEMPERATURE=hot", "✕ settings  The server cannot start. DEFAULT_TEMPERATURE: must be ", "Correct it"),
        ("MAX_BODY_BYTES=1", "✕ settings  The server cannot start. MAX_BODY_BYTES: must be between ", "Correct it"),
        ("WEB_CONCURRENCY=2", "✕ settings  The server cannot start: the memory store holds for one", "Correct it"),
        (
            "PORT=8000\nPORT=8001",
            "○ settings  The file .env sets PORT more than once, and the last",
            "→ Remove the others.",
        ),
        ("DEFAULT_TEMPRATURE=1", "○ settings  The file .env has DEFAULT_TEMPRATURE", "→ Write DEFAULT_TEMPERATURE if"),
        ("log_level=debug", "○ settings  The file .env has log_level, which is no setting.", "→ Write LOG_LEVEL if"),
    ],
)
def test_the_settings_are_judged_by_the_rules_of_the_server(
    run: Run, tmp_path: Path, settings: str, told: str, advice: str
) -> None:
    (tmp_path / ".env").write_text(f"{settings}\nUPSTREAM=scripted\n")
    ended = run("doctor")
    assert told in ended.stdout
    assert advice in ended.stdout
    assert ended.returncode == int("✕" in told)


def test_names_that_resemble_no_setting_are_nobodys_business(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("EDITOR=vi\nRENDER_EXTERNAL_HOSTNAME=x\nAWS_REGION=y\nCONVERSATION_SERVER=z\n")
    assert "no setting" not in run("doctor").stdout


def test_a_wrong_setting_is_told_once(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"STORE_URL=sqlite:///nowhere/x.db\nOPENAI_KEY={KEY}\nOPENAI_BASE_URL=x\n")
    told = run("doctor", "--server", f"http://127.0.0.1:{free_port()}").stdout
    assert "no setting" not in told
    assert "cannot start" not in told


def test_a_file_that_is_not_in_utf_8_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("OPENAI_API_KEY=x\n".encode("utf-16"))
    ended = run("doctor")
    assert ended.returncode == 1
    assert "✕ settings  The file .env is not in UTF-8" in ended.stdout
    assert "iconv -f UTF-16" in ended.stdout


def test_a_server_without_a_key_is_told(run: Run) -> None:
    with serve() as served:
        ended = run("doctor", "--server", served.url)
    assert ended.returncode == 1
    assert "✕ model     The running server has no model key" in ended.stdout


def test_a_model_server_that_is_down_is_told(run: Run) -> None:
    with serve(OPENAI_BASE_URL=f"http://127.0.0.1:{free_port()}/v1") as served:
        ended = run("doctor", "--server", served.url)
    assert ended.returncode == 1
    assert "✕ model     " in ended.stdout


def test_no_secret_is_printed(run: Run, tmp_path: Path) -> None:
    password = "hunter2-hunter2"
    (tmp_path / ".env").write_text(
        f"OPENAI_API_KEY={KEY} x\nOPENAI_KEY={KEY}\nSTORE_URL=redis://:{password}@localhost:1/0\n"
        f"DEFAULT_TEMPERATURE={KEY}\nOPENAI_APIKEY={KEY}\nDEFAULT_MODEL={KEY}\nOPENAI_BASE_URL=http://me:{password}@localhost:1/v1\n"
    )
    for arguments in ([], ["--server", f"http://me:{password}@127.0.0.1:{free_port()}"]):
        ended = run("doctor", *arguments, OPENAI_API_KEY=f"{KEY}-other")
        assert KEY[:12] not in ended.stdout + ended.stderr
        assert password not in ended.stdout + ended.stderr
