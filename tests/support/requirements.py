"""What tests need that pip does not bring."""

import os
import shutil
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the test that misses something; in CI, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def installed(command: str, package: str) -> str:
    """Where a command is. Where it is missing, the test is skipped, and fails in CI."""
    path = shutil.which(command)
    if path is None:
        missing(f"{command} is missing: apt-get install {package}")
    return path
