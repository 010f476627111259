"""Beside a consumer that serves whatever there is: rules that name a queue which was not there when it started."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from .broker import CALL_DEADLINE, Broker
from .errors import BrokerUnavailable
from .routes import NO_ROUTES, table_of
from .routing import MAX_AGE, kept_routes

log = logging.getLogger("taskqueue.server")


class Unserved:
    """Warns of such a queue, once."""

    def __init__(self, broker: Broker, served: Sequence[str]) -> None:
        """Take where the rules are kept, and the queues that the consumer serves."""
        self._broker, self._told = broker, set(served)

    async def watch(self) -> None:
        """Look for as long as the consumer runs."""
        while True:
            await self.look()
            await asyncio.sleep(MAX_AGE)

    async def look(self) -> None:
        """Look once."""
        try:
            kept = await kept_routes(self._broker, deadline=time.monotonic() + CALL_DEADLINE)
        except BrokerUnavailable as error:
            log.debug("the rules could not be looked at: %s", error)
            return
        found = replace(NO_ROUTES, broker=table_of(kept))
        for queue in found.queues:
            if queue not in self._told:
                self._told.add(queue)
                log.warning(
                    "queue %s: route %s leads there since this consumer has started, which does not serve it; start it"
                    " again, or another one with --queue %s",
                    queue,
                    found.leading_to(queue),
                    queue,
                )
