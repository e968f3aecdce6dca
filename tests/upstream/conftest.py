"""An OpenAIUpstream in front of a server that misbehaves as a test wants it. A test file may override each fixture."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.upstream.openai import OpenAIUpstream
from tests.support.clock import WatchedClock
from tests.support.openai_server import (
    OpenAIServer,
)
from tests.support.upstream_calls import KEY


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where nothing is set, and the system trusts nobody, which saves the time to read its certificates."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    server = OpenAIServer()
    yield server
    server.close()


@pytest.fixture
def clock() -> WatchedClock:  # type: ignore[override]
    return WatchedClock()


@pytest.fixture
def upstream(server: OpenAIServer) -> OpenAIUpstream:  # type: ignore[override]
    return OpenAIUpstream(KEY, server.url, retry_seconds=0.0)
