"""What a person asks of the queues of one store, or has done there: find, look at, count, queue again."""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

from .broker import Broker
from .errors import RecordError
from .finding import Finder, Found, Hidden, soon
from .inspector import ConsumerInfo, Control, Log, QueueStats
from .keys import Keyring
from .query import Query, Term
from .record import EXPIRES_AFTER
from .routes import Route, Table, table_of
from .routing import kept_routes
from .seal import NONCE_BYTES, seal, unseal
from .task import StateName, Task, TaskState

PAGE: Final = 500
BATCH: Final = 100
COUNTED: Final = 5000
BATCH_BYTES: Final = 4 * 1024 * 1024
_LIFETIME_MS: Final = round(EXPIRES_AFTER.total_seconds() * 1000)
# A producer's clock and the store's may differ; a record that might have expired is looked at.
_CLOCKS_MS: Final = 24 * 3600 * 1000


def gone(consumer: ConsumerInfo, *, host: str, runs: Callable[[int], bool]) -> bool:
    """Tell whether a consumer has certainly ended: it ran on this very host and its process is no more."""
    return consumer.host == host and not runs(consumer.pid)


def unserved(stats: QueueStats, *, host: str, runs: Callable[[int], bool]) -> str | None:
    """Return a warning if tasks wait and nobody consumes, or None."""
    if not stats.queued or not all(gone(consumer, host=host, runs=runs) for consumer in stats.consumers):
        return None
    names = ", ".join(consumer.name for consumer in stats.consumers)
    why = f"its consumers have ended: {names}" if names else "it has never had a consumer"
    return f"queue {stats.queue}: {stats.queued} task(s) wait and nobody consumes; {why}"


def in_use(stats: QueueStats) -> bool:
    """Tell whether a queue has tasks, or a consumer."""
    under_way = (stats.queued, stats.scheduled, stats.prepared, stats.reserved, stats.waiting)
    ended = (stats.completed, stats.failed, stats.cancelled, stats.archived)
    return any((*under_way, *ended)) or bool(stats.consumers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which tasks are meant; ``path`` may have ``*`` in it, as in ``/reports/*``. None means any."""

    reason: str | None = None
    path: str | None = None
    label: str | None = None
    route: str | None = None

    def takes(self, task: TaskState) -> bool:
        """Tell whether this task is meant."""
        for wanted, has in ((self.reason, task.reason), (self.label, task.label), (self.route, task.route)):
            if wanted is not None and wanted != has:
                return False
        return self.path is None or fnmatchcase(task.path, self.path)


class Admin:
    """The queues of one store, for people. Each question has 5 s; raises BrokerUnavailable, ConfigError."""

    def __init__(self, broker: Broker, queues: Sequence[str]) -> None:
        """Take the broker, and the queues that are looked at."""
        self.queues: Final = tuple(queues)
        self.broker: Final = broker
        self._broker, self._inspector = broker, broker.inspector

    def of(self, queues: Sequence[str]) -> "Admin":
        """Return how to look at these queues of the same store."""
        return Admin(self._broker, queues)

    async def tasks(self, query: Query, *, hidden: Hidden | None = None) -> Found:
        """Return a page of the tasks that a query means, without those that are hidden."""
        return await Finder(self._broker, self.queues, hidden=hidden).find(query)

    def each(self, query: Query, *, hidden: Hidden | None = None) -> AsyncIterator[TaskState]:
        """Yield every task that a query means, in no order and whatever its page, without those that are hidden."""
        return Finder(self._broker, self.queues, hidden=hidden).each(query)

    async def page(self, queue: str, state: StateName, *, limit: int, offset: int) -> list[TaskState]:
        """Return tasks of one state, see Inspector."""
        return await self._inspector.tasks(queue, state, limit=limit, offset=offset, deadline=soon())

    async def scan(self, queue: str) -> AsyncIterator[Sequence[TaskState]]:
        """Yield all that a queue knows of, in batches and in no order; of what changes meanwhile some may be missed."""
        cursor = 0
        while True:
            cursor, tasks = await self._inspector.scan(queue, cursor, deadline=soon())
            yield tasks
            if not cursor:
                return

    def walk(self, queue: str, state: StateName) -> AsyncIterator[TaskState]:
        """Yield the tasks of one state, the latest first; what moves on meanwhile may not be told."""
        return self.of([queue]).each(Query(terms=(Term("state", "=", (state,)),)))

    async def find(self, task_id: str) -> TaskState | None:
        """Return where the task with this id is, or None if no queue knows it."""
        for queue in self.queues:
            task = await self._broker.get(queue, task_id, deadline=soon())
            if task is not None:
                return task
        return None

    async def log(self, task: TaskState) -> Log:
        """Return the long part of a task's life."""
        return await self._inspector.log(task.queue, task.id, deadline=soon())

    async def request(self, task: TaskState, keyring: Keyring) -> Task | None:
        """Return the recorded request, None if it is stored no more; raises RecordError if it cannot be opened."""
        record = await self._inspector.record(task.queue, task.id, deadline=soon())
        return None if record is None else unseal(keyring, queue=task.queue, task_id=task.id, record=record)

    async def stats(self) -> list[QueueStats]:
        """Count, queue by queue."""
        return [await self.stats_of(queue) for queue in self.queues]

    async def stats_of(self, queue: str) -> QueueStats:
        """Count in one queue, whichever."""
        return await self._inspector.stats(queue, deadline=soon())

    async def used_queues(self) -> list[str]:
        """Return the name of every queue that has tasks or had a consumer. Looks through the whole store."""
        return await self._inspector.queues(deadline=soon())

    async def latest(self, queue: str, state: StateName) -> int:
        """Return when the last task came into this state (ms), 0 if none is kept; for states that have an index."""
        page = await self._inspector.tasks(queue, state, limit=1, offset=0, deadline=soon())
        return max((task.changed for task in page), default=0)

    async def ended_since(self, queue: str, state: StateName, mark: int) -> tuple[int, int]:
        """Return how many tasks came into this state after ``mark`` (ms), and when the last one did.

        For states that have an index; counts no further than 5000.
        """
        count, newest = 0, mark
        for offset in range(0, COUNTED, PAGE):
            page = await self._inspector.tasks(queue, state, limit=PAGE, offset=offset, deadline=soon())
            later = [task.changed for task in page if task.changed > mark]
            count, newest = count + len(later), max([newest, *later])
            if len(later) < PAGE:
                break
        return count, newest

    async def control(self, queue: str, changes: Mapping[Control, int | None]) -> None:
        """Say how a queue is to be run; None takes a word back."""
        await self._broker.control(queue, changes, deadline=soon())

    async def routes(self) -> Table[Route]:
        """Return the rules in the broker, by path in order."""
        return table_of(await kept_routes(self._broker, deadline=soon()))

    async def route(self, path: str, rule: Route | None) -> bool:
        """Keep this rule in the broker for a path, or with None none; tell whether there was one."""
        kept = path in await self._broker.routes(deadline=soon())
        await self._broker.route(path, None if rule is None else rule.pack(), deadline=soon())
        return kept

    async def purge(self, queue: str, *, most: int) -> int:
        """Forget up to so many tasks that wait; return how many: repeat until none was."""
        return await self._broker.purge(queue, most=most, deadline=soon())

    async def failed(self, only: Filter) -> list[TaskState]:
        """Return all failed tasks that the filter takes, those that failed first in front."""
        latest = {task.id: task for queue in self.queues async for task in self.walk(queue, "failed")}
        found = [task for task in latest.values() if only.takes(task)]
        found.reverse()
        return sorted(found, key=lambda task: task.changed)

    async def retry(
        self,
        tasks: Sequence[TaskState],
        keyring: Keyring | None,
        *,
        actor: str = "",
        progress: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Queue these failed or cancelled tasks again, in this order; return how many were.

        Those that have moved on meanwhile, or whose record is gone, are left alone. A record that has expired gets a
        new term, for which the secret is needed. ``progress`` is told how many have been dealt with.
        """
        queued = done = 0
        for queue in self.queues:
            batch: list[tuple[str, bytes]] = []
            size = 0
            for task in (task for task in tasks if task.queue == queue):
                batch.append((task.id, b"" if keyring is None else await self._renewed(task, keyring)))
                size += len(batch[-1][1])
                if len(batch) == BATCH or size >= BATCH_BYTES:
                    queued += await self._inspector.retry(queue, batch, actor=actor, deadline=soon())
                    done += len(batch)
                    progress(done)
                    batch, size = [], 0
            if batch:
                queued += await self._inspector.retry(queue, batch, actor=actor, deadline=soon())
                done += len(batch)
                progress(done)
        return queued

    async def _renewed(self, task: TaskState, keyring: Keyring) -> bytes:
        """Return the record sealed anew if it has expired, else nothing: then the old one stays."""
        now = time.time_ns() // 1_000_000
        if task.reason != "expired" and now < task.added + _LIFETIME_MS - _CLOCKS_MS:
            return b""
        try:
            request = await self.request(task, keyring)
        except RecordError:
            return b""  # The consumer may have what is missing here, or fails it again with this very reason.
        if request is None or now <= request.expires:
            return b""
        request = replace(request, expires=now + _LIFETIME_MS)
        return seal(keyring, request, nonce=secrets.token_bytes(NONCE_BYTES)).record
