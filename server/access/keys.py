"""Keys: the administrator's, and those that it gives to clients."""

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from hmac import compare_digest

import orjson

from server.access.caller import Caller
from server.domain import new_id
from server.errors import NotFound, StoreUnavailable
from server.store.protocol import Store

PREFIX = "ck_"
"""What every key begins with, so that scanners of published code recognise one."""

KIND = "key"
"""The kind of their records, whose ids are the SHA-256 digests of the keys."""

CACHE_SECONDS = 1.0
"""How long a process goes on accepting a key that another process has deleted."""

DELETION_SECONDS = 2 * CACHE_SECONDS
"""How long after the deletion of a key something may still be written for it: a request that another process accepted
within CACHE_SECONDS has as long again from there to its write."""

DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, without what opens anything."""

    id: str
    client_name: str
    """The name that it opens; with `*` at the end, every name with that beginning."""
    digest: str
    """The SHA-256 digest of the key in hexadecimal digits. The key has 256 random bits, so it needs no slow hash."""
    created: float
    """Unix seconds."""
    expires: float | None
    """Unix seconds; None: never."""
    rate_limit: str | None
    """Such as `60/minute`; None: the server's."""
    daily_token_budget: int | None
    """None: the server's."""

    @property
    def caller(self) -> Caller:
        """Who asks with it. Its limits are counted by its id, whatever the address."""
        limits = self.rate_limit or "", self.daily_token_budget
        return Caller(self.client_name, self.client_name, self.id, "", *limits, key_digest=self.digest)


@dataclass(frozen=True, slots=True)
class CachedKey:
    caller: Caller
    expires: float | None
    read: float
    """When the store was read, in Unix seconds."""


class Keys:
    """The keys of a protected server. Safe from any thread."""

    def __init__(
        self,
        store: Store,
        admin_key: str,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._admin = Caller(key_id="admin", is_admin=True)
        self._admin_digest = _digest(admin_key)
        self._clock = clock
        self._sleep = sleep
        self._cache: dict[str, CachedKey] = {}
        """By digest."""

    def create(
        self, client_name: str, expires_in_days: int | None, rate_limit: str | None, daily_token_budget: int | None
    ) -> tuple[ApiKey, str]:
        """A new key, and its text, which nobody can learn later. Raises TooManyRecords."""
        text = PREFIX + secrets.token_urlsafe(32)
        now = self._clock()
        expires = None if expires_in_days is None else now + expires_in_days * DAY_SECONDS
        key = ApiKey(new_id(KIND), client_name, _digest(text), now, expires, rate_limit, daily_token_budget)
        self._store.put_record(KIND, key.digest, orjson.dumps(asdict(key)))
        return key, text

    def list(self) -> list[ApiKey]:
        """All keys, expired ones too, oldest first."""
        return sorted(map(_load, self._store.list_records(KIND)), key=lambda key: (key.created, key.id))

    def delete(self, key_id: str) -> None:
        """Raises NotFound."""
        found = [key for key in self.list() if key.id == key_id]
        if not found:
            raise NotFound
        for key in found:
            self._forget(key)

    def delete_of(self, client_name: str) -> int:
        """Delete the keys of a client, and wait until nothing is written for them. Returns how many there were.

        It waits without a key, too: one may have been deleted a moment ago.
        """
        found = [key for key in self.list() if key.client_name == client_name]
        for key in found:
            with suppress(NotFound):  # Another request deletes it too.
                self._forget(key)
        self._sleep(DELETION_SECONDS)
        return len(found)

    def find_caller(self, text: str) -> Caller | None:
        """Whose key this is; None if it opens nothing, because it is wrong, expired or deleted."""
        digest = _digest(text)
        return self._admin if compare_digest(digest, self._admin_digest) else self._find_valid(digest)

    def is_valid(self, caller: Caller) -> bool:
        """Whether the key of a client, as `find_caller` returned it, still opens what it opened then."""
        return self._find_valid(caller.key_digest) is not None

    def _find_valid(self, digest: str) -> Caller | None:
        now = self._clock()
        known = self._cache.get(digest)
        if known is None or not 0 <= now - known.read < CACHE_SECONDS:
            known = self._read(digest, known, now)
        return None if known is None or (known.expires is not None and known.expires <= now) else known.caller

    def _read(self, digest: str, known: CachedKey | None, now: float) -> CachedKey | None:
        try:
            key = _load(self._store.get_record(KIND, digest))
        except NotFound:
            self._cache.pop(digest, None)
            return None
        except StoreUnavailable:  # What this process has can still be read, by those who could read it before.
            if known is None:
                raise
            return known
        # The store has found the digest; this does not depend on how it compares.
        if not compare_digest(key.digest, digest):
            return None
        self._cache[digest] = found = CachedKey(key.caller, key.expires, now)
        return found

    def _forget(self, key: ApiKey) -> None:
        self._store.delete_record(KIND, key.digest)
        self._cache.pop(key.digest, None)


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _load(record: bytes) -> ApiKey:
    fields: Mapping[str, object] = orjson.loads(record)
    return ApiKey(**fields)  # type: ignore[arg-type]
