"""Who asks, how long they wait, and whether they are still there."""

import re
import select
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote, urlencode

from flask import current_app, request

from server.errors import InvalidRequest

CHATGPT_DEADLINE_SECONDS = 40.0
"""ChatGPT's Actions give up at 45."""

CHATGPT_CHARACTERS = 95_000
"""ChatGPT's Actions refuse answers of 100,000 characters."""

PATH = "/!$&'()*+,;=:@%~"
"""Characters that stand in a path as they are (RFC 3986, 3.3), besides those that every address has."""

ESTABLISHED = b"\x01"
"""The first byte of Linux's `struct tcp_info`, its state, while both sides may speak."""


def is_chatgpt() -> bool:
    return "openai-conversation-id" in request.headers or "ChatGPT-User" in request.headers.get("User-Agent", "")


def wait_seconds(default_seconds: float) -> float:
    """How many seconds the caller waits for a reply: as `Prefer` says, else by what is known of the caller."""
    preferred = prefer_wait()
    if preferred is not None:
        return preferred
    if prefers_async():
        return 0.0
    return min(default_seconds, CHATGPT_DEADLINE_SECONDS) if is_chatgpt() else default_seconds


def prefer_wait() -> float | None:
    """The N of the header `Prefer: wait=N` (RFC 7240), in seconds."""
    found = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,9})\b", request.headers.get("Prefer", ""), re.IGNORECASE)
    return None if found is None else float(found[1])


def prefers_async() -> bool:
    """Whether the header `Prefer: respond-async` (RFC 7240) asks not to wait for the reply."""
    preferred = re.split(r"[,;\s]+", request.headers.get("Prefer", "").lower())
    return "respond-async" in preferred or prefer_wait() == 0


def connection_probe() -> Callable[[], bool]:
    """A question that can be asked from any thread, later: is the caller of this request still on the line?

    Where the server tells no socket, as in Flask's test client, the answer is yes.
    """
    connection = request.environ.get("gunicorn.socket")
    if not isinstance(connection, socket.socket):
        return lambda: True

    def is_connected() -> bool:
        if sys.platform == "linux":
            with suppress(OSError):  # It is no TCP.
                # Asked at the end of every run, and with gevent a tenth of a request cheaper than to poll.
                return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == ESTABLISHED
        return _is_silent_or_speaks(connection)

    return is_connected


def _is_silent_or_speaks(connection: socket.socket) -> bool:
    try:
        # Not select(): it knows only the first 1,024 files of a process.
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        # Readable without a byte to read is the end of the line; a byte would be the caller's next request.
        return not poll.poll(0) or bool(connection.recv(1, socket.MSG_PEEK))
    except (OSError, ValueError):
        return False


def request_id(in_body: str | None) -> str | None:
    """What makes a question exact: `request_id` of the body, else the header `Idempotency-Key`.

    Raises InvalidRequest where the header is no text of 1 to 200 characters.
    """
    given = request.headers.get("Idempotency-Key") if in_body is None else in_body
    if given is not None and not 1 <= len(given) <= 200:
        raise InvalidRequest("Idempotency-Key must have 1 to 200 characters.")
    return given


def idempotency_key(missing: str) -> str | None:
    """The header `Idempotency-Key` of a request that names no conversation, as it has no field `missing`.

    The key names it instead, so that the same key finds the same reply. Raises InvalidRequest where it is no text of 16
    to 200 characters, since whoever guesses it could read the reply.
    """
    given = request.headers.get("Idempotency-Key")
    if given is not None and not 16 <= len(given) <= 200:
        raise InvalidRequest(f"Without a {missing}, Idempotency-Key must have 16 to 200 characters.")
    return given


def link_to_older(place: int) -> str:
    """A `Link` header (RFC 8288) to the same request for what lies before `place`."""
    query = urlencode({**request.args, "before": place})
    return f'<{prefix()}{request.path}?{query}>; rel="next"'


def prefix() -> str:
    """The path beneath which callers find the server, as configured or as a proxy tells; empty for the whole site."""
    path = current_app.config["APPLICATION_ROOT"].strip("/") or request.script_root.strip("/")
    # Two slashes at its beginning would make it the name of a host.
    return f"/{quote(path, safe=PATH)}" if path else ""


def public_address(configured: str) -> str:
    """Where callers reach the server, its host in lower case, without a slash at the end."""
    return configured or f"{request.scheme}://{(request.host or 'localhost').lower()}{prefix()}"
