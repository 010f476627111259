"""The slots of a consumer: what runs, what is held until one is free, and how much more may be taken."""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Final

from .delivery import SUSPECT_AFTER, Courier
from .intake import Intake
from .jobs import Jobs, given_back
from .line import Line
from .prefetch import Held, Prefetch
from .task import Reservation, Settlement, Verdict

BATCH_TASKS: Final = 100
# Fewer are not asked for while there is no hurry: an exchange costs as much as a few tasks.
WORTH_ASKING: Final = 25
IN_FLIGHT_BYTES: Final = 64 * 1024 * 1024
# Seconds.
TARGET_PAUSE: Final = 0.5

UNSTARTED: Final = Verdict("release", "unstarted")


class Slots:
    """Starts deliveries, at most ``limit()`` at a time; each leaves its settlement in its line and calls ``wake``.

    ``limit`` may tell another number each time, 0 for none but memory (64 MiB of records); ``untold`` whether the
    broker may count tasks as ours that do not run here.
    """

    def __init__(
        self,
        courier: Courier,
        intake: Intake,
        limit: Callable[[], int],
        *,
        untold: Callable[[], bool],
        wake: Callable[[], None],
    ) -> None:
        """Begin with all free."""
        self._courier, self._intake, self._limit, self._untold, self._wake = courier, intake, limit, untold, wake
        self._prefetch = Prefetch(courier.prepare)
        self._open, self._one_by_one = True, False
        self.jobs: Final = Jobs(self._end)
        self.group: Final = asyncio.TaskGroup()
        """In which the deliveries run."""
        self.shut_until = 0.0
        """When a target that was down may be tried again (``time.monotonic()``)."""

    def close(self) -> None:
        """Start nothing more."""
        self._open = False
        self.give_back_held()

    def open(self) -> None:
        """Start tasks again."""
        self._open = True

    @property
    def room(self) -> int:
        """How many more bytes of records may be reserved."""
        return IN_FLIGHT_BYTES - self.jobs.bytes - self._prefetch.bytes

    @property
    def stale_at(self) -> float:
        """When something that is held will have been held for too long (``time.monotonic()``)."""
        return self._prefetch.stale_at

    def can_wait(self, untold: int) -> bool:
        """Tell whether an exchange is not worth it yet: enough is held, and there is little to ask for or to tell.

        What has ended and is not told would run again if this consumer died now: never more than what may run.
        """
        return self._prefetch.is_plenty and untold < min(self._most(), WORTH_ASKING) and self.free() < WORTH_ASKING

    def is_alone(self, count: int) -> bool:
        """Tell whether of ``count`` tasks that have just been reserved there is one only, and no other is here."""
        return count == 1 and not (self.jobs or self._prefetch or self._untold())

    def free(self) -> int:
        """Return how many tasks may be reserved now: for the slots that are free, and for those that soon will be."""
        running, held, most = len(self.jobs), len(self._prefetch), self._most()
        if not most or self.room <= 0:
            return 0
        ahead = 0 if self._cautious else self._prefetch.depth(time.monotonic())
        return max(0, min(most + ahead - running - held, BATCH_TASKS, self._intake.left(running + held)))

    def _most(self) -> int:
        """Return how many tasks may run now."""
        if not self._open or time.monotonic() < self.shut_until:
            return 0
        if self._one_by_one and (self.jobs or self._untold()):
            return 0
        return 1 if self._cautious else self._limit() or len(self.jobs) + BATCH_TASKS

    @property
    def _cautious(self) -> bool:
        # A target that was down is tried with one task before it gets the full load again.
        return self._one_by_one or self._courier.target_down is not None

    def take(self, line: Line, reservation: Reservation, *, alone: bool) -> None:
        """Hold a task for a slot, or give it back to the front of its line, unspent.

        ``alone``: no other is here. One with which many consumers have died runs alone, lest it condemn its neighbours:
        it waits in its line until the others have ended and the broker knows it, and so does what came with it.
        """
        suspect = reservation.crashes >= SUSPECT_AFTER
        open_now = self._open and not line.slowed and time.monotonic() >= self.shut_until
        if open_now and (alone or not (suspect or self._one_by_one)):
            self._one_by_one = suspect
            self._prefetch.hold(line, reservation, time.monotonic())
            return
        if suspect and not self._one_by_one:
            self.give_back_held()
            self._one_by_one = True
        self.give_back(line, reservation)

    def fill(self) -> None:
        """Start what is held, as far as there are slots."""
        prefetch = self._prefetch
        prefetch.make_ready()
        running = len(self.jobs)
        for _ in range(min(len(prefetch), self._most() - running, self._intake.left(running))):
            if time.monotonic() >= prefetch.stale_at:
                self.give_back_held()
                return
            self._start(prefetch.pop())

    def _start(self, held: Held) -> None:
        self.jobs.start(self.group, held, self._courier.deliver(held.prepared))

    def _end(self, line: Line, settlement: Settlement) -> None:
        """Note how a delivery ended."""
        self._wake()
        line.settlements.append(settlement)
        self._prefetch.ended()
        if settlement.verdict.slow:
            line.slowed = True
            self.give_back_held()
        if settlement.verdict.kind == "release":
            line.promising = True
            if self._courier.target_down:
                self.shut_until = time.monotonic() + TARGET_PAUSE
                self.give_back_held()
        if self._prefetch:
            self.fill()

    def give_back(self, line: Line, reservation: Reservation) -> None:
        """Give a task back to the front of its line, unspent."""
        line.settlements.append(given_back(reservation, UNSTARTED))
        line.promising = True
        self._wake()

    def give_back_held(self) -> None:
        """Give back what is held and has not been started, unspent."""
        for line, reservation in self._prefetch.clear():
            self.give_back(line, reservation)

    def cancel(self, ids: Collection[str]) -> None:
        """End these tasks, as an operator has said; what is held ends when it is given back."""
        self.jobs.cancel(ids)
        self.give_back_held()
