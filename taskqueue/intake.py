"""How many tasks a consumer may take: all that come, so many, or all there are now; and when that is over."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from .broker import CALL_DEADLINE, Broker
from .errors import BrokerUnavailable
from .signs import Signs

log = logging.getLogger("taskqueue.server")

NO_LIMIT: Final = 10**9


class Intake:
    """Tells how many tasks may be taken, and when a consumer has taken all that it was started for."""

    def __init__(
        self,
        broker: Broker,
        queues: Sequence[str],
        signs: Signs | None = None,
        *,
        limit: int | None = None,
        burst: bool = False,
        may_start: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take where the tasks are. ``limit``: so many deliveries; ``burst``: until nothing waits and nothing is due.

        Neither: without end. What was given back, because the target was away, counts as none. ``may_start`` says no
        while no task is to be started.
        """
        self.signs: Final = signs or Signs()
        self._broker, self._queues = broker, tuple(queues)
        self._limit, self._burst, self._may_start = limit, burst, may_start

    def left(self, running: int) -> int:
        """Return how many tasks may be taken now, beside those that run."""
        if not self._may_start():
            return 0
        return NO_LIMIT if self._limit is None else max(0, self._limit - self.signs.done - running)

    @property
    def lasting(self) -> bool:
        """Whether it goes on when nothing is to be had."""
        return not self._burst

    async def over(self, *, idle: bool) -> bool:
        """Tell whether all is done. ``idle``: nothing runs, and the broker has just given nothing.

        It may give nothing and have something, when a queue is slowed, so that is asked for.
        """
        if self._limit is not None and self.signs.done >= self._limit:
            return True
        if not (self._burst and idle):
            return False
        try:
            deadline = time.monotonic() + CALL_DEADLINE
            return not any([await self._broker.size(queue, deadline=deadline) for queue in self._queues])
        except BrokerUnavailable as error:
            log.debug("whether anything waits is unknown: %s", error)
            return False
