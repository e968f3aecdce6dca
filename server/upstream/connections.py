"""Connections to the upstream, each lent to one call at a time.

A pool's own bookkeeping grows with the connections that it holds; a stack of them does not, and whoever has one lent
knows which socket to close.
"""

import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi

from server.upstream.addresses import Addresses
from server.upstream.answers import Answer, Broken

CONNECT_SECONDS = 10.0
KEPT_SECONDS = 60.0
"""How long a connection may be idle; after that, something on the way may have forgotten it without a word."""
CHUNK_BYTES = 16_384
BREAKS = (OSError, UnicodeError)
"""What a connection breaks with; UnicodeError for the name of a host that is none."""


class Unanswered(Exception):
    """The connection could not be made, or it broke before an answer began; the cause tells how."""


class BrokenAnswer(Exception):
    """The connection broke after a status between 200 and 299: what was asked for has been done."""


class Connection:
    """One to the upstream, made when it is needed, and anew when the other side has closed it."""

    def __init__(
        self,
        url: SplitResult,
        proxy: SplitResult | None,
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None,
        addresses: Addresses,
    ) -> None:
        """`headers` go with every request; `tls` is None for plain HTTP."""
        self._url = url
        self._proxy = proxy
        self._tls = tls
        self._addresses = addresses
        self._headers = headers
        self._socket: socket.socket | None = None
        self._idle_since = 0.0
        self._is_cut = False

    def ask(self, method: str, path: str, body: bytes, seconds: float) -> Answer:
        """The answer, its body unread; `end` is to be called with it.

        Raises Unanswered, BrokenAnswer, and TimeoutError where nothing was heard for `seconds`.
        """
        answer = Answer()
        is_open = False
        try:
            wire = self._open(min(CONNECT_SECONDS, seconds))
            is_open = True
            wire.settimeout(seconds)
            request = self._request(method, path, body)
            sent = wire.send(request)
            if sent < len(request):  # Under gevent, `sendall` asks the system for the size of its buffer, each time.
                wire.sendall(memoryview(request)[sent:])
            while not answer.has_head:
                answer.hear(wire.recv(CHUNK_BYTES))
            return answer
        except BaseException as problem:
            self._close()
            answer.close()
            if not isinstance(problem, BREAKS):
                raise
            if answer.status in range(200, 300):
                raise BrokenAnswer from problem
            if is_open and isinstance(problem, TimeoutError):
                raise
            raise Unanswered from problem

    def read(self, answer: Answer, is_timed: bool = True) -> Generator[bytes, None, None]:
        """The body as it comes. Raises OSError, also where it ends too early.

        It `is_timed` as the request was, or waited for as long as it takes: a clock that is set anew for each piece
        is a fifth of what it costs to hear one.
        """
        if not is_timed and self._socket is not None:
            self._socket.settimeout(None)
        while True:
            while answer.body:
                yield answer.body.pop(0)
            if answer.is_whole:
                return
            if answer.is_broken or self._socket is None:
                raise Broken
            answer.hear(self._socket.recv(CHUNK_BYTES))

    def end(self, answer: Answer) -> None:
        """Let go of an answer. Where it was not heard to its end, the connection is of no further use."""
        answer.close()
        if answer.is_last or not answer.is_whole:
            self._close()
        self._idle_since = time.monotonic()

    def cut(self) -> None:
        """Close the connection under whoever uses it, from any thread; one that is being made, as soon as it is."""
        self._is_cut = True
        wire = self._socket
        if wire is not None:
            # Not its own method: under TLS, that would let another thread's words out unencrypted for an instant.
            with suppress(OSError):  # The other side was quicker.
                socket.socket.shutdown(wire, socket.SHUT_RDWR)

    def mend(self) -> None:
        """To be called before the next use."""
        self._is_cut = False

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        """In one piece, which is one call of the system."""
        prefix, fields = self._same_in_all
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        return f"{method} {prefix}{path} HTTP/1.1\r\n{fields}{length}\r\n".encode("ascii") + body

    @cached_property
    def _same_in_all(self) -> tuple[str, str]:
        """What stands before the path of every request, and the fields of its head. Raises UnicodeError."""
        host = self._url.netloc.rpartition("@")[2].encode("idna").decode()
        if self._proxy is None or self._tls is not None:
            return self._url.path, _fields({"Host": host, **self._headers})
        return self._url.geturl(), _fields({"Host": host, **self._headers, **_credentials(self._proxy)})

    def _open(self, seconds: float) -> socket.socket:
        if self._socket is not None and self._is_stale(self._socket):
            self._close()
        if self._socket is None:
            self._socket = self._connected(seconds)
        if self._is_cut:
            raise ConnectionAbortedError
        return self._socket

    def _connected(self, seconds: float) -> socket.socket:
        wire = self._addresses.connect(_address(self._proxy or self._url), seconds)
        try:
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                return wire
            if self._proxy is not None:
                _dig_tunnel(wire, self._url, self._proxy)
            return self._tls.wrap_socket(wire, server_hostname=self._url.hostname)
        except BaseException:
            wire.close()
            raise

    def _close(self) -> None:
        wire, self._socket = self._socket, None
        if wire is not None:
            wire.close()

    def _is_stale(self, wire: socket.socket) -> bool:
        """Whether it was idle for too long, or there is something to be heard on it: by itself, that is its end."""
        if time.monotonic() - self._idle_since > KEPT_SECONDS:
            return True
        if isinstance(wire, ssl.SSLSocket) and wire.pending():
            return True
        wire.settimeout(0.0)
        try:
            socket.socket.recv(wire, 1, socket.MSG_PEEK)  # Not its own method: TLS lets nobody peek.
        except OSError as problem:
            return not isinstance(problem, BlockingIOError)
        return True


class Connections:
    """As many as calls were ever in flight at once; the one given back last is lent first, while it is warm."""

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        self._url = urlsplit(base_url.rstrip("/"))
        self._headers = headers
        self._addresses = Addresses()
        self._idle: list[Connection] = []
        self._making = threading.Lock()

    @contextmanager
    def lent(self) -> Iterator[Connection]:
        """Raises Unanswered where a proxy is set that is not spoken to in plain HTTP."""
        try:
            connection = self._idle.pop()
        except IndexError:
            with self._making:
                connection = Connection(self._url, self._proxy, self._headers, self._tls, self._addresses)
        connection.mend()
        try:
            yield connection
        finally:
            self._idle.append(connection)

    @cached_property
    def _tls(self) -> ssl.SSLContext | None:
        """Shared, since reading the certificates costs more than all the rest."""
        if self._url.scheme != "https":
            return None
        tls = ssl.create_default_context()
        tls.load_verify_locations(certifi.where())  # Some systems have none of their own.
        return tls

    @cached_property
    def _proxy(self) -> SplitResult | None:
        """The proxy on the way, by the variables that programs share, such as HTTPS_PROXY and NO_PROXY."""
        known = {} if proxy_bypass(self._url.netloc.rpartition("@")[2]) else getproxies()
        found = known.get(self._url.scheme) or known.get("all")
        if not found:
            return None
        proxy = urlsplit(found if "://" in found else f"http://{found}")
        if proxy.scheme != "http":
            raise Unanswered
        return proxy


def _dig_tunnel(wire: socket.socket, url: SplitResult, proxy: SplitResult) -> None:
    """Have the proxy connect to `url` (RFC 9110, 9.3.6). Raises OSError where it does not."""
    host, port = _address(url)
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    head = f"CONNECT {place} HTTP/1.1\r\n{_fields({'Host': place, **_credentials(proxy)})}\r\n"
    wire.sendall(head.encode("ascii"))
    answer = Answer()
    try:
        while not answer.has_head:
            answer.hear(wire.recv(CHUNK_BYTES))
    finally:
        answer.close()
    if answer.status not in range(200, 300) or answer.body:
        raise ConnectionRefusedError


def _address(url: SplitResult) -> tuple[str, int]:
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def _fields(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    secret = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(secret.encode()).decode()}"}
