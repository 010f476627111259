"""One connection to Redis, and the one coroutine that speaks on it.

Callers never await the socket: they leave a Call and await its future. A cancelled caller therefore cannot strand half
a conversation, all calls that gather while a round trip is under way share the next one, and a reply that was lost is
asked for again until the call's own deadline. That is safe because every script may be repeated. redis-py's own
retries are off: they would repeat commands that may not be, and take ten times longer than any deadline here.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry as SyncRetry

from ..errors import BrokerUnavailable, ConfigError
from .calls import Arguments, Call, Copies, Load, pack, together
from .refusals import is_transient, said, wrong_password
from .scripts import Script

# Seconds. A half-open connection shows itself as a reply that never comes: after this long the line is dropped.
READ_TIMEOUT: Final = 5.0
MOVED_TIMEOUT: Final = 1.0
CONNECT_TIMEOUT: Final = 5.0
PAUSE_MIN: Final = 0.01
PAUSE_MAX: Final = 0.5
MAX_CALLS: Final = 512
# For so long a broker that was given up counts as down; whoever comes then tries again.
TROUBLE_SECONDS: Final = 1.0
# Redis's clock may be set while we are connected.
CLOCK_AGE: Final = 5.0
# A line on which nothing was said for so long may have been closed, and the loop not have noticed.
QUIET: Final = 0.001
# Redis stops waiting for its replicas this long before a caller does, so that the caller hears how many there are; it
# looks at the time ten times a second.
WAIT_MARGIN: Final = 0.2


class Health:
    """What the connections of one broker, each of its own loop, have heard of the store."""

    __slots__ = ("answered", "given_up")

    def __init__(self) -> None:
        """Begin with nothing heard."""
        self.answered: float = -math.inf
        """When it answered last, as ``time.monotonic()``."""
        self.given_up: tuple[float, str] = -math.inf, ""
        """When a call was last given up, and why."""

    @property
    def trouble(self) -> str | None:
        """Why a call was given up within the last second, None if none was or the store has answered since."""
        given_up, why = self.given_up
        down = given_up > self.answered and time.monotonic() - given_up < TROUBLE_SECONDS
        return why if down else None


class Link:
    """A connection of one event loop. ``offset`` turns this process's monotonic clock into Redis's, in milliseconds."""

    def __init__(self, pool: ConnectionPool, health: Health, *, moves: bool = False) -> None:
        """Take where connections are made, and who is told what is heard.

        ``moves``: a new connection may lead to another server, so do not cling to one.
        """
        self._pool, self._health, self._moves = pool, health, moves
        self._connection: AbstractConnection | None = None
        self._waiting: list[Call] = []
        self._said: Sequence[Call] = ()
        self._speaker: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = self._cut_at = math.inf
        self._overdue = False
        self._pause, self._heard = PAUSE_MIN, -math.inf
        self.offset = 0.0
        self._measured = -math.inf
        self._told: set[Script | str] = set()

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
        load: Load | None = None,
    ) -> Any:
        """Carry out one command and return its reply.

        ``arguments`` is asked when the command is sent, so that it may use the clock offset; ``load`` as for Call.
        Raises BrokerUnavailable if the command was never sent before the deadline, ReplyLost if it was, or if too few
        ``copies`` were confirmed, redis's ResponseError if it was refused.
        """
        call = Call(command, keys, deadline, asyncio.get_running_loop().create_future(), arguments, copies, load)
        self.begin(call)
        return await call.reply

    def begin(self, call: Call) -> None:
        """Carry out a call, whose ``reply`` then tells how it ended, at its deadline at the latest."""
        if call.deadline <= time.monotonic():
            call.fail(BrokerUnavailable("redis: the deadline had passed before the command could be sent"))
            return
        self._waiting.append(call)
        self._watch(call.deadline)
        if self._speaker is None or self._speaker.done():
            # Lives only while something waits, holds no caller's cancellation, and ends by itself: see _speak.
            self._speaker = asyncio.get_running_loop().create_task(self._speak())
            self._speaker.add_done_callback(self._fallen_silent)

    def _watch(self, deadline: float) -> None:
        # One alarm for all: most callers have the same patience, so that it is hardly ever set anew.
        if deadline < self._alarm_at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm_at = deadline
            self._alarm = asyncio.get_running_loop().call_later(deadline - time.monotonic(), self._ring)

    def _ring(self) -> None:
        """End the calls whose time is up, and a round trip that takes too long."""
        now = time.monotonic()
        self._alarm, self._alarm_at = None, math.inf
        if self._cut_at > now:
            self._watch(self._cut_at)
        elif self._speaker is not None:
            self._overdue, self._cut_at = True, math.inf
            self._speaker.cancel()
        for call in (*self._said, *self._waiting):
            if call.reply.done():
                continue
            if call.deadline > now:
                self._watch(call.deadline)
            else:
                # Not before a whole deadline has passed: what is cured within it, nobody need hear of.
                self._health.given_up = now, call.last_error or "no answer"
                call.give_up()

    def _fallen_silent(self, speaker: "asyncio.Task[None]") -> None:
        # A loop that is being closed cancels every task, also one that has not begun.
        if speaker.cancelled():
            self._give_up("CancelledError")

    def _give_up(self, why: str) -> None:
        calls, self._said, self._waiting = [*self._said, *self._waiting], (), []
        for call in calls:
            call.last_error = why
            call.give_up()

    async def _speak(self) -> None:
        while self._waiting:
            said, self._waiting = self._waiting[:MAX_CALLS], self._waiting[MAX_CALLS:]
            self._said = calls = [call for call in said if not call.reply.done()]
            if not calls:
                continue
            try:
                await self._in_time(calls)
                self._pause, self._heard = PAUSE_MIN, time.monotonic()
                self._health.answered = self._heard
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
                self._give_up(type(error).__name__)
                raise
            # What was to be sent again stands among the waiting.
            self._said = ()

    @property
    def _read_timeout(self) -> float:
        return MOVED_TIMEOUT if self._moves else READ_TIMEOUT

    def _patience(self, calls: Sequence[Call]) -> float:
        latest = max(call.deadline for call in calls) - time.monotonic()
        return min(max(latest, 0.0), self._read_timeout)

    async def _in_time(self, calls: Sequence[Call]) -> None:
        """Exchange; raise TimeoutError when nobody is so patient: what asyncio.timeout does, with the alarm of all."""
        self._overdue, self._cut_at = False, time.monotonic() + self._patience(calls)
        self._watch(self._cut_at)
        try:
            await self._exchange(calls)
        except asyncio.CancelledError:
            speaker = asyncio.current_task()
            if self._overdue and speaker is not None and speaker.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            self._cut_at = math.inf

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
        # Whoever was told meanwhile that it will not be done must be right.
        calls = [call for call in calls if not call.reply.done()]
        copied = [call for call in calls if call.copies]
        for call in copied:
            # Redis would wait for its replicas in vain before it is told a script that it has not got.
            call.whole = call.whole or call.command not in self._told
            self._told.add(call.command)
        commands = together(calls)
        packed = [command.packed() for command in commands] + (self._wait(copied) if copied else [])
        for call in calls:
            call.in_flight = True
        await connection.send_packed_command(packed, check_health=False)
        transient: ResponseError | None = None
        for command in commands:
            try:
                reply = await read(connection)
            except ResponseError as error:
                reply = error
            transient = command.hear(reply) or transient
        if copied:
            await self._confirm(connection, [call for call in copied if call.in_flight])
        if transient is not None:
            raise transient
        left = [call for call in calls if not call.reply.done()]
        if left:
            self._waiting = left + self._waiting

    def _wait(self, calls: Sequence[Call]) -> list[bytes]:
        """Return what makes Redis wait for its replicas, once for all that a round trip writes.

        WAIT counts from the last write of its own connection; on a new one, and after a repeat that found all done, it
        would confirm what no replica has. Hence a write in front of it that changes nothing and is always passed on.
        """
        first = min(call.deadline for call in calls) - time.monotonic() - WAIT_MARGIN
        patience = min(first, self._read_timeout / 2)
        replicas = max(call.copies.replicas for call in calls if call.copies)
        wait = pack(("WAIT", replicas, max(1, int(patience * 1000))))
        return [pack(("PUBLISH", f"{calls[0].keys[0]}:copied", "")), wait]

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
        if time.monotonic() - self._heard > QUIET:
            # The loop looks at its sockets between two turns: one that has been closed meanwhile shows itself.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
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
        if self._alarm is not None:
            self._alarm.cancel()
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
