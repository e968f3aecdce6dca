"""One Redis or a Redis Cluster: found at first use, asked in one round trip, its failures renamed."""

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
"""How long Redis may take to answer. It is asked twice, and a call may take two seconds in all."""

PLACES = 32
"""How many calls a process makes at once: more gain nothing, and small plans allow 50 connections in all."""

LOG_SECONDS = 10.0
"""How long the same failure is not logged again."""

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
"""What an operator can do, by how the failure's text begins and by its kind; the first that fits."""


class RedisClient:
    """Opens nothing before the first call; safe from any thread."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._options: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": CALL_SECONDS,
            "socket_connect_timeout": CALL_SECONDS,
            "socket_keepalive": True,
            "driver_info": None,  # For each connection the driver would read its package's metadata, and ask twice.
            "client_name": "conversation-server",  # Shown by CLIENT LIST.
            "retry": Retry(NoBackoff(), 0),
        }
        self._client: Redis | RedisCluster | None = None
        self._lock = threading.Lock()
        self._places: SimpleQueue[int] = SimpleQueue()  # A semaphore would cost a hundred times as much.
        for place in range(PLACES):
            self._places.put(place)
        self._failures = 0
        """How many calls were not answered at all."""
        self._is_silent = False
        """Whether that is how the last one went."""
        self._logged: dict[str, float] = {}
        try:
            _require_plain(url)
            pool = Redis.from_url(url, **self._options).connection_pool
            pool.connection_class(**pool.connection_kwargs)  # It refuses what it does not know; it does not connect.
        except (ValueError, TypeError, exceptions.RedisError):
            # Without the cause, which may quote the password.
            raise ValueError(
                "STORE_URL: this address of a Redis cannot be read; say redis://USER:PASSWORD@HOST:PORT/DATABASE, or "
                "rediss://… for TLS, with any special characters of the password written as %XX"
            ) from None

    def ask(self, *commands: Command) -> list[Any]:
        """The answer to each command, in one round trip (in a Cluster, in one for each).

        Only a script is atomic, not the commands together.
        """
        place = self._acquire_slot()
        try:
            answers: list[Any] = self.attempt(lambda client: _answers(client, commands))
        finally:
            self._places.put(place)
        self._is_silent = False
        return answers

    def attempt(self, call: Callable[[Any], T]) -> T:
        """What `call` returns; made once more where it got no answer, as when Redis was restarted since the last."""
        try:
            try:
                return call(self._connected())
            except (exceptions.ConnectionError, exceptions.TimeoutError):
                return call(self._connected())
        except (exceptions.RedisError, exceptions.RedisClusterException) as problem:
            raise self._renamed(problem) from problem

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _acquire_slot(self) -> int:
        failures = self._failures
        place = self._places.get()
        # Who has waited until those before it were given no answer does not wait for that once more.
        if self._is_silent and self._failures != failures:
            self._places.put(place)
            raise self._renamed(exceptions.TimeoutError("no answer to the calls before this one"))
        return place

    def _connected(self) -> Redis | RedisCluster:
        if self._client is not None:
            return self._client
        # Not under the lock: where Redis hangs, each would wait until the time of all before it is over.
        found, warnings = self._found()
        with self._lock:
            if self._client is None:
                self._client = found
                for each in warnings:
                    log.warning(each)
                return found
        found.close()
        return self._connected()

    def _found(self) -> tuple[Redis | RedisCluster, list[str]]:
        """The client, and what the operator should be told."""
        client: Any = Redis.from_url(self._url, **self._options)
        greeting = client.execute_command("HELLO")
        warnings = _warnings(client)
        if dict(zip(greeting[::2], greeting[1::2], strict=True))[b"mode"] != b"cluster":
            return client, warnings
        client.close()
        return RedisCluster.from_url(self._url, **self._options), warnings

    def _renamed(self, problem: Exception) -> StoreUnavailable:
        """The one place where the driver's failures become ours."""
        if isinstance(problem, exceptions.ReadOnlyError):
            self.close()  # Its name may lead to another by now.
        if isinstance(problem, (exceptions.ConnectionError, exceptions.TimeoutError)):
            self._failures += 1
            self._is_silent = True
        remedy = next(
            remedy for text, kind, remedy in REMEDIES if isinstance(problem, kind) and str(problem).startswith(text)
        )
        now = time.monotonic()
        if now - self._logged.get(remedy, -LOG_SECONDS) >= LOG_SECONDS:
            self._logged[remedy] = now
            log.warning("redis failed: %s; %s", problem, remedy)
        return StoreUnavailable()


def _require_plain(url: str) -> None:
    """Raise ValueError where the driver would read an address otherwise than it was meant, without a word.

    A path that is no number is database 0 to it, port 0 the default; an option overrides what this client relies on.
    """
    parts = urlsplit(url)
    if not re.fullmatch(r"/?[0-9]*", parts.path) or parts.fragment or parts.port == 0 or re.search(r"\s", url):
        raise ValueError(url)
    if parse_qs(parts.query).keys() & {"decode_responses", "encoding", "protocol", "retry"}:
        raise ValueError(url)


def _answers(client: Any, commands: Sequence[Command]) -> list[Any]:
    answers = _answers_or_errors(client, commands)
    for place, answer in enumerate(answers):
        if isinstance(answer, exceptions.NoScriptError):
            answers[place : place + 1] = _answers(client, [eval_source(commands[place])])
        elif isinstance(answer, Exception):
            raise answer
    return answers


def _answers_or_errors(client: Any, commands: Sequence[Command]) -> list[Any]:
    if isinstance(client, RedisCluster):
        # Its pipeline would first ask for the keys of each script: no fewer round trips.
        return [_or_error(client.execute_command, *each) for each in commands]
    # On a connection of the pool, since the driver's own ways to send a command cost half as much again.
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        connection.send_packed_command(connection.pack_commands(commands))
        return [_or_error(connection.read_response) for _ in commands]
    finally:
        pool.release(connection)


def _or_error(call: Callable[..., Any], *arguments: Argument) -> Any:
    try:
        return call(*arguments)
    except exceptions.ResponseError as problem:
        return problem


def _warnings(client: Redis) -> list[str]:
    """What is wrong with how this Redis keeps data, as far as it tells."""
    try:
        known = client.config_get("maxmemory", "maxmemory-policy", "appendonly", "save")
    except exceptions.ResponseError:
        return []
    warnings = []
    if known.get("maxmemory") != "0" and known.get("maxmemory-policy") != "noeviction":
        warnings.append("redis drops histories when its memory is full: set its maxmemory-policy to noeviction")
    if known.get("appendonly") == "no" and not known.get("save"):
        warnings.append("redis writes nothing to its disk, and has forgotten all when it starts: set appendonly to yes")
    return warnings
