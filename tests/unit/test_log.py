"""The lines of the log: JSON, one for each record, whoever wrote it."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from server.serving.log import LineFormatter


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the loggers below `server` write."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter())
    logger = logging.getLogger("server")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def test_a_line_has_time_level_logger_and_message(written: io.StringIO) -> None:
    logging.getLogger("server.runs").warning('it "failed"\nin run %s', "run_1", extra={"run_id": "run_1"})
    line = json.loads(written.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "server.runs",
        "message": 'it "failed"\nin run run_1',
        "run_id": "run_1",
    }
    assert written.getvalue().count("\n") == 1


def test_an_exception_is_in_its_line(written: io.StringIO) -> None:
    try:
        raise ValueError
    except ValueError:
        logging.getLogger("server.runs").exception("maintenance failed")
    line = json.loads(written.getvalue())
    assert "ValueError" in line["traceback"]
    assert "run_id" not in line


def test_the_line_of_a_request_is_left_as_it_is(written: io.StringIO) -> None:
    logging.getLogger("server.requests").error('{"status":200}')
    assert written.getvalue() == '{"status":200}\n'
