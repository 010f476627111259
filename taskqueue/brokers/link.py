"""One connection to Redis, and the one coroutine that speaks on it.

Callers never await the socket: they leave a Call and await its future. A cancelled caller therefore cannot strand half
a conversation, all calls that gather while a round trip is under way share the next one, and a reply that was lost is
asked for again until the call's own deadline. That is safe because every script may be repeated.

The speaker, a task, makes the line ready, watches over what is under way, and mends what breaks; it lives only while
there is something to do. Replies end calls where they arrive, and send what has gathered, without waking it.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.asyncio.connection import ConnectionPool
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from ..errors import BrokerUnavailable, ConfigError
from .calls import Arguments, Call, Copies, Load, Trip, bytes_in, pack
from .connections import connected
from .refusals import is_transient, said, wrong_password
from .scripts import Script
from .wire import CLOSED, Wire

# Seconds. A half-open connection shows itself as a reply that never comes: after this long the line is dropped.
READ_TIMEOUT: Final = 5.0
MOVED_TIMEOUT: Final = 1.0
PAUSE_MIN: Final = 0.01
PAUSE_MAX: Final = 0.5
MAX_CALLS: Final = 512
# So many calls with so many bytes need not wait for others of the same turn, nor for what is under way: Redis works on
# them while callers prepare the next ones. There are at most so many round trips at a time.
SHARE: Final = 32
SHARE_BYTES: Final = 16 * 1024
MOST_TRIPS: Final = 4
# For so long a broker that was given up counts as down; whoever comes then tries again.
TROUBLE_SECONDS: Final = 1.0
# Redis's clock may be set while we are connected.
CLOCK_AGE: Final = 5.0
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
        self._wire: Wire | None = None
        self._waiting: list[Call] = []
        self._trips: deque[Trip] = deque()
        self._passing: ResponseError | None = None
        self._end: asyncio.Future[None] | None = None
        self._speaker: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = self._cut_at = math.inf
        self._overdue = False
        self._pause = PAUSE_MIN
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
        elif len(self._waiting) % SHARE == 0 and bytes_in(self._waiting) >= SHARE_BYTES:
            self._send_more()

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
        for call in self._take_all():
            call.last_error = why
            call.give_up()

    async def _speak(self) -> None:
        while self._waiting:
            try:
                await self._in_time()
            except AuthenticationError as error:
                await self._drop()
                self._refuse(str(wrong_password(error)))
            except ConfigError as error:
                await self._drop()
                self._refuse(str(error))
            except (RedisError, OSError, EOFError, TypeError, AttributeError) as error:
                # redis-py raises TypeError and AttributeError too when a connection was reset under it.
                await self._drop()
                if isinstance(error, ResponseError) and not is_transient(error):
                    self._refuse(f"url: redis refused the connection ({error})")
                else:
                    await self._again(error)
            except BaseException as error:
                await self._drop()
                self._give_up(type(error).__name__)
                raise

    @property
    def _said(self) -> list[Call]:
        """The calls that are on their way."""
        return [call for trip in self._trips for call in trip.calls]

    def _take_all(self) -> list[Call]:
        """Return the calls that have no answer yet; none of them is under way or waits any more."""
        calls = [call for call in (*self._said, *self._waiting) if not call.reply.done()]
        self._trips.clear()
        self._waiting = []
        return calls

    @property
    def _read_timeout(self) -> float:
        return MOVED_TIMEOUT if self._moves else READ_TIMEOUT

    def _be_patient(self, calls: Sequence[Call]) -> None:
        """Cut what is done for these calls short when nobody would wait any longer."""
        now = time.monotonic()
        latest = max(call.deadline for call in calls) - now
        self._cut_at = now + min(max(latest, 0.0), self._read_timeout)
        self._watch(self._cut_at)

    async def _in_time(self) -> None:
        """Exchange; raise TimeoutError when nobody is so patient: what asyncio.timeout does, with the alarm of all."""
        self._overdue = False
        self._be_patient(self._waiting)
        try:
            await self._exchange()
        except asyncio.CancelledError:
            speaker = asyncio.current_task()
            if self._overdue and speaker is not None and speaker.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            self._cut_at = math.inf

    async def _again(self, error: Exception) -> None:
        calls = self._take_all()
        for call in calls:
            if not isinstance(error, TimeoutError):  # Silence tells less than whatever was heard before.
                call.last_error = said(error)
            call.lost, call.in_flight = call.lost or call.in_flight, False
        self._waiting = calls
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, PAUSE_MAX)

    def _refuse(self, why: str) -> None:
        # Waiting cures neither a wrong password nor a database that does not exist, so nobody waits for it.
        for call in self._take_all():
            call.lost = call.lost or call.in_flight
            call.refuse(ConfigError(why))

    async def _exchange(self) -> None:
        """Send what waits, and what comes meanwhile, until nothing is under way; raises what broke the line."""
        self._passing = self._end = None
        await self._connected()
        self._send()
        if self._trips:  # else whoever asked has gone, and an end that nobody waits for is not to be told
            self._end = asyncio.get_running_loop().create_future()
            await self._end

    @property
    def _ready(self) -> bool:
        """Whether what is sent may arrive. Where nothing is under way, what has come unasked can only be a farewell."""
        return self._wire is not None and (self._wire.usable if self._trips else self._wire.silent)

    def _send_more(self) -> None:
        """Send what waits, whatever is under way, unless the speaker has to see to the line or the clock first."""
        if not self._waiting or self._end is None or self._passing is not None:
            return
        if self._ready and time.monotonic() - self._measured <= CLOCK_AGE:
            while self._waiting and len(self._trips) < MOST_TRIPS:
                self._send()

    def _send(self) -> None:
        now = time.monotonic()
        some, self._waiting = self._waiting[:MAX_CALLS], self._waiting[MAX_CALLS:]
        # Whoever was told meanwhile that it will not be done must be right.
        calls = [call for call in some if not call.reply.done() and not call.gives_up(now)]
        if not calls or self._wire is None:
            return
        copied = [call for call in calls if call.copies]
        for call in copied:
            # Redis would wait for its replicas in vain before it is told a script that it has not got.
            call.whole = call.whole or call.command not in self._told
            self._told.add(call.command)
        trip = Trip(calls, copied)
        packed = trip.packed(self._wait(copied) if copied else ())
        for call in calls:
            call.in_flight = True
        if not self._trips:
            self._be_patient(calls)
        self._trips.append(trip)
        self._wire.write(packed)

    def _hear(self, reply: Any) -> None:
        if not self._trips:
            raise RedisConnectionError("redis said something that nobody had asked for")
        trip = self._trips[0]
        if not trip.hear(reply):
            return
        if trip.copied:
            self._confirm(trip)
        self._trips.popleft()
        self._passing = self._passing or trip.passing
        if self._passing is None:
            self._pause, self._health.answered = PAUSE_MIN, time.monotonic()
        left = [call for call in trip.calls if not call.reply.done()]
        if left:
            self._waiting = left + self._waiting
        self._send_more()
        if self._trips:
            self._be_patient(self._trips[0].calls)
            return
        self._cut_at = math.inf
        if self._passing is not None:
            self._end_with(self._passing)
        else:
            asyncio.get_running_loop().call_soon(self._rest)

    def _rest(self) -> None:
        """Send what those who have just heard have asked for since; if that is nothing, the speaker may go."""
        self._send_more()
        if not self._trips:
            self._end_with(None)

    def _end_with(self, error: Exception | None) -> None:
        """Wake the speaker: nothing is under way any more, or nothing will come of it."""
        if self._end is None or self._end.done():
            return
        if error is None:
            self._end.set_result(None)
        else:
            self._end.set_exception(error)

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

    def _confirm(self, trip: Trip) -> None:
        """End those calls that enough replicas have; the others may be repeated."""
        refused = next((reply for reply in trip.confirmed if isinstance(reply, ResponseError)), None)
        if refused is not None:
            # What was written stands, whatever WAIT is refused for: on a new line it may be asked for again.
            raise RedisConnectionError(f"stored, but replicas could not be waited for: {said(refused)}") from refused
        _, confirmed = trip.confirmed
        written = [call for call in trip.copied if call.in_flight]
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

    async def _connected(self) -> None:
        """Have a line that can be spoken on, and know Redis's clock."""
        if self._wire is not None and not self._ready:
            # Closed by the other end while nobody spoke: what is not sent into it is not in doubt.
            await self._drop()
        if self._wire is None:
            self._wire = Wire(await connected(self._pool), self._hear, self._end_with)
            self.measure_again()
        if not self._trips and time.monotonic() - self._measured > CLOCK_AGE:  # else a reply could be taken for another
            await self._synchronise(self._wire)
        if not self._wire.usable:
            raise RedisConnectionError(CLOSED)

    async def _synchronise(self, wire: Wire) -> None:
        """Measure the clock offset; the error is at most half of this round trip."""
        before = time.monotonic()
        seconds, micros = await wire.ask(pack(("TIME",)))
        after = time.monotonic()
        self.offset = int(seconds) * 1000 + int(micros) / 1000 - (before + after) * 500
        self._measured = after

    async def _drop(self) -> None:
        self._told.clear()
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close(nowait=True)

    async def aclose(self) -> None:
        """Let the calls under way end, then close the connection; if this is cancelled, do so at once."""
        try:
            if self._speaker is not None:
                await asyncio.gather(self._speaker, return_exceptions=True)
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
            wire, self._wire = self._wire, None
            if wire is not None:
                await wire.close()
