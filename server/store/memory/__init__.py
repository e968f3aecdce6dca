"""The memory store: fast, for one process, and lost when the process ends."""

from server.store.memory.store import MemoryStore as MemoryStore
