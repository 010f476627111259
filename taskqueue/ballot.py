"""What a transaction has voted: its tasks are stored, and none is queued before the database has committed.

After the vote nothing is promised and nothing is lost: ``finish`` queues the tasks, ``discard`` forgets them. A process
that dies between the two leaves them to the broker, which sets them aside as failed ``in-doubt``, for a resolver or a
person to decide.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

from .broker import Broker
from .commit import discard, promote, to_its_end
from .task import Task

log = logging.getLogger("taskqueue.ballot")

# Seconds for which a process tries again to queue what the broker could not be told; by then it is a person's matter.
LATEST: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Captured:
    """A ballot of ``taskqueue.capture()``."""

    tasks: Sequence[Task]
    into: list[Task]

    async def finish(self) -> None:
        """See Ballot."""
        self.into.extend(self.tasks)

    async def discard(self) -> None:
        """See Ballot."""


@dataclass(frozen=True, slots=True, eq=False)
class Voted:
    """A ballot whose tasks a broker has stored: their ids by queue. ``patience``: seconds that telling it may take."""

    broker: Broker
    ids: Mapping[str, Sequence[str]]
    patience: float
    at: float = field(default_factory=time.monotonic)

    async def finish(self) -> None:
        """See Ballot. What an earlier transaction of this process could not tell is told now, too."""
        work, cancelled = await to_its_end(self._finish())
        work.result()
        if cancelled is not None:
            raise cancelled

    async def _finish(self) -> None:
        unfinished = _unfinished.setdefault(self.broker, [])
        ballots: list[Voted] = [self]
        while unfinished:
            ballots.append(unfinished.pop())
        deadline = time.monotonic() + self.patience
        left = [ballot for ballot in ballots if await promote(self.broker, ballot.ids, deadline=deadline)]
        if self in left:
            ids = [task_id for some in self.ids.values() for task_id in some]
            log.error(
                "committed, but the broker did not confirm that %d task(s) are queued; they are stored, and are queued"
                " with the next commit of this process, else set aside as in-doubt: %s",
                len(ids),
                ", ".join(ids),
                extra={"task_ids": ids},
            )
        unfinished += [ballot for ballot in left if time.monotonic() - ballot.at < LATEST]

    async def discard(self) -> None:
        """See Ballot."""
        work, cancelled = await to_its_end(discard(self.broker, self.ids, deadline=time.monotonic() + self.patience))
        work.result()
        if cancelled is not None:
            raise cancelled


@dataclass(frozen=True, slots=True)
class Replayed:
    """A ballot whose tasks are replayed as soon as they are queued."""

    voted: Voted
    replay: Callable[[], Awaitable[None]]

    async def finish(self) -> None:
        """See Ballot."""
        await self.voted.finish()
        await self.replay()

    async def discard(self) -> None:
        """See Ballot."""
        await self.voted.discard()


_unfinished: Final["WeakKeyDictionary[Broker, list[Voted]]"] = WeakKeyDictionary()
