"""Headers that tell browsers what no answer may be used for."""

from flask import Flask, Response, request

POLICY_NAME = "Content-Security-Policy"

HEADERS = (("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"))
"""Sent with every answer. Unreadable requests are answered by `server/serving/errors.py`, which has them again."""

DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""The Content-Security-Policy of every answer that has none of its own: as a page it may do nothing."""

DATA_HEADERS = (*HEADERS, (POLICY_NAME, DATA_POLICY))

HSTS = ("Strict-Transport-Security", "max-age=31536000")
"""A year of https (RFC 6797). Without `includeSubDomains`, since the operator's other hosts are not known here."""


def add_security_headers(app: Flask, *, is_https: bool) -> None:
    """Send HEADERS and a Content-Security-Policy with every answer, and HSTS if callers use https.

    They do if `is_https` is true, or if the request says so: by TLS, or by the header of a trusted proxy. Call this
    before other after-request hooks are added: Flask runs the first one last.
    """

    @app.after_request
    def add_headers(response: Response) -> Response:
        headers = response.headers
        # Neither `in headers` nor `headers.extend`: with them, this takes a third longer.
        has_policy = POLICY_NAME in [name for name, _ in headers]
        # A 304 would replace the policy of the page in the browser's cache.
        for name, value in HEADERS if has_policy or response.status_code == 304 else DATA_HEADERS:
            headers.add(name, value)
        if is_https or request.scheme == "https":
            headers.add(*HSTS)
        return response
