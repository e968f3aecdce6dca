"""OpenAI, and every server that speaks its chat completions."""

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import orjson

from server import errors
from server.upstream import Call, Health, Reply
from server.upstream.answers import Answer
from server.upstream.connections import Connection, Connections, Unanswered
from server.upstream.reading import streamed, whole
from server.upstream.renamed import Refusal, may_pass, renamed

log = logging.getLogger("server.upstream")

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_MODEL = "gpt-6-luna"
_OPENAI_URL = re.compile(r"https?://api\.openai\.com(?:[:/]|$)", re.IGNORECASE)
RETRIES = 2
MODELS_SECONDS = 10.0
HEALTH_SECONDS = 1.8
HEALTH_TTL_SECONDS = 10.0
KEPT_PARAMETERS = frozenset({"messages", "model", "stream", "response_format", "tools", "logprobs", "top_logprobs"})
"""Never dropped, since a reply without them is not what was asked for."""
OWN_PARAMETERS = frozenset({"stream_options", "prompt_cache_key", "safety_identifier", "max_tokens"})
"""Sent besides what the call asks for."""


class OpenAIUpstream:
    def __init__(
        self,
        key: str,
        base_url: str,
        *,
        default_model: str = "",
        models_ttl_seconds: float = 300.0,
        retry_seconds: float = 0.5,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`retry_seconds` is the first pause before a retry; each further one is twice as long."""
        self._is_configured = bool(key or base_url)
        self._is_openai = not base_url or bool(_OPENAI_URL.match(base_url))
        self._default_model = default_model
        self._models_ttl = models_ttl_seconds
        self.retry_seconds = retry_seconds
        self.clock = clock
        headers = {"Authorization": f"Bearer {key or 'none'}", "Content-Type": "application/json"}
        self._connections = Connections(base_url or OPENAI_URL, headers | {"Accept-Encoding": "identity"})
        self._refused: dict[str, frozenset[str]] = {}
        """The parameters that each model refused."""
        self._models: list[dict[str, Any]] = []
        self._models_until = 0.0
        self._models_failures = 0
        self._models_failure = errors.UpstreamFailed
        """How the list could not be had the last time."""
        self._models_lock = threading.Lock()
        self._health: Health = "unreachable"
        self._health_until = 0.0
        self._health_lock = threading.Lock()

    def open(self, call: Call) -> "_OpenAIWriting":
        return _OpenAIWriting(self, self._connections, call)

    def models(self) -> list[dict[str, Any]]:
        """As the protocol says. Kept for a while, and served stale while the upstream fails or another caller asks."""
        failures = self._models_failures
        if not self._models_lock.acquire(blocking=not self._models):
            return self._models
        try:
            if not self._models and self._models_failures > failures:
                raise self._models_failure  # Who waited while another asked in vain does not ask in vain too.
            if self.clock() >= self._models_until:
                self._renew_models()
            return self._models
        finally:
            self._models_lock.release()

    def _renew_models(self) -> None:
        try:
            self._models = self._fetch_models(MODELS_SECONDS)
        except errors.UpstreamFailed as problem:
            self._models_failure = type(problem)
            self._models_failures += 1
            if not self._models:
                raise
        self._models_until = self.clock() + self._models_ttl

    def default_model(self) -> str:
        if self._default_model or self._is_openai:
            return self._default_model or OPENAI_MODEL
        models = self.models()
        if not models:
            raise errors.UpstreamRefused("The model's server lists no models; the operator must set DEFAULT_MODEL.")
        first: str = models[0]["id"]
        return first

    def health(self) -> Health:
        """As the protocol says. Looked up in a thread, since a name server may be slower than any timeout of ours."""
        if not self._is_configured:
            return "not_configured"
        if not self._health_lock.acquire(timeout=HEALTH_SECONDS):
            return "unreachable"
        try:
            if self.clock() >= self._health_until:
                asked = threading.Thread(target=self._ask_health, daemon=True)
                self._health = "unreachable"
                asked.start()
                asked.join(HEALTH_SECONDS)
                self._health_until = self.clock() + HEALTH_TTL_SECONDS
            return self._health
        finally:
            self._health_lock.release()

    def _ask_health(self) -> None:
        try:
            self._fetch_models(HEALTH_SECONDS)
        except errors.UpstreamFailed:
            log.info("the upstream did not answer a health check")
        else:
            self._health = "connected"

    def _fetch_models(self, seconds: float) -> list[dict[str, Any]]:
        if not self._is_configured:
            raise errors.NotConfigured
        try:
            with self._connections.lent() as connection:
                response = connection.ask("GET", "/models", b"", seconds)
                try:
                    body = b"".join(connection.read(response))
                finally:
                    connection.end(response)
            if response.status >= 300:
                raise Refusal(response, body)
            return [each for each in orjson.loads(body)["data"] if _is_model(each)]
        except Exception as problem:  # noqa: BLE001 - the boundary: each becomes one of ours
            raise _told(problem) from None

    def body(self, call: Call) -> bytes:
        """The request, without what the model is known to refuse."""
        fields: dict[str, Any] = {"model": call.model}
        if call.streamed:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        if self._is_openai:
            fields |= {"prompt_cache_key": call.client, "safety_identifier": call.client}
        refused = self._refused.get(call.model, frozenset())
        fields |= call.parameters
        if "max_completion_tokens" in refused and "max_completion_tokens" in fields:
            fields["max_tokens"] = fields["max_completion_tokens"]
        kept = {name: value for name, value in fields.items() if name not in refused}
        return orjson.dumps(kept)[:-1] + b',"messages":' + call.messages + b"}"

    def dropped(self, call: Call, problem: Exception) -> str | None:
        """The parameter of `call` that its model, as `problem` says, does not take; it is sent no more from now on."""
        name = problem.parameter() if isinstance(problem, Refusal) else None
        if name is None or name in KEPT_PARAMETERS or name not in call.parameters.keys() | OWN_PARAMETERS:
            return None
        self._refused[call.model] = self._refused.get(call.model, frozenset()) | {name}
        log.info("model %s does without the parameter %s from now on", call.model, name)
        return name

    @property
    def is_configured(self) -> bool:
        return self._is_configured


class _OpenAIWriting:
    """One reply on its way."""

    def __init__(self, upstream: OpenAIUpstream, connections: Connections, call: Call) -> None:
        self._upstream = upstream
        self._connections = connections
        self._call = call
        self._deadline = upstream.clock() + call.seconds
        self._cut = threading.Event()
        self._connection: Connection | None = None
        self._guard = threading.Lock()
        """Held while `_connection` changes, so that no connection is cut that was lent to another call meanwhile."""

    def __iter__(self) -> Generator[str | Reply, None, None]:
        if not self._upstream.is_configured:
            raise errors.NotConfigured
        try:
            with self._connections.lent() as connection:
                self._take(connection)
                try:
                    response = self._sent(connection)
                    try:
                        yield from self._read(connection, response)
                    finally:
                        connection.end(response)
                finally:
                    self._take(None)
        except Exception as problem:  # noqa: BLE001 - the boundary: each becomes one of ours
            if self._cut.is_set():
                raise errors.UpstreamCut from None
            raise _told(problem) from None

    def cut(self) -> None:
        self._cut.set()
        with self._guard:
            if self._connection is not None:
                self._connection.cut()

    def _take(self, connection: Connection | None) -> None:
        with self._guard:
            self._connection = connection

    def _read(self, connection: Connection, response: Answer) -> Iterator[str | Reply]:
        if self._call.streamed:
            pieces = streamed(connection.read(response, is_timed=False))
        else:
            pieces = whole(b"".join(self._in_time(connection, response)))
        for piece in pieces:
            if self._cut.is_set():
                raise errors.UpstreamCut
            yield piece

    def _in_time(self, connection: Connection, response: Answer) -> Iterator[bytes]:
        """The body as it comes. A read timeout alone would let a slow server drip for ever."""
        for chunk in connection.read(response):
            if self._left() <= 0:
                raise errors.UpstreamTimedOut
            yield chunk

    def _left(self) -> float:
        return self._deadline - self._upstream.clock()

    def _sent(self, connection: Connection) -> Answer:
        """The response, its body unread. Tries again as long as there is time and nothing was received.

        A connection that breaks in the middle of the body has been paid for.
        """
        retries, dropped = 0, set[str]()
        while True:
            if self._cut.is_set():
                raise errors.UpstreamCut
            left = self._left()
            if left <= 0:
                raise errors.UpstreamTimedOut
            try:
                response = connection.ask("POST", "/chat/completions", self._upstream.body(self._call), left)
                if response.status < 300:
                    return response
                try:
                    raise Refusal(response, b"".join(self._in_time(connection, response)))
                finally:
                    connection.end(response)
            except (Refusal, Unanswered, OSError) as problem:
                name = self._upstream.dropped(self._call, problem)
                if name and name not in dropped:
                    dropped.add(name)
                    continue
                pause = self._upstream.retry_seconds * 2**retries * random.uniform(0.75, 1.25)
                if isinstance(problem, Refusal):
                    pause = max(pause, problem.retry_after(self._upstream.clock()))
                if retries == RETRIES or pause >= self._left() or not may_pass(problem) or self._cut.is_set():
                    raise
                retries += 1
                self._cut.wait(pause)


def _is_model(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), str)


def _told(problem: Exception) -> errors.ServerError:
    """The problem as one of ours, told to the operator by its class and status alone."""
    failure = renamed(problem)
    kind = type(problem.__cause__ or problem).__name__
    log.warning("upstream: %s (%s %s)", failure.code, kind, getattr(problem, "status", "-"))
    return failure
