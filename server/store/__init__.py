"""Storage backends: one protocol, and an implementation for each of memory, SQLite and Redis."""

from server.store.protocol import Store


def open_store(url: str, *, max_conversations: int, lease_seconds: float, max_records: int = 10_000) -> Store:
    """Open the backend that `url`'s scheme names. Raises ValueError if there is none, or its data cannot be used."""
    scheme = url.partition(":")[0]
    if scheme == "memory":
        from server.store.memory import MemoryStore

        return MemoryStore(max_conversations, max_records=max_records)
    if scheme == "sqlite":
        from server.store.sqlite import SqliteStore

        return SqliteStore(url.removeprefix("sqlite:///"), lease_seconds, max_records=max_records)
    if scheme in ("redis", "rediss"):
        from server.store.redis import RedisStore

        return RedisStore(url, lease_seconds, max_records=max_records)
    raise ValueError("STORE_URL: no such store; say memory://, sqlite:///FILE or redis://HOST:PORT")
