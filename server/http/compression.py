"""Compressed answers (RFC 9110, 8.4)."""

import gzip
from collections.abc import Callable

from flask import Response, request


def compress_gzip(content: bytes) -> bytes:
    """The same bytes at any time in any process, so that caches see no change."""
    return gzip.compress(content, mtime=0)


def compress(response: Response, encode: Callable[[bytes], bytes] = compress_gzip) -> Response:
    """Compress the body if the caller accepts gzip. Call it last: `response` has its ETag already.

    The ETag becomes a weak one, since it stands for the same content in another encoding. Never for an answer that
    repeats what its caller sent beside something secret: its length would tell about the secret.
    """
    response.vary.add("Accept-Encoding")
    if request.accept_encodings["gzip"] > 0:
        etag, _ = response.get_etag()
        if etag is not None:
            response.set_etag(etag, weak=True)
        if response.status_code == 200:
            response.set_data(encode(response.get_data()))
            response.content_encoding = "gzip"
    return response
