"""A port of its own for the metrics, which shows nothing else."""

from flask import Flask, g, request

from server.errors import NO_ADDRESS, NotFound


def reserve_port(app: Flask, port: int, endpoint: str) -> None:
    """Answer requests that arrive on `port` by `endpoint` alone; raise NotFound for all others."""
    text = str(port)

    @app.before_request
    def check_port() -> None:
        environ = request.environ
        # ProxyFix overwrites SERVER_PORT with the forwarded one.
        if environ.get("werkzeug.proxy_fix.orig", environ)["SERVER_PORT"] == text and _is_bound_to(port):
            if request.endpoint != endpoint:
                raise NotFound(NO_ADDRESS)
            g.is_on_metrics_port = True


def is_on_metrics_port() -> bool:
    """Whether the current request arrived on the reserved port."""
    return bool(g.get("is_on_metrics_port", False))


def _is_bound_to(port: int) -> bool:
    """Whether the connection's own end has `port`. On a Unix socket, SERVER_PORT is what the caller's Host says."""
    connection = request.environ.get("gunicorn.socket")
    if connection is None:
        return True
    name = connection.getsockname()
    return isinstance(name, tuple) and name[1] == port
