"""gunicorn's gevent worker, with a stop that waits for open requests only and with timeouts for slow callers."""

# mypy: disable-error-code="import-untyped"

import socket
import ssl
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import gevent
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from server.serving.errors import answer_unreadable
from server.serving.request import has_unread, linger
from server.serving.signals import exit_now

MAX_UNSENT_BYTES = 131_072
"""How much of an answer the system buffers beyond what the caller has room for."""


class IdleTimeout(gevent.Timeout):  # type: ignore[misc]
    """Keep-alive timeout of an idle connection. Ends silently on timeout or when the worker shuts down."""

    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker.cfg.keepalive if worker.alive else 0, False)
        self._worker = worker

    def __enter__(self) -> "IdleTimeout":
        self._worker.idle[self] = gevent.getcurrent()
        super().__enter__()
        return self

    def __exit__(self, *problem: Any) -> bool | None:
        del self._worker.idle[self]
        suppressed: bool | None = super().__exit__(*problem)
        return suppressed


class Worker(GeventWorker):  # type: ignore[misc]
    """Serves the app of `run.py`. The settings are given by a subclass in gunicorn.conf.py.

    Its methods are called by gunicorn, under the names of gunicorn.
    """

    client_timeout_seconds: float
    """How long a caller may take nothing of an answer."""

    graceful_seconds: float
    """How long open runs may go on after SIGTERM."""

    is_https: bool
    """Whether the public address is one of https."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.idle: dict[IdleTimeout, gevent.Greenlet] = {}
        """The greenlets of connections that wait for a request."""
        self.shutdown: gevent.Greenlet | None = None
        """The end of open runs, once SIGTERM has come."""
        self._is_quitting = False
        self.metrics_folder: Any = None
        """Where the workers share what they count; set by gunicorn.conf.py."""

    def patch(self) -> None:
        super().patch()
        for listener in self.sockets:
            bound_send_buffer(listener)

    def notify(self) -> None:
        """Called once a second: shares the metrics, too, so that they need no thread of their own."""
        super().notify()
        self.wsgi.extensions["metrics"].flush()

    def timeout_ctx(self) -> IdleTimeout:
        return IdleTimeout(self)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        client.settimeout(self.client_timeout_seconds)
        if isinstance(client, ssl.SSLSocket):
            try:
                client.do_handshake()
            except OSError as error:
                self.log.debug("a TLS handshake failed: %s", type(error).__name__)
                return
        AsyncWorker.handle(self, listener, client, addr)  # GeventWorker.handle would remove the timeout.

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        try:
            super().handle_request(listener_name, req, sock, addr)
        except StopIteration:  # The connection ends with this answer.
            if has_unread(req.body):
                linger(sock)
            raise

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        if isinstance(exc, ssl.SSLError):  # There is no line to answer on.
            self.log.debug("a TLS connection failed: %s", type(exc).__name__)
            return
        is_https = self.is_https or bool(self.cfg.is_ssl)
        if not answer_unreadable(client, exc, self.log, is_https=is_https):
            super().handle_error(req, client, addr, exc)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: end runs within `graceful_seconds`, and idle connections at once."""
        if not self.booted:
            exit_now()
        # In a greenlet of its own: the signal may interrupt a greenlet that holds a lock which the shutdown needs, or
        # gevent's hub, which must not block.
        self.shutdown = gevent.spawn(self.wsgi.extensions["runner"].shut_down, self.graceful_seconds)
        super().handle_exit(sig, frame)
        for timeout in list(self.idle):
            gevent.get_hub().loop.run_callback(self._end_idle, timeout)

    def _end_idle(self, timeout: IdleTimeout) -> None:
        """End the wait of an idle connection, unless a request has arrived in the meantime."""
        connection = self.idle.get(timeout)
        if connection is not None:
            connection.throw(timeout)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT and SIGQUIT. Ctrl-C sends two, the terminal's and gunicorn's; a second exit prints a traceback."""
        if not self.booted:
            exit_now()
        if not self._is_quitting:
            self._is_quitting = True
            super().handle_quit(sig, frame)

    def release(self) -> None:
        """Wait for the end of open runs, whose last request may be gone, and close the store."""
        if self.shutdown is not None:
            self.shutdown.join()
        app = getattr(self, "wsgi", None)  # Absent if the app could not be loaded.
        if app is not None:
            app.extensions["metrics"].flush()
            app.extensions["store"].close()


def defer_handshake(context: ssl.SSLContext) -> ssl.SSLContext:
    """Leave the handshake to `Worker.handle`. gevent does it before, and prints a traceback for each that fails.

    On the open internet, every scanner makes some fail.
    """
    context.wrap_socket = partial(context.wrap_socket, do_handshake_on_connect=False)  # type: ignore[method-assign]
    return context


def bound_send_buffer(listener: Any) -> None:
    """Bound what the system buffers of an answer on each connection of `listener`, if it can.

    Without the bound, each caller who reads nothing costs 2.8 MB of the system's memory instead of 0.13 MB.
    """
    with suppress(OSError, AttributeError):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)
