"""Conversations in this process's memory: fast, and gone with the process."""

from server.store.memory.store import MemoryStore as MemoryStore
