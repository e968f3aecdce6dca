"""How the server is served, apart from what it serves: the parts of `gunicorn.conf.py` that know gunicorn."""
