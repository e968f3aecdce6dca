"""What `make audit` says of pip-audit's reports: it succeeds only if every package was looked at and is sound."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.audit import REQUIREMENTS, judge
from tests.support.process import ROOT

SOUND = {"name": "flask", "version": "3.1.3", "vulns": []}
VULNERABLE = {
    "name": "gunicorn",
    "version": "27.0.1",
    "vulns": [
        {"id": "PYSEC-2027-1", "fix_versions": ["27.0.2", "28.0"], "aliases": []},
        {"id": "PYSEC-2027-2", "fix_versions": [], "aliases": []},
    ],
}
SKIPPED = {"name": "ours", "skip_reason": "Dependency not found on PyPI"}


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_sound_packages_pass_and_are_counted() -> None:
    assert judge(report(SOUND, SOUND | {"name": "orjson"})) == (2, [])


def test_each_vulnerability_is_named_with_the_versions_that_mend_it() -> None:
    found, problems = judge(report(SOUND, VULNERABLE))
    assert found == 2
    assert problems == [
        "gunicorn 27.0.1 has PYSEC-2027-1; install 27.0.2 or 28.0.",
        "gunicorn 27.0.1 has PYSEC-2027-2; no version mends it yet.",
    ]


def test_a_package_that_was_left_out_fails_the_audit() -> None:
    assert judge(report(SOUND, SKIPPED)) == (1, ["ours was not audited: Dependency not found on PyPI"])


@pytest.mark.parametrize(
    "nothing", ["", "not JSON", "[]", "{}", "null", report(), report(SKIPPED)], ids=lambda text: text[:20] or "silence"
)
def test_an_audit_of_nothing_fails(nothing: str) -> None:
    found, (problem,) = judge(nothing)
    assert (found, problem.split(".")[0]) == (0, "Nothing could be audited, so nothing is known")


def test_an_audit_whose_packages_are_all_unknown_tells_why() -> None:
    """pip-audit itself says then that no vulnerability was found, and exits with 0."""
    assert judge(report(SKIPPED))[1][0].endswith("Dependency not found on PyPI.")


class TestProgram:
    """With a pip-audit that prints what a test tells it to."""

    def run(self, folder: Path, printed: str, exit_code: int) -> subprocess.CompletedProcess[str]:
        (folder / "report").write_text(printed)
        stub = folder / "pip-audit"
        stub.write_text(f'#!/bin/sh\necho "$@" > {folder}/arguments\ncat {folder}/report\nexit {exit_code}\n')
        stub.chmod(0o755)
        command = [sys.executable, "scripts/audit.py", str(stub)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)

    def test_it_asks_about_every_file_of_requirements(self, tmp_path: Path) -> None:
        ran = self.run(tmp_path, report(SOUND), 0)
        assert (ran.returncode, ran.stdout) == (0, "No vulnerability is known in the packages that were audited: 1.\n")
        asked = (tmp_path / "arguments").read_text().split()
        assert {each for each in asked if each.endswith(".txt")} == {
            each.name for each in ROOT.glob("requirements*.txt")
        }
        assert set(REQUIREMENTS) <= set(asked)

    @pytest.mark.parametrize(
        ("printed", "exit_code", "sentence"),
        [
            ("", 1, "Nothing could be audited"),
            ("", 0, "Nothing could be audited"),
            (report(VULNERABLE), 1, "gunicorn 27.0.1 has PYSEC-2027-1"),
            (report(SOUND, SKIPPED), 0, "ours was not audited"),
        ],
        ids=["no network", "silence", "vulnerable", "left out"],
    )
    def test_it_fails_and_says_why(self, tmp_path: Path, printed: str, exit_code: int, sentence: str) -> None:
        ran = self.run(tmp_path, printed, exit_code)
        assert ran.returncode == 1
        assert ran.stderr.startswith(sentence)
        assert "Traceback" not in ran.stderr
