"""A transport for `httpx2`: HTTP/1.1 over direct connections, with a keep-alive pool that takes and returns in O(1).

httpx2's own transport halves this server's throughput (`bench/README.md`). Proxies, redirects and decoding stay with
httpx2.
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
IDLE_SECONDS = 60.0  # Firewalls and NAT may silently forget a connection that was idle for longer.
DRAIN_SECONDS = 0.05  # How long close() waits for the response's end, so that the connection can be reused.
KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 5, "TCP_NODELAY": 1}
PORTS = {"http": 80, "https": 443}
SOCKET_OPTIONS = [(getattr(socket, name), value) for name, value in KEEP_ALIVE.items() if hasattr(socket, name)]

Idle = deque[tuple[socket.socket, float]]  # With the monotonic time of its return; the newest is reused first.


class Transport(httpx2.BaseTransport):
    """Honours `extensions["timeout"]`, in which `body` overrides `read` for the body, and `extensions["abort"]`."""

    _tls = cached_property(lambda _: httpx2.create_ssl_context())  # Shared, since reading the certificates takes 30 ms.

    def __init__(self) -> None:
        self._idle: dict[tuple[str, str, int | None], Idle] = {}
        """By scheme, host and port."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        abort = request.extensions.get("abort") or Abort()
        url, timeout = request.url, request.extensions.get("timeout", {})
        idle = self._idle.setdefault((url.scheme, url.host, url.port), deque())
        stream = _Exchange(_pop_idle(idle) or self._connect(url, timeout.get("connect"), abort), idle, abort)
        try:
            stream.send(request, timeout)
        except BaseException:
            stream.end(is_reusable=False)
            raise
        return httpx2.Response(stream.status, headers=stream.headers, stream=stream)

    def close_idle(self, seconds: float = IDLE_SECONDS) -> None:
        """Close the connections that were not used for `seconds`."""
        for idle in list(self._idle.values()):
            with suppress(IndexError):  # Other threads change the deque meanwhile.
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
        except (OSError, UnicodeError) as error:  # UnicodeError: an invalid host name.
            kind = httpx2.ConnectTimeout if isinstance(error, TimeoutError) else httpx2.ConnectError
            raise kind(str(error)) from error


class _Exchange(httpx2.SyncByteStream):
    """One request and its response, whose body it yields. httptools calls the methods that begin with `on_`."""

    def __init__(self, wire: socket.socket, idle: Idle, abort: Abort) -> None:
        self._wire, self._idle, self._abort = wire, idle, abort
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._has_head = self._has_length = self._is_whole = self._is_last = self._is_closed = False
        self._error: httpx2.TransportError | None = None  # Why nothing more can be received.
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_chunked_length=True
        )  # Some servers send both lengths (RFC 9112, 6.3).
        abort.watch(wire)

    def send(self, request: httpx2.Request, timeout: Mapping[str, float | None]) -> None:
        head = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
        head += [b"%b: %b" % field for field in request.headers.raw]
        data = b"\r\n".join((*head, b"", request.read()))  # In one piece, for one system call.
        unsent: str | None = None
        try:
            self._wire.settimeout(timeout.get("write"))
            sent = self._wire.send(data)
            if sent < len(data):  # Not sendall() alone: under gevent it queries the buffer's size each time.
                self._wire.sendall(memoryview(data)[sent:])
        except TimeoutError as error:
            raise httpx2.WriteTimeout(str(error)) from error
        except OSError as error:  # A server that stops reading may have answered before, such as with 413.
            unsent, self._is_last = str(error), True
        self._body_seconds = timeout.get("read")
        self._wire.settimeout(self._body_seconds)
        while not (self._has_head or self._error):
            self._receive()
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
                self._receive()
        if self._error and not self._is_whole:
            raise self._error

    def close(self) -> None:
        """Return the connection to the pool if the response ends within DRAIN_SECONDS; else close it."""
        until = time.monotonic() + DRAIN_SECONDS
        while not (self._is_whole or self._error or self._abort.is_set or self._is_closed):
            self._wire.settimeout(max(until - time.monotonic(), 0.0))
            self._receive()
        if not self._is_closed:
            self.end(is_reusable=self._is_whole and not (self._is_last or self._abort.is_set))

    def end(self, is_reusable: bool) -> None:
        self._is_closed, self._error = True, None
        self._abort.watch(None)
        del self._parser  # A reference cycle with this object.
        if is_reusable:
            self._idle.append((self._wire, time.monotonic()))
        else:
            self._wire.close()

    def _receive(self) -> None:
        try:
            if data := self._wire.recv(CHUNK_BYTES):
                self._parser.feed_data(data)
            elif self._has_head and not self._has_length:
                self._is_whole = self._is_last = True  # The end of the connection is the end of the body.
            else:
                self._error = httpx2.RemoteProtocolError("the response broke off")
        except OSError as error:
            kind = httpx2.ReadTimeout if isinstance(error, TimeoutError) else httpx2.ReadError
            self._error = kind(str(error))
        except (HttpParserError, HttpParserCallbackError, HttpParserUpgrade) as error:
            # If the response is complete, these are unexpected bytes after it: the connection is not reused.
            self._is_last, self._error = True, httpx2.RemoteProtocolError(str(error))

    def on_message_begin(self) -> None:
        if self._is_whole:
            raise httpx2.RemoteProtocolError("a response without a request")
        self.headers.clear()
        self._has_length = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # Else it is a trailer field.
            self.headers.append((name, value))
            is_chunked = name.lower() == b"transfer-encoding" and b"chunked" in value.lower()
            self._has_length = self._has_length or is_chunked or name.lower() == b"content-length"

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._has_head = self.status >= 200  # Else it is an interim response (RFC 9110, 15.2).

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self._is_whole = self._has_head
        self._is_last = self._is_last or (self._is_whole and not self._parser.should_keep_alive())


def _pop_idle(idle: Idle) -> socket.socket | None:
    """An idle connection that is fresh and silent; None if there is none.

    Bytes or an end of file on an idle connection mean that the server has closed it.
    """
    with suppress(IndexError):
        for wire, since in iter(idle.pop, None):
            is_fresh = time.monotonic() - since <= IDLE_SECONDS
            with suppress(OSError):
                wire.settimeout(0.0)
                try:
                    socket.socket.recv(wire, 1, socket.MSG_PEEK)  # Not SSLSocket.recv(), which does not allow MSG_PEEK.
                except BlockingIOError:
                    if is_fresh and not (isinstance(wire, ssl.SSLSocket) and wire.pending()):
                        return wire
            wire.close()
    return None
