"""How connections to Redis are made: for whom waits in an event loop, and for a thread of its own.

redis-py's own retries are off: they would repeat commands that may not be, and take ten times longer than any deadline
here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.retry import Retry as SyncRetry

# Seconds.
CONNECT_TIMEOUT: Final = 5.0


async def connected(pool: ConnectionPool) -> AbstractConnection:
    """Return a new connection that has shaken hands; raises what redis-py raises, or TimeoutError."""
    make: Callable[[], AbstractConnection] = pool.make_connection
    connection = make()
    connect: Callable[[], Awaitable[None]] = connection.connect
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


async def read(connection: AbstractConnection) -> Any:
    """Return the next reply, whatever it is; raises it if it is an error."""
    response: Callable[..., Awaitable[Any]] = connection.read_response
    return await response(disconnect_on_error=False)


def pool_of(url: str) -> ConnectionPool:
    """Return where connections for this URL are made."""
    return ConnectionPool.from_url(url, **pool_options())


def pool_options() -> dict[str, Any]:
    """Return what holds for every connection: RESP2, no introduction, no retries, no timeouts but our own."""
    return {"protocol": 2, "driver_info": None, "retry": Retry(NoBackoff(), 0), "socket_timeout": None}


def client_options(timeout: float) -> dict[str, Any]:
    """Return the same for a synchronous client that waits at most so many seconds."""
    return {
        "protocol": 2,
        "driver_info": None,
        "retry": SyncRetry(NoBackoff(), 0),
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "max_connections": 1,
    }
