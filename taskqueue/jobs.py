"""What a consumer runs now: one job a delivery."""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final

from . import stacks
from .task import Reservation, Settlement, Verdict

log = logging.getLogger("taskqueue.server")

GIVEN_BACK: Final = Verdict("release", "stopped")


def given_back(reservation: Reservation, verdict: Verdict = GIVEN_BACK) -> Settlement:
    """Return the settlement of a delivery that comes to nothing, and has spent nothing."""
    return Settlement(reservation.id, reservation.delivery, verdict)


class Jobs:
    """The deliveries under way; ``bytes`` of records are theirs."""

    def __init__(self) -> None:
        """Begin with none."""
        self._running: dict[asyncio.Task[Settlement], Reservation] = {}
        self.bytes = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._running)

    def start(
        self,
        group: asyncio.TaskGroup,
        reservation: Reservation,
        work: Coroutine[Any, Any, Settlement],
        *,
        size: int,
        ended: Callable[[Settlement], None],
    ) -> None:
        """Run this; ``ended`` is told how it ended, also if it was cancelled before it began."""
        job = group.create_task(work)
        self._running[job] = reservation
        self.bytes += size

        def end(job: asyncio.Task[Settlement]) -> None:
            del self._running[job]
            self.bytes -= size
            if job.cancelled():
                ended(given_back(reservation))
            elif job.exception() is None:  # else the task group ends the consumer with it
                ended(job.result())

        job.add_done_callback(end)

    def cancel(self, ids: Collection[str] | None = None) -> None:
        """End these now, or all."""
        for job, reservation in tuple(self._running.items()):
            if ids is None:
                job.cancel()
            elif reservation.id in ids:
                log.warning("task %s: ended while it ran, as an operator has said", reservation.id)
                job.cancel()

    def report(self) -> None:
        """Log what runs, and where in the code each task and each thread is."""
        log.warning("%d task(s) running", len(self._running))
        for job, reservation in self._running.items():
            log.warning("task %s, delivery %d:\n%s", reservation.id, reservation.delivery, stacks.of_job(job))
        for name, stack in stacks.of_other_threads():
            log.warning("thread %s:\n%s", name, stack)
