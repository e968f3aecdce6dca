"""A client of one Redis or a Redis Cluster. Maps every failure of the driver to StoreUnavailable."""

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from redis import Redis, RedisCluster, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from server.errors import StoreUnavailable
from server.store.redis.commands import Argument, Command, eval_source

T = TypeVar("T")

log = logging.getLogger("server.store")

CALL_SECONDS = 0.75
"""The timeout of one attempt. A call makes up to two, and must take less than two seconds in all."""

SLOTS = 32
"""How many calls a process makes at once. More are not faster, and small hosted plans allow 50 connections in all."""

LOG_SECONDS = 10.0
"""The same remedy is logged at most once in this time."""

REMEDIES: tuple[tuple[str, type[Exception] | tuple[type[Exception], ...], str], ...] = (
    ("", (exceptions.AuthenticationError, exceptions.AuthorizationError), "check user and password in STORE_URL"),
    ("", exceptions.NoPermissionError, "its user lacks a permission: allow it all commands on all keys and channels"),
    ("", exceptions.OutOfMemoryError, "its memory is full: raise its maxmemory, or delete conversations"),
    ("", exceptions.ReadOnlyError, "it is a replica: let STORE_URL name the primary"),
    ("", exceptions.BusyLoadingError, "it is reading its data from the disk: wait until it is done"),
    ("MISCONF", exceptions.ResponseError, "it cannot write to its disk: see its log, and make room there"),
    ("NOREPLICAS", exceptions.ResponseError, "it has lost its replicas: start them again"),
    (
        "",
        (exceptions.ClusterDownError, exceptions.RedisClusterException),
        "the cluster is not whole: start the nodes that are down",
    ),
    ("", exceptions.TimeoutError, "it does not answer in time: see whether it hangs, and what it is busy with"),
    ("", exceptions.ConnectionError, "check that it runs, and that STORE_URL leads to it"),
    ("", Exception, "see the log of Redis"),
)
"""What an operator can do, by the beginning of an error's text and its class; the first match counts."""


class RedisClient:
    """Connects at the first call. Thread-safe."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._options: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": CALL_SECONDS,
            "socket_connect_timeout": CALL_SECONDS,
            "socket_keepalive": True,
            "driver_info": None,  # It would cost two commands and a look at package metadata a connection.
            "client_name": "conversation-server",  # Shown by CLIENT LIST.
            "retry": Retry(NoBackoff(), 0),
        }
        self._client: Redis | RedisCluster | None = None
        self._lock = threading.Lock()
        self._slots: SimpleQueue[int] = SimpleQueue()  # A semaphore would cost a hundred times as much.
        for slot in range(SLOTS):
            self._slots.put(slot)
        self._failures = 0
        """How many attempts got no answer."""
        self._is_silent = False
        """Whether the last call got no answer."""
        self._logged: dict[str, float] = {}
        try:
            _require_plain(url)
            pool = Redis.from_url(url, **self._options).connection_pool
            pool.connection_class(**pool.connection_kwargs)  # Raises on unknown options; does not connect.
        except (ValueError, TypeError, exceptions.RedisError):
            # Without its cause, whose text may contain the password.
            raise ValueError(
                "STORE_URL: this address of a Redis cannot be read; say redis://USER:PASSWORD@HOST:PORT/DATABASE, or "
                "rediss://… for TLS, with any special characters of the password written as %XX"
            ) from None

    def ask(self, *commands: Command) -> list[Any]:
        """Send commands in one round trip (to a Cluster, in one for each). Returns the answer to each.

        Each command is atomic, but not all of them together. Raises StoreUnavailable.
        """
        slot = self._acquire_slot()
        try:
            answers: list[Any] = self.attempt(lambda client: _send(client, commands))
        finally:
            self._slots.put(slot)
        self._is_silent = False
        return answers

    def attempt(self, call: Callable[[Any], T]) -> T:
        """Make `call` and return its result. If it gets no answer, as after a restart of Redis, it is made once more.

        Raises StoreUnavailable.
        """
        try:
            try:
                return call(self._connect())
            except (exceptions.ConnectionError, exceptions.TimeoutError):
                return call(self._connect())
        except (exceptions.RedisError, exceptions.RedisClusterException) as error:
            raise self._map_error(error) from error

    def is_cluster(self) -> bool:
        """Raises StoreUnavailable."""
        return self.attempt(lambda client: isinstance(client, RedisCluster))

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _acquire_slot(self) -> int:
        failures = self._failures
        slot = self._slots.get()
        # If the calls before this one got no answer while it waited for a slot, it fails at once instead of waiting for
        # a timeout of its own.
        if self._is_silent and self._failures != failures:
            self._slots.put(slot)
            raise self._map_error(exceptions.TimeoutError("no answer to the calls before this one"))
        return slot

    def _connect(self) -> Redis | RedisCluster:
        if self._client is not None:
            return self._client
        # Not under the lock: if Redis hangs, each call would wait for the timeouts of all calls before it.
        new_client, warnings = self._create_client()
        with self._lock:
            if self._client is None:
                self._client = new_client
                for each in warnings:
                    log.warning(each)
                return new_client
        new_client.close()
        return self._connect()

    def _create_client(self) -> tuple[Redis | RedisCluster, list[str]]:
        """A connected client, and warnings for the operator."""
        client: Any = Redis.from_url(self._url, **self._options)
        greeting = client.execute_command("HELLO")
        warnings = _find_warnings(client)
        if dict(zip(greeting[::2], greeting[1::2], strict=True))[b"mode"] != b"cluster":
            return client, warnings
        client.close()
        return RedisCluster.from_url(self._url, **self._options), warnings

    def _map_error(self, error: Exception) -> StoreUnavailable:
        """Log an error of the driver and return ours. The only place where the one becomes the other."""
        if isinstance(error, exceptions.ReadOnlyError):
            self.close()  # After a failover, the host name may lead to the new primary.
        if isinstance(error, (exceptions.ConnectionError, exceptions.TimeoutError)):
            self._failures += 1
            self._is_silent = True
        remedy = next(
            remedy for text, kind, remedy in REMEDIES if isinstance(error, kind) and str(error).startswith(text)
        )
        now = time.monotonic()
        if now - self._logged.get(remedy, -LOG_SECONDS) >= LOG_SECONDS:
            self._logged[remedy] = now
            log.warning("redis failed: %s; %s", error, remedy)
        return StoreUnavailable()


def _require_plain(url: str) -> None:
    """Raise ValueError for an address that the driver would silently misread.

    The driver takes a path that is no number for database 0, and port 0 for the default port. Some options in the query
    would override settings that this client relies on.
    """
    parts = urlsplit(url)
    if not re.fullmatch(r"/?[0-9]*", parts.path) or parts.fragment or parts.port == 0 or re.search(r"\s", url):
        raise ValueError(url)
    if parse_qs(parts.query).keys() & {"decode_responses", "encoding", "protocol", "retry"}:
        raise ValueError(url)


def _send(client: Any, commands: Sequence[Command]) -> list[Any]:
    """The answer to each command. Scripts that Redis does not know are sent again with their source."""
    answers = _send_once(client, commands)
    for index, answer in enumerate(answers):
        if isinstance(answer, exceptions.NoScriptError):
            answers[index : index + 1] = _send(client, [eval_source(commands[index])])
        elif isinstance(answer, Exception):
            raise answer
    return answers


def _send_once(client: Any, commands: Sequence[Command]) -> list[Any]:
    """The answer or the error of each command."""
    if isinstance(client, RedisCluster):
        # Its pipeline saves no round trips: it first asks for the keys of each script.
        return [_call_or_error(client.execute_command, *each) for each in commands]
    # On a connection of the pool: the driver's own methods for sending commands take half as much CPU again.
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        connection.send_packed_command(connection.pack_commands(commands))
        return [_call_or_error(connection.read_response) for _ in commands]
    finally:
        pool.release(connection)


def _call_or_error(call: Callable[..., Any], *arguments: Argument) -> Any:
    try:
        return call(*arguments)
    except exceptions.ResponseError as error:
        return error


def _find_warnings(client: Redis) -> list[str]:
    """Warnings about settings of this Redis that may lose data. None if it does not tell its settings."""
    try:
        config = client.config_get("maxmemory", "maxmemory-policy", "appendonly", "save")
    except exceptions.ResponseError:
        return []
    warnings = []
    if config.get("maxmemory") != "0" and config.get("maxmemory-policy") != "noeviction":
        warnings.append("redis drops histories when its memory is full: set its maxmemory-policy to noeviction")
    if config.get("appendonly") == "no" and not config.get("save"):
        warnings.append("redis writes nothing to its disk, and has forgotten all when it starts: set appendonly to yes")
    return warnings
