"""`python run.py` serves on $PORT with gunicorn, as in production; gunicorn itself serves `run:app`."""

import os
import sys

if __name__ == "__main__":
    # Before any other import: gunicorn starts as a fresh program and patches the standard library first.
    os.execvp(sys.executable, [sys.executable, "-m", "gunicorn", "run:app", *sys.argv[1:]])

from dotenv import dotenv_values

from server.app import create_app
from server.settings import Settings

app = create_app(Settings.from_env({**dotenv_values(".env"), **os.environ}))
