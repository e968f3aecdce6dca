"""The SQLite store: one file, shared by the processes of one machine."""

from server.store.sqlite.store import SqliteStore as SqliteStore
