"""The one boundary where the SDK's and its transport's exceptions become ours. No text of theirs goes through."""

import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import openai

from server import errors

BILLING_CODES = ("insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached", "billing_not_active")

_UNREADABLE = (
    httpx2.DecodingError,
    openai.APIResponseValidationError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
"""What comes of a reply that is not of the shape that it should be."""

_UNKNOWN_LIMIT = re.compile(
    r"\b(?:unrecogni[sz]ed|unknown|unsupported|unexpected)\b[\w ]*\W{0,3}max_completion_tokens\b"
    r"|\bmax_completion_tokens\b\W{0,3}[\w ]*\b(?:unrecogni[sz]ed|unknown|unsupported|not (?:supported|permitted))\b",
    re.IGNORECASE,
)
_FORBIDDEN_LIMIT = '"extra_forbidden", "loc": ["body", "max_completion_tokens"]'
"""As pydantic says it, deep in a body. What a caller wrote cannot look so, since its quotes would be escaped."""

_STATUS: dict[int, type[errors.ServerError]] = {
    401: errors.UpstreamRefusedKey,
    402: errors.UpstreamQuotaExhausted,
    403: errors.UpstreamRefusedKey,
    408: errors.UpstreamTimedOut,
    429: errors.UpstreamRateLimited,
}


def renamed(problem: Exception) -> errors.ServerError:
    """Our failure for whatever came out of the SDK, its transport, or the reading of a reply."""
    if isinstance(problem, errors.ServerError):
        return problem
    if isinstance(problem, openai.APITimeoutError | httpx2.TimeoutException):
        return errors.UpstreamTimedOut()
    if isinstance(problem, openai.APIConnectionError):
        return errors.UpstreamUnreachable()
    if isinstance(problem, openai.APIStatusError):
        return _by_code(problem.code, problem.status_code)
    if isinstance(problem, _UNREADABLE):
        return errors.UpstreamBadReply()
    if isinstance(problem, httpx2.HTTPError | httpx2.StreamError | OSError):
        return errors.UpstreamCut()
    return errors.UpstreamFailed()


def renamed_body(error: Any) -> errors.ServerError:
    """Our failure for an error object that came with status 200, such as in the middle of a stream."""
    code = error.get("code") if isinstance(error, Mapping) else None
    if isinstance(code, int):  # Some servers give the status that they would have sent.
        return _by_code(None, code)
    return _by_code(code if isinstance(code, str) else None, 500)


def may_pass(problem: Exception) -> bool:
    """Whether the same call may work a moment later: connection errors, 408, 409, 429 and 5xx, but no billing error.

    A bare transport error comes of a connection that broke in the middle of an error's body.
    """
    if isinstance(problem, openai.APITimeoutError):
        return isinstance(problem.__cause__, httpx2.ConnectTimeout)
    if isinstance(problem, openai.APIStatusError):
        status = problem.status_code
        return (status in (408, 409, 429) or status >= 500) and not _is_billing(problem.code)
    return isinstance(problem, openai.APIConnectionError | httpx2.NetworkError | httpx2.ProtocolError)


def refused_parameter(problem: Exception) -> str | None:
    """The parameter that the upstream does not take at all; None where it refuses for another reason."""
    if not isinstance(problem, openai.BadRequestError | openai.UnprocessableEntityError):
        return None
    if problem.code in ("unsupported_parameter", "unsupported_value") and isinstance(problem.param, str):
        return problem.param
    # Servers that know only max_tokens refuse the newer name in words of their own.
    is_unknown = _UNKNOWN_LIMIT.search(problem.message) or _FORBIDDEN_LIMIT in json.dumps(problem.body)
    return "max_completion_tokens" if is_unknown else None


def retry_after(problem: Exception, now: float) -> float:
    """The seconds that the upstream asks us to wait, in numbers or as a date; 0 where it does not say."""
    if not isinstance(problem, openai.APIStatusError):
        return 0.0
    text = problem.response.headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, OverflowError):
            return 0.0
    return max(0.0, seconds)  # The order matters: nan is not more than 0.


def _is_billing(code: str | None) -> bool:
    if code is None or code == "rate_limit_exceeded":
        return False
    return code in BILLING_CODES or code.endswith("_limit_exceeded")


def _by_code(code: str | None, status: int) -> errors.ServerError:
    if code == "context_length_exceeded":
        return errors.ContextTooLong()
    if _is_billing(code):
        return errors.UpstreamQuotaExhausted()
    if code == "invalid_api_key":
        return errors.UpstreamRefusedKey()
    if code == "rate_limit_exceeded":
        return errors.UpstreamRateLimited()
    if status in _STATUS:
        return _STATUS[status]()
    return errors.UpstreamRefused() if 400 <= status < 500 else errors.UpstreamFailed()
