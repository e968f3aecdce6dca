"""A transport for `httpx2`: HTTP/1.1 over direct connections, each lent to one call at a time.

httpx2's own halves this server's throughput (`bench/README.md`). Proxies, redirects and decoding are httpx2's.
"""

import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property

import httpx2
from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from server.upstream.abort import Abort, connect

CHUNK_BYTES = 16_384
IDLE_SECONDS = 60.0  # Something on the way may have forgotten a connection that was idle for longer, without a word.
DRAIN_SECONDS = 0.05  # How long a reader who leaves waits for the answer's end, so that another can use the connection.
KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 5, "TCP_NODELAY": 1}
PORTS = {"http": 80, "https": 443}
SOCKET_OPTIONS = [(getattr(socket, name), value) for name, value in KEEP_ALIVE.items() if hasattr(socket, name)]

Idle = deque[tuple[socket.socket, float]]  # Since when on the monotonic clock; the last one back is lent first.


class Transport(httpx2.BaseTransport):
    """Obeys `extensions["timeout"]`, of which `body`, if set, is `read` for the body, and `extensions["abort"]`."""

    _tls = cached_property(lambda _: httpx2.create_ssl_context())  # Shared: to read the certificates takes 30 ms.

    def __init__(self) -> None:
        self._idle: dict[tuple[str, str, int | None], Idle] = {}
        """By scheme, host and port."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        abort = request.extensions.get("abort") or Abort()
        url, timeout = request.url, request.extensions.get("timeout", {})
        idle = self._idle.setdefault((url.scheme, url.host, url.port), deque())
        exchange = _Exchange(_take(idle) or self._connect(url, timeout.get("connect"), abort), idle, abort)
        try:
            exchange.ask(request, timeout)
        except BaseException:
            exchange.end(is_reusable=False)
            raise
        return httpx2.Response(exchange.status, headers=exchange.headers, stream=exchange)

    def close_idle(self, seconds: float = IDLE_SECONDS) -> None:
        """Close the connections that nobody has used for `seconds`."""
        for idle in list(self._idle.values()):
            with suppress(IndexError):  # Others take and give back meanwhile.
                while idle[0][1] <= time.monotonic() - seconds:
                    idle.popleft()[0].close()

    def close(self) -> None:
        self.close_idle(0.0)

    def _connect(self, url: httpx2.URL, seconds: float | None, abort: Abort) -> socket.socket:
        if url.scheme not in PORTS:
            raise httpx2.UnsupportedProtocol(url.scheme)
        try:
            wire = connect(url.host, url.port or PORTS[url.scheme], seconds, abort)
            try:
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option in SOCKET_OPTIONS:
                    wire.setsockopt(socket.IPPROTO_TCP, *option)
                if url.scheme == "https":
                    wire = self._tls.wrap_socket(wire, server_hostname=url.host, do_handshake_on_connect=False)
                    abort.watch(wire)
                    wire.do_handshake()
                return wire
            except BaseException:
                abort.watch(None)
                wire.close()
                raise
        except (OSError, UnicodeError) as problem:  # UnicodeError: a name that no host can have.
            kind = httpx2.ConnectTimeout if isinstance(problem, TimeoutError) else httpx2.ConnectError
            raise kind(str(problem)) from problem


class _Exchange(httpx2.SyncByteStream):
    """One request and its answer, whose body it gives; httptools calls the methods that begin with `on_`."""

    def __init__(self, wire: socket.socket, idle: Idle, abort: Abort) -> None:
        self._wire, self._idle, self._abort = wire, idle, abort
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._has_head = self._has_length = self._is_whole = self._is_last = self._is_closed = False
        self._error: httpx2.TransportError | None = None  # Why nothing more can be heard.
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(lenient_chunked_length=True)  # Some send both lengths (RFC 9112, 6.3).
        abort.watch(wire)

    def ask(self, request: httpx2.Request, timeout: Mapping[str, float | None]) -> None:
        head = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
        head += [b"%b: %b" % field for field in request.headers.raw]
        data = b"\r\n".join((*head, b"", request.read()))  # In one piece, which is one call of the system.
        unsent: str | None = None
        try:
            self._wire.settimeout(timeout.get("write"))
            sent = self._wire.send(data)
            if sent < len(data):  # Under gevent, `sendall` asks the system for its buffer's size, each time.
                self._wire.sendall(memoryview(data)[sent:])
        except TimeoutError as problem:
            raise httpx2.WriteTimeout(str(problem)) from problem
        except OSError as problem:  # Who stops reading may have answered before, such as with 413.
            unsent, self._is_last = str(problem), True
        self._body_seconds = timeout.get("read")
        self._wire.settimeout(self._body_seconds)
        while not (self._has_head or self._error):
            self._hear()
        if self._error and not self._has_head:
            raise self._error if unsent is None else httpx2.WriteError(unsent)
        if self.status < 300:
            self._body_seconds = timeout.get("body", timeout.get("read"))

    def __iter__(self) -> Iterator[bytes]:
        self._wire.settimeout(self._body_seconds)
        while self._body or not (self._is_whole or self._error):
            if self._body:
                yield self._body.pop(0)
            else:
                self._hear()
        if self._error and not self._is_whole:
            raise self._error

    def close(self) -> None:
        """Give the connection back if the answer was heard to its end, which may come in a moment; else close it."""
        until = time.monotonic() + DRAIN_SECONDS
        while not (self._is_whole or self._error or self._abort.is_set or self._is_closed):
            self._wire.settimeout(max(until - time.monotonic(), 0.0))
            self._hear()
        if not self._is_closed:
            self.end(is_reusable=self._is_whole and not (self._is_last or self._abort.is_set))

    def end(self, is_reusable: bool) -> None:
        self._is_closed, self._error = True, None
        self._abort.watch(None)
        del self._parser  # It and this object hold each other.
        if is_reusable:
            self._idle.append((self._wire, time.monotonic()))
        else:
            self._wire.close()

    def _hear(self) -> None:
        try:
            if data := self._wire.recv(CHUNK_BYTES):
                self._parser.feed_data(data)
            elif self._has_head and not self._has_length:
                self._is_whole = self._is_last = True  # The connection's end is the body's.
            else:
                self._error = httpx2.RemoteProtocolError("the answer broke off")
        except OSError as problem:
            kind = httpx2.ReadTimeout if isinstance(problem, TimeoutError) else httpx2.ReadError
            self._error = kind(str(problem))
        except (HttpParserError, HttpParserCallbackError, HttpParserUpgrade) as problem:
            # If the answer is whole, there was something beyond its end that nobody had asked for.
            self._is_last, self._error = True, httpx2.RemoteProtocolError(str(problem))

    def on_message_begin(self) -> None:
        if self._is_whole:
            raise httpx2.RemoteProtocolError("an answer to nothing")
        self.headers.clear()
        self._has_length = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # Else it is a trailer.
            self.headers.append((name, value))
            is_chunked = name.lower() == b"transfer-encoding" and b"chunked" in value.lower()
            self._has_length = self._has_length or is_chunked or name.lower() == b"content-length"

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._has_head = self.status >= 200  # Else it is one that another is to follow (RFC 9110, 15.2).

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self._is_whole = self._has_head
        self._is_last = self._is_last or (self._is_whole and not self._parser.should_keep_alive())


def _take(idle: Idle) -> socket.socket | None:
    """A connection on which nothing is to be heard: by itself, that would be its end. None if there is no such one."""
    with suppress(IndexError):
        for wire, since in iter(idle.pop, None):
            is_fresh = time.monotonic() - since <= IDLE_SECONDS
            with suppress(OSError):
                wire.settimeout(0.0)
                try:
                    socket.socket.recv(wire, 1, socket.MSG_PEEK)  # Not its own method: TLS lets nobody peek.
                except BlockingIOError:
                    if is_fresh and not (isinstance(wire, ssl.SSLSocket) and wire.pending()):
                        return wire
            wire.close()
    return None
