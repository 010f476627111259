"""The consuming side: reserve, replay, decide, settle.

One loop makes all moves. Each of its turns is one round trip a queue: it settles what has ended and reserves for the
slots that are free. Deliveries run beside it and only leave their settlement. So a delivery is settled in exactly one
place, and what could not be told to the broker is told again until it answers, or says that another consumer has the
name.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from .absence import Absence
from .broker import CALL_DEADLINE, Broker, Exchange, Handed, Lease, Taken
from .delivery import Courier
from .errors import BrokerUnavailable, ConfigError, Fenced, NameInUse, TaskQueueError
from .hooks import FailedTask, OnFailed, tell
from .intake import Intake
from .jobs import begun
from .keys import Keyring
from .line import Line
from .membership import Membership
from .policy import Rules
from .replay import Replayer
from .response_files import ResponseFiles
from .retention import Retention
from .slots import BATCH_TASKS, Slots
from .strategy import Strategy, Weighted
from .task import Reservation, Settlement

log = logging.getLogger("taskqueue.server")

BATCH_BYTES: Final = 4 * 1024 * 1024
# Seconds.
POLL_MIN: Final = 0.02
# While enough is held, an exchange waits until it is worth its cost; it is looked at so often.
PACE: Final = 0.001
LISTEN_AGAIN: Final = 0.5
LAST_WORDS: Final = 5.0


class TaskQueueServer:
    """A consumer under one name: takes tasks from its queues and replays at most ``concurrent_limit`` at a time.

    It takes a broker, which stays open, a way to the application and the name to consume under.

    ``concurrent_limit``, or what it tells each time, 0 means no limit but memory (64 MiB of records). Seconds:
    ``timeout`` for a task that names none, ``stop_grace`` for running tasks at a stop, ``poll_max`` between two
    looks at an idle queue, ``wait_broker`` for a broker that does not answer (None: for ever), ``lease`` for
    another consumer that does not beat. ``on_failed``, plain or async, is called with a FailedTask for each
    delivery that fails its task; it has 10 s, and what it raises is logged. ``begins``: whether the application
    notes the start of each delivery in the broker (see ``replay_guard`` of its door); asked once it has been
    started. ``companions`` run from the start to the end; ``intake`` tells how many tasks may be taken (None: all),
    and its signs show how it goes. ``strategy`` shares free slots among the queues (None: equally). ``retention``
    says what is kept of tasks that have ended (None: what is usual), ``files`` keeps long answers (None: they are cut).
    """

    def __init__(
        self,
        broker: Broker,
        replayer: Replayer,
        keyring: Keyring,
        *,
        name: str,
        queues: Sequence[str],
        concurrent_limit: int | Callable[[], int] = 1,
        rules: Rules | None = None,
        timeout: float = 600.0,
        stop_grace: float = 25.0,
        poll_max: float = 1.0,
        wait_broker: float | None = None,
        lease: float = 8.0,
        on_failed: OnFailed | None = None,
        begins: Callable[[], bool] = lambda: True,
        companions: Sequence[Callable[[], Awaitable[None]]] = (),
        intake: Intake | None = None,
        strategy: Strategy | None = None,
        retention: Retention | None = None,
        files: ResponseFiles | None = None,
    ) -> None:
        self.name: Final = name
        self.queues: Final = tuple(queues)
        self._broker, self._replayer = broker, replayer
        self._intake = intake or Intake(broker, self.queues)
        self._strategy = strategy or Weighted(dict.fromkeys(queues, 1))
        self._signs = self._intake.signs
        self._rules, self._retention = rules or Rules(), retention or Retention()
        courier = self._courier = Courier(
            replayer, keyring, self._rules, broker, timeout=timeout, failed=self._tell_failed, begins=begins,
            keep=self._retention.everything, files=files,
        )  # fmt: skip
        self._courier.on_ended = self._signs.ended
        self._on_failed = on_failed
        self._companions = (self._listen, *companions)
        self._stop_grace = stop_grace
        self._poll_max, self._absence, self._wake = poll_max, Absence(wait_broker), asyncio.Event()
        limit = concurrent_limit if callable(concurrent_limit) else lambda: concurrent_limit
        self._slots = Slots(courier, self._intake, limit, untold=self._untold, wake=self._wake.set)
        self._membership = Membership(
            broker, name, lease=lease, patience=courier.patience, begins=courier.begins,
            wake=self._wake.set, on_marked=self._slots.cancel,
        )  # fmt: skip
        self._signs.beats = self._membership.beats
        self._lines: list[Line] = []
        self._paused = self._released = self._kept = self._listening = False
        self._poll = POLL_MIN
        self._stop_at: float | None = None

    def stop(self, *, now: bool = False) -> None:
        """Stop reserving and let running tasks end within the grace time; ``now``: give them back at once."""
        if self._stop_at is None or now:
            log.info("stopping: %d task(s) running", self.running)
            self._stop_at = time.monotonic() + (0.0 if now else self._stop_grace)
        self._slots.close()
        self._signs.stop("it was told to")
        self._wake.set()

    def pause(self) -> None:
        """Start no more tasks until ``resume``; those that run go on."""
        log.info("paused: %d task(s) running", self.running)
        self._paused = True
        self._slots.close()
        self._signs.pause(paused=True)

    def resume(self) -> None:
        """Start tasks again."""
        if self._paused:
            log.info("resumed")
            self._paused = False
            if self._stop_at is None:
                self._slots.open()
            self._signs.pause(paused=False)
            self._look_everywhere()
            self._wake.set()

    def report(self) -> None:
        """Log what runs, and where in the code each task and each thread is."""
        self._slots.jobs.report()

    @property
    def running(self) -> int:
        """How many tasks run now."""
        return len(self._slots.jobs)

    async def run(self) -> None:
        """Consume until stopped.

        Raises NameInUse when another server has the name, Fenced when one takes it, BrokerUnavailable when the broker
        was away longer than ``wait_broker``, ConfigError when it refuses what this consumer needs.
        """
        ending: TaskQueueError | None = None
        try:
            async with self._replayer, self._slots.group as group:
                beside = [group.create_task(_begun(companion)) for companion in self._companions]
                try:
                    await self._consume()
                except (NameInUse, Fenced, BrokerUnavailable, ConfigError) as error:
                    ending = error
                    self._signs.stop(str(error))
                for job in beside:
                    job.cancel()
                self._slots.close()
                self._slots.jobs.cancel()
        finally:
            await self._membership.leave()
        if ending is not None:
            raise ending
        log.info("stopped")

    # The loop.

    async def _consume(self) -> None:
        self._lines += [Line(lease, self._retention) for lease in await self._join(*self.queues)]
        while not self._finished():
            self._membership.require()
            if await self._membership.take_over():
                self._look_everywhere()
            await self._turn()
            await self._rest()

    def _finished(self) -> bool:
        if self._stop_at is None or self._slots.jobs:
            return False
        if not (self._untold() or any(line.waits for line in self._lines)):
            return True
        if time.monotonic() <= self._stop_at + LAST_WORDS:
            return False
        log.error(
            "stopped without telling the broker how %d task(s) ended: they will be given out again", self._ended()
        )
        return True

    def _ended(self) -> int:
        """Return how many have ended, and the broker has not been told."""
        return sum(len(line.settlements) for line in self._lines)

    def _untold(self) -> bool:
        """Tell whether the broker may count tasks as this consumer's that do not run here."""
        return any(line.settlements or line.unsure for line in self._lines)

    async def _turn(self) -> None:
        """Tell the broker what has ended, take what there is room for."""
        self._wake.clear()
        if self._stop_at is not None and time.monotonic() >= self._stop_at and not self._released:
            self._released = True
            self._slots.jobs.cancel()
        if time.monotonic() >= self._slots.stale_at:
            self._slots.give_back_held()
        free, shares = self._slots.free(), self._shares()
        for line in tuple(self._lines):
            want = max(0, min(shares.get(line.lease.queue, 0), self._slots.free()))
            # A consumer that has no slot any more is not to be handed anything.
            if want or line.settlements or line.unsure or (line.waits and not self._slots.free()):
                await self._exchange(line, want)
            elif not free:
                self._signs.progressed(time.monotonic())
        self._signs.running = self.running
        if self._stop_at is None and await self._intake.over(idle=self._idle()):
            self.stop()
        # The next turn begins with another queue, so that large records of one cannot starve the others.
        self._lines.append(self._lines.pop(0))

    def _shares(self) -> Mapping[str, int]:
        """Return how many tasks to ask of each queue: where something may wait, as the strategy shares the free slots.

        What a queue does not fill is shared again in the next turn, which then comes at once; what the strategy keeps
        to itself, when something happens or after the poll interval.
        """
        free, now, self._kept = self._slots.free(), time.monotonic(), False
        promising = [line.lease.queue for line in self._lines if line.promising or now >= line.look_for_due]
        # Who has something to tell asks as well: it costs nothing, and a consumer waits only if it has asked.
        asked = promising or [line.lease.queue for line in self._lines if line.settlements]
        if not (free and asked):
            return {}
        shares = {asked[0]: free} if len(asked) == 1 else self._strategy.share(free, asked)
        self._kept = bool(promising) and not any(shares.get(queue, 0) > 0 for queue in promising)
        return shares

    async def _exchange(self, line: Line, want: int) -> None:
        settlements = tuple(line.settlements[:BATCH_TASKS])  # no script may block the broker for long
        room = min(BATCH_BYTES, self._slots.room)
        # One that waits keeps a slot for what may come, in each of its queues.
        may_wait = self._listening and self._intake.lasting
        waits = may_wait and want > 0 and self._slots.free() >= len(self._lines)
        deadline = time.monotonic() + CALL_DEADLINE
        try:
            result = await line.exchange(
                self._broker, settlements, want=want, room=room, waits=waits, deadline=deadline, poll_max=self._poll_max
            )
        except BrokerUnavailable as error:
            self._signs.unanswered()
            line.unsure = True  # The same token and settlements go out again: nothing is told or taken twice.
            self._absence.note(error)
            return
        except Fenced as error:
            if not error.gone:
                raise
            log.warning("%s: taking the name again", error)
            self._slots.give_back_held()  # Before the settlements go: what is held of this line is no longer ours.
            line.settlements, line.unsure, line.handed = [], False, None
            for lease in await self._join(line.lease.queue):
                line.lease = lease
            return
        self._absence.end()
        self._signs.progressed(time.monotonic())
        self._answered(line, want, settlements, result, line.answered(result, waits=waits))
        self._take_late(line)

    def _answered(
        self, line: Line, want: int, settlements: Sequence[Settlement], result: Exchange, fresh: Sequence[Reservation]
    ) -> None:
        """Go on with what the broker has said; ``fresh``: the tasks that were not here yet."""
        wanted = want > 0 or line.unsure
        line.settlements, line.unsure = line.settlements[len(settlements) :], False
        if line.settlements:
            self._wake.set()
        if want:
            line.promising = bool(result.reservations)
        line.slowed = any(item.verdict.slow for item in line.settlements)
        if any(item.verdict.delay for item in settlements):
            line.look_for_due = 0.0
        for task_id in result.stale:
            log.warning("task %s: ended too late, the delivery was no longer this consumer's", task_id)
        self._accept(line, fresh, wanted=wanted)
        # Not before the next exchange is on its way: so Redis works on that while these are opened and signed.
        asyncio.get_running_loop().call_soon(self._slots.fill)
        if result.reservations or settlements:
            self._poll = POLL_MIN
        if line.is_trim_due(len(settlements)):
            # Beside the loop: what was just reserved must not wait for it.
            self._slots.group.create_task(line.trim(self._broker))

    def _idle(self) -> bool:
        """Tell whether nothing runs, and nothing was to be had a moment ago."""
        now = time.monotonic()
        return not self._slots.jobs and all(line.idle(now) for line in self._lines)

    async def _rest(self) -> None:
        """Wait until something has ended, may be waiting or falls due, or the poll interval is over."""
        if self._finished():
            return
        while self._slots.can_wait(self._ended()):  # noqa: ASYNC110 - no event: deliveries end all the time
            await asyncio.sleep(PACE)
        now = time.monotonic()
        poll_at = now + self._poll * random.uniform(0.8, 1.0)
        until = [poll_at]
        if self._slots.shut_until > now:
            until = [self._slots.shut_until]
        elif not self._absence and self._slots.free() and not self._kept:
            # Only then can anything be done about what waits or is due.
            if any(line.promising for line in self._lines):
                return
            until += [line.look_for_due for line in self._lines]
        if self._stop_at is not None and not self._released:
            until.append(self._stop_at)
        if not await self._woken(min(until) - now) and time.monotonic() >= poll_at:
            self._poll = min(self._poll * 2, self._poll_max)
            self._look_everywhere()

    def _look_everywhere(self) -> None:
        for line in self._lines:
            line.promising = True

    async def _woken(self, seconds: float) -> bool:
        """Wait so long, or until there is something to do; tell whether there is."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    def _tell_failed(self, failed: FailedTask) -> None:
        if self._on_failed is not None:
            begun(self._slots.group, tell(self._on_failed, failed))

    # The broker, away and back.

    async def _join(self, *queues: str) -> list[Lease]:
        """Take the name in these queues, however long that takes; in none if this consumer was stopped before."""
        while self._stop_at is None:
            try:
                leases = await self._membership.join(*queues)
            except BrokerUnavailable as error:
                self._absence.note(error)
                self._wake.clear()
                await self._woken(self._poll_max)
            else:
                self._absence.end()
                return leases
        return []

    async def _listen(self) -> None:
        """Turn hints into turns. Correctness never depends on it: the loop polls too."""
        while True:
            try:
                async with self._broker.hints(self.queues, self.name) as hints:
                    async for queue in hints:
                        self._listening = True
                        for line in self._lines:
                            if line.lease.queue == queue:
                                self._hear(line, queue)
            except (BrokerUnavailable, ConfigError) as error:
                log.debug("no hints: %s", error)
            self._listening = False
            await asyncio.sleep(LISTEN_AGAIN)

    def _hear(self, line: Line, hint: str) -> None:
        if isinstance(hint, Handed):
            line.late = hint
            self._take_late(line)
        else:
            others = self._membership.others.get(line.lease.queue, 0)
            line.hear(taken=isinstance(hint, Taken), others=others, wake=self._wake.set)

    def _take_late(self, line: Line) -> None:
        """Start what was handed to this consumer while it waited."""
        reservation = line.take_late()
        if reservation is not None:
            self._poll = POLL_MIN
            self._accept(line, [reservation], wanted=self._slots.free() > 0)
            self._slots.fill()

    def _accept(self, line: Line, fresh: Sequence[Reservation], *, wanted: bool) -> None:
        """Hold these for a slot; or give back what was handed over, if the slot kept for it has gone meanwhile."""
        alone = self._slots.is_alone(len(fresh))
        for reservation in fresh:
            if wanted:
                self._slots.take(line, reservation, alone=alone)
            else:
                self._slots.give_back(line, reservation)


async def _begun(companion: Callable[[], Awaitable[None]]) -> None:
    await companion()  # called here, lest it be left behind if this is cancelled before it begins
