"""Maps every exception of httpx2 and of the `openai` package, and every error of the upstream, to an AppError.

The upstream's error texts are never passed on: they may contain keys, addresses or the caller's messages.
"""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import openai

from server import errors
from server.upstream.lenient_json import loads
from server.upstream.refusals import ErrorBody

ERROR_CLASSES: dict[type, type[errors.UpstreamFailed]] = {
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
    # Raised while a reply of an unexpected shape is parsed.
    ValueError: errors.UpstreamBadReply,
    LookupError: errors.UpstreamBadReply,
    TypeError: errors.UpstreamBadReply,
    AttributeError: errors.UpstreamBadReply,
    RuntimeError: errors.UpstreamFailed,
    Warning: errors.UpstreamFailed,
    RecursionError: errors.UpstreamBadReply,
}
"""An exception is mapped by its nearest base class here."""

UNSENT_ERRORS = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.WriteError,
    httpx2.WriteTimeout,
)
"""After these, the request was not sent completely, so that nothing can have been charged."""

RETRYABLE_STATUSES = (408, 409, 429, 503)
"""Statuses after which the same request may succeed a moment later, and has not been charged."""

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


class ErrorResponse(Exception):
    """A response whose status is an error or a redirect that cannot be followed."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__()
        self.status = status
        self._headers = headers
        self.is_page = body.lstrip()[:1] == b"<" or "html" in headers.get("content-type", "")
        try:
            content = loads(body)
        except (ValueError, RecursionError):
            content = body.decode("utf-8", "replace")
        self.body = ErrorBody(content)

    @property
    def is_retryable(self) -> bool:
        """Whether the request may be sent again: as `x-should-retry` says, else by status; never for billing errors."""
        header = self._headers.get("x-should-retry", "").strip().lower()
        is_retryable = header == "true" if header in ("true", "false") else self.status in RETRYABLE_STATUSES
        return is_retryable and not self.body.is_billing

    @property
    def request_id(self) -> str:
        return request_id(self._headers)

    def retry_after(self, now: float) -> float:
        """Seconds to wait before a retry, from `retry-after-ms` or `retry-after` (seconds or a date); 0 without them.

        `now` is in Unix seconds.
        """
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
        return max(0.0, seconds)  # In this order, max() turns nan into 0.


class ReplyError(Exception):
    """An error in a response with status 200, instead of a reply or within one."""

    def __init__(self, error: Any, *, has_text: bool) -> None:
        """`has_text` tells whether text of the reply came before it."""
        super().__init__()
        self.body = ErrorBody(error)
        self.has_text = has_text


def map_exception(error: Exception) -> errors.AppError:
    """The AppError for an exception that was raised while a request was sent or a reply was parsed."""
    if isinstance(error, errors.AppError):
        return error
    if isinstance(error, ErrorResponse):
        return _map_error_body(error.body, error.status, error.is_page)
    if isinstance(error, ReplyError):
        body = error.body
        mapped = _map_error_body(body, body.status or (400 if body.is_bad_key else 500), is_page=False)
        # Once text was given out, the request must not be sent again with fewer messages.
        is_late = error.has_text and isinstance(mapped, errors.ContextTooLong)
        return errors.UpstreamCut() if is_late else mapped
    if isinstance(error, openai.APIConnectionError) and isinstance(error.__cause__, httpx2.HTTPError):
        error = error.__cause__  # More specific.
    return next((ERROR_CLASSES[kind] for kind in type(error).__mro__ if kind in ERROR_CLASSES), errors.UpstreamFailed)()


def request_id(headers: Mapping[str, str]) -> str:
    """The upstream's id of a request, for questions to its operator; `-` if there is none that is fit for a log."""
    for name in ("x-request-id", "request-id", "apim-request-id"):
        value = headers.get(name, "")
        if value.isascii() and value.isprintable() and 0 < len(value) <= 100:
            return value
    return "-"


def is_retryable(error: Exception) -> bool:
    """Whether the same request may be sent again: nothing can have been charged, and it may succeed a moment later."""
    return error.is_retryable if isinstance(error, ErrorResponse) else isinstance(error, UNSENT_ERRORS)


def _map_error_body(body: ErrorBody, status: int, is_page: bool) -> errors.AppError:
    if body.is_billing:
        return errors.UpstreamQuotaExhausted()
    if body.is_rate_limit or status == 429:
        return errors.UpstreamRateLimited()
    if not is_page and body.is_bad_key and status in (400, 404, 422):
        return errors.UpstreamRefusedKey()
    if not is_page and body.is_too_long and (status in (400, 404, 413, 422) or status >= 500):
        return errors.ContextTooLong()
    if status in _STATUS:
        return _STATUS[status]()
    if status == 404 and body.is_about_model and not is_page:
        return errors.UpstreamRefused()
    if status == 404 or (is_page and status < 500):
        return errors.UpstreamNotFound()
    if 300 <= status < 400:  # A redirect without a Location.
        return errors.UpstreamUnreachable()
    return errors.UpstreamRefused() if status < 500 else errors.UpstreamFailed()
