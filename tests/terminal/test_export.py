"""`export` and `import`, against the server's own doors."""

import json
from pathlib import Path

import pytest

from tests.support.process import ServerProcess
from tests.support.terminal import open_terminal
from tests.terminal.conftest import HOSTILE, Run


@pytest.mark.parametrize("format_", ["json", "jsonl"])
def test_what_is_exported_can_be_imported(
    run: Run, served: ServerProcess, name: str, tmp_path: Path, format_: str
) -> None:
    served.query(name, f"안녕{HOSTILE}")
    ended = run("export", "-c", name, "--format", format_, "--out", f"taken.{format_}")
    assert (ended.returncode, ended.stdout) == (0, f"Written to taken.{format_}.\n")
    brought = run("import", f"taken.{format_}", "-c", f"{name}-copy")
    assert brought.returncode == 0, brought.stderr
    assert brought.stdout.startswith("1 conversation imported.\n")
    assert served.history(f"{name}-copy") == served.history(name)


def test_an_export_in_a_pipe_means_the_same_and_is_inert(run: Run, served: ServerProcess, name: str) -> None:
    served.query(name, f"hi{HOSTILE}")
    told = run("export", "-c", name).stdout
    assert not set(told) & set("\x1b\x9b\u202e\x07")
    assert [each["content"] for each in json.loads(told)["messages"]] == served.history(name)
    assert "␛[2J" in run("export", "-c", name, "--format", "markdown").stdout


def test_an_existing_name_is_kept_unless_a_copy_is_wanted(run: Run, served: ServerProcess, name: str) -> None:
    served.query(name, "hi")
    run("export", "-c", name, "--out", "taken.json")
    ended = run("import", "taken.json")
    assert ended.returncode == 1
    assert ended.stderr.endswith("already; --copy imports under another name. (conversation_exists)\n")
    assert "on_conflict" not in ended.stderr
    copied = run("import", "taken.json", "--copy")
    assert (copied.returncode, copied.stdout.count("\n")) == (0, 2)


def test_a_broken_file_changes_nothing_and_is_told(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n{"messages": \n')
    ended = run("import", "broken.jsonl", "-c", name)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Line 2: ")


def test_in_a_terminal_the_file_gets_the_servers_name_and_replaces_none(
    run: Run, served: ServerProcess, name: str, tmp_path: Path
) -> None:
    served.query(name, "hi")
    for _ in range(2):
        with open_terminal("export", "-c", name, "--server", served.url, folder=tmp_path) as terminal:
            assert terminal.wait_for_exit() == 0
            assert "Written to " in terminal.text
    names = sorted(path.name for path in tmp_path.glob("*.json"))
    assert len(names) == 2
    assert any("(2)" in each for each in names)


def test_the_files_name_has_nothing_that_a_shell_would_read(served: ServerProcess, name: str, tmp_path: Path) -> None:
    served.query(name, "hi")
    served.ask("PATCH", "/conversations/details", {"client_name": name, "title": "-된장 `rm` $HOME & (a) {b} #1!"})
    with open_terminal("export", "-c", name, "--server", served.url, folder=tmp_path) as terminal:
        assert terminal.wait_for_exit() == 0
    (path,) = tmp_path.glob("*.json")
    assert path.name.startswith("된장")
    assert not set(path.name) & set("`$&{}#! ")
