"""README says what is true: its settings, its map, its failures, and every call in it with its answer."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from flask.testing import FlaskClient

from server import errors
from server.http.errors import status_of
from server.settings import Settings
from tests.support.process import ROOT, Served, serve
from tests.support.replies import Told

README = (ROOT / "README.md").read_text(encoding="utf-8")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
RUN_ID = re.compile(r"run_[0-9a-f]{32}")
FAMILIES = {errors.AppError, errors.Refused, errors.RunConflict, errors.Unavailable}
"""Classes that nobody raises; what is below them has codes of its own."""


@pytest.fixture(scope="module")
def fresh() -> Iterator[Served]:
    """A demonstration that was asked nothing yet."""
    with serve(UPSTREAM="scripted") as served:
        yield served


@pytest.fixture
def told() -> Told:
    return Told("slow")


def table(title: str) -> list[list[str]]:
    """The rows of the table in a section, without its head."""
    section = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def calls() -> list[tuple[str, str]]:
    """Each call of curl, and the answer that is printed beneath it."""
    commands = [
        each.partition("\n") for block in blocks("console") for each in re.split(r"^\$ ", block, flags=re.M)[1:]
    ]
    found = []
    for command, _, answer in commands:
        while command.endswith("\\"):
            more, _, answer = answer.partition("\n")
            command = f"{command}\n{more}"
        if command.startswith("curl"):
            found.append((command, answer.strip()))
    return found


def heard(answer: str) -> Any:
    """An answer in the form in which two of them are compared."""
    answer = TIME.sub("<time>", answer).replace("\r\n", "\n").strip()
    if answer.startswith("id: "):
        return heard_frames(answer)
    try:
        return json.loads(answer)
    except ValueError:
        return answer


def heard_frames(answer: str) -> Any:
    """The text of a stream, which may arrive in other pieces the next time, its last position, and the other frames."""
    frames = [json.loads(data) for data in re.findall(r"^data: (.*)$", answer, re.MULTILINE)]
    text = "".join(each["content"] for each in frames if each["type"] == "CHUNK")
    return text, re.findall(r"^id: (.*)$", answer, re.MULTILINE)[-1], [e for e in frames if e["type"] != "CHUNK"]


def is_as_printed(answer: str, printed: str) -> bool:
    told, expected = heard(answer), heard(printed)
    if isinstance(expected, str) and "…" in expected:
        text = TIME.sub("<time>", answer).replace("\r\n", "\n").strip()
        return re.fullmatch(re.escape(expected).replace("…", ".*"), text, re.DOTALL) is not None
    return bool(told == expected)


def test_every_call_answers_what_is_printed_beneath_it(fresh: Served) -> None:
    assert shutil.which("curl"), "curl is needed to try README's calls: apt-get install curl"
    known = {"localhost:10000": f"localhost:{fresh.port}"}
    for command, printed in calls():
        for theirs, ours in known.items():
            command = command.replace(theirs, ours)
        ran = subprocess.run(["bash", "-c", command], capture_output=True, timeout=30)
        assert ran.returncode == 0, ran.stderr.decode()
        answer = ran.stdout.decode()
        known |= dict(zip(RUN_ID.findall(printed), RUN_ID.findall(answer), strict=False))
        for theirs, ours in known.items():
            printed = printed.replace(theirs, ours)
        assert is_as_printed(answer, printed), f"{command}\n\nanswers\n\n{answer}\n\nand not\n\n{printed}"
    asked = re.findall(r'"method":"(\w+)","route":"([^"]+)"', fresh.log())
    contract = json.loads((ROOT / "openapi.json").read_text(encoding="utf-8"))["paths"]
    assert {(method.upper(), path) for path, item in contract.items() for method in item} <= set(asked)


def test_the_answer_to_who_does_not_wait_is_the_printed_one(client: FlaskClient, told: Told) -> None:
    asked = {"client_name": "ada", "input": "slow"}
    answer = client.post("/query", json=asked, headers={"Prefer": "wait=0"})
    assert answer.status_code == 202
    (printed,) = blocks("json")
    assert json.loads(RUN_ID.sub("<run>", printed)) == json.loads(RUN_ID.sub("<run>", answer.text))
    told.end("slow", "at last")
    assert client.post("/query", json=asked).json == {"response": "at last"}


def test_every_setting_stands_in_the_table_once_with_its_default() -> None:
    rows = table("Settings")
    assert sorted(row[0] for row in rows) == sorted(f"`{each.name.upper()}`" for each in fields(Settings))
    defaults = {f"`{each.name.upper()}`": each.default for each in fields(Settings)}
    for name, default, meaning in rows:
        kept = defaults[name]
        text = f"{kept:.0f}" if isinstance(kept, float) else str(kept)
        assert (name, default) == (name, "empty" if kept in ("", None, ()) else f"`{text}`")
        assert meaning.endswith(".")


def test_every_failure_stands_in_the_table_with_its_status() -> None:
    def below(kind: type[errors.AppError]) -> set[type[errors.AppError]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    raised = below(errors.AppError) - FAMILIES
    rows = table("Failures")
    assert sorted((row[0], row[1]) for row in rows) == sorted((f"`{k.code}`", str(status_of(k()))) for k in raised)


def test_every_make_command_and_every_link_leads_somewhere() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"`make (\w+)", README)) <= set(targets)
    headings = {"#" + title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    links = set(re.findall(r"\]\(([^)]+)\)", README))
    assert [to for to in links - headings if not (ROOT / to).exists()] == []


def test_the_example_of_a_dotenv_file_names_only_settings_and_the_key_first() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    names = re.findall(r"^# ([A-Z_]+)=", example, re.MULTILINE)
    assert names[0] == "OPENAI_API_KEY"
    assert set(names) <= {each.name.upper() for each in fields(Settings)}
    assert [line for line in example.splitlines() if line and not line.startswith("#")] == []
