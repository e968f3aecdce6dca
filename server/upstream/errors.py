"""The one boundary at which what comes out of the upstream, httpx2 or the `openai` package becomes one of our errors.

Text of theirs is never passed on: it may have keys, addresses or what was asked.
"""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import openai

from server import errors
from server.upstream.lenient_json import loads
from server.upstream.refusals import ErrorBody

MAPPED: dict[type, type[errors.UpstreamFailed]] = {
    httpx2.HTTPError: errors.UpstreamFailed,
    httpx2.TimeoutException: errors.UpstreamTimedOut,
    httpx2.ConnectTimeout: errors.UpstreamUnreachable,
    httpx2.PoolTimeout: errors.UpstreamUnreachable,
    httpx2.ConnectError: errors.UpstreamUnreachable,
    httpx2.ProxyError: errors.UpstreamUnreachable,
    httpx2.UnsupportedProtocol: errors.UpstreamUnreachable,
    httpx2.TooManyRedirects: errors.UpstreamUnreachable,
    httpx2.InvalidURL: errors.UpstreamUnreachable,
    httpx2.LocalProtocolError: errors.UpstreamUnreachable,
    httpx2.NetworkError: errors.UpstreamCut,
    httpx2.WriteError: errors.UpstreamUnreachable,
    httpx2.ProtocolError: errors.UpstreamCut,
    httpx2.DecodingError: errors.UpstreamBadReply,
    httpx2.CookieConflict: errors.UpstreamBadReply,
    httpx2.StreamError: errors.UpstreamCut,
    openai.OpenAIError: errors.UpstreamFailed,
    openai.APIConnectionError: errors.UpstreamUnreachable,
    openai.APITimeoutError: errors.UpstreamTimedOut,
    openai.APIResponseValidationError: errors.UpstreamBadReply,
    openai.AuthenticationError: errors.UpstreamRefusedKey,
    openai.PermissionDeniedError: errors.UpstreamRefusedKey,
    openai.RateLimitError: errors.UpstreamRateLimited,
    openai.BadRequestError: errors.UpstreamRefused,
    openai.UnprocessableEntityError: errors.UpstreamRefused,
    openai.ConflictError: errors.UpstreamRefused,
    openai.NotFoundError: errors.UpstreamNotFound,
    openai.InvalidWebhookSignatureError: errors.UpstreamFailed,
    # What comes of a reply that is not of the shape that it should be.
    ValueError: errors.UpstreamBadReply,
    LookupError: errors.UpstreamBadReply,
    TypeError: errors.UpstreamBadReply,
    AttributeError: errors.UpstreamBadReply,
    RuntimeError: errors.UpstreamFailed,
    Warning: errors.UpstreamFailed,
    RecursionError: errors.UpstreamBadReply,
}
"""By the nearest class above that of an exception."""

UNSENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.WriteError,
    httpx2.WriteTimeout,
)
"""Of these, the request was not wholly sent, so that nothing can have been paid."""

PASSING = (408, 409, 429, 503)
"""Statuses after which the same call may work a moment later, and has not been paid."""

_STATUS: dict[int, type[errors.AppError]] = {
    401: errors.UpstreamRefusedKey,
    402: errors.UpstreamQuotaExhausted,
    403: errors.UpstreamRefusedKey,
    405: errors.UpstreamNotFound,
    407: errors.UpstreamUnreachable,
    408: errors.UpstreamTimedOut,
    413: errors.ContextTooLong,
    429: errors.UpstreamRateLimited,
    504: errors.UpstreamTimedOut,
}


class Refusal(Exception):
    """An answer that is no reply, by its status."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__()
        self.status = status
        self._headers = headers
        self.is_page = body.lstrip()[:1] == b"<" or "html" in headers.get("content-type", "")
        try:
            told = loads(body)
        except (ValueError, RecursionError):
            told = body.decode("utf-8", "replace")
        self.words = ErrorBody(told)

    @property
    def is_retryable(self) -> bool:
        """Whether the same call may be made again: by `x-should-retry` if it is there; billing errors never."""
        told = self._headers.get("x-should-retry", "").strip().lower()
        is_retryable = told == "true" if told in ("true", "false") else self.status in PASSING
        return is_retryable and not self.words.is_billing

    @property
    def request_id(self) -> str:
        return request_id(self._headers)

    def retry_after(self, now: float) -> float:
        """The seconds that the upstream asks us to wait, in numbers or as a date; 0 if it does not say."""
        wait = self._headers.get("retry-after", "")
        try:
            if "retry-after-ms" in self._headers:
                seconds = float(self._headers["retry-after-ms"]) / 1000
            else:
                seconds = float(wait)
        except ValueError:
            try:
                seconds = parsedate_to_datetime(wait).timestamp() - now
            except (ValueError, OverflowError):
                return 0.0
        return max(0.0, seconds)  # The order matters: nan is not more than 0.


class ReplyError(Exception):
    """An error that came with status 200, in place of a reply or in the middle of one."""

    def __init__(self, error: Any, *, has_text: bool) -> None:
        """`has_text` tells whether a part of the reply had come before."""
        super().__init__()
        self.words = ErrorBody(error)
        self.has_text = has_text


def map_exception(problem: Exception) -> errors.AppError:
    """Our error for whatever came out of a call, or of the reading of a reply."""
    if isinstance(problem, errors.AppError):
        return problem
    if isinstance(problem, Refusal):
        return _by_words(problem.words, problem.status, problem.is_page)
    if isinstance(problem, ReplyError):
        words = problem.words
        failure = _by_words(words, words.status or (400 if words.is_bad_key else 500), is_page=False)
        # Nobody may take it for a call that can be made again with fewer messages: text has been given out.
        is_late = problem.has_text and isinstance(failure, errors.ContextTooLong)
        return errors.UpstreamCut() if is_late else failure
    if isinstance(problem, openai.APIConnectionError) and isinstance(problem.__cause__, httpx2.HTTPError):
        problem = problem.__cause__  # Which tells more.
    return next((MAPPED[kind] for kind in type(problem).__mro__ if kind in MAPPED), errors.UpstreamFailed)()


def request_id(headers: Mapping[str, str]) -> str:
    """The upstream's name for a request, with which its operator finds it; `-` if it tells none."""
    for name in ("x-request-id", "request-id", "apim-request-id"):
        value = headers.get(name, "")
        if value.isascii() and value.isprintable() and 0 < len(value) <= 100:
            return value
    return "-"


def is_retryable(problem: Exception) -> bool:
    """Whether the same call may be made again: nothing can have been paid, and it may work a moment later."""
    return problem.is_retryable if isinstance(problem, Refusal) else isinstance(problem, UNSENT)


def _by_words(words: ErrorBody, status: int, is_page: bool) -> errors.AppError:
    if words.is_billing:
        return errors.UpstreamQuotaExhausted()
    if words.is_rate_limit or status == 429:
        return errors.UpstreamRateLimited()
    if not is_page and words.is_bad_key and status in (400, 404, 422):
        return errors.UpstreamRefusedKey()
    if not is_page and words.is_too_long and (status in (400, 404, 413, 422) or status >= 500):
        return errors.ContextTooLong()
    if status in _STATUS:
        return _STATUS[status]()
    if status == 404 and words.is_about_model and not is_page:
        return errors.UpstreamRefused()
    if status == 404 or (is_page and status < 500):
        return errors.UpstreamNotFound()
    if 300 <= status < 400:  # Sent elsewhere, without an address.
        return errors.UpstreamUnreachable()
    return errors.UpstreamRefused() if status < 500 else errors.UpstreamFailed()
