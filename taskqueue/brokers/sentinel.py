"""A queue in a Redis that fails over: ``redis+sentinel://host1:port,host2:port/service/db``.

To the queue it is Redis. The one difference: each connection asks the sentinels first who the service's primary is, and
makes sure that this one agrees. A primary that is demoted answers READONLY, one that has died answers nothing; in both
cases the connection is dropped, and with the next one the sentinels are asked again.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final
from urllib.parse import unquote, urlsplit

from redis import Connection as SyncConnection
from redis import Redis
from redis import SSLConnection as SyncSSLConnection
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, parse_url
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from ..broker import UNLIMITED, Capacity, masked
from ..durability import Durability
from ..errors import ConfigError
from .connections import client_options, pool_options, read
from .redis import RedisBroker
from .refusals import said

PORT: Final = 26379
# Seconds that one sentinel may take.
PATIENCE: Final = 0.5
EXAMPLE: Final = "redis+sentinel://10.0.0.1:26379,10.0.0.2:26379/mymaster/0"

Address = tuple[str, int]
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:,@/]+)(?::([0-9]{1,5}))?")


@dataclass(slots=True)
class Service:
    """What a URL names: the sentinels, the one that answered last first, and the service.

    ``to_sentinel`` and ``to_primary`` are redis-py's options for connections; ``tls`` goes for both.
    """

    sentinels: list[Address]
    name: str
    tls: bool
    to_sentinel: dict[str, Any] = field(repr=False)
    to_primary: dict[str, Any] = field(repr=False)

    def distrust(self) -> None:
        """Ask another sentinel next time."""
        self.sentinels = [*self.sentinels[1:], self.sentinels[0]]  # at one stroke: the heart's thread reads it too

    def primary(self, reply: Any) -> Address | None:
        """Return the address in a sentinel's answer, None if it does not know the service."""
        if reply is None:
            return None
        host, port = reply
        return host.decode(), int(port)

    def nobody(self, errors: list[str]) -> Exception:
        """Return what to raise when no sentinel has named a primary; ``errors`` of those that said something else."""
        if not errors:
            return ConfigError(
                f"url: no sentinel knows a service named {self.name!r}; its name stands behind sentinel monitor in"
                " their configuration"
            )
        return RedisConnectionError(f"no sentinel tells the primary of {self.name!r}: {'; '.join(errors)}")


def service(url: str) -> Service:
    """Take a ``redis+sentinel://`` or ``rediss+sentinel://`` URL apart.

    User and password are the servers'; those of the sentinels, if they have any, are ``?sentinel_user=`` and
    ``&sentinel_password=``. All else behind ``?`` is as in ``redis://``. Raises ConfigError with an example.
    """
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    found = [_HOST.fullmatch(host) for host in hosts.split(",")]
    path = re.fullmatch(r"/([A-Za-z0-9._-]+)(?:/([0-9]{0,5}))?", parts.path)
    ports = [int(match[2] or PORT) if match else 0 for match in found]
    if not path or not all(0 < port < 65536 for port in ports):
        raise ConfigError(f"url: {masked(url)!r} must be sentinels with commas between them and a service: {EXAMPLE}")
    scheme = parts.scheme.partition("+")[0]
    plain = f"{scheme}://{user}{'@' if user else ''}primary/{path[2] or 0}{'?' if parts.query else ''}{parts.query}"
    try:
        options: dict[str, Any] = dict(parse_url(plain))
    except ValueError as error:
        raise ConfigError(f"url: {error}") from None
    for unused in ("host", "port", "connection_class"):
        options.pop(unused, None)
    secured = {name: value for name, value in options.items() if name.startswith("ssl_")}
    login = {"username": options.pop("sentinel_user", None), "password": options.pop("sentinel_password", None)}
    return Service(
        sentinels=[(match[1].strip("[]"), port) for match, port in zip(found, ports, strict=True) if match],
        name=unquote(path[1]),
        tls=scheme == "rediss",
        to_sentinel={**secured, **{name: value for name, value in login.items() if value}},
        to_primary=options,
    )


async def find(service: Service) -> Address:
    """Return where the primary is; raises ConfigError, or redis-py's ConnectionError if no sentinel tells."""
    errors: list[str] = []
    make = SSLConnection if service.tls else Connection
    for host, port in tuple(service.sentinels):
        connection: Any = make(host=host, port=port, **pool_options(), **service.to_sentinel)
        try:
            async with asyncio.timeout(PATIENCE):
                await connection.connect()
                await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service.name)
                found = service.primary(await read(connection))
        except AuthenticationError as error:
            raise _no_entry(error) from None
        except (RedisError, OSError) as error:
            errors.append(f"{host}:{port}: {said(error)}")
        else:
            if found:
                return found
        finally:
            await connection.disconnect(nowait=True)
        service.distrust()
    raise service.nobody(errors)


def find_sync(service: Service) -> Address:
    """Do the same from a thread, which asks only when it has lost a connection: another sentinel each time."""
    service.distrust()
    errors: list[str] = []
    make = SyncSSLConnection if service.tls else SyncConnection
    for host, port in tuple(service.sentinels):
        options = {**client_options(PATIENCE), **service.to_sentinel}
        options.pop("max_connections")
        connection: Any = make(host=host, port=port, **options)
        try:
            connection.connect()
            connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service.name)
            found = service.primary(connection.read_response())
        except AuthenticationError as error:
            raise _no_entry(error) from None
        except (RedisError, OSError) as error:
            errors.append(f"{host}:{port}: {said(error)}")
        else:
            if found:
                return found
        finally:
            connection.disconnect()
    raise service.nobody(errors)


def _no_entry(error: Exception) -> ConfigError:
    return ConfigError(
        f"url: a sentinel refused the user name or password ({error}); they are ?sentinel_user= and &sentinel_password="
    )


class PrimaryConnection(Connection):
    """A connection to whatever server is the service's primary now."""

    def __init__(self, *, service: Service, **options: Any) -> None:
        self._service = service
        super().__init__(**options)

    async def connect(self) -> None:
        """Ask for the primary, connect to it, and make sure that it is one."""
        self.host, self.port = await find(self._service)
        connect: Callable[[], Awaitable[None]] = super().connect
        try:
            await connect()
            await self._require_primary()
        except BaseException:
            # That sentinel was cut off, or the others have not told it yet; or it is right, and soon knows better.
            self._service.distrust()
            raise

    async def _require_primary(self) -> None:
        await self.send_command("ROLE", check_health=False)
        role, *_ = await read(self)
        if role != b"master":
            raise RedisConnectionError(f"{self.host}:{self.port} is named as the primary, and is a replica")


class TlsPrimaryConnection(PrimaryConnection, SSLConnection):
    """The same over TLS."""


class SentinelBroker(RedisBroker):
    """A Broker in the primary of a service that sentinels watch over."""

    # A primary that has died may leave its connections open: the sooner one is dropped, the sooner the next is found.
    moves: ClassVar[bool] = True

    def __init__(
        self, url: str, *, namespace: str, capacity: Capacity = UNLIMITED, durability: Durability | None = None
    ) -> None:
        """Take what a RedisBroker takes; raise ConfigError for a URL without sentinels or service."""
        super().__init__("redis://", namespace=namespace, capacity=capacity, durability=durability)
        self._service = service(url)
        kind = TlsPrimaryConnection if self._service.tls else PrimaryConnection
        self._pool = ConnectionPool(kind, service=self._service, **(pool_options() | self._service.to_primary))

    def _client(self, timeout: float) -> Redis:
        host, port = find_sync(self._service)
        options = client_options(timeout) | self._service.to_primary
        return Redis(host=host, port=port, ssl=self._service.tls, **options)


def open_broker(
    url: str, *, namespace: str, capacity: Capacity = UNLIMITED, durability: Durability | None = None
) -> SentinelBroker:
    """Return the broker for a URL with ``+sentinel``; see ``taskqueue.broker.connect``."""
    return SentinelBroker(url, namespace=namespace, capacity=capacity, durability=durability)
