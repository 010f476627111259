"""What a TaskQueue knows of the rules: those of its file, and those kept in the broker, read again now and then.

``add`` does no I/O, so the broker's rules choose at commit: what is known of them is read again first if it is older
than 10 s. Who names a queue has the say in this order: ``add(queue=)``, what the view says of itself (``tq.defaults``),
a rule in the broker, one in the file, and then it is the default queue.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from math import inf
from typing import Final

from . import routes as rules
from .broker import Broker
from .configured import Configured
from .errors import BrokerUnavailable, ConfigError, ReplyLost
from .record import queue_name
from .routes import Layer, Route, Routes, Said, Table, table_of, unpacked
from .task import Task

log = logging.getLogger("taskqueue.routing")

# Seconds: so old may be what is known of the rules in the broker; so long are they waited for where it goes without.
MAX_AGE: Final = 10.0
PATIENCE: Final = 0.25


class Routed(Configured):
    """A TaskQueue's configuration, and what is said by route."""

    _routes: Routes | None = None
    _read_at = -inf

    @property
    def routes(self) -> Routes:
        """The rules, those in the broker as they were read last. No I/O."""
        if self._routes is None:
            self._routes = Routes(Table(), table_of(self._settings.routes))
        return self._routes

    async def read_routes(self, *, deadline: float) -> Routes:
        """Return the rules, those in the broker as they were at most 10 s ago; raises BrokerUnavailable."""
        if self.routes_outdated:
            now = time.monotonic()
            kept = table_of(await kept_routes(self.broker, deadline=deadline))
            self._routes, self._read_at = replace(self.routes, broker=kept), now
        return self.routes

    @property
    def routes_outdated(self) -> bool:
        """Whether the broker is to be asked before the next task is stored."""
        return time.monotonic() - self._read_at > MAX_AGE

    async def routed(self, tasks: Sequence[Task], *, deadline: float) -> Sequence[Task]:
        """Return these tasks, which are committed, in the queues that the rules say; raises BrokerUnavailable."""
        known = await self.read_routes(deadline=deadline) if self.routes_outdated else self.routes
        return rules.routed(tasks, known.broker)

    async def try_routes(self, *, patience: float = PATIENCE) -> Routes:
        """Return the rules all the same if the broker is not to be had: as read last, and it is asked again in 10 s."""
        try:
            return await self.read_routes(deadline=time.monotonic() + patience)
        except (BrokerUnavailable, ConfigError) as error:
            self._read_at = time.monotonic()
            log.info("the rules in the broker count as they were read last: %s", error)
            return self.routes

    async def routed_without(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Do what ``routed`` does for an outbox, which must work without the broker."""
        return rules.routed(tasks, (await self.try_routes()).broker)

    async def all_queues(self) -> Sequence[str]:
        """Return the names of this TaskQueue's queues, and then of those that only a rule names."""
        known = await self.read_routes(deadline=time.monotonic() + self.commit_deadline)
        return rules.with_ruled(self.queues, known)

    async def queue_meant(self, name: str | None) -> str:
        """Return the queue meant by a name, or the default one for None; raises UnknownQueue."""
        ruled = () if name is None or name in self.queues else await self.all_queues()
        return queue_name(name, self.queues, ruled)

    def category_of(self, path: str) -> str:
        """Return what kind of work the tasks of a path, or of a route, are: what view or rule says, else ``unknown``.

        The rules in the broker count as they were read last. No I/O.
        """
        return rules.category_of(path, self._layers)

    def is_hidden(self, path: str) -> bool:
        """Tell whether view or rule leaves the tasks of a path, or of a route, out of what users see; as above."""
        return rules.is_hidden(path, self._layers)

    @property
    def _layers(self) -> Sequence[Layer[Said]]:
        return self._defaults, self.routes.broker, self.routes.file


async def kept_routes(broker: Broker, *, deadline: float) -> list[Route]:
    """Return the rules in the broker by path in order; raises BrokerUnavailable.

    A rule that cannot be read counts as none, and so do all where the user has no right to read them: a warning says
    so, once.
    """
    try:
        kept = await broker.routes(deadline=deadline)
    except ReplyLost as error:
        raise BrokerUnavailable(str(error)) from error  # Nothing was to be changed, so nothing is in doubt.
    except ConfigError as error:
        _warn(f"the rules of taskqueue route are not followed: {error}")
        return []
    found = []
    for path, raw in sorted(kept.items()):
        try:
            found.append(unpacked(path, raw))
        except ConfigError as error:
            _warn(f"a rule of taskqueue route is not followed: {error}")
    return found


@cache
def _warn(text: str) -> None:
    log.warning("%s", text)
