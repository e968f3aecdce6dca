"""Looks for the questions, replies and keys of the tests in logs, traces, metrics and the bodies of errors.

Contents are collected at the tests' own clients, at the upstreams that stand in for a model's server, and in the
settings of server processes. A client that is another program, such as a browser, is heard at those upstreams only.
Traces are searched if an exporter prints them into the log. `tests/conftest.py` searches after every test.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson
from flask.testing import FlaskClient
from werkzeug.datastructures import EnvironHeaders
from werkzeug.wsgi import ClosingIterator

from server.metrics import Metrics
from server.serving.log import LineFormatter

MIN_CHARS = 5
MAX_CHARS = 60
"""How much of a content is looked for: a leak may be shortened."""
MAX_BODY_BYTES = 1_000_000
"""Larger bodies are not read: it would take longer than the tests that send them."""
NO_CONTENT = {"id", "model", "url"}
"""The fields that hold no content: a log may have their values. `url` is the server's own address in its documents."""
ESCAPED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\"'\\]+")
"""What JSON or Python may write in another way."""
ID_OR_TIME = re.compile(r"([a-z]+_)?[\s0-9a-fA-F.:TZ+-]*")
"""What may be an id of the server's own, a time, or a part of one."""
SECRET_SETTINGS = ("ADMIN_KEY", "OPENAI_API_KEY", "OPENAI_CUSTOM_HEADERS", "SYSTEM_PROMPT", "ASSISTANT_INSTRUCTIONS")


@cache
def _read_sources() -> str:
    """All that the server may say of itself."""
    root = Path(__file__).parent.parent.parent
    paths = [root / "run.py", root / "gunicorn.conf.py", *sorted((root / "server").rglob("*.py"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


@lru_cache(10_000)
def choose_mark(content: str) -> str | None:
    """The part of `content` that is looked for: the beginning of its first distinctive stretch; None if none is.

    A stretch is what every notation leaves as it is. It is distinctive if it has 5 characters, could not be an
    id or a time, and does not occur in the server's own source: a log that has "failed" in it does not give away
    the question "failed".
    """
    for stretch in ESCAPED.split(content):
        mark = stretch.strip()[:MAX_CHARS].strip()
        if len(mark) >= MIN_CHARS and not ID_OR_TIME.fullmatch(mark) and mark not in _read_sources():
            return mark
    return None


class Leaks:
    """The contents that were collected and the texts in which they must not be. Safe from any thread."""

    def __init__(self) -> None:
        self._marks: set[str] = set()
        self._texts: list[tuple[str, str]] = []
        self._metrics: set[Metrics] = set()
        self._logs: dict[Path, int] = {}
        """How many bytes of each log were read."""

    def add_content(self, content: str) -> None:
        if mark := choose_mark(content[: 10 * MAX_CHARS]):
            self._marks.add(mark)
            self._marks.add(json.dumps(mark)[1:-1])  # As an exporter of traces writes it, in ASCII.

    def add_json(self, body: bytes) -> None:
        """Collect every string of a JSON body, but for the values of `NO_CONTENT`; of another body, nothing."""
        for content in _strings_of(_load(body)):
            self.add_content(content)

    def add_completion(self, body: bytes) -> None:
        """Collect what the model wrote, from a body or an event of OpenAI's form; not the text of an error."""
        value = _load(body)
        for content in _strings_of(value.get("choices") if isinstance(value, dict) else None):
            self.add_content(content)

    def add_settings(self, env: Mapping[str, str]) -> None:
        """Collect the operator's keys and prompts."""
        for name in SECRET_SETTINGS:
            self.add_content(env.get(name, ""))

    def add_request(self, address: str, headers: Mapping[str, str], body: bytes) -> None:
        """Collect the key, the values of the query and the contents of the body."""
        for name, value in headers.items():
            if name.lower() in ("authorization", "x-api-key"):
                self.add_content(value.partition(" ")[2].strip() or value)
        for name, value in parse_qsl(urlsplit(address).query):
            if name not in NO_CONTENT:
                self.add_content(value)
        self.add_json(body)

    def add_answer(self, request: str, status: int, body: bytes) -> None:
        """Collect the replies in a successful answer; look for contents in the body of an error."""
        if status < 400:
            self.add_json(body)
        else:
            self.add_text(f"the answer {status} to {request}", body.decode(errors="replace"))

    def add_text(self, source: str, text: str) -> None:
        """Look for contents in `text`, at the next search."""
        self._texts.append((source, text))

    def add_metrics(self, metrics: Metrics) -> None:
        """Look for contents in what `metrics` show at the next search."""
        self._metrics.add(metrics)

    def watch_log(self, path: Path) -> None:
        """Look for contents in what is written to this file, which is about to be emptied."""
        self.read_log(path)
        self._logs[path] = 0

    def read_log(self, path: Path) -> None:
        """Take what was written to a watched log since the last time; forget the log if it was deleted."""
        if not path.exists():
            self.forget_log(path)
        elif path in self._logs and path.stat().st_size > self._logs[path]:
            with path.open("rb") as file:
                file.seek(self._logs[path])
                content = file.read()
            self._logs[path] += len(content)
            self.add_text("the log of a server process", content.decode(errors="replace"))

    def forget_log(self, path: Path) -> None:
        self._logs.pop(path, None)

    def find_leaks(self) -> list[str]:
        """Every content that is in a text, with its place. The texts are forgotten, the contents are not."""
        for path in list(self._logs):
            self.read_log(path)
        shown, self._metrics = self._metrics, set()
        for metrics in shown:
            self.add_text("the metrics of an app", metrics.render().decode())
        texts, self._texts = self._texts, []
        whole = "\n".join(text for _, text in texts)
        found = [mark for mark in self._marks.copy() if mark in whole] if whole else []
        return [_describe(mark, source, text) for mark in found for source, text in texts if mark in text]

    def forget_contents(self) -> None:
        """Start with no contents, but with the same logs."""
        self._marks = set()


LEAKS = Leaks()
"""Of all tests of this process: contents pass in places that know of no test, such as the threads of an upstream."""


def collect_reply(pieces: Iterable[Any]) -> Iterator[Any]:
    """The same pieces. Their text is collected, however far it is read."""
    text = ""
    try:
        for piece in pieces:
            if isinstance(piece, str):
                text += piece
            yield piece
    finally:
        LEAKS.add_content(text)


class LogListener(logging.Handler):
    """Looks for contents in the records of this process's apps, as the log of a server would have them.

    Not in those of `debug`, which have the error texts of upstreams: the tests of their redaction search them.
    """

    def __init__(self, leaks: Leaks) -> None:
        super().__init__(logging.INFO)
        self._leaks = leaks
        self.setFormatter(LineFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self._leaks.add_text("the log of an app", self.format(record))


class WatchedClient(FlaskClient):
    """The client of every app: it collects contents of requests and answers, and the metrics after each test."""

    def run_wsgi_app(self, environ: Any, buffered: bool = False) -> Any:
        sent = environ["wsgi.input"]
        body = sent.getvalue() if isinstance(sent, BytesIO) else b""
        headers = EnvironHeaders(environ)
        path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
        LEAKS.add_request(f"?{query}", dict(headers), body)
        if "metrics" in self.application.extensions:
            LEAKS.add_metrics(self.application.extensions["metrics"])
        parts, status, answered = super().run_wsgi_app(environ, buffered)
        # A long history has no length: the test may read it part by part.
        if answered.get("Content-Type") == "application/json" and "Content-Length" in answered:
            parts = ClosingIterator([content := b"".join(parts)], getattr(parts, "close", None))
            LEAKS.add_answer(f"{environ['REQUEST_METHOD']} {path}", int(status[:3]), content)
        return parts, status, answered


def _describe(mark: str, source: str, text: str) -> str:
    start = text.index(mark)
    return f"{mark!r} is in {source}: {text[max(start - 200, 0) : start + 200]}"


def _load(body: bytes) -> Any:
    """The value of a JSON body; None if it is not JSON or too large."""
    if len(body) <= MAX_BODY_BYTES:
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(body)
    return None


def _strings_of(body: Any) -> Iterator[str]:
    """Without recursion, since tests send bodies that are nested too deeply."""
    values = [body]
    while values:
        value = values.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            values += value
        elif isinstance(value, dict):
            values += [each for name, each in value.items() if name not in NO_CONTENT]
