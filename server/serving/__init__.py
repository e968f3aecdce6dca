"""How gunicorn serves the app: the worker, what is replaced in gunicorn, and the checks at start."""
