"""The one boundary where what comes of the upstream becomes ours. No text of theirs goes through."""

import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from server import errors
from server.upstream.answers import Answer
from server.upstream.connections import BrokenAnswer, Unanswered

BILLING_CODES = ("insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached", "billing_not_active")

_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)
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


class Refusal(Exception):
    """An answer that is no reply, by its status."""

    def __init__(self, response: Answer, body: bytes) -> None:
        super().__init__()
        self.status = response.status
        self._wait = response.headers.get("retry-after", "")
        try:
            told = orjson.loads(body)
        except ValueError:
            told = body.decode(errors="replace")
        self._told = told.get("error", told) if isinstance(told, Mapping) else told
        self.code = self._field("code")

    def _field(self, name: str) -> str | None:
        value = self._told.get(name) if isinstance(self._told, Mapping) else None
        return value if isinstance(value, str) else None

    def parameter(self) -> str | None:
        """The parameter that the upstream does not take at all; None where it refuses for another reason."""
        if self.status not in (400, 422):
            return None
        if self.code in ("unsupported_parameter", "unsupported_value"):
            return self._field("param")
        # Servers that know only max_tokens refuse the newer name in words of their own.
        is_unknown = _UNKNOWN_LIMIT.search(str(self._told)) or _FORBIDDEN_LIMIT in json.dumps(self._told)
        return "max_completion_tokens" if is_unknown else None

    def retry_after(self, now: float) -> float:
        """The seconds that the upstream asks us to wait, in numbers or as a date; 0 where it does not say."""
        try:
            seconds = float(self._wait)
        except ValueError:
            try:
                seconds = parsedate_to_datetime(self._wait).timestamp() - now
            except (ValueError, OverflowError):
                return 0.0
        return max(0.0, seconds)  # The order matters: nan is not more than 0.


def renamed(problem: Exception) -> errors.ServerError:
    """Our failure for whatever came out of a connection, or of the reading of a reply."""
    if isinstance(problem, errors.ServerError):
        return problem
    if isinstance(problem, Refusal):
        return _by_code(problem.code, problem.status)
    if isinstance(problem, Unanswered):
        return errors.UpstreamUnreachable()
    if isinstance(problem, TimeoutError):
        return errors.UpstreamTimedOut()
    if isinstance(problem, OSError | BrokenAnswer):
        return errors.UpstreamCut()
    if isinstance(problem, _UNREADABLE):
        return errors.UpstreamBadReply()
    return errors.UpstreamFailed()


def renamed_body(error: Any) -> errors.ServerError:
    """Our failure for an error object that came with status 200, such as in the middle of a stream."""
    code = error.get("code") if isinstance(error, Mapping) else None
    if isinstance(code, int):  # Some servers give the status that they would have sent.
        return _by_code(None, code)
    return _by_code(code if isinstance(code, str) else None, 500)


def may_pass(problem: Exception) -> bool:
    """Whether the same call may work a moment later: broken connections, 408, 409, 429 and 5xx, but no billing error.

    Not where the time was over in which an answer was to come.
    """
    if isinstance(problem, Refusal):
        status = problem.status
        return (status in (408, 409, 429) or status >= 500) and not _is_billing(problem.code)
    return not isinstance(problem, TimeoutError)


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
    if 300 <= status < 400:  # Sent elsewhere: what stands at this address is no upstream.
        return errors.UpstreamUnreachable()
    return errors.UpstreamRefused() if 400 <= status < 500 else errors.UpstreamFailed()
