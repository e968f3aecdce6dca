"""What comes over a connection after a request: one answer, taken apart by httptools."""

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

MOST_HEAD_BYTES = 65_536


class Broken(ConnectionError):
    """What came is no HTTP, or it ended before its end."""


class Answer:
    """An answer as far as it was heard. To be closed, since it and its parser hold each other until then."""

    def __init__(self) -> None:
        self.status = 0
        """As far as it was told; that of an answer which another is to follow counts for none."""
        self.headers: dict[str, str] = {}
        """By lower-case name."""
        self.has_head = False
        self.body: list[bytes] = []
        """What was heard of it, and not taken from here yet."""
        self.is_whole = False
        self.is_broken = False
        """Whether nothing more can be heard of it, though it is not whole."""
        self.is_last = False
        """Whether no other answer can come over the connection."""
        self._head_bytes = 0
        self._parser = HttpResponseParser(self)

    def hear(self, data: bytes) -> None:
        """Take in what came, which is empty at the connection's end. Raises Broken where it ends too early."""
        if not data:
            self._end()
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserCallbackError, HttpParserUpgrade) as problem:
            if not self.has_head:
                raise Broken from problem
            self.is_broken = not self.is_whole
            self.is_last = True  # If it is whole, there was something beyond its end that nobody had asked for.
        finally:
            if not self.has_head:
                self.status = self._parser.get_status_code()
                self._head_bytes += len(data)
        if not self.has_head and self._head_bytes > MOST_HEAD_BYTES:
            raise Broken

    def close(self) -> None:
        del self._parser

    def _end(self) -> None:
        # Some do not tell where they end (RFC 9112, 6.3).
        tells = "content-length" in self.headers or "chunked" in self.headers.get("transfer-encoding", "").lower()
        if tells or not self.has_head:
            raise Broken
        self.is_whole = self.is_last = True

    # What follows is called by httptools, by these names.

    def on_message_begin(self) -> None:
        if self.is_whole:
            raise Broken
        self.headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.has_head = self.status >= 200  # Else it is one that another is to follow (RFC 9110, 15.2).

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.is_whole = self.has_head
        self.is_last = self.is_whole and not self._parser.should_keep_alive()
