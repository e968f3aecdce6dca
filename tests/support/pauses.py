"""How much a computation does without letting others run."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from server.concurrency import Pauses


@contextmanager
def busiest(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """For each pause within, and for the end, how many lines of the server's code were run since the one before."""
    steps = [0]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if "/server/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            steps[-1] += 1
        return trace

    before = sys.gettrace()
    with monkeypatch.context() as patched:
        patched.setattr(Pauses, "take", lambda _: steps.append(0))
        sys.settrace(trace)
        try:
            yield steps
        finally:
            sys.settrace(before)
