"""OpenAI, and every server that speaks its chat completions."""

import logging
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import httpx2
import openai
import orjson

from server import errors
from server.model import Usage
from server.upstream import Call, Health, Reply
from server.upstream.lanes import Lane, Lanes
from server.upstream.renamed import may_pass, renamed, renamed_body, retry_after

log = logging.getLogger("server.upstream")

OPENAI_MODEL = "gpt-6-luna"
RETRIES = 2
CONNECT_SECONDS = 10.0
MODELS_SECONDS = 10.0
HEALTH_SECONDS = 1.8
HEALTH_TTL_SECONDS = 10.0
KEPT_PARAMETERS = frozenset({"messages", "model", "stream", "response_format", "tools", "logprobs", "top_logprobs"})
"""Never dropped, since a reply without them is not what was asked for."""


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
        self._is_openai = not base_url or "://api.openai.com" in base_url
        self._default_model = default_model
        self._models_ttl = models_ttl_seconds
        self.retry_seconds = retry_seconds
        self.clock = clock
        self._lanes = Lanes(key or "none", base_url or None)
        self._refused: dict[str, frozenset[str]] = {}
        """The parameters that each model refused."""
        self._models: list[dict[str, Any]] = []
        self._models_until = 0.0
        self._models_lock = threading.Lock()
        self._health: Health = "unreachable"
        self._health_until = 0.0
        self._health_lock = threading.Lock()

    def open(self, call: Call) -> "_OpenAIWriting":
        return _OpenAIWriting(self, self._lanes, call)

    def models(self) -> list[dict[str, Any]]:
        """As the protocol says. Kept for a while, and served stale while the upstream fails."""
        with self._models_lock:
            if self.clock() >= self._models_until:
                try:
                    self._models = self._fetch_models(MODELS_SECONDS)
                except errors.UpstreamFailed:
                    if not self._models:
                        raise
                self._models_until = self.clock() + self._models_ttl
            return self._models

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
            with self._lanes.lent() as lane:
                response = lane.sdk.get("/models", cast_to=httpx2.Response, options={"timeout": _timeout(seconds)})
                return [each for each in orjson.loads(response.content)["data"] if _is_model(each)]
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

    def learned(self, model: str, problem: Exception) -> bool:
        """Whether the refusal taught us to leave out a parameter, so that the call is worth repeating."""
        if not isinstance(problem, openai.BadRequestError | openai.UnprocessableEntityError):
            return False
        # Servers that know only max_tokens refuse the newer name in words of their own.
        name = problem.param or ("max_completion_tokens" if "max_completion_tokens" in problem.message else None)
        if name != "max_completion_tokens" and problem.code not in ("unsupported_parameter", "unsupported_value"):
            return False
        known = self._refused.get(model, frozenset())
        if name is None or name in KEPT_PARAMETERS or name in known:
            return False
        self._refused[model] = known | {name}
        log.info("model %s does without the parameter %s from now on", model, name)
        return True

    @property
    def is_configured(self) -> bool:
        return self._is_configured


class _OpenAIWriting:
    """One reply on its way."""

    def __init__(self, upstream: OpenAIUpstream, lanes: Lanes, call: Call) -> None:
        self._upstream = upstream
        self._lanes = lanes
        self._call = call
        self._deadline = upstream.clock() + call.seconds
        self._cut = threading.Event()
        self._lane: Lane | None = None
        self._guard = threading.Lock()
        """Held while `_lane` changes, so that no connection is cut that was lent to another call meanwhile."""

    def __iter__(self) -> Generator[str | Reply, None, None]:
        if not self._upstream.is_configured:
            raise errors.NotConfigured
        try:
            with self._lanes.lent() as lane:
                self._take(lane)
                try:
                    response = self._sent(lane)
                    try:
                        yield from _streamed(response) if self._call.streamed else _whole(response)
                    finally:
                        response.close()
                finally:
                    self._take(None)
        except Exception as problem:  # noqa: BLE001 - the boundary: each becomes one of ours
            if self._cut.is_set():
                raise errors.UpstreamCut from None
            raise _told(problem) from None

    def cut(self) -> None:
        self._cut.set()
        with self._guard:
            if self._lane is not None:
                self._lane.cut()

    def _take(self, lane: Lane | None) -> None:
        with self._guard:
            self._lane = lane

    def _sent(self, lane: Lane) -> httpx2.Response:
        """The response, its body unread. Tries again as long as there is time and nothing was received."""
        retries = 0
        while True:
            if self._cut.is_set():
                raise errors.UpstreamCut
            left = self._deadline - self._upstream.clock()
            try:
                # Unread also for a plain reply: only so is a connection that breaks in the middle of the body, which
                # has been paid for, told from one that breaks before it.
                return lane.sdk.post(
                    "/chat/completions",
                    content=self._upstream.body(self._call),
                    options={"timeout": _timeout(max(left, 0.001))},
                    cast_to=httpx2.Response,
                    stream=True,
                    stream_cls=openai.Stream[object],
                )  # type: ignore[return-value]
            except openai.APIError as problem:
                if self._upstream.learned(self._call.model, problem):
                    continue
                pause = self._upstream.retry_seconds * 2**retries * random.uniform(0.75, 1.25)
                pause = max(pause, retry_after(problem, self._upstream.clock()))
                left = self._deadline - self._upstream.clock()
                if retries == RETRIES or pause >= left or not may_pass(problem) or self._cut.is_set():
                    raise
                retries += 1
                self._cut.wait(pause)


def _whole(response: httpx2.Response) -> Iterator[str | Reply]:
    answer = orjson.loads(response.read())
    message = answer["choices"][0]["message"]
    text = message.get("content") or message.get("refusal")
    if not text:
        raise errors.UpstreamEmptyReply
    yield _text(text)
    yield Reply(answer.get("model"), _usage(answer.get("usage")))


def _streamed(response: httpx2.Response) -> Iterator[str | Reply]:
    """The text of a stream of chat.completion.chunk events, whose last but one may carry the usage."""
    model, usage, has_text, has_ended = None, None, False, False
    for data in _events(response.iter_bytes()):
        if data == b"[DONE]":
            has_ended = True
            break
        chunk = orjson.loads(data)
        if chunk.get("error"):
            raise renamed_body(chunk["error"])
        model = chunk.get("model") or model
        usage = _usage(chunk.get("usage")) or usage
        for choice in chunk["choices"][:1]:
            delta = choice.get("delta") or {}
            text = delta.get("content") or delta.get("refusal")
            has_ended = has_ended or bool(choice.get("finish_reason"))
            if text:
                has_text = True
                yield _text(text)
    if not has_ended:
        raise errors.UpstreamCut if has_text else errors.UpstreamBadReply
    if not has_text:
        raise errors.UpstreamEmptyReply
    yield Reply(model, usage)


def _events(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The data of each server-sent event. Split at newlines only: a JSON text may hold other line separators."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise errors.UpstreamBadReply
    return text


def _usage(counts: Any) -> Usage | None:
    if not isinstance(counts, Mapping):
        return None
    prompt, completion = int(counts.get("prompt_tokens") or 0), int(counts.get("completion_tokens") or 0)
    return Usage(prompt, completion, int(counts.get("total_tokens") or prompt + completion))


def _is_model(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), str)


def _timeout(seconds: float) -> httpx2.Timeout:
    return httpx2.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))


def _told(problem: Exception) -> errors.ServerError:
    """The problem as one of ours, told to the operator by its class and status alone."""
    failure = renamed(problem)
    log.warning("upstream: %s (%s %s)", failure.code, type(problem).__name__, getattr(problem, "status_code", "-"))
    return failure
