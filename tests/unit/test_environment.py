"""Where settings are read from: the environment, and the file `.env` in whatever encoding it was saved."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.settings import Settings
from tests.support.process import ROOT, SETTINGS

TEXT = "SYSTEM_PROMPT=한국어로 답하세요\nMAX_WAITING_RUNS=7\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which settings are read, and no variables."""
    monkeypatch.chdir(tmp_path)
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def refusal() -> str:
    with pytest.raises(ValueError) as refused:
        Settings.read()
    return str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_in_utf8_is_read_with_or_without_a_byte_order_mark(folder: Path, encoding: str, newline: str) -> None:
    (folder / ".env").write_text(TEXT, encoding=encoding, newline=newline)
    assert Settings.read() == Settings(system_prompt="한국어로 답하세요", max_waiting_runs=7)


def test_the_environment_wins_over_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("PORT=8000\nMAX_WAITING_RUNS=7\n")
    monkeypatch.setenv("PORT", "9000")
    assert Settings.read() == Settings(port=9000, max_waiting_runs=7)


def test_a_value_of_several_lines_is_the_same_from_windows(folder: Path) -> None:
    (folder / ".env").write_bytes(b'SYSTEM_PROMPT="one\r\ntwo"\r\n')
    assert Settings.read().system_prompt == "one\ntwo"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_in_utf16_is_named_with_what_to_do(folder: Path, encoding: str) -> None:
    (folder / ".env").write_text(TEXT, encoding=encoding)
    told = refusal()
    assert told.startswith("The file .env is in UTF-16; save it again as UTF-8")
    assert "iconv -f UTF-16 -t UTF-8 .env" in told


@pytest.mark.parametrize("encoding", ["cp949", "euc-kr", "johab"])
def test_a_file_in_a_korean_code_page_is_named_with_what_to_do(folder: Path, encoding: str) -> None:
    (folder / ".env").write_text(TEXT, encoding=encoding)
    told = refusal()
    assert "The file .env is not in UTF-8, but perhaps in a Korean code page; save it again as UTF-8" in told
    assert "iconv -f CP949 -t UTF-8 .env" in told


def test_without_a_file_or_with_a_folder_in_its_place_the_environment_alone_counts(folder: Path) -> None:
    assert Settings.read() == Settings()
    (folder / ".env").mkdir()
    assert Settings.read() == Settings()


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / ".env").symlink_to(".env")
    assert refusal() == "The file .env cannot be read; look at its permissions."


def test_a_variable_that_is_no_utf8_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SYSTEM_PROMPT", os.fsdecode("답".encode("cp949")))
    assert refusal() == "SYSTEM_PROMPT: must be text in UTF-8"


@pytest.mark.parametrize("command", [["run.py"], ["-m", "gunicorn", "run:app"]], ids=["python", "gunicorn"])
def test_the_sentence_stops_the_start(folder: Path, command: list[str]) -> None:
    for name in ("server", "run.py", "gunicorn.conf.py", "openapi.json"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".env").write_text(TEXT, encoding="cp949")
    ran = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=60)
    assert ran.returncode != 0
    assert ran.stderr.startswith("The server cannot start. The file .env is not in UTF-8")
    assert "Traceback" not in ran.stderr
