"""A connection that redis-py has made, as the link speaks on it: without a task that reads, and without a stream.

redis-py finds the server, shakes hands and closes. In between, what is written goes to the transport at once, and each
reply to whoever waits for it in the very turn of the loop in which it came: a stream would take two turns more.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Any, Final

import hiredis
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError

CLOSED: Final = "Connection closed by server."
"""As redis-py says it."""

_INCOMPLETE: Final = object()


class Wire(asyncio.Protocol):
    """Carries commands to Redis; ``hear`` is told every reply, and ``broken`` once why there will be no more."""

    def __init__(
        self, connection: AbstractConnection, hear: Callable[[Any], None], broken: Callable[[Exception], None]
    ) -> None:
        """Take over a connection that has shaken hands, and on which nothing is under way."""
        writer: asyncio.StreamWriter | None = connection._writer
        if writer is None:
            raise RedisConnectionError("the connection was closed as soon as it was made")
        self._connection, self._hear, self._broken = connection, hear, broken
        self._asked: asyncio.Future[Any] | None = None
        self._replies = hiredis.Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_INCOMPLETE
        )
        self._transport = writer.transport
        self._streams = self._transport.get_protocol()
        self._transport.set_protocol(self)
        # Else uvloop keeps small writes until the end of the turn, and Redis would not begin before.
        self._transport.set_write_buffer_limits(high=0)
        self._open = True
        self._looking = select.poll()
        self._looking.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)

    @property
    def usable(self) -> bool:
        """Whether something that is written may still arrive."""
        return self._open and not self._transport.is_closing()

    @property
    def silent(self) -> bool:
        """Whether it is usable and the other end has said nothing that the loop has not seen yet.

        Where no reply is under way, that could only be its farewell.
        """
        return self.usable and not self._looking.poll(0)

    def write(self, packed: bytes) -> None:
        """Send this on its way."""
        self._transport.write(packed)

    async def ask(self, packed: bytes) -> Any:
        """Send a command while nothing else is under way, and return its reply; raises it if it is an error."""
        self._asked = asyncio.get_running_loop().create_future()
        self.write(packed)
        try:
            return await self._asked
        finally:
            self._asked = None

    def data_received(self, data: bytes) -> None:
        """Pass on the replies that are complete."""
        try:
            self._replies.feed(data)
            while self._open and (reply := self._replies.gets()) is not _INCOMPLETE:
                self._pass_on(reply)
        except RedisError as error:
            self._fail(error)

    def _pass_on(self, reply: Any) -> None:
        if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
            raise reply  # such as LOADING, which redis-py has as an error of the connection
        if self._asked is None:
            self._hear(reply)
        elif self._asked.done():  # whoever asked has gone meanwhile, and drops the line
            return
        elif isinstance(reply, Exception):
            self._asked.set_exception(reply)
        else:
            self._asked.set_result(reply)

    def eof_received(self) -> None:
        """Notice that the other end has closed the connection; the transport closes this end."""
        self._fail(RedisConnectionError(CLOSED))

    def connection_lost(self, exc: Exception | None) -> None:
        """Notice that the connection has broken, or was closed here."""
        self._fail(exc or RedisConnectionError(CLOSED))
        # Whoever closes waits for the streams to hear of it.
        self._streams.connection_lost(exc)

    def _fail(self, error: Exception) -> None:
        if self._open:
            self._open = False
            if self._asked is not None and not self._asked.done():
                self._asked.set_exception(error)
            self._broken(error)

    async def close(self, *, nowait: bool = False) -> None:
        """Hear no more, and close the connection; ``nowait``: do not wait for its end."""
        self._open = False
        await self._connection.disconnect(nowait=nowait)
