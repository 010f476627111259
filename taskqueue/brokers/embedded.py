"""A queue in a private Valkey that comes and goes with its users: ``embedded:///directory``, for development and demos.

To the queue it is Redis over a unix socket, in every respect. The one difference: before a connection is made, the
store is made sure of (see ``store``), so that the first command starts the server, and so does the first one after it
was killed.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import anyio
import anyio.to_thread
from redis import Redis
from redis.asyncio.connection import ConnectionPool, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from ..broker import UNLIMITED, Capacity
from ..durability import Durability
from ..errors import BrokerUnavailable, ConfigError
from .connections import client_options, pool_options
from .redis import RedisBroker
from .store import IDLE_SECONDS, POLL_SECONDS, Store, log, secret_of

STOP_SECONDS: Final = 5.0


class Place(NamedTuple):
    """What an ``embedded://`` URL says: the directory, the server's binary, the seconds without a client."""

    directory: Path
    server: str | None
    idle: float


def place(url: str) -> Place:
    """Take ``embedded:///directory``, optionally with ``?server=/path/to/valkey-server`` and ``&idle=60``.

    Raises ConfigError for anything else, with a suggestion.
    """
    parts = urlsplit(url)
    named = unquote(parts.netloc + parts.path)
    if not named.startswith("/") or parts.netloc:
        meant = Path(named or ".taskqueue").expanduser().absolute()
        raise ConfigError(
            f"url: {url!r} names no absolute directory; did you mean embedded://{quote(str(meant))} (three slashes)?"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - {"server", "idle"})
    if unknown or parts.fragment:
        raise ConfigError(f"url: {url!r} has more than server= and idle= after its directory: {unknown or '#'}")
    try:
        idle = float(options.get("idle", IDLE_SECONDS))
    except ValueError:
        idle = math.nan
    if not 0 < idle < math.inf:
        raise ConfigError(f"url: idle={options['idle']!r} must be seconds above 0, for example idle=60")
    return Place(Path(named), options.get("server"), idle)


class StoreConnection(UnixDomainSocketConnection):
    """A connection that makes sure of the store first."""

    def __init__(self, *, store: Store, **options: Any) -> None:
        self._store = store
        super().__init__(**options)

    async def connect(self) -> None:
        """Start or join the store, then connect. Raises ConfigError, or redis-py's ConnectionError."""
        try:
            self.path = await anyio.to_thread.run_sync(self._store.attach, limiter=anyio.CapacityLimiter(1))
        except BrokerUnavailable as error:
            raise RedisConnectionError(str(error)) from error
        connect: Callable[[], Awaitable[None]] = super().connect
        await connect()


class EmbeddedBroker(RedisBroker):
    """A Broker in the store of a directory, shared with every other process that names the same one."""

    def __init__(
        self, url: str, *, namespace: str, capacity: Capacity = UNLIMITED, durability: Durability | None = None
    ) -> None:
        """Take what a RedisBroker takes; raise ConfigError for a URL that names no absolute directory."""
        if durability and durability.replicas:
            raise ConfigError(f"durability: {durability} needs replicas, and an embedded store has none; take process")
        super().__init__("unix://", namespace=namespace, capacity=capacity)
        directory, server, idle = place(url)
        self.store: Final = Store(directory, server=server, idle=idle)
        self._pool = ConnectionPool(StoreConnection, store=self.store, **pool_options())

    def _client(self, timeout: float) -> Redis:
        try:
            path = self.store.attach()
        except BrokerUnavailable as error:
            raise RedisConnectionError(str(error)) from error
        return Redis(unix_socket_path=path, **client_options(timeout))

    async def aclose(self) -> None:
        """See Broker. Whoever leaves last waits until the server has stopped, a few seconds at most."""
        await super().aclose()
        if any(not loop.is_closed() for loop in self._links):
            return
        while self.store.attaching:  # noqa: ASYNC110  a thread is at it, for somebody who has given up waiting
            await asyncio.sleep(POLL_SECONDS)
        with self.store.leaving() as last:
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    while last and self.store.running():  # noqa: ASYNC110  a lock of other processes tells nobody
                        await asyncio.sleep(POLL_SECONDS)
            except TimeoutError:
                log.warning("embedded store in %s: the server is slow to stop", self.store.directory)


def open_broker(
    url: str, *, namespace: str, capacity: Capacity = UNLIMITED, durability: Durability | None = None
) -> EmbeddedBroker:
    """Return the broker for an ``embedded://`` URL; see ``taskqueue.broker.connect``."""
    return EmbeddedBroker(url, namespace=namespace, capacity=capacity, durability=durability)


def kept_secret(url: str) -> str:
    """Return the secret that the store behind the URL keeps; see ``taskqueue.broker.kept_secret``."""
    return secret_of(place(url).directory)
