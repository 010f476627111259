"""Measures what users feel beside a consumer: how late the event loop is, how long requests take."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from .adaptive import Adaptive, Sample

log = logging.getLogger("taskqueue.server")

# Seconds between two looks at the loop, and so many looks for one decision.
STEP: Final = 0.02
STEPS: Final = 50
# One look in twenty may be late: a garbage collection, a neighbour on the machine.
LAG_RANK: Final = 0.95
LATENCY_RANK: Final = 0.99
# Of fewer requests the 99th percentile would be the slowest. No more than so many are kept.
REQUESTS: Final = 100
MOST_REQUESTS: Final = 1000


class Gauge:
    """Sets a limit by what it measures. All of it belongs to one event loop."""

    def __init__(self, most: int) -> None:
        """Take the most tasks that may run at a time, 0: no limit but that of ``Adaptive``."""
        self._adaptive = Adaptive(most)
        self._took: deque[float] = deque(maxlen=MOST_REQUESTS)

    def limit(self) -> int:
        """Return how many tasks may run now."""
        return self._adaptive.limit

    def took(self, seconds: float) -> None:
        """Note how long a request has waited for its response, one that is no delivery."""
        self._took.append(seconds)

    async def run(self, running: Callable[[], int]) -> None:
        """Measure for ever; ``running`` tells how many tasks run now."""
        while True:
            lags: list[float] = []
            most = 0
            for _ in range(STEPS):
                due = time.monotonic() + STEP
                most = max(most, running())
                await asyncio.sleep(STEP)
                lags.append(max(0.0, time.monotonic() - due))
            self._decide(rank(lags, LAG_RANK), most)

    def _decide(self, lag: float, running: int) -> None:
        before, latency = self.limit(), None
        if len(self._took) >= REQUESTS:
            latency = rank(self._took, LATENCY_RANK)
        self._adaptive.look(Sample(lag=lag, latency=latency, running=running))
        now = self.limit()
        if latency is not None or now < before:
            # Judged; or of a time when more tasks ran.
            self._took.clear()
        if now != before:
            log.debug("at most %d task(s) at a time, with the loop %.1f ms late", now, lag * 1000)


def rank(values: "Sequence[float] | deque[float]", part: float) -> float:
    """Return the least of the values that this part of them does not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]
