"""The server's operations over HTTP, and how a call can fail."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import httpx

DEFAULT_SERVER = "http://127.0.0.1:10000"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
SECONDS = httpx.Timeout(30.0, connect=5.0)
"""Of silence: a stream has a comment after 15 s without text."""
REPLY_SECONDS = httpx.Timeout(700.0, connect=5.0)
"""A reply that is waited for takes as long as the server lets it, by default 600 s."""
IMPORT_SECONDS = httpx.Timeout(600.0, connect=5.0)


class UsageError(Exception):
    """The command cannot be done as it was given; the sentence says why."""


class ServerDown(Exception):
    """Nothing answers at the address, or no conversation server does."""


@dataclass
class Refused(Exception):
    """The server answered with an error: a sentence for a person, and a code that never changes."""

    sentence: str
    code: str
    status: int
    retry_after: float | None = None

    def __str__(self) -> str:
        return f"{self.sentence} ({self.code})"


SET_KEY = "Set CONVERSATION_KEY to the one that its operator gave you."
NO_KEY = f"The server needs a key. {SET_KEY}"
REFUSED_KEY = (
    "The server does not accept the key. Check that CONVERSATION_KEY, or --key, has all of it; "
    "it may also have expired or been deleted."
)
KEY_CODES = {"unauthorized", "too_many_attempts"}
"""Codes of errors that no other request mends, but another key."""


def check_key(key: str) -> str:
    """The key without the spaces around it. Raises UsageError, without the key, if no header can carry it."""
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError("The key has characters that no key has; copy it again into CONVERSATION_KEY.")
    return key


def is_local(server: str) -> bool:
    return urlsplit(server).hostname in LOOPBACK


class Client:
    """One server. Safe from any thread."""

    def __init__(self, server: str, key: str = "") -> None:
        """Raises UsageError if `server` is no address of a server, or `key` can be none. Without a key, it is empty."""
        try:
            parts = urlsplit(server if "://" in server else f"http://{server}")
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_address = False
        if not is_address:
            raise UsageError(f"--server must be an address such as {DEFAULT_SERVER}, not {server}.")
        self.host = parts.netloc.rpartition("@")[2] + parts.path.rstrip("/")
        self.address = f"{parts.scheme}://{self.host}"
        """For people: without the password that the address may have."""
        self.key = check_key(key)
        # With a password in the address, `Authorization` is that of a proxy before the server.
        headers = (
            {"X-API-Key": self.key} if parts.username or parts.password else {"Authorization": f"Bearer {self.key}"}
        )
        # A proxy of the environment does not reach this machine's own ports.
        self._http = httpx.Client(
            base_url=parts.geturl(),
            headers=headers if self.key else {},
            timeout=SECONDS,
            trust_env=not is_local(self.address),
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **parameters: Any) -> Any:
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._call("GET", path, params=given)

    def post(self, path: str, body: dict[str, Any], **more: Any) -> Any:
        return self._call("POST", path, json=body, **more)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("PATCH", path, json=body)

    def delete(self, path: str, **parameters: Any) -> Any:
        return self._call("DELETE", path, params=parameters)

    def start_reply(self, body: dict[str, Any], key: str) -> str:
        """Ask. Returns the id of the stream to read. Asked again with the same `key`, it is the same reply."""
        started = self.post("/chat/stream", body, headers={"Idempotency-Key": key})
        stream_id: str = started["stream_id"]
        return stream_id

    def stop_reply(self, stream_id: str) -> None:
        self.delete(f"/chat/stream/{stream_id}")

    def ask(self, body: dict[str, Any], key: str) -> dict[str, Any]:
        """Ask, and wait for the reply."""
        answer: dict[str, Any] = self.post("/chat", body, headers={"Idempotency-Key": key}, timeout=REPLY_SECONDS)
        return answer

    def needs_key(self) -> bool:
        """Whether the server refuses a request without a key."""
        request = self._http.build_request("GET", "/caller")
        for name in ("Authorization", "X-API-Key"):
            request.headers.pop(name, None)
        try:
            self._send(request)
        except Refused as error:
            if error.code != "unauthorized":
                raise
            return True
        return False

    def scope(self) -> str:
        """The client_name that the key opens; with `*` at the end, every one with that beginning."""
        scope: str = self.get("/caller")["client_name"]
        return scope

    def own_name(self, name: str) -> str:
        """A conversation that the key opens: `name` with the beginning that the key asks for, or its only one."""
        scope = self.scope() if self.key else "*"
        return scope[:-1] + name if scope.endswith("*") else scope

    def conversation(self, client_name: str) -> dict[str, Any] | None:
        """Settings and state; None if there is no such conversation."""
        try:
            found: dict[str, Any] = self.get("/conversations/details", client_name=client_name)
        except Refused as error:
            if error.status == 404 and error.code == "not_found":
                return None
            raise
        return found

    def require_conversation(self, client_name: str) -> None:
        """Raises Refused, with its name, if there is no such conversation."""
        if self.conversation(client_name) is None:
            raise Refused(f'There is no conversation "{client_name}".', "not_found", 404)

    def newest_run(self, client_name: str) -> dict[str, Any] | None:
        runs = self.get("/conversations/runs", client_name=client_name, limit=1)["runs"]
        return runs[0] if runs else None

    def models(self) -> list[dict[str, Any]]:
        models: list[dict[str, Any]] = self.get("/models")["data"]
        return models

    def import_file(self, file: BinaryIO, media_type: str, client_name: str | None, on_conflict: str | None) -> Any:
        """Send the file in pieces, as it is read."""
        given = {"client_name": client_name, "on_conflict": on_conflict}
        status = os.fstat(file.fileno())
        length = {"Content-Length": str(status.st_size)} if stat.S_ISREG(status.st_mode) else {}
        return self._call(
            "POST",
            "/conversations/import",
            params={name: value for name, value in given.items() if value is not None},
            content=iter(lambda: file.read(1 << 16), b""),
            headers={"Content-Type": media_type, **length},
            timeout=IMPORT_SECONDS,
        )

    @contextmanager
    def stream(self, path: str, headers: dict[str, str] | None = None, **parameters: Any) -> Iterator[httpx.Response]:
        """A response that is read while it comes. Raises Refused and ServerDown before it begins."""
        given = {name: value for name, value in parameters.items() if value is not None}
        request = self._http.build_request("GET", path, params=given, headers=headers)
        response = self._send(request, stream=True)
        try:
            yield response
        finally:
            response.close()

    def _call(self, method: str, path: str, timeout: httpx.Timeout = SECONDS, **more: Any) -> Any:
        response = self._send(self._http.build_request(method, path, timeout=timeout, **more))
        try:
            return response.json()
        except ValueError:
            raise ServerDown(f"What answers at {self.address} is no conversation server.") from None

    def _send(self, request: httpx.Request, stream: bool = False) -> httpx.Response:
        try:
            response = self._http.send(request, stream=stream)
            if response.status_code >= 300:
                response.read()
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise ServerDown(
                f"No server answers at {self.address}; start it with `make run`, or name another with "
                "CONVERSATION_SERVER or --server."
            ) from None
        except httpx.HTTPError as problem:
            raise ServerDown(f"The connection to {self.address} broke ({type(problem).__name__}); try again.") from None
        if response.status_code >= 300:
            response.close()
            raise self._refusal(response)
        return response

    def _refusal(self, response: httpx.Response) -> Exception:
        try:
            body = response.json()
            sentence, code = str(body["error"]), str(body["code"])
        except (ValueError, LookupError, TypeError):
            return ServerDown(
                f"What answers at {self.address} is no conversation server (status {response.status_code})."
            )
        try:
            after: float | None = float(response.headers["Retry-After"])
        except (KeyError, ValueError):
            after = None
        if code == "unauthorized":
            sentence = REFUSED_KEY if self.key else NO_KEY
        return Refused(sentence, code, response.status_code, after)
