"""`python run.py` serves on $PORT with gunicorn, as in production; gunicorn itself serves `run:app`."""

import os
import signal
import sys

if __name__ == "__main__":
    # gunicorn reads this one before our settings do, and has no words for what is no number.
    workers = os.environ.pop("WEB_CONCURRENCY", "").strip()
    if workers and not workers.isdecimal():
        raise SystemExit("The server cannot start. WEB_CONCURRENCY: must be a whole number")
    if workers:
        os.environ["WEB_CONCURRENCY"] = workers
    # Until gunicorn.conf.py can end the process cleanly; an exec takes handlers away, and keeps this.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # Before any other import: gunicorn starts as a fresh program and patches the standard library first.
    os.execvp(sys.executable, [sys.executable, "-m", "gunicorn", "run:app", *sys.argv[1:]])

from server.app import create_app
from server.settings import Settings

try:
    app = create_app(Settings.read())
except ValueError as problem:
    print(f"The server cannot start. {problem}", file=sys.stderr)
    # Of all exit codes this one alone makes gunicorn end, too, rather than start the worker again and again.
    raise SystemExit(3) from None
