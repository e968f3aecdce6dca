"""What a request's headers and its address say, and the headers of an answer that repeat them.

Who asks, how long they wait, which idempotency key they send, and where they reach the server.
"""

import re
from urllib.parse import quote, urlencode

from flask import current_app, request

from server.errors import InvalidRequest

CHATGPT_DEADLINE_SECONDS = 40.0
"""ChatGPT's Actions give up after 45 seconds."""

CHATGPT_CHARACTERS = 95_000
"""ChatGPT's Actions refuse answers of 100,000 characters."""

PATH_CHARACTERS = "/!$&'()*+,;=:@%~"
"""Characters that a path may contain unescaped (RFC 3986, 3.3), besides letters, digits and `_.-`."""


def is_chatgpt() -> bool:
    return "openai-conversation-id" in request.headers or "ChatGPT-User" in request.headers.get("User-Agent", "")


def wait_seconds(default_seconds: float) -> float:
    """How many seconds the caller waits for a reply: as `Prefer` says, else `default_seconds`; ChatGPT at most 40."""
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
    """Whether the header `Prefer: respond-async` (RFC 7240), or `wait=0`, asks not to wait for the reply."""
    preferred = re.split(r"[,;\s]+", request.headers.get("Prefer", "").lower())
    return "respond-async" in preferred or prefer_wait() == 0


def request_id(in_body: str | None) -> str | None:
    """The caller's id of a question: `request_id` of the body, else the header `Idempotency-Key`.

    The same id with the same question finds the same reply. Raises InvalidRequest if the header does not have 1 to 200
    characters.
    """
    given = request.headers.get("Idempotency-Key") if in_body is None else in_body
    if given is not None and not 1 <= len(given) <= 200:
        raise InvalidRequest("Idempotency-Key must have 1 to 200 characters.")
    return given


def idempotency_key(missing: str) -> str | None:
    """The header `Idempotency-Key` of a request that names no conversation, because it lacks the field `missing`.

    The conversation's id is derived from the key, so that the same key finds the same reply. Raises InvalidRequest if
    the key does not have 16 to 200 characters, since anybody who guesses it can read the reply.
    """
    given = request.headers.get("Idempotency-Key")
    if given is not None and not 16 <= len(given) <= 200:
        raise InvalidRequest(f"Without a {missing}, Idempotency-Key must have 16 to 200 characters.")
    return given


def link_to_older(index: int) -> str:
    """A `Link` header (RFC 8288) to the same request for the messages before `index`."""
    query = urlencode({**request.args, "before": index})
    return f'<{prefix()}{request.path}?{query}>; rel="next"'


def prefix() -> str:
    """The path under which callers reach the server, as configured or as a proxy tells; empty for the whole site."""
    path = current_app.config["APPLICATION_ROOT"].strip("/") or request.script_root.strip("/")
    # Two leading slashes would make the first part a host name (RFC 3986, 4.2).
    return f"/{quote(path, safe=PATH_CHARACTERS)}" if path else ""


def public_address(configured: str) -> str:
    """The address at which callers reach the server: its host in lower case, without a slash at the end."""
    return configured or f"{request.scheme}://{(request.host or 'localhost').lower()}{prefix()}"
