"""How the server is served: workers, connections, timeouts, and a stop that loses nothing."""

# First of all: under --preload, and wherever ssl was imported before, patching later would come too late.
from gevent import monkey

monkey.patch_all()

import logging  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from types import FrameType  # noqa: E402
from typing import Any  # noqa: E402

from dotenv import dotenv_values  # noqa: E402

from server.settings import Settings  # noqa: E402

try:
    settings = Settings.from_env({**dotenv_values(".env"), **os.environ})
except ValueError as problem:
    raise SystemExit(f"The server cannot start. {problem}") from None

wsgi_app = "run:app"
bind = f"{settings.host}:{settings.port}"
workers = settings.web_concurrency
worker_class = "gevent"
worker_connections = 5000
backlog = 4096
keepalive = 5
limit_request_line = 8190
# Longer than open replies may take: gunicorn's own end is a kill.
graceful_timeout = int(settings.graceful_seconds) + 10
control_socket_disable = True

logging.basicConfig(stream=sys.stdout, level=settings.log_level.upper(), format="%(message)s")
for noisy in ("httpx2", "httpcore2", "openai", "hpack"):
    logging.getLogger(noisy).setLevel(logging.WARNING)


def on_starting(server: Any) -> None:
    if server.cfg.workers > 1 and settings.store_url.startswith("memory:"):
        raise SystemExit(
            "The server cannot start: the memory store holds for one process. "
            "Set WEB_CONCURRENCY=1 (and no --workers), or choose a shared store with STORE_URL."
        )
    if settings.upstream == "scripted":
        server.log.warning("UPSTREAM=scripted: this is a DEMONSTRATION. No model is asked; every reply says so.")


def post_worker_init(worker: Any) -> None:
    """On SIGTERM, end open runs in time, besides what gunicorn does for requests."""
    runner = worker.wsgi.extensions["runner"]
    gunicorns_own = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        # In a thread: a signal may come while this very thread holds a lock that the end of runs needs.
        worker.stopping = threading.Thread(target=runner.shut_down, args=(settings.graceful_seconds,))
        worker.stopping.start()
        if callable(gunicorns_own):
            gunicorns_own(number, frame)

    signal.signal(signal.SIGTERM, stop)


def worker_exit(server: Any, worker: Any) -> None:
    """The last request may be gone while its run is still being written."""
    stopping = getattr(worker, "stopping", None)
    if stopping is not None:
        stopping.join()
