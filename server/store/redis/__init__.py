"""The Redis store, also for Valkey: shared by the processes of many machines."""

from server.store.redis.store import RedisStore as RedisStore
