"""One connection to Redis, and the one coroutine that speaks on it.

Callers never await the socket: they leave a Call and await its future. A cancelled caller therefore cannot strand half
a conversation, all calls that gather while a round trip is under way share the next one, and a reply that was lost is
asked for again until the call's own deadline. That is safe because every script may be repeated. redis-py's own
retries are off: they would repeat commands that may not be, and take ten times longer than any deadline here.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry as SyncRetry

from ..errors import BrokerUnavailable, ConfigError, ReplyLost
from .refusals import is_transient, said, wrong_password
from .scripts import Script

# Seconds. A half-open connection shows itself as a reply that never comes: after this long the line is dropped.
READ_TIMEOUT: Final = 5.0
MOVED_TIMEOUT: Final = 1.0
CONNECT_TIMEOUT: Final = 5.0
PAUSE_MIN: Final = 0.01
PAUSE_MAX: Final = 0.5
MAX_CALLS: Final = 512
# Redis's clock may be set while we are connected.
CLOCK_AGE: Final = 5.0
# Redis stops waiting for its replicas this long before a caller does, so that the caller hears how many there are; it
# looks at the time ten times a second.
WAIT_MARGIN: Final = 0.2

Arguments = Sequence[str | bytes | int]


class Copies(NamedTuple):
    """So many replicas must have what a call wrote before it counts; a reply other than ``written`` wrote nothing."""

    replicas: int
    written: object


@dataclass(slots=True, eq=False)
class Call:
    """One script call (or plain command) under way.

    ``in_flight``: sent, no reply yet; ``lost``: was in flight when a line broke, so Redis may have carried it out.
    """

    command: Script | str
    keys: Sequence[str]
    arguments: Callable[[], Arguments]
    deadline: float
    reply: "asyncio.Future[Any]"
    copies: Copies | None = None
    in_flight: bool = False
    lost: bool = False
    whole: bool = False
    last_error: str = ""

    def packed(self) -> tuple[str | bytes | int, ...]:
        """Return the command as it goes on the wire; the script itself only once Redis said that it has not got it."""
        if isinstance(self.command, str):
            return (self.command, *self.keys, *self.arguments())
        name, body = ("EVAL", self.command.source) if self.whole else ("EVALSHA", self.command.sha)
        return (name, body, len(self.keys), *self.keys, *self.arguments())

    def hear(self, reply: Any) -> None:
        """End the call with its reply, unless copies of what it wrote are waited for first."""
        if self.copies and reply == self.copies.written:
            return
        self.answer(reply)

    def answer(self, reply: Any) -> None:
        """End the call."""
        self.in_flight = False
        if not self.reply.done():
            self.reply.set_result(reply)

    def refuse(self, error: Exception) -> None:
        """Fail the call for good, unless it may have been carried out when it was sent before."""
        self.in_flight = False
        if isinstance(error, NoScriptError):
            self.whole = True
        elif self.lost:
            self.last_error = said(error)
            self.give_up()
        elif not self.reply.done():
            self.reply.set_exception(error)

    def give_up(self) -> None:
        """Fail the call: uncertain if Redis may have carried it out, certain if not."""
        if not self.reply.done():
            kind = ReplyLost if self.lost or self.in_flight else BrokerUnavailable
            self.reply.set_exception(
                kind(f"redis did not confirm before the deadline ({self.last_error or 'no answer'})")
            )


class Link:
    """A connection of one event loop. ``offset`` turns this process's monotonic clock into Redis's, in milliseconds."""

    def __init__(self, pool: ConnectionPool, *, moves: bool = False) -> None:
        """Take where connections are made; ``moves``: a new one may lead to another server, so do not cling to one."""
        self._pool, self._moves = pool, moves
        self._connection: AbstractConnection | None = None
        self._waiting: list[Call] = []
        self._speaker: asyncio.Task[None] | None = None
        self._pause = PAUSE_MIN
        self.offset = 0.0
        self._measured = -math.inf
        self._told: set[Script | str] = set()
        self.answered = -math.inf
        """When Redis answered last, as ``time.monotonic()``."""
        self.given_up = -math.inf, ""
        """When a call was last given up, and why."""

    def redis_ms(self, monotonic: float) -> int:
        """Return what Redis's clock will show, in ms, when ``time.monotonic()`` is at this value."""
        return int(monotonic * 1000 + self.offset)

    def measure_again(self) -> None:
        """Look at Redis's clock before anything else is sent: what it said does not fit."""
        self._measured = -math.inf

    async def call(
        self,
        command: Script | str,
        keys: Sequence[str],
        arguments: Callable[[], Arguments],
        *,
        deadline: float,
        copies: Copies | None = None,
    ) -> Any:
        """Carry out one command and return its reply.

        ``arguments`` is asked when the command is sent, so that it may use the clock offset. Raises BrokerUnavailable
        if the command was never sent before the deadline, ReplyLost if it was, or if too few ``copies`` were confirmed,
        redis's ResponseError if it was refused.
        """
        if deadline <= time.monotonic():
            raise BrokerUnavailable("redis: the deadline had passed before the command could be sent")
        call = Call(command, keys, arguments, deadline, asyncio.get_running_loop().create_future(), copies)
        self._waiting.append(call)
        if self._speaker is None or self._speaker.done():
            # Lives only while something waits, holds no caller's cancellation, and ends by itself: see _speak.
            self._speaker = asyncio.create_task(self._speak())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline - time.monotonic()):
                return await asyncio.shield(call.reply)
        # Not before a whole deadline has passed: what is cured within it, nobody need hear of.
        self.given_up = time.monotonic(), call.last_error or "no answer"
        call.give_up()
        return await call.reply

    async def _speak(self) -> None:
        while self._waiting:
            calls, self._waiting = self._waiting[:MAX_CALLS], self._waiting[MAX_CALLS:]
            calls = [call for call in calls if not call.reply.done()]
            if not calls:
                continue
            try:
                async with asyncio.timeout(self._patience(calls)):
                    await self._exchange(calls)
                self._pause, self.answered = PAUSE_MIN, time.monotonic()
            except AuthenticationError as error:
                await self._drop()
                self._refuse(calls, str(wrong_password(error)))
            except ConfigError as error:
                await self._drop()
                self._refuse(calls, str(error))
            except (RedisError, OSError, EOFError, TypeError, AttributeError) as error:
                # redis-py raises TypeError and AttributeError too when an idle connection was reset under it.
                await self._drop()
                if isinstance(error, ResponseError) and not is_transient(error):
                    self._refuse(calls, f"url: redis refused the connection ({error})")
                else:
                    await self._again(calls, error)
            except BaseException as error:
                await self._drop()
                for call in calls:
                    call.last_error = type(error).__name__
                    call.give_up()
                raise

    @property
    def _read_timeout(self) -> float:
        return MOVED_TIMEOUT if self._moves else READ_TIMEOUT

    def _patience(self, calls: Sequence[Call]) -> float:
        latest = max(call.deadline for call in calls) - time.monotonic()
        return min(max(latest, 0.0), self._read_timeout)

    async def _again(self, calls: Sequence[Call], error: Exception) -> None:
        for call in calls:
            if not isinstance(error, TimeoutError):  # Silence tells less than whatever was heard before.
                call.last_error = said(error)
            call.lost, call.in_flight = call.lost or call.in_flight, False
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, PAUSE_MAX)
        now = time.monotonic()
        for call in calls:
            if now >= call.deadline:
                call.give_up()
        self._waiting = [call for call in calls if not call.reply.done()] + self._waiting

    def _refuse(self, calls: Sequence[Call], why: str) -> None:
        # Waiting cures neither a wrong password nor a database that does not exist, so nobody waits for it.
        for call in calls:
            call.lost = call.lost or call.in_flight
            call.refuse(ConfigError(why))

    async def _exchange(self, calls: Sequence[Call]) -> None:
        connection = await self._connected()
        copied = [call for call in calls if call.copies]
        for call in copied:
            # Redis would wait for its replicas in vain before it is told a script that it has not got.
            call.whole = call.whole or call.command not in self._told
            self._told.add(call.command)
        commands = [call.packed() for call in calls] + (self._wait(copied) if copied else [])
        packed = connection.pack_commands(commands)
        for call in calls:
            call.in_flight = True
        await connection.send_packed_command(packed, check_health=False)
        transient: ResponseError | None = None
        for call in calls:
            try:
                call.hear(await read(connection))
            except ResponseError as error:
                if is_transient(error):
                    transient, call.in_flight = error, False
                else:
                    call.refuse(error)
        if copied:
            await self._confirm(connection, [call for call in copied if call.in_flight])
        if transient is not None:
            raise transient
        self._waiting = [call for call in calls if not call.reply.done()] + self._waiting

    def _wait(self, calls: Sequence[Call]) -> list[tuple[str | bytes | int, ...]]:
        """Return what makes Redis wait for its replicas, once for all that a round trip writes.

        WAIT counts from the last write of its own connection; on a new one, and after a repeat that found all done, it
        would confirm what no replica has. Hence a write in front of it that changes nothing and is always passed on.
        """
        first = min(call.deadline for call in calls) - time.monotonic() - WAIT_MARGIN
        patience = min(first, self._read_timeout / 2)
        replicas = max(call.copies.replicas for call in calls if call.copies)
        return [("PUBLISH", f"{calls[0].keys[0]}:copied", ""), ("WAIT", replicas, max(1, int(patience * 1000)))]

    async def _confirm(self, connection: AbstractConnection, written: Sequence[Call]) -> None:
        """End those calls that enough replicas have; the others may be repeated."""
        try:
            await read(connection)
            confirmed = await read(connection)
        except ResponseError as error:
            # What was written stands, whatever WAIT is refused for: on a new line it may be asked for again.
            raise RedisConnectionError(f"stored, but replicas could not be waited for: {said(error)}") from error
        for call in written:
            if call.copies is None or confirmed >= call.copies.replicas:
                call.answer(call.copies and call.copies.written)
            else:
                call.in_flight, call.lost = False, True
                call.last_error = (
                    f"stored on the primary, but {confirmed} of {call.copies.replicas} replica(s) have confirmed it"
                )
                if time.monotonic() >= call.deadline - WAIT_MARGIN:
                    call.give_up()
        if self._moves and any(call.lost for call in written):
            raise RedisConnectionError("the replicas follow another primary, or none")

    async def _connected(self) -> AbstractConnection:
        if self._connection is not None and await self._connection.can_read():
            # Closed by the other end while nobody spoke: what is not sent into it is not in doubt.
            await self._drop()
        if self._connection is None or not self._connection.is_connected:
            self._connection = await connected(self._pool)
            self.measure_again()
        if time.monotonic() - self._measured > CLOCK_AGE:
            await self._synchronise(self._connection)
        return self._connection

    async def _synchronise(self, connection: AbstractConnection) -> None:
        """Measure the clock offset; the error is at most half of this round trip."""
        before = time.monotonic()
        await connection.send_command("TIME", check_health=False)
        seconds, micros = await read(connection)
        after = time.monotonic()
        self.offset = int(seconds) * 1000 + int(micros) / 1000 - (before + after) * 500
        self._measured = after

    async def _drop(self) -> None:
        self._told.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        """Let the calls under way end, then close the connection."""
        if self._speaker is not None:
            await asyncio.gather(self._speaker, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect()


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
