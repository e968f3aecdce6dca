"""SDK clients with one connection each, lent to one call at a time.

A pool's own bookkeeping grows with the connections that it holds; a stack of clients does not, and whoever has a client
lent knows which socket to close.
"""

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import httpx2
import openai

ONE_CONNECTION = httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=60.0)

PLATFORM_HEADERS = ("Arch", "Async", "Lang", "OS", "Package-Version", "Runtime", "Runtime-Version")
CALL_HEADERS = ("Retry-Count", "Read-Timeout")


def _untold(names: Sequence[str]) -> dict[str, Any]:
    """What makes the SDK leave out `X-Stainless-…` headers: they tell of the machine, and cost a tenth of a call."""
    return {f"X-Stainless-{name}": openai.Omit() for name in names}


UNTOLD = _untold(CALL_HEADERS)
"""To be sent as the headers of every call."""


class Lane:
    """An SDK client and its connection."""

    def __init__(self, key: str, base_url: str | None, tls: ssl.SSLContext) -> None:
        http = openai.DefaultHttpxClient(
            verify=tls, limits=ONE_CONNECTION, event_hooks={"request": [self._follow_connection]}
        )
        self.sdk = openai.OpenAI(
            api_key=key, base_url=base_url, max_retries=0, http_client=http, default_headers=_untold(PLATFORM_HEADERS)
        )
        self.completions_url = f"{self.sdk.base_url}chat/completions"
        """Whole, which spares the SDK a good part of the work of reading it."""
        self._socket: socket.socket | None = None
        self._is_cut = False

    def cut(self) -> None:
        """Close the connection under whoever uses it, from any thread; one that is being made, as soon as it is."""
        self._is_cut = True
        self._shut_down()

    def mend(self) -> None:
        """To be called before the next use."""
        self._is_cut = False

    def _shut_down(self) -> None:
        if self._socket is not None:
            # Not its own method: under TLS, that would let another thread's words out unencrypted for an instant.
            with suppress(OSError):  # The other side was quicker, or TLS has taken the socket over.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _follow_connection(self, request: httpx2.Request) -> None:
        request.extensions["trace"] = self._note_connection

    def _note_connection(self, event: str, details: dict[str, Any]) -> None:
        # Whoever makes it: `connection`, or `proxy` or `socks`.
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._socket = details["return_value"].get_extra_info("socket")
            if self._is_cut:
                self._shut_down()


class Lanes:
    """As many lanes as calls were ever in flight at once; the one given back last is lent first, while it is warm."""

    def __init__(self, key: str, base_url: str | None) -> None:
        self._key = key
        self._base_url = base_url
        self._idle: list[Lane] = []
        self._making = threading.Lock()

    @contextmanager
    def lent(self) -> Iterator[Lane]:
        try:
            lane = self._idle.pop()
        except IndexError:
            lane = self._made()
        lane.mend()
        try:
            yield lane
        finally:
            self._idle.append(lane)

    def _made(self) -> Lane:
        with self._making:
            lane = Lane(self._key, self._base_url, self._tls)
            # Asked for once under the lock: the SDK runs `uname` for the first headers of a process, even for those
            # that it leaves out, and every call that came early would run it too.
            _ = lane.sdk.default_headers
            return lane

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """Shared, since reading the certificates costs more than all the rest."""
        return httpx2.create_ssl_context()
