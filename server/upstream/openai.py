"""OpenAI, and every server that speaks its chat completions: requests, retries, timeouts."""

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from typing import Any

import httpx2
import openai
import orjson

from server import errors
from server.upstream.abort import Abort
from server.upstream.client import Account, Client, is_openai
from server.upstream.errors import ErrorResponse, ReplyError, is_retryable, map_exception, request_id
from server.upstream.model_list import NO_LIST, ModelList, parse_models
from server.upstream.parameters import SERVER_PARAMETERS, RequestBody, UnknownParameters
from server.upstream.parsing import parse_completion
from server.upstream.protocol import Completion, CompletionRequest, UpstreamStatus
from server.upstream.redaction import redact
from server.upstream.refusals import LIMIT_NAMES

log = logging.getLogger("server.upstream")

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_MODEL = "gpt-6-luna"
RETRIES = 2
CONNECT_SECONDS = 10.0
MAX_ERROR_BYTES = 1_048_576
OUTAGE_ERRORS = (
    errors.UpstreamUnreachable,
    errors.UpstreamTimedOut,
    errors.UpstreamNotFound,
    errors.UpstreamRefusedKey,
    errors.UpstreamQuotaExhausted,
)
"""Errors of a request after which others will probably fail, too, so that the upstream counts as unreachable."""


class OpenAIUpstream:
    def __init__(
        self,
        key: str,
        base_url: str,
        *,
        organization: str = "",
        project: str = "",
        headers: Mapping[str, str] | None = None,
        default_model: str = "",
        models_ttl_seconds: float = 300.0,
        retry_seconds: float = 0.5,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`retry_seconds` is the pause before the first retry; each further one is twice as long."""
        self.is_configured = bool(key or base_url)
        self.retry_seconds = retry_seconds
        self.clock = clock
        self._account = Account(key or "none", base_url or OPENAI_URL, organization, project, headers or {})
        self._is_openai = is_openai(self._account.base_url)
        self._default_model = default_model
        self._models = ModelList(self._fetch_models, models_ttl_seconds, clock)
        self._unknown_parameters = UnknownParameters()
        self._client: Client | None = None
        self._client_lock = threading.Lock()

    def open_stream(self, request: CompletionRequest) -> "OpenAIStream":
        return OpenAIStream(self, request)

    def list_models(self) -> list[dict[str, Any]]:
        return self._models.get()

    def offered_models(self) -> Collection[str]:
        return {each["id"] for each in self._models.peek()}

    def knows_model(self, model: str) -> bool:
        default = self._default_model or (OPENAI_MODEL if self._is_openai else "")
        return model == default or self._models.has(model)

    def default_model(self) -> str:
        if self._default_model or self._is_openai:
            return self._default_model or OPENAI_MODEL
        models = self._models.peek() or self._models.get()
        if not models:
            raise errors.UpstreamRefused(NO_LIST)
        first: str = models[0]["id"]
        return first

    def check_health(self) -> UpstreamStatus:
        return self._models.check_health() if self.is_configured else "not_configured"

    def close_idle(self) -> None:
        if self._client is not None:
            self._client.transport.close_idle()

    @property
    def client(self) -> Client:
        """Created at the first use, which is after any fork."""
        if self._client is None:
            with self._client_lock:
                self._client = self._client or Client(self._account)
        return self._client

    def build_body(self, request: CompletionRequest) -> RequestBody:
        return RequestBody(request, self._unknown_parameters, is_openai=self._is_openai)

    def record_success(self) -> None:
        self._models.record_call(has_failed=False)

    def map_and_log(
        self, error: Exception, request: CompletionRequest | None = None, response: httpx2.Response | None = None
    ) -> errors.AppError:
        """Map an exception to an AppError and log it; the upstream's own text only at `debug`, redacted.

        `request` is None for the list of models. `response` is the one in which the error came, if `error` is not an
        ErrorResponse.
        """
        mapped = map_exception(error)
        if request is not None and isinstance(mapped, OUTAGE_ERRORS):
            self._models.record_call(has_failed=True)
        if isinstance(error, ErrorResponse):
            log.warning("upstream: %s (status %d, request id %s)", mapped.code, error.status, error.request_id)
        elif response is not None:
            details = mapped.code, type(error).__name__, response.status_code, request_id(response.headers)
            log.warning("upstream: %s (%s, status %d, request id %s)", *details)
        else:
            log.warning("upstream: %s (%s)", mapped.code, type(error.__cause__ or error).__name__)
        if isinstance(error, ErrorResponse | ReplyError) and log.isEnabledFor(logging.DEBUG):
            known, content = set[str](), b""
            if request is not None:
                known = {request.model, *request.parameters, *SERVER_PARAMETERS, *LIMIT_NAMES}
                content = request.messages + orjson.dumps([*request.parameters.values()])
            secrets = [self._account.key, *self._account.headers.values()]
            log.debug("upstream said: %s", redact(error.body.text, secrets, content, known))
        return mapped

    def _fetch_models(self, seconds: float) -> list[dict[str, Any]]:
        if not self.is_configured:
            raise errors.NotConfigured
        try:
            return parse_models(self.client.list_models(seconds))
        except openai.APIStatusError as error:
            response = error.response
            mapped = self.map_and_log(ErrorResponse(response.status_code, response.headers, response.content))
        except Exception as error:  # noqa: BLE001 - the boundary: each is mapped to an AppError
            mapped = self.map_and_log(error)
        raise errors.UpstreamRefused(NO_LIST) if isinstance(mapped, errors.UpstreamNotFound) else mapped


class OpenAIStream:
    """One reply while it is generated."""

    def __init__(self, upstream: OpenAIUpstream, request: CompletionRequest) -> None:
        self._upstream = upstream
        self._request = request
        self._deadline = upstream.clock() + request.seconds
        self._abort = Abort()
        self._aborted = threading.Event()
        """Ends the pause before a retry."""
        self._body = upstream.build_body(request)

    def __iter__(self) -> Generator[str | Completion, None, None]:
        if not self._upstream.is_configured:
            raise errors.NotConfigured
        response = None
        try:
            response = self._send_with_retries()
            try:
                yield from self._read(response)
            finally:
                response.close()
        except GeneratorExit:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: each is mapped to an AppError
            if self._abort.is_set:
                raise errors.UpstreamCut from None
            raise self._upstream.map_and_log(error, self._request, response) from None
        finally:
            self._abort.close()

    def abort(self) -> None:
        self._abort.set()
        self._aborted.set()

    def _read(self, response: httpx2.Response) -> Iterator[str | Completion]:
        for piece in parse_completion(self._enforce_deadline(response)):
            if self._abort.is_set:
                raise errors.UpstreamCut
            if isinstance(piece, Completion):
                response.close()  # Waits a moment for the end of the stream, so that the connection can be reused.
                self._body.remember()
                self._upstream.record_success()
                yield piece
                return
            try:
                yield piece
            except GeneratorExit:
                self.abort()  # The reader has left: close() must not wait for the stream's end.
                raise

    def _enforce_deadline(self, response: httpx2.Response) -> Iterator[bytes]:
        """The chunks of the body. The read timeout alone never ends a reply of which a byte comes now and then."""
        is_plain = "content-encoding" not in response.headers
        assert isinstance(response.stream, httpx2.SyncByteStream)
        for chunk in response.stream if is_plain else response.iter_bytes():
            if not self._request.streamed and self._seconds_left() <= 0:
                raise errors.UpstreamTimedOut
            yield chunk

    def _seconds_left(self) -> float:
        return self._deadline - self._upstream.clock()

    def _send_with_retries(self) -> httpx2.Response:
        """The response, its body unread. Retries while there is time, if nothing can have been charged."""
        retries = 0
        while True:
            if self._abort.is_set:
                raise errors.UpstreamCut
            left = self._seconds_left()
            if left <= 0:
                raise errors.UpstreamTimedOut
            try:
                return self._send(left)
            except (ErrorResponse, httpx2.TransportError) as error:
                if isinstance(error, ErrorResponse) and error.status in (400, 422) and self._body.adapt(error.body):
                    continue
                pause = self._upstream.retry_seconds * 2**retries * random.uniform(0.75, 1.25)
                if isinstance(error, ErrorResponse):
                    pause = max(pause, error.retry_after(self._upstream.clock()))
                if retries == RETRIES or pause >= self._seconds_left() or not is_retryable(error) or self._abort.is_set:
                    raise
                retries += 1
                self._aborted.wait(pause)

    def _send(self, left: float) -> httpx2.Response:
        """Send the request once, with `left` seconds to go. Raises ErrorResponse and httpx2's exceptions."""
        timeout: dict[str, float | None] = {
            "connect": min(CONNECT_SECONDS, left),
            "read": left,
            "write": left,
            "pool": left,
        }
        if self._request.streamed:
            # The run's timeout aborts it instead: setting the socket's timeout is a fifth of the cost of each piece.
            timeout["body"] = None
        extensions = {"timeout": timeout, "abort": self._abort, "trace": self._abort.trace}
        response = self._upstream.client.send(self._body.to_bytes(), extensions, streamed=self._request.streamed)
        if response.status_code < 300:
            return response
        try:
            raise ErrorResponse(response.status_code, response.headers, self._read_error_body(response))
        finally:
            response.close()

    def _read_error_body(self, response: httpx2.Response) -> bytes:
        """Up to MAX_ERROR_BYTES of the body, or what came before it broke off; the status alone is enough to fail."""
        body = b""
        try:
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_ERROR_BYTES or self._seconds_left() <= 0:
                    break
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            log.info("upstream: an error body broke off (%s)", type(error).__name__)
        return body
