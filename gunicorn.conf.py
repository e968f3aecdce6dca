"""Settings and hooks of gunicorn. What they call is in server/serving/."""

# mypy: disable-error-code="import-untyped"

from server.serving.signals import end_while_booting, end_while_starting

end_while_starting()  # Before the imports below, which take most of a start.

# Before other imports: with --preload, or after an import of ssl, patching would come too late.
from gevent import monkey  # noqa: E402

monkey.patch_all()

import gc  # noqa: E402
import logging  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

try:
    from server.metrics import Folder, Metrics
    from server.serving import start
    from server.serving.log import log_to
    from server.serving.patches import apply_patches, require_known_gunicorn
    from server.serving.worker import Worker, defer_handshake
except ImportError as problem:
    raise SystemExit(f"The server cannot start. {problem}; install what requirements.txt names.") from None

settings = start.read_settings()

wsgi_app = "run:app"
bind = settings.binds
workers = settings.web_concurrency
# Else each worker that takes the place of a killed one takes a core from the others for seconds, to import the server.
preload_app = workers > 1
worker_connections = 5000
backlog = 4096
# Longer than proxies keep an idle connection: if the server closed first, a request on its way would be lost.
keepalive = 75
limit_request_line = 8190
# Longer than GRACEFUL_SECONDS, which ends runs cleanly: gunicorn's own timeout kills the worker.
graceful_timeout = int(settings.graceful_seconds) + 10
control_socket_disable = True
# Only TRUSTED_PROXIES decides which forwarding headers are believed. gunicorn would believe those of callers on the
# same machine, SCRIPT_NAME among them.
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""

# A call in flight has two connections, the caller's and the upstream's; many systems allow a process 1,024 files.
_, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
wanted_files = 65_536 if most_files == resource.RLIM_INFINITY else min(most_files, 65_536)
resource.setrlimit(resource.RLIMIT_NOFILE, (wanted_files, most_files))

log_to(logging.StreamHandler(sys.stdout), settings.log_level)


class ConfiguredWorker(Worker):
    client_timeout_seconds = settings.client_timeout_seconds
    graceful_seconds = settings.graceful_seconds
    is_https = settings.is_public_over_https


worker_class = ConfiguredWorker


def ssl_context(config: Any, default_ssl_context_factory: Any) -> Any:
    return defer_handshake(default_ssl_context_factory())


def on_starting(server: Any) -> None:
    try:
        require_known_gunicorn()
    except ValueError as problem:
        raise SystemExit(f"The server cannot start. {problem}") from None
    start.require_shared_store(settings, server.cfg.workers)
    start.require_protection(settings)
    for sentence in (*start.warnings(settings), *start.dotenv_warnings()):
        server.log.warning(sentence)
    server.metrics_folder = Folder.create()


def post_fork(server: Any, worker: Worker) -> None:
    end_while_booting(server)
    worker.metrics_folder = server.metrics_folder


def post_worker_init(worker: Worker) -> None:
    apply_patches(worker.cfg)
    worker.wsgi.extensions["metrics"].share(worker.metrics_folder)
    # Calls in flight hold many objects, which Python's default thresholds make the collector walk again and again.
    # Imported objects live until the end anyway.
    gc.freeze()
    if settings.retention_days is not None:  # What is to be deleted is deleted, even if nobody asks anything.
        worker.wsgi.extensions["runner"].ticker.start()
    gc.set_threshold(50_000, 20, 20)


def worker_exit(server: Any, worker: Worker) -> None:
    worker.release()


def child_exit(server: Any, worker: Worker) -> None:
    server.metrics_folder.retire(server.WORKERS, Metrics().retire)


def on_exit(server: Any) -> None:
    server.metrics_folder.delete()
