"""One queue as a consumer sees it: what is to be told to the broker, and whether it is worth asking for tasks."""

import logging
import secrets
import time
from dataclasses import dataclass, field
from typing import Final

from .broker import CALL_DEADLINE, Broker, Lease
from .errors import BrokerUnavailable
from .retention import Retention
from .task import Settlement

log = logging.getLogger("taskqueue.server")

# So many settlements from one clearing out of what was kept long enough to the next; there is one at the start.
TRIM_EVERY: Final = 100


@dataclass(slots=True, eq=False)
class Line:
    """One queue of a consumer.

    ``promising``: something may wait there. ``unsure``: a reply was lost, so tasks may be reserved that nobody here
    knows of; the same token brings them.
    """

    lease: Lease
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    settlements: list[Settlement] = field(default_factory=list)
    promising: bool = True
    unsure: bool = False
    look_for_due: float = 0.0
    untrimmed: int = TRIM_EVERY

    async def queue_due(self, broker: Broker, deadline: float, *, poll_max: float) -> None:
        """Have what has fallen due queued, if it is time to look; raises BrokerUnavailable."""
        now = time.monotonic()
        if now >= self.look_for_due:
            wait = await broker.due(self.lease.queue, deadline=deadline)
            self.look_for_due = now + (poll_max if wait is None else min(wait, poll_max))

    async def trim(self, broker: Broker, settled: int, retention: Retention) -> None:
        """Have what was kept long enough forgotten, now and then: after so many more settlements."""
        self.untrimmed += settled
        if self.untrimmed < TRIM_EVERY:
            return
        self.untrimmed = 0
        try:
            limits, deadline = retention.limits(self.lease.queue), time.monotonic() + CALL_DEADLINE
            await broker.trim(self.lease.queue, limits, most=2 * TRIM_EVERY, deadline=deadline)
        except BrokerUnavailable as error:
            log.debug("not trimmed: %s", error)

    def idle(self, now: float) -> bool:
        """Tell whether nothing has to be told, and nothing was to be had a moment ago."""
        return not (self.promising or self.settlements or self.unsure) and now < self.look_for_due
