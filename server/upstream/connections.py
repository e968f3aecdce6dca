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
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi

from server.upstream.addresses import Addresses

CONNECT_SECONDS = 10.0
KEPT_SECONDS = 60.0
"""How long a connection may be idle; after that, something on the way may have forgotten it without a word."""
CHUNK_BYTES = 65_536
BREAKS = (OSError, HTTPException, UnicodeError)
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
        self._http = _through(proxy, url, tls) if proxy else _to(url.hostname, url.port, tls)
        self._http._create_connection = addresses.connect  # type: ignore[attr-defined]
        is_told_whole = proxy is not None and tls is None
        self._prefix = url.geturl() if is_told_whole else url.path
        self._headers = {**headers, **(_credentials(proxy) if proxy and is_told_whole else {})}
        self._socket: socket.socket | None = None
        self._idle_since = 0.0
        self._is_whole = False
        """Whether the last answer was read to its end."""
        self._is_cut = False

    def ask(self, method: str, path: str, body: bytes | None, seconds: float) -> HTTPResponse:
        """The answer, its body unread; `end` is to be called with it.

        Raises Unanswered, BrokenAnswer, and TimeoutError where nothing was heard for `seconds`.
        """
        self._is_whole = is_open = False
        try:
            self._open(min(CONNECT_SECONDS, seconds))
            is_open = True
            self._http.sock.settimeout(seconds)
            self._http.request(method, self._prefix + path, body, self._headers)
            return self._http.getresponse()
        except BaseException as problem:
            self._http.close()
            if (is_open and isinstance(problem, TimeoutError)) or not isinstance(problem, BREAKS):
                raise
            raise Unanswered from problem

    def read(self, response: HTTPResponse) -> Generator[bytes, None, None]:
        """The body as it comes. Raises OSError and HTTPException, IncompleteRead where it ends too early."""
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk
        if response.length:
            raise IncompleteRead(b"", response.length)
        self._is_whole = True

    def end(self, response: HTTPResponse) -> None:
        """Let go of an answer. Where it was not read to its end, the connection is of no further use."""
        response.close()
        if not self._is_whole:
            self._http.close()
        self._idle_since = time.monotonic()

    def cut(self) -> None:
        """Close the connection under whoever uses it, from any thread; one that is being made, as soon as it is."""
        self._is_cut = True
        if self._socket is not None:
            # Not its own method: under TLS, that would let another thread's words out unencrypted for an instant.
            with suppress(OSError):  # The other side was quicker.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def mend(self) -> None:
        """To be called before the next use."""
        self._is_cut = False

    def _open(self, seconds: float) -> None:
        if self._http.sock is not None and self._is_stale():
            self._http.close()
        if self._http.sock is None:
            self._http.timeout = seconds
            self._http.connect()
            self._socket = self._http.sock
        if self._is_cut:
            raise ConnectionAbortedError

    def _is_stale(self) -> bool:
        """Whether it was idle for too long, or there is something to be heard on it: by itself, that is its end."""
        if time.monotonic() - self._idle_since > KEPT_SECONDS:
            return True
        wire = self._http.sock
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


class _Answer(HTTPResponse):
    """Tells a head that broke after the upstream has done what was asked."""

    def begin(self) -> None:
        try:
            super().begin()
        except BREAKS as problem:
            if self.status in range(200, 300):
                raise BrokenAnswer from problem
            raise

    def _read_status(self) -> tuple[str, int, str]:
        # Of the answers that another is to follow (RFC 9110, 15.2), http.client skips 100 alone.
        version, status, reason = super()._read_status()  # type: ignore[misc]
        return version, HTTPStatus.CONTINUE if status < 200 else status, reason


def _to(host: str | None, port: int | None, tls: ssl.SSLContext | None) -> HTTPConnection:
    # Without a port, http.client would look for one in the address, and find it in that of IPv6.
    if tls is None:
        http = HTTPConnection(host or "", port or 80)
    else:
        http = HTTPSConnection(host or "", port or 443, context=tls)
    http.response_class = _Answer
    return http


def _through(proxy: SplitResult, url: SplitResult, tls: ssl.SSLContext | None) -> HTTPConnection:
    """For HTTPS a tunnel through the proxy; plain HTTP is asked of the proxy itself."""
    http = _to(proxy.hostname, proxy.port or 80, tls)
    if tls is not None:
        http.set_tunnel(url.hostname or "", url.port or 443, _credentials(proxy))
    return http


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    secret = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(secret.encode()).decode()}"}
