"""The calls that store new tasks: of many commits at once they ride together, and each has an outcome of its own."""

import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

from redis.exceptions import ResponseError

from ..broker import Capacity
from ..commit import Outcome
from ..task import SealedTask, total_bytes
from .calls import Arguments, Call, Copies, Load
from .reasons import closed, full, late
from .refusals import meant
from .scripts import SCRIPTS

# A command that the clock of a thawed Redis finds later than this before the deadline is refused.
LATE_MARGIN: Final = 0.05


class Clock(Protocol):
    """What a Store needs to know of Redis's clock."""

    def redis_ms(self, monotonic: float) -> int:
        """Return what it will show, in ms, when ``time.monotonic()`` is at this value."""
        ...

    def measure_again(self) -> None:
        """Look at it before anything else is sent."""
        ...


class Store(Call):
    """The tasks of one commit, to be pushed or prepared, all or none."""

    def __init__(
        self,
        name: str,
        key: str,
        tasks: Sequence[SealedTask],
        *,
        outcome: Outcome,
        deadline: float,
        capacity: Capacity,
        copies: Copies | None,
        clock: Clock,
    ) -> None:
        """Take ``push`` or ``prepare``, the key of the queue, the tasks of one commit, and what it may hold then."""
        self.command, self.keys, self.deadline = SCRIPTS[name], (key,), deadline
        self.reply, self.copies = outcome, copies
        self.load = Load(len(tasks), total_bytes(tasks))
        self._tasks, self._capacity, self._clock = tasks, capacity, clock

    def arguments(self) -> Arguments:
        """See Call."""
        not_after = self._clock.redis_ms(self.deadline - LATE_MARGIN)
        flat: list[str | bytes | int] = [not_after, self._capacity.tasks, self._capacity.bytes, len(self._tasks)]
        for task in self._tasks:
            flat += task.values
        return flat

    def answer(self, reply: Any) -> None:
        """End the call, unless it is not late: then somebody has set Redis's clock forward, and it is asked again."""
        self.in_flight = False
        if reply == b"OK":
            super().answer(None)
        elif reply == b"CLOSED":
            self.fail(closed(self._tasks[0].queue))
        elif reply == b"FULL":
            self.fail(full(self._tasks[0].queue, self._capacity))
        elif time.monotonic() < self.deadline - LATE_MARGIN:
            self._clock.measure_again()
        else:
            self.fail(late(self.last_error))

    def fail(self, error: Exception) -> None:
        """End the call with an error of ours."""
        if isinstance(error, ResponseError):
            told = meant(error)
            told.__cause__ = error
            error = told
        super().fail(error)
