"""What this server replaces in gunicorn 27.0, all of it, and a check that gunicorn still has what is built on."""

# mypy: disable-error-code="import-untyped"

import re
import time
from functools import lru_cache
from types import ModuleType
from typing import Any

import gunicorn
from gunicorn import http, util
from gunicorn.http import message, wsgi
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.parser import Parser, RequestParser
from gunicorn.http.unreader import SocketUnreader, Unreader
from gunicorn.workers import base
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from server.serving.request import BoundedParser
from server.serving.response import Response

REQUIRED: tuple[tuple[ModuleType | type[Any], tuple[str, ...]], ...] = (
    (http, ("RequestParser", "get_parser")),
    (message, ("RFC9112_TARGET_INVALID",)),
    (wsgi, ("Response",)),
    (util, ("http_date", "write_nonblock")),
    (wsgi.Response, ("send_headers", "default_headers", "_emit_body", "can_sendfile", "close", "write")),
    (Parser, ("__init__", "__next__", "finish_body")),
    (Unreader, ("read", "unread")),
    (SocketUnreader, ("__init__", "chunk")),
    (base.Worker, ("init_signals", "handle_error", "handle_exit", "handle_quit")),
    (AsyncWorker, ("__init__", "handle", "handle_request")),
    (GeventWorker, ("patch", "timeout_ctx", "handle", "handle_request", "handle_quit")),
)
"""Modules and classes of gunicorn, and the names that each must define: what is replaced, overridden or relied on."""

write_date = lru_cache(1)(util.http_date)


def http_date() -> str:
    """The current date for a header, formatted once a second."""
    return str(write_date(int(time.time())))


def apply_patches() -> None:
    """Replace parts of gunicorn in this process. A second call changes nothing.

    Raises ValueError as `require_known_gunicorn` does.
    """
    require_known_gunicorn()
    http.RequestParser = BoundedParser
    # curl sends Korean that was typed into an address as UTF-8, without percent-encoding. The contract refuses bytes
    # that are not UTF-8.
    message.RFC9112_TARGET_INVALID = re.compile(r"[^\x21-\x7e\x80-\xff]")
    wsgi.Response = Response
    util.http_date = http_date


def require_known_gunicorn() -> None:
    """Raises ValueError if gunicorn lacks a name of REQUIRED, or an attribute that is read: timeouts would be lost."""
    missing = [f"{owner.__name__}.{name}" for owner, names in REQUIRED for name in names if name not in vars(owner)]
    if not missing:  # Else not even these may be there.
        parts = (
            (Body(None), ("failed", "reader")),
            (LengthReader(None, 1), ("length",)),
            (ChunkedReader(None, None), ("parser",)),
            (SocketUnreader(None), ("sock", "buf")),
            (RequestParser(None, [], None), ("mesg", "unreader")),
            (wsgi.Response(None, None, None), ("sock", "headers", "headers_sent", "chunked")),
        )
        missing = [
            f"{type(part).__name__}.{name}" for part, names in parts for name in names if not hasattr(part, name)
        ]
    if missing:
        raise ValueError(
            f"gunicorn {gunicorn.__version__} has no {', '.join(missing)}; install the version of requirements.txt."
        )
