"""The HTTP/1.1 client of the replays: requests to one host, each on a connection that is its own for then.

It does only what a delivery is, and so costs a fraction of what a client for everything does. A connection is used
again only after an exchange of which nothing was left over on either side; and a request is never sent a second time,
whatever becomes of its connection: nobody could tell whether it was carried out.
"""

import asyncio
import math
import socket
import ssl
from typing import Any, Final

import aiohappyeyeballs

from .content import KEPT_BYTES
from .policy import DNS, REFUSED, TIMEOUT, TLS, Broken, NotSent
from .wire import Connection, OwnFlow, Received

# Seconds an idle connection is kept: less than what common servers do (gunicorn 2, uvicorn 5), or a request would now
# and then meet a connection that is just being closed, and nobody could tell whether it was carried out.
KEEP_ALIVE: Final = 1.5
# Seconds for which the addresses of a name are believed: many servers take one request a connection.
_RESOLVED: Final = 10.0
# After so many seconds without an answer from one address, the next one is tried beside it (RFC 8305).
_NEXT_ADDRESS: Final = 0.25


class HttpClient:
    """Makes requests to one host, as many at a time as are asked for; belongs to the event loop it was made in."""

    def __init__(
        self, host: str, port: int, *, tls: bool = False, unix_socket: str | None = None, connect_timeout: float
    ) -> None:
        """Take where the host is, ``connect_timeout`` in seconds; ``unix_socket``: connections go to that path."""
        self.loop = asyncio.get_running_loop()
        self.own_flow = OwnFlow(self.loop)
        """Of the parsers."""
        self._host, self._port, self._unix_socket = host, port, unix_socket
        self._connect_timeout = connect_timeout
        self._tls: ssl.SSLContext | None = None
        if tls and not unix_socket:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        self._addresses: list[Any] = []
        self._resolved = -math.inf
        self._connections: set[Connection] = set()
        self._all_lost = asyncio.Event()
        self._idle: dict[Connection, None] = {}  # that which was used last is the last, and taken first
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf

    async def request(
        self,
        head: bytes,
        body: bytes,
        *,
        method: str,
        timeout: float,  # noqa: ASYNC109 - asyncio's own costs more, see _wake_at
        everything: bool = False,
        most: int = KEPT_BYTES,
    ) -> Received | NotSent | Broken:
        """Send ``head``, made by ``request_head``, and ``body``; return the response, or why there is none.

        ``timeout`` is in seconds, for all of it; ``everything``: the content is for people also of a success, and
        ``most`` bytes of it are kept for them. If this is cancelled, the connection is closed.
        """
        now = self.loop.time()
        deadline = now + timeout
        connection = self._take(now) or await self._opened(now, deadline)
        if not isinstance(connection, Connection):
            return connection
        self._wake_at(deadline)
        answer = connection.request(head, body, method=method, everything=everything, most=most, deadline=deadline)
        try:
            return await answer
        finally:
            if answer.cancelled():
                connection.abort()

    async def close(self) -> None:
        """Close every connection."""
        if self._alarm is not None:
            self._alarm.cancel()
        for connection in tuple(self._connections):
            connection.abort()
        if self._connections:
            await self._all_lost.wait()

    def keep(self, connection: Connection) -> None:
        """See Owner."""
        connection.deadline = deadline = self.loop.time() + KEEP_ALIVE
        self._idle[connection] = None
        self._wake_at(deadline)

    def lost(self, connection: Connection) -> None:
        """See Owner."""
        self._connections.discard(connection)
        self._idle.pop(connection, None)
        if not self._connections:
            self._all_lost.set()

    def _take(self, now: float) -> Connection | None:
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.is_fit(now):
                return connection
        return None

    async def _opened(self, now: float, deadline: float) -> Connection | NotSent | Broken:
        made = await self._connect(now, deadline)
        if isinstance(made, Connection):
            # Not when it says so: uvloop tells no end of one that is given up in the turn in which it was made.
            self._connections.add(made)
            self._all_lost.clear()
        return made

    async def _connect(self, now: float, deadline: float) -> Connection | NotSent | Broken:
        until = min(now + self._connect_timeout, deadline)
        limit = asyncio.timeout_at(until)
        try:
            async with limit:
                if self._unix_socket:
                    _, made = await self.loop.create_unix_connection(lambda: Connection(self), self._unix_socket)
                    return made
                try:
                    addresses = await self._resolve(now)
                except (OSError, UnicodeError):
                    return NotSent(DNS)
                sock = await aiohappyeyeballs.start_connection(
                    addresses, happy_eyeballs_delay=_NEXT_ADDRESS, loop=self.loop
                )
                name = self._host.rstrip(".") if self._tls else None
                _, made = await self.loop.create_connection(
                    lambda: Connection(self), sock=sock, ssl=self._tls, server_hostname=name
                )
                return made
        except ssl.SSLError:
            return NotSent(TLS)
        except OSError:
            return Broken(TIMEOUT) if limit.expired() and until == deadline else NotSent(REFUSED)

    async def _resolve(self, now: float) -> list[Any]:
        """Return the host's addresses; each time another one is the first, so that all of them get work."""
        if now >= self._resolved + _RESOLVED:
            self._addresses = await self.loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._resolved = now
        addresses = self._addresses
        self._addresses = [*addresses[1:], *addresses[:1]]
        return addresses

    def _wake_at(self, deadline: float) -> None:
        """See to it that the alarm rings by then. One for all connections: a timer for each would cost more."""
        if deadline < self._alarm_at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm_at, self._alarm = deadline, self.loop.call_at(deadline, self._ring)

    def _ring(self) -> None:
        self._alarm_at, self._alarm = math.inf, None
        now = self.loop.time()
        for connection in tuple(self._connections):
            if connection.deadline <= now:
                connection.expire()
        self._wake_at(min((connection.deadline for connection in self._connections), default=math.inf))
