"""`make audit`: asks whether a vulnerability is known in any package that the requirements lead to.

pip-audit finds the packages and asks PyPI about each; the argument is the path of its program. An audit that looked at
nothing fails, as does one that left a package out: silence is no good news.
"""

import json
import subprocess
import sys
from typing import Any

REQUIREMENTS = ("requirements.txt", "requirements-terminal.txt", "requirements-dev.txt")


def main() -> None:
    """Raises SystemExit with sentences about what is wrong, if anything is."""
    files = [argument for name in REQUIREMENTS for argument in ("--requirement", name)]
    command = [sys.argv[1], "--format", "json", "--progress-spinner", "off", *files]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    found, problems = judge(ran.stdout)
    if problems:
        raise SystemExit("\n".join(problems))
    print(f"No vulnerability is known in the packages that were audited: {found}.")


def judge(report: str) -> tuple[int, list[str]]:
    """The number of packages that were audited, and a sentence for each thing that is wrong.

    `report` is what pip-audit prints as JSON. Its exit code is of no use: it is 0 if PyPI knew no package at all, and
    the same if nobody could be asked as if something was found.
    """
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        packages = []
    audited = [each for each in packages if "vulns" in each]
    if not audited:
        reason = packages[0].get("skip_reason", "") if packages else "pip-audit tells the reason above"
        return 0, [f"Nothing could be audited, so nothing is known. {reason or 'No reason was given'}."]
    return len(audited), [sentence for each in packages for sentence in _describe(each)]


def _describe(package: dict[str, Any]) -> list[str]:
    if "vulns" not in package:
        return [f"{package['name']} was not audited: {package.get('skip_reason', 'pip-audit tells no reason')}"]
    return [
        f"{package['name']} {package['version']} has {each['id']}; "
        + (f"install {' or '.join(each['fix_versions'])}." if each["fix_versions"] else "no version mends it yet.")
        for each in package["vulns"]
    ]


if __name__ == "__main__":
    main()
