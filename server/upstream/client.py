"""The `openai` package as it is used here: its client says who we are and where, and its httpx2 client sends."""

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
    """Who we are at the upstream, and where it is."""

    key: str
    base_url: str
    """It may have a query string, which then goes with every request."""
    organization: str = ""
    project: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request; of the same name, they win over the package's."""


class Client:
    """To be made after a fork. Safe from any thread."""

    def __init__(self, account: Account) -> None:
        # Their lines would have addresses, and at `debug` also headers and contents.
        for name in ("openai", "httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        base_url, _, query = account.base_url.partition("?")
        self.transport = Transport()
        self._custom = {name.lower() for name in account.headers} | {"openai-organization", "openai-project"}
        try:
            self.http = _Http(self.transport, self._keep_secrets)
        except (ValueError, ImportError, OSError) as problem:  # A proxy or a file of certificates that is none.
            raise httpx2.ConnectError(str(problem)) from problem
        self.openai = OpenAI(
            api_key=account.key,
            base_url=base_url,
            organization=account.organization,
            project=account.project,
            default_headers=dict(account.headers),
            # As a part of the base URL, the package would put the path behind it.
            default_query=dict(parse_qsl(query, keep_blank_values=True)),
            http_client=self.http,
            max_retries=0,
        )
        # Empty, they would be sent as empty headers.
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
        # A compressor would hold the pieces of a stream back.
        self._headers["Accept-Encoding"] = "identity"
        self._plain_headers = self._headers.copy()
        self._plain_headers["Accept-Encoding"] = "gzip, deflate"

    def send(self, body: bytes, extensions: Mapping[str, Any], *, streamed: bool) -> httpx2.Response:
        """Ask for a completion; its body is unread. Raises httpx2's exceptions."""
        headers = self._headers if streamed else self._plain_headers
        request = httpx2.Request("POST", self._url, headers=headers, content=body, extensions=dict(extensions))
        return self.http.send(request, stream=True)

    def _keep_secrets(self, request: httpx2.Request) -> None:
        """Where a redirect leads elsewhere, headers of ours are not sent along; httpx2 keeps `Authorization` back."""
        if (request.url.scheme, request.url.host, request.url.port) != self._origin:
            for name in self._custom & request.headers.keys():
                del request.headers[name]

    def list_models(self, seconds: float) -> bytes:
        """The answer as it came. Raises the package's exceptions."""
        answer = self.openai.models.with_raw_response.list(timeout=seconds)
        return answer.content


class _Http(httpx2.Client):
    """Sends by our transport where the environment names no proxy, and else by httpx2's own."""

    def __init__(self, transport: Transport, check: Callable[[httpx2.Request], None]) -> None:
        """`check` is called with each request, also of a redirect, before it is sent."""
        self._direct = transport
        # A connection through a proxy is not kept: only of a new one, its transport tells which socket it is, which
        # must be known to abort the call.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        super().__init__(follow_redirects=True, limits=limits, event_hooks={"request": [check]})

    def _init_transport(self, *_: Any, **__: Any) -> httpx2.BaseTransport:
        return self._direct


def is_openai(base_url: str) -> bool:
    """Whether it is OpenAI's own server, in any of its regions."""
    host = urlsplit(base_url).hostname or ""
    return host == "api.openai.com" or host.endswith(".api.openai.com")
