"""What a consumer is started for, if not to consume until it is told to stop: so many tasks, or all there are now."""

import logging
import time
from collections.abc import Sequence
from typing import Final

from .broker import Broker
from .errors import BrokerUnavailable
from .signs import Signs

log = logging.getLogger("taskqueue.server")

CALL_DEADLINE: Final = 2.0
NO_LIMIT: Final = 10**9


class Errand:
    """Tells how many tasks may still be taken, and when all is done."""

    def __init__(
        self, broker: Broker, queues: Sequence[str], signs: Signs, *, limit: int | None = None, burst: bool = False
    ) -> None:
        """Take where the tasks are; ``limit``: so many deliveries, ``burst``: until nothing waits and nothing is due.

        What was given back, because the target was away, counts as none. Neither of the two: without end.
        """
        self._broker, self._queues, self._signs = broker, tuple(queues), signs
        self._limit, self._burst = limit, burst

    def left(self, running: int) -> int:
        """Return how many tasks may be taken beside those that run."""
        return NO_LIMIT if self._limit is None else max(0, self._limit - self._signs.done - running)

    async def over(self, *, idle: bool) -> bool:
        """Tell whether all is done. ``idle``: nothing runs, and the broker has just given nothing.

        It may give nothing and have something, when a queue is slowed, so that is asked for.
        """
        if self._limit is not None and self._signs.done >= self._limit:
            return True
        if not (self._burst and idle):
            return False
        try:
            deadline = time.monotonic() + CALL_DEADLINE
            return not any([await self._broker.size(queue, deadline=deadline) for queue in self._queues])
        except BrokerUnavailable as error:
            log.debug("whether anything waits is unknown: %s", error)
            return False
