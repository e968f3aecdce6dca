"""The chain of fixtures: told -> upstream -> store -> app -> client. Override one link in a test that needs it.

Every JSON answer in any test is held to the document of the dialect that gave it.
"""

import gc
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, request
from flask.testing import FlaskClient
from werkzeug.routing import Rule

from server.app import create_app
from server.settings import Settings
from server.store.memory import MemoryStore
from tests.support.clock import Clock
from tests.support.openai_server import Misbehaving
from tests.support.openapi import hold_to_document
from tests.support.process import Served, serve
from tests.support.replies import SteeredUpstream, Told

LONGEST = (
    "test_schemathesis",
    "test_workers",
    "test_serving",
    "test_slow_callers",
    "test_litellm",
    "test_redis",
    "test_docs",
    "test_stateful",
    "test_bad_input",
    "test_chaos",
    "test_examples",
    "test_sqlite",
    "test_openai",
    "test_deployment",
    "test_assistants",
    "test_sessions",
    "test_cross_dialect",
    "test_streams",
    "test_transport",
    "test_client",
    "test_parsing",
    "test_refusals",
    "test_parameters",
    "test_assistants_sdk",
    "test_multiprocess",
    "test_chat",
    "test_openapi",
)
"""The files that take longest. Those who run files beside each other begin with them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    # What was imported stays until the end, and is not to be walked through again and again.
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def addresses_made_once() -> Iterator[None]:
    """Each test makes an app, and to compile the builders of its 51 addresses took a third of all time."""
    with pytest.MonkeyPatch.context() as patched:
        made: dict[tuple[str, bool], Any] = {}
        make = Rule._compile_builder

        def made_once(rule: Rule, append_unknown: bool = True) -> Any:
            key = rule.rule, append_unknown
            if key not in made:
                made[key] = make(rule, append_unknown)
            return made[key]

        patched.setattr(Rule, "_compile_builder", made_once)
        yield


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def upstream(told: Told) -> Iterator[SteeredUpstream]:
    yield SteeredUpstream(told)
    told.release()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(max_conversations=1000)


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
def app(settings: Settings, store: MemoryStore, upstream: SteeredUpstream) -> Iterator[Flask]:
    app = create_app(settings, store=store, upstream=upstream)
    app.testing = True  # An answer that breaks its document fails the test, and is no 500.
    hold_answers_to_documents(app)
    yield app
    app.extensions["runner"].shut_down(0)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def at_once() -> Iterator[Callable[..., Any]]:
    """Calls a function in a thread of its own and gives the future of what it returns."""
    with ThreadPoolExecutor(64) as threads:
        yield threads.submit


@pytest.fixture(scope="session")
def demo() -> Iterator[Served]:
    """A server as `run.py` starts it, under gunicorn with gevent, over the demonstration upstream."""
    with serve(UPSTREAM="scripted") as served:
        yield served


def hold_answers_to_documents(app: Flask) -> None:
    """Fail the request whose JSON answer is not what its document says."""

    @app.after_request
    def held(response: Response) -> Response:
        if response.mimetype == "application/json" and request.method not in ("HEAD", "OPTIONS"):
            hold_to_document(request.method, request.path, response.status_code, response.get_data())
        return response


@pytest.fixture(autouse=True)
def no_thread_dies() -> Iterator[None]:
    """A writer that ends with an exception of its own is a fault, whatever the test asserts."""
    died: list[Any] = []
    earlier, threading.excepthook = threading.excepthook, died.append
    yield
    threading.excepthook = earlier
    assert not died


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody else has signed, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with openssl, which is not here")
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True)
    return paths


@pytest.fixture
def tls_server(certificate: tuple[Path, Path]) -> Iterator[Misbehaving]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    server = Misbehaving(tls)
    yield server
    server.close()


@pytest.fixture
def trusting(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
