"""What tests need that pip does not bring."""

import os
import shutil

import pytest


def installed(command: str, package: str) -> str:
    """Where a command is. Where it is missing, the test is skipped, and fails in CI."""
    path = shutil.which(command)
    if path is None:
        reason = f"{command} is missing: apt-get install {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
