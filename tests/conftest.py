"""The chain of fixtures: replies -> upstream -> store -> app -> client. A test overrides the one that it needs.

Every JSON response in any test is validated against the document of its dialect. After every test, its questions,
replies and keys are looked for in logs, metrics and the bodies of errors.
"""

import gc
import logging
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from flask import Flask, Response, request
from flask.testing import FlaskClient
from werkzeug.routing import Rule

from server.app import create_app
from server.settings import Settings
from server.store.memory import MemoryStore
from tests.support.clock import Clock
from tests.support.leaks import LEAKS, LogListener, WatchedClient
from tests.support.openai_server import OpenAIServer
from tests.support.openapi import validate_response
from tests.support.process import ServerProcess, serve
from tests.support.replies import ScriptedReplies, SteeredUpstream

# By default hypothesis fails an example that takes 200 ms, and a busy machine may pause any process for as long.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

LONGEST = (
    "test_schemathesis",
    "test_workers",
    "test_large_files",
    "test_chat_look",
    "test_chat_conversations",
    "test_chat_page",
    "test_serving",
    "test_talk",
    "test_batch",
    "test_commands",
    "test_doctor",
    "test_slow_callers",
    "test_litellm",
    "test_redis",
    "test_docs",
    "test_stateful",
    "test_bad_input",
    "test_chaos",
    "test_soak",
    "test_fuzzing",
    "test_examples",
    "test_postman",
    "test_sqlite",
    "test_openai",
    "test_deployment",
    "test_assistants",
    "test_sessions",
    "test_cross_dialect",
    "test_growing",
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
"""The files that take longest. They come first, so that parallel runs end early."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    # Imported objects live until the end; the garbage collector need not visit them again and again.
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache_url_builders() -> Iterator[None]:
    """Compile the URL builders of the 51 addresses once: doing it for the app of each test took a third of the time."""
    with pytest.MonkeyPatch.context() as patched:
        builders: dict[tuple[str, bool], Any] = {}
        compile_builder = Rule._compile_builder

        def compile_once(rule: Rule, append_unknown: bool = True) -> Any:
            key = rule.rule, append_unknown
            if key not in builders:
                builders[key] = compile_builder(rule, append_unknown)
            return builders[key]

        patched.setattr(Rule, "_compile_builder", compile_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def listen_to_apps() -> Iterator[None]:
    """Look for contents in the requests, answers, logs and metrics of every app in this process."""
    listener = LogListener(LEAKS)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Flask, "test_client_class", WatchedClient)
        logging.getLogger("server").setLevel(logging.INFO)
        logging.getLogger().addHandler(listener)
        yield
        logging.getLogger().removeHandler(listener)


@pytest.fixture(scope="module", autouse=True)
def forget_contents() -> Iterator[None]:
    """Keep the contents until the end of the module: its tests share servers."""
    yield
    leaks = LEAKS.find_leaks()
    LEAKS.forget_contents()
    assert not leaks


@pytest.fixture(autouse=True)
def fail_on_leaks() -> Iterator[None]:
    """Fail a test after which a question, a reply or a key is in a log, in metrics or in the body of an error."""
    yield
    assert not LEAKS.find_leaks()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies()


@pytest.fixture
def upstream(replies: ScriptedReplies) -> Iterator[SteeredUpstream]:
    yield SteeredUpstream(replies)
    replies.release()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(max_conversations=1000)


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
def app(settings: Settings, store: MemoryStore, upstream: SteeredUpstream) -> Iterator[Flask]:
    app = create_app(settings, store=store, upstream=upstream)
    app.testing = True  # A response that breaks its document fails the test, instead of becoming a 500.
    validate_responses(app)
    yield app
    app.extensions["runner"].shut_down(0)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def at_once() -> Iterator[Callable[..., Any]]:
    """Calls a function in a thread of its own. Returns its future."""
    with ThreadPoolExecutor(64) as threads:
        yield threads.submit


@pytest.fixture(scope="session")
def demo() -> Iterator[ServerProcess]:
    """A server process as `run.py` starts it, with the demonstration upstream."""
    with serve(UPSTREAM="scripted") as served:
        yield served


def validate_responses(app: Flask) -> None:
    """Make a request raise if its JSON response does not fit its document."""

    @app.after_request
    def validate(response: Response) -> Response:
        if response.mimetype == "application/json" and request.method not in ("HEAD", "OPTIONS"):
            validate_response(request.method, request.path, response.status_code, response.get_data())
        return response


@pytest.fixture(autouse=True)
def fail_on_thread_exceptions() -> Iterator[None]:
    """Fail a test in which a thread ends with an exception, whatever the test asserts."""
    died: list[Any] = []
    earlier, threading.excepthook = threading.excepthook, died.append
    yield
    threading.excepthook = earlier
    assert not died


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The paths of a self-signed certificate for 127.0.0.1 and of its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True)
    return paths


@pytest.fixture
def tls_server(certificate: tuple[Path, Path]) -> Iterator[OpenAIServer]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    server = OpenAIServer(tls)
    yield server
    server.close()


@pytest.fixture
def trusting(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
