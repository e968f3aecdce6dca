"""What this server replaces in gunicorn 27.0, all of it, and a check that gunicorn still has what is built on."""

# mypy: disable-error-code="import-untyped"

import re
from types import ModuleType
from typing import Any

import gunicorn
from gunicorn import http, util
from gunicorn.config import Config, Keepalive
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
    (Config, ("__getattr__",)),
    (http, ("RequestParser", "get_parser")),
    (message, ("RFC9112_TARGET_INVALID",)),
    (wsgi, ("Response",)),
    (util, ("write_nonblock",)),
    (wsgi.Response, ("send_headers", "default_headers", "_emit_body", "can_sendfile", "close", "write")),
    (Parser, ("__init__", "__next__", "finish_body")),
    (Unreader, ("read", "unread")),
    (SocketUnreader, ("__init__", "chunk")),
    (base.Worker, ("init_signals", "handle_error", "handle_exit", "handle_quit")),
    (AsyncWorker, ("__init__", "handle", "handle_request")),
    (GeventWorker, ("patch", "notify", "timeout_ctx", "handle", "handle_request", "handle_quit")),
)
"""Modules and classes of gunicorn, and the names that each must define: what is replaced, overridden or relied on."""


def apply_patches(cfg: Any) -> None:
    """Replace parts of gunicorn in a worker process, whose configuration is `cfg`. A second call changes nothing.

    A patch stays only if it saves 5 % of the CPU time of `POST /query`, or if a caller notices its absence. The CPU
    times are from /proc/PID/stat of one worker in which each patch was switched off and on: 100 rounds of 160 requests
    over 16 connections, the scripted upstream, gunicorn 27.0.1. A control without any change differed by 1 %.
    """
    # Without it, a caller who stops sending holds a connection for ever, and a body that nobody wants is read to its
    # end, however long it is.
    http.RequestParser = BoundedParser
    # A slow but steady reader of a long answer is cut off without it. Its single packet saves 3 % of GET /healthz and
    # 4 % of POST /query; all of it saves 5 % and 7 %.
    wsgi.Response = Response
    # curl sends Korean that was typed into an address as UTF-8, without percent-encoding. Without it such a request is
    # refused with 400. The contract refuses bytes that are not UTF-8.
    message.RFC9112_TARGET_INVALID = re.compile(r"[^\x21-\x7e\x80-\xff]")
    # gunicorn looks a setting up 23 to 25 times a request, and each time through two objects. As attributes they save
    # 9 % of GET /healthz and 8 % of POST /query.
    vars(cfg).update({name: setting.get() for name, setting in cfg.settings.items()})


def require_known_gunicorn() -> None:
    """Raises ValueError if gunicorn lacks a name of REQUIRED, or an attribute that is read: timeouts would be lost."""
    missing = [f"{owner.__name__}.{name}" for owner, names in REQUIRED for name in names if name not in vars(owner)]
    if not missing:  # Else not even these may be there.
        parts = (
            (Config(), ("settings",)),
            (Keepalive(), ("get",)),
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
