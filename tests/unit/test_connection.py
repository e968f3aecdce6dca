"""Whether a caller is still on the line."""

import fcntl
import resource
import socket
from collections.abc import Iterator

import pytest
from flask import Flask

from server.http import connection

FAR = 1500
"""A file's number beyond what select() knows."""


def over_tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        callers = socket.create_connection(listener.getsockname())
        return listener.accept()[0], callers


@pytest.fixture(params=[over_tcp, socket.socketpair], ids=["TCP", "a socket file"])
def line(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end of a connection, with a number as in a crowd, and the caller's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * FAR), hard))
    near, callers = request.param()
    ours = socket.socket(fileno=fcntl.fcntl(near.fileno(), fcntl.F_DUPFD, FAR))
    near.close()
    with ours, callers:
        yield ours, callers
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_caller_who_waits_or_sends_is_there_and_one_who_left_is_not(
    app: Flask, line: tuple[socket.socket, socket.socket]
) -> None:
    ours, callers = line
    with app.test_request_context("/query", environ_base={"gunicorn.socket": ours}):
        is_connected = connection.connection_probe()
    assert is_connected()
    callers.sendall(b"GET /next HTTP/1.1")
    assert is_connected()
    assert ours.recv(100)
    callers.close()
    assert not is_connected()
    ours.close()
    assert not is_connected()


def test_a_caller_is_told_to_be_there_also_where_the_system_does_not_tell_states(
    app: Flask, line: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "another")
    ours, callers = line
    with app.test_request_context("/query", environ_base={"gunicorn.socket": ours}):
        is_connected = connection.connection_probe()
    assert is_connected()
    callers.close()
    assert not is_connected()


def test_a_server_that_tells_no_socket_takes_the_caller_to_be_there(app: Flask) -> None:
    with app.test_request_context("/query"):
        assert connection.connection_probe()()
