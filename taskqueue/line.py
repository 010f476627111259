"""One queue as a consumer sees it: what is to be told to the broker, and whether it is worth asking for tasks."""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from .broker import CALL_DEADLINE, Broker, Exchange, Handed, Lease
from .errors import BrokerUnavailable, ConfigError
from .retention import Retention
from .task import Reservation, Settlement

log = logging.getLogger("taskqueue.server")

# So many settlements from one clearing out of what was kept long enough to the next, or where there are few, so many
# seconds; there is one at the start.
TRIM_EVERY: Final = 100
TRIM_AFTER: Final = 60.0


# Seconds between those who look at a queue because they have all heard the same: for each other one, and at most.
APART: Final = 0.002
FARTHEST_APART: Final = 0.1
USUALLY: Final = Retention()


@dataclass(slots=True, eq=False)
class Line:
    """One queue of a consumer.

    ``promising``: something may wait there. ``unsure``: a reply was lost, so tasks may be reserved that nobody here
    knows of; the same token brings them. ``slowed``: the application wants to be left alone, and the broker has not
    been told yet. ``look_later``: when it will be looked at because something was heard. ``waits``: the token of the
    exchange that was answered last, if that found nothing and a task that comes later may be handed to this consumer as
    a late answer; ``late``: such an answer; ``handed``: id and delivery of the one that was taken since.
    """

    lease: Lease
    retention: Retention = USUALLY
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    settlements: list[Settlement] = field(default_factory=list)
    promising: bool = True
    unsure: bool = False
    waits: str = ""
    late: Handed | None = None
    handed: tuple[str, int] | None = None
    slowed: bool = False
    look_later: asyncio.TimerHandle | None = None
    look_for_due: float = 0.0
    untrimmed: int = 0
    trim_at: float = 0.0
    trimming: bool = False

    async def exchange(
        self,
        broker: Broker,
        settlements: Sequence[Settlement],
        *,
        want: int,
        room: int,
        waits: bool,
        deadline: float,
        poll_max: float,
    ) -> Exchange:
        """Tell the broker these and ask it for tasks; before, if it is time to look, have what is due queued.

        ``waits``: whether this consumer may be handed what comes if there is nothing now.

        Raises BrokerUnavailable or Fenced.
        """
        self.waits, self.late, keep = "", None, self.retention.everything
        exchange = broker.exchange(
            self.lease, settlements, token=self.token, want=want, room=room, keep=keep, waits=waits, deadline=deadline
        )
        now = time.monotonic()
        if now < self.look_for_due:
            return await exchange
        # Begun in this order, so that they may travel together.
        due = broker.due(self.lease.queue, deadline=deadline)
        wait, taken = await asyncio.gather(due, exchange, return_exceptions=True)
        if isinstance(taken, BaseException):
            raise taken
        if isinstance(wait, BaseException):
            raise wait
        self.look_for_due = now + (poll_max if wait is None else min(wait, poll_max))
        return taken

    def answered(self, taken: Exchange, *, waits: bool) -> Sequence[Reservation]:
        """Return what an exchange has brought that is not here yet; the next one has a token of its own.

        ``waits``: whether this consumer waits now if it has brought nothing.
        """
        known, self.handed = self.handed, None
        self.waits = self.token if waits and not taken.reservations else ""
        self.token = secrets.token_hex(8)
        return [one for one in taken.reservations if (one.id, one.delivery) != known]

    def take_late(self) -> Reservation | None:
        """Return the task in a late answer, if one has come to what this consumer waits for.

        One to something else is left: it may have overtaken the answer to its own exchange. What is asked after a task
        was handed over brings it in any case.
        """
        if self.late is None or self.late.token != self.waits:
            return None
        reservation, self.waits, self.late = self.late.reservation, "", None
        self.handed = reservation.id, reservation.delivery
        return reservation

    def hear(self, *, taken: bool, others: int, wake: Callable[[], None]) -> None:
        """Have this queue looked at, now; or, where other consumers have heard the same, a little later.

        ``taken``: one of them was quicker, and there is nothing to look for any more.
        """
        if taken:
            if self.look_later is not None:
                self.look_later.cancel()
            self.look_later = None
        elif self.look_later is None:
            if others:
                wait = random.uniform(0.0, min(others * APART, FARTHEST_APART))
                self.look_later = asyncio.get_running_loop().call_later(wait, self._look, wake)
            else:
                self._look(wake)

    def _look(self, wake: Callable[[], None]) -> None:
        self.look_later, self.promising, self.look_for_due = None, True, 0.0
        wake()

    def is_trim_due(self, settled: int) -> bool:
        """Tell whether it is time to forget something; ``settled`` more have ended. It is not again before the next."""
        self.untrimmed += settled
        if self.trimming or (self.untrimmed < TRIM_EVERY and time.monotonic() < self.trim_at):
            return False
        self.trimming, self.untrimmed, self.trim_at = True, 0, time.monotonic() + TRIM_AFTER
        return True

    async def trim(self, broker: Broker) -> None:
        """Have what was kept long enough forgotten; raises nothing that the broker says, who is asked again later."""
        try:
            limits, deadline = self.retention.limits(self.lease.queue), time.monotonic() + CALL_DEADLINE
            trimmed = await broker.trim(self.lease.queue, limits, most=2 * TRIM_EVERY, deadline=deadline)
            if trimmed.with_files:
                await asyncio.to_thread(self.retention.forgotten, self.lease.queue, trimmed.with_files)
        except BrokerUnavailable as error:
            log.debug("not trimmed: %s", error)
        except ConfigError as error:
            log.warning("queue %s: what was kept long enough stays: %s", self.lease.queue, error)
        finally:
            self.trimming = False

    def idle(self, now: float) -> bool:
        """Tell whether nothing has to be told, and nothing was to be had a moment ago."""
        return not (self.promising or self.settlements or self.unsure) and now < self.look_for_due
