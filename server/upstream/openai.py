"""OpenAI, and every server that speaks its chat completions."""

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
from server.upstream.errors import Refusal, ReplyError, is_retryable, map_exception, request_id
from server.upstream.model_list import NO_LIST, ModelList, parse_models
from server.upstream.parameters import OWN, RequestBody, UnknownParameters
from server.upstream.parsing import parse_reply
from server.upstream.protocol import Completion, CompletionRequest, UpstreamStatus
from server.upstream.redaction import redacted
from server.upstream.refusals import LIMITS

log = logging.getLogger("server.upstream")

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_MODEL = "gpt-6-luna"
RETRIES = 2
CONNECT_SECONDS = 10.0
MAX_ERROR_BYTES = 1_048_576
DISPROOFS = (
    errors.UpstreamUnreachable,
    errors.UpstreamTimedOut,
    errors.UpstreamNotFound,
    errors.UpstreamRefusedKey,
    errors.UpstreamQuotaExhausted,
)
"""Failures of a call that say that others will fail, too."""


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
        """`retry_seconds` is the first pause before a retry; each further one is twice as long."""
        self.is_configured = bool(key or base_url)
        self.retry_seconds = retry_seconds
        self.clock = clock
        self._account = Account(key or "none", base_url or OPENAI_URL, organization, project, headers or {})
        self._is_openai = is_openai(self._account.base_url)
        self._default_model = default_model
        self._models = ModelList(self._fetch_models, models_ttl_seconds, clock)
        self._unknown = UnknownParameters()
        self._client: Client | None = None
        self._client_lock = threading.Lock()

    def open_stream(self, call: CompletionRequest) -> "OpenAIStream":
        return OpenAIStream(self, call)

    def list_models(self) -> list[dict[str, Any]]:
        return self._models.get()

    def offered_models(self) -> Collection[str]:
        return {each["id"] for each in self._models.glance()}

    def default_model(self) -> str:
        if self._default_model or self._is_openai:
            return self._default_model or OPENAI_MODEL
        models = self._models.glance() or self._models.get()
        if not models:
            raise errors.UpstreamRefused(NO_LIST)
        first: str = models[0]["id"]
        return first

    def check_health(self) -> UpstreamStatus:
        return self._models.health() if self.is_configured else "not_configured"

    def close_idle(self) -> None:
        if self._client is not None:
            self._client.transport.close_idle()

    @property
    def client(self) -> Client:
        """Made at the first use, which is after any fork."""
        if self._client is None:
            with self._client_lock:
                self._client = self._client or Client(self._account)
        return self._client

    def body(self, call: CompletionRequest) -> RequestBody:
        return RequestBody(call, self._unknown, is_openai=self._is_openai)

    def worked(self) -> None:
        """A call has worked."""
        self._models.note(has_failed=False)

    def failed(
        self, problem: Exception, call: CompletionRequest | None = None, response: httpx2.Response | None = None
    ) -> errors.AppError:
        """The problem as one of ours, told to the operator; of the upstream's words only at `debug`.

        `response` is the answer in which it came, if it is no Refusal.
        """
        error = map_exception(problem)
        if call is not None and isinstance(error, DISPROOFS):
            self._models.note(has_failed=True)
        if isinstance(problem, Refusal):
            log.warning("upstream: %s (status %d, request id %s)", error.code, problem.status, problem.request_id)
        elif response is not None:
            told = error.code, type(problem).__name__, response.status_code, request_id(response.headers)
            log.warning("upstream: %s (%s, status %d, request id %s)", *told)
        else:
            log.warning("upstream: %s (%s)", error.code, type(problem.__cause__ or problem).__name__)
        if isinstance(problem, Refusal | ReplyError) and log.isEnabledFor(logging.DEBUG):
            known = {call.model, *call.parameters, *OWN, *LIMITS} if call is not None else set()
            asked = call.messages + orjson.dumps([*call.parameters.values()]) if call is not None else b""
            secrets = [self._account.key, *self._account.headers.values()]
            log.debug("upstream said: %s", redacted(problem.words.text, secrets, asked, known))
        return error

    def _fetch_models(self, seconds: float) -> list[dict[str, Any]]:
        if not self.is_configured:
            raise errors.NotConfigured
        try:
            return parse_models(self.client.list_models(seconds))
        except openai.APIStatusError as problem:
            answer = problem.response
            error = self.failed(Refusal(answer.status_code, answer.headers, answer.content))
        except Exception as problem:  # noqa: BLE001 - the boundary: each becomes one of ours
            error = self.failed(problem)
        raise errors.UpstreamRefused(NO_LIST) if isinstance(error, errors.UpstreamNotFound) else error


class OpenAIStream:
    """One reply on its way."""

    def __init__(self, upstream: OpenAIUpstream, call: CompletionRequest) -> None:
        self._upstream = upstream
        self._call = call
        self._deadline = upstream.clock() + call.seconds
        self._abort = Abort()
        self._woken = threading.Event()
        """Ends the pause before a further try."""
        self._body = upstream.body(call)

    def __iter__(self) -> Generator[str | Completion, None, None]:
        if not self._upstream.is_configured:
            raise errors.NotConfigured
        response = None
        try:
            response = self._sent()
            try:
                yield from self._read(response)
            finally:
                response.close()
        except GeneratorExit:
            raise
        except Exception as problem:  # noqa: BLE001 - the boundary: each becomes one of ours
            if self._abort.is_set:
                raise errors.UpstreamCut from None
            raise self._upstream.failed(problem, self._call, response) from None
        finally:
            self._abort.close()

    def abort(self) -> None:
        self._abort.set()
        self._woken.set()

    def _read(self, response: httpx2.Response) -> Iterator[str | Completion]:
        for piece in parse_reply(self._in_time(response)):
            if self._abort.is_set:
                raise errors.UpstreamCut
            if isinstance(piece, Completion):
                response.close()  # Waits a moment for the stream's end, so that its connection can be used again.
                self._body.learn()
                self._upstream.worked()
                yield piece
                return
            try:
                yield piece
            except GeneratorExit:
                self.abort()  # Who leaves in the middle waits for nothing.
                raise

    def _in_time(self, response: httpx2.Response) -> Iterator[bytes]:
        """The body as it comes. A read timeout alone would let a slow server drip for ever."""
        is_plain = "content-encoding" not in response.headers
        assert isinstance(response.stream, httpx2.SyncByteStream)
        for chunk in response.stream if is_plain else response.iter_bytes():
            if not self._call.streamed and self._left() <= 0:
                raise errors.UpstreamTimedOut
            yield chunk

    def _left(self) -> float:
        return self._deadline - self._upstream.clock()

    def _sent(self) -> httpx2.Response:
        """The response, its body unread. Tries again as long as there is time and nothing can have been paid."""
        retries = 0
        while True:
            if self._abort.is_set:
                raise errors.UpstreamCut
            left = self._left()
            if left <= 0:
                raise errors.UpstreamTimedOut
            try:
                return self._ask(left)
            except (Refusal, httpx2.TransportError) as problem:
                if isinstance(problem, Refusal) and problem.status in (400, 422) and self._body.adapt(problem.words):
                    continue
                pause = self._upstream.retry_seconds * 2**retries * random.uniform(0.75, 1.25)
                if isinstance(problem, Refusal):
                    pause = max(pause, problem.retry_after(self._upstream.clock()))
                if retries == RETRIES or pause >= self._left() or not is_retryable(problem) or self._abort.is_set:
                    raise
                retries += 1
                self._woken.wait(pause)

    def _ask(self, left: float) -> httpx2.Response:
        """Ask once. Raises Refusal for an answer that is no reply, and httpx2's exceptions."""
        timeout: dict[str, float | None] = {
            "connect": min(CONNECT_SECONDS, left),
            "read": left,
            "write": left,
            "pool": left,
        }
        if self._call.streamed:
            # Its run's timeout ends it; a clock that is set anew for each piece is a fifth of what a piece costs.
            timeout["body"] = None
        extensions = {"timeout": timeout, "abort": self._abort, "trace": self._abort.trace}
        response = self._upstream.client.send(self._body.to_bytes(), extensions, streamed=self._call.streamed)
        if response.status_code < 300:
            return response
        try:
            raise Refusal(response.status_code, response.headers, self._error_body(response))
        finally:
            response.close()

    def _error_body(self, response: httpx2.Response) -> bytes:
        """As far as it comes and is worth to be read: the status alone tells enough to fail."""
        body = b""
        try:
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_ERROR_BYTES or self._left() <= 0:
                    break
        except (httpx2.TransportError, httpx2.DecodingError) as problem:
            log.info("an error of the upstream broke off (%s)", type(problem).__name__)
        return body
