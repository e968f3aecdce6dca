"""The HTTP client of the upstream: the `openai` package for headers and addresses, its httpx2 client for sending."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
from openai import OpenAI

from server.upstream.transport import Transport


@dataclass(frozen=True)
class Account:
    """The upstream's address, and the credentials that are sent to it."""

    key: str = field(repr=False)
    base_url: str = field(repr=False)
    """It may have a query string, which is then sent with every request."""
    organization: str = ""
    project: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every request; they override the package's headers of the same name."""


class Client:
    """Safe from any thread. Must be created after a fork, since it loads certificates and opens connections."""

    def __init__(self, account: Account) -> None:
        # Their log lines contain addresses and, at `debug`, headers and contents.
        for name in ("openai", "httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        base_url, _, query = account.base_url.partition("?")
        self.transport = Transport()
        self._custom = {name.lower() for name in account.headers} | {"openai-organization", "openai-project"}
        try:
            self.http = _Http(self.transport, self._remove_secrets)
        except (ValueError, ImportError, OSError) as error:  # An invalid proxy address or certificate file.
            raise httpx2.ConnectError(str(error)) from error
        self.openai = OpenAI(
            api_key=account.key,
            base_url=base_url,
            organization=account.organization,
            project=account.project,
            default_headers=dict(account.headers),
            # Not in the base URL, since the package would append the path after the query.
            default_query=dict(parse_qsl(query, keep_blank_values=True)),
            http_client=self.http,
            max_retries=0,
        )
        # An empty string would be sent as an empty header.
        self.openai.organization = self.openai.organization or None
        self.openai.project = self.openai.project or None
        self._origin = self.openai.base_url.scheme, self.openai.base_url.host, self.openai.base_url.port
        self._url = httpx2.URL(f"{str(self.openai.base_url).rstrip('/')}/chat/completions")
        if query:
            self._url = self._url.copy_with(query=query.encode())
        self._headers = httpx2.Headers(self.openai.auth_headers)
        for name, value in self.openai.default_headers.items():
            if isinstance(value, str):
                self._headers[name] = value
        # A compressing server holds the pieces of a stream back.
        self._headers["Accept-Encoding"] = "identity"
        self._plain_headers = self._headers.copy()
        self._plain_headers["Accept-Encoding"] = "gzip, deflate"

    def send(self, body: bytes, extensions: Mapping[str, Any], *, streamed: bool) -> httpx2.Response:
        """Post a request for a completion; the response's body is unread. Raises httpx2's exceptions."""
        headers = self._headers if streamed else self._plain_headers
        request = httpx2.Request("POST", self._url, headers=headers, content=body, extensions=dict(extensions))
        return self.http.send(request, stream=True)

    def _remove_secrets(self, request: httpx2.Request) -> None:
        """Remove configured headers if a redirect leads to another origin; httpx2 itself removes `Authorization`."""
        if (request.url.scheme, request.url.host, request.url.port) != self._origin:
            for name in self._custom & request.headers.keys():
                del request.headers[name]

    def list_models(self, seconds: float) -> bytes:
        """The body of `GET /models`. Raises the `openai` package's exceptions."""
        response = self.openai.models.with_raw_response.list(timeout=seconds)
        return response.content


class _Http(httpx2.Client):
    """Uses `Transport` if the environment names no proxy, else httpx2's own transports."""

    def __init__(self, transport: Transport, check: Callable[[httpx2.Request], None]) -> None:
        """`check` is called with each request, including those of redirects, before it is sent."""
        self._direct = transport
        # No keep-alive through a proxy: httpx2 traces the socket of new connections only, and without the socket a
        # request cannot be aborted.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        super().__init__(follow_redirects=True, limits=limits, event_hooks={"request": [check]})

    def _init_transport(self, *_: Any, **__: Any) -> httpx2.BaseTransport:
        return self._direct


def is_openai(base_url: str) -> bool:
    """Whether the address is OpenAI's own, in any of its regions."""
    host = urlsplit(base_url).hostname or ""
    return host == "api.openai.com" or host.endswith(".api.openai.com")
