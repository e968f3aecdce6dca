"""Commands that tests need and pip does not install."""

import os
import shutil
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test; in CI, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def find_command(command: str, package: str) -> str:
    """The path of a command. If it is not installed, the test is skipped, and fails in CI."""
    path = shutil.which(command)
    if path is None:
        skip_or_fail(f"{command} is missing: apt-get install {package}")
    return path
