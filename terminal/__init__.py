"""The terminal client: `python -m terminal COMMAND`. It speaks HTTP to a server and imports nothing of `server/`."""
