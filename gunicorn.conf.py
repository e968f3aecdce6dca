"""How the server is served: workers, connections, timeouts, and a stop that loses nothing."""

import os
import signal
from typing import Any


def leave(*_: Any) -> None:
    """End the process: nothing was served yet, and no exit through half-loaded modules could be a clean one."""
    os._exit(0)


# From the first line on, until gunicorn has handlers of its own; a reload finds those. run.py keeps a SIGTERM back.
for number, default in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(number) is default:
        signal.signal(number, leave)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

# Before others: under --preload, and wherever ssl was imported before, patching later would come too late.
import gevent  # noqa: E402
from gevent import monkey  # noqa: E402

monkey.patch_all()

import gc  # noqa: E402
import logging  # noqa: E402
import re  # noqa: E402
import resource  # noqa: E402
import secrets  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from contextlib import suppress  # noqa: E402
from functools import lru_cache  # noqa: E402
from types import FrameType  # noqa: E402

from gevent.server import StreamServer  # noqa: E402
from gunicorn import util  # noqa: E402
from gunicorn.http import errors as unreadable  # noqa: E402
from gunicorn.http import message, wsgi  # noqa: E402
from gunicorn.workers.ggevent import GeventWorker  # noqa: E402

from server.settings import Settings  # noqa: E402

try:
    from server.serving import connections
except ImportError as problem:
    raise SystemExit(f"The server cannot start. {problem}; install what requirements.txt names.") from None

try:
    settings = Settings.read()
except ValueError as problem:
    raise SystemExit(f"The server cannot start. {problem}") from None

wsgi_app = "run:app"
bind = settings.bind
workers = settings.web_concurrency
worker_connections = 5000
backlog = 4096
# Longer than proxies keep an idle connection, so that it is they who close it and no request is lost in between.
keepalive = 75
limit_request_line = 8190
# Longer than open replies may take: gunicorn's own end is a kill.
graceful_timeout = int(settings.graceful_seconds) + 10
control_socket_disable = True
# TRUSTED_PROXIES alone decides who is believed about the address that the server is reached at. gunicorn believes
# nobody, which saves it from taking every caller's address apart: all may set no header. Who lets it believe in one,
# by an argument, has to say as well whom.
forwarded_allow_ips = "*"
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""
# Of a burst, a few are taken in at a time and begun before the next, rather than each a step after the other: half of
# them are done sooner, and none later.
StreamServer.max_accept = 16

# Each call in flight has a connection on either side, and many systems begin with 1,024 for a process.
_, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
wanted_files = 65_536 if most_files == resource.RLIM_INFINITY else min(most_files, 65_536)
resource.setrlimit(resource.RLIMIT_NOFILE, (wanted_files, most_files))

logging.basicConfig(stream=sys.stdout, level=settings.log_level.upper(), format="%(message)s")
# No format here says it, and under gevent it takes long: a thread without a name is given one.
logging.logThreads = False


# curl sends what was typed, and who types Korean into an address sends UTF-8 without percent signs. The contract
# refuses bytes that are none.
message.RFC9112_TARGET_INVALID = re.compile(r"[^\x21-\x7e\x80-\xff]")

NO_HTTP = b'{"error":"%s","code":"invalid_request"}'
UNREADABLE = {
    unreadable.LimitRequestLine: (414, "URI Too Long", b"The address is too long; send less in the query string."),
    unreadable.LimitRequestHeaders: (431, "Request Header Fields Too Large", b"The headers are too large; send less."),
    unreadable.ParseException: (400, "Bad Request", b"This is no valid HTTP request; percent-encode the address."),
}
"""What is answered where no request could be read, nearest class first. Gunicorn's own words would echo it."""


def on_starting(server: Any) -> None:
    try:
        connections.require_known_gunicorn()
    except ValueError as problem:
        raise SystemExit(f"The server cannot start. {problem}") from None
    # Once, though this file is read again at each reload.
    connections.replace_parser()
    wsgi.Response = Response
    util.http_date = http_date
    if server.cfg.workers > 1 and settings.effective_store_url.partition(":")[0] == "memory":
        raise SystemExit(
            "The server cannot start: the memory store holds for one process. "
            "Set WEB_CONCURRENCY=1 (and no --workers), or choose a shared store with STORE_URL."
        )
    if settings.ignores_database_url and not settings.store_url:
        server.log.warning("DATABASE_URL is no SQLite file and is ignored; STORE_URL says where conversations live.")
    addresses = settings.openai_base_url or settings.llm_server_url
    if settings.upstream == "openai" and not (settings.openai_api_key or addresses):
        server.log.warning(
            "No model is set, so every question is refused: set OPENAI_API_KEY, OPENAI_BASE_URL or UPSTREAM=scripted."
        )
    if settings.upstream == "scripted":
        server.log.warning("UPSTREAM=scripted: this is a DEMONSTRATION. No model is asked; every reply says so.")


def post_fork(server: Any, worker: Any) -> None:
    """Let a worker end on a signal until it has handlers of its own; what the arbiter's heard meanwhile counts.

    Those would put the signal into a queue that nobody in this process reads, and the worker would be waited for until
    it is killed.
    """
    ends = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
    for number in ends:
        signal.signal(number, leave)
    while not server.SIG_QUEUE.empty():
        if server.SIG_QUEUE.get_nowait() in ends:
            leave()


class Idle(gevent.Timeout):
    """The wait for a connection's next request: ended by time, silently, or by the worker's stop."""

    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker.cfg.keepalive if worker.alive else 0, False)
        self._worker = worker

    def __enter__(self) -> "Idle":
        self._worker.waits[self] = gevent.getcurrent()
        return super().__enter__()

    def __exit__(self, *problem: Any) -> bool | None:
        del self._worker.waits[self]
        return super().__exit__(*problem)


class Worker(GeventWorker):
    """gunicorn's worker, except that its end waits for open requests only, and that no caller holds it for ever."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.waits: dict[Idle, gevent.Greenlet] = {}
        self.stopping: gevent.Greenlet | None = None
        self.quitting = False

    def patch(self) -> None:
        super().patch()
        for listener in self.sockets:
            connections.prepare_listener(listener)

    def timeout_ctx(self) -> Idle:
        return Idle(self)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        client.settimeout(settings.client_timeout_seconds)
        super(GeventWorker, self).handle(listener, client, addr)  # gevent's own would take the timeout away.

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        try:
            super().handle_request(listener_name, req, sock, addr)
        except StopIteration:  # The connection ends with this answer.
            if connections.has_unread(req.body):
                connections.linger(sock)
            raise

    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        if not self.booted:
            leave()
        # Beside: a signal may come while this very thread holds a lock that the end of runs needs, or while gevent's
        # loop runs, where nothing may wait.
        self.stopping = gevent.spawn(self.wsgi.extensions["runner"].shut_down, settings.graceful_seconds)
        super().handle_exit(number, frame)
        for wait in list(self.waits):
            gevent.get_hub().loop.run_callback(self.interrupt, wait)

    def interrupt(self, wait: Idle) -> None:
        """End a wait, unless it has ended meanwhile: what came of it is a request, which is not to be disturbed."""
        connection = self.waits.get(wait)
        if connection is not None:
            connection.throw(wait)

    def handle_quit(self, number: int, frame: FrameType | None) -> None:
        if not self.booted:
            leave()
        # Ctrl-C comes twice, from the terminal and from gunicorn; the second exit would end in a traceback.
        if not self.quitting:
            self.quitting = True
            super().handle_quit(number, frame)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        found = next((each for kind, each in UNREADABLE.items() if isinstance(exc, kind)), None)
        if found is None:
            super().handle_error(req, client, addr, exc)
            return
        status, reason, sentence = found
        request_id = secrets.token_hex(8)
        self.log.warning("request %s could not be read: %s", request_id, type(exc).__name__)
        body = NO_HTTP % sentence
        head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        head += f"Cache-Control: no-store\r\nX-Request-ID: {request_id}\r\n"
        with suppress(OSError):  # Who sends such things often does not wait for an answer.
            util.write_nonblock(client, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        connections.linger(client)


worker_class = Worker


class Response(wsgi.Response):
    """gunicorn's answer, except that its head goes out with the beginning of its body: one packet, one call."""

    unsent = b""

    def send_headers(self) -> None:
        if not self.headers_sent:
            fields = [f"{name}: {value}\r\n" for name, value in self.headers]
            self.unsent = "".join([*self.default_headers(), *fields, "\r\n"]).encode("latin-1")
            self.headers_sent = True

    def _emit_body(self, data: bytes) -> None:
        self._send(b"%X\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def _send(self, data: bytes) -> None:
        """The head, where it has not gone out, and `data`."""
        data, self.unsent = self.unsent + data, b""
        if data:
            connections.send(self.sock, data)

    def can_sendfile(self) -> bool:
        return False  # It would go past the head.

    def close(self) -> None:
        self.send_headers()
        self._send(b"0\r\n\r\n" if self.chunked else b"")


write_date = lru_cache(1)(util.http_date)


def http_date() -> str:
    """The date of an answer: of whole seconds, and written once for each."""
    return write_date(int(time.time()))


def post_worker_init(worker: Any) -> None:
    """Collect less often: calls in flight hold many objects, and Python's own pace walks through them again and again.

    What was imported stays until the end anyway. gunicorn's settings, each of which it looks up through two objects and
    24 to 77 times a request, stand ready from here on.
    """
    vars(worker.cfg).update({name: setting.get() for name, setting in worker.cfg.settings.items()})
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def worker_exit(server: Any, worker: Any) -> None:
    """The last request may be gone while its run is still being written."""
    if worker.stopping is not None:
        worker.stopping.join()
    application = getattr(worker, "wsgi", None)  # It has none where it could not be started.
    if application is not None:
        application.extensions["store"].close()
