"""The log: a line of JSON for each record, so that the lines of requests and all others are read in one way."""

import logging
from datetime import UTC, datetime

import orjson

REQUESTS = "server.requests"
"""The logger whose messages are JSON already."""


class LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.name == REQUESTS:
            return message
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": f"{time[:-6]}Z", "level": record.levelname.lower(), "logger": record.name, "message": message}
        if hasattr(record, "run_id"):
            line["run_id"] = record.run_id
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def log_to(handler: logging.Handler, level: str) -> None:
    """Log everything of `level` or above with `handler`."""
    handler.setFormatter(LineFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper())
    # No format names the thread, and under gevent each greenlet would be given a name first.
    logging.logThreads = False
