"""What a consumer runs now: one job a delivery."""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final, TypeVar

from . import stacks
from .line import Line
from .prefetch import Held
from .task import Reservation, Settlement, Verdict

log = logging.getLogger("taskqueue.server")

Result = TypeVar("Result")

GIVEN_BACK: Final = Verdict("release", "stopped")


def given_back(reservation: Reservation, verdict: Verdict = GIVEN_BACK) -> Settlement:
    """Return the settlement of a delivery that comes to nothing, and has spent nothing."""
    return Settlement(reservation.id, reservation.delivery, verdict)


def begun(group: asyncio.TaskGroup, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result] | None:
    """Run this in the group; return None if that takes nothing more, because the consumer is being broken off.

    Whose delivery does not begin, or is not told of, then is delivered again: the broker has not heard of its end.
    """
    try:
        return group.create_task(work)
    except RuntimeError:
        work.close()
        return None


class Jobs:
    """The deliveries under way; ``bytes`` of records are theirs."""

    def __init__(self, ended: Callable[[Line, Settlement], None]) -> None:
        """Begin with none; ``ended`` is told how each ended, and of which line it is."""
        self._ended = ended
        self._running: dict[asyncio.Task[Settlement], Held] = {}
        self.bytes = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._running)

    def start(self, group: asyncio.TaskGroup, held: Held, work: Coroutine[Any, Any, Settlement]) -> None:
        """Run this; its end is told also if it was cancelled before it began."""
        job = begun(group, work)
        if job is None:
            return
        self._running[job] = held
        self.bytes += held.size
        job.add_done_callback(self._end)

    def _end(self, job: asyncio.Task[Settlement]) -> None:
        held = self._running.pop(job)
        self.bytes -= held.size
        if job.cancelled():
            self._ended(held.line, given_back(held.prepared.reservation))
        elif job.exception() is None:  # else the task group ends the consumer with it
            self._ended(held.line, job.result())

    def cancel(self, ids: Collection[str] | None = None) -> None:
        """End these now, or all."""
        why = "because the consumer ends: it will be given out again" if ids is None else "as an operator has said"
        for job, held in tuple(self._running.items()):
            task_id = held.prepared.reservation.id
            if ids is None or task_id in ids:
                log.warning("task %s: ended while it ran, %s", task_id, why)
                job.cancel()

    def report(self) -> None:
        """Log what runs, and where in the code each task and each thread is."""
        log.warning("%d task(s) running", len(self._running))
        for job, held in self._running.items():
            reservation = held.prepared.reservation
            log.warning("task %s, delivery %d:\n%s", reservation.id, reservation.delivery, stacks.of_job(job))
        for name, stack in stacks.of_other_threads():
            log.warning("thread %s:\n%s", name, stack)
