"""Finding tasks: reads what a query means, page by page, from where the fewest have to be looked at.

Every page is one range of an index and the states of its ids, at most 1,000; nothing ever goes through all keys.
"""

import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, cast

from .broker import Broker
from .inspector import Inspector
from .planning import Counts, Plan, Source, named, plan
from .query import Query
from .task import GHOST, StateName, TaskState

# Seconds for one question to the store.
PATIENCE: Final = 5.0
# So many tasks are read at once.
PAGE: Final = 1000
# So many that match are put in order, where the store does not keep them in the order asked for.
MOST_SORTED: Final = 10_000

Hidden: TypeAlias = Callable[[TaskState], bool]
"""Tells that a task is not to be seen."""


def soon() -> float:
    """Return until when a question that is put now may take."""
    return time.monotonic() + PATIENCE


@dataclass(frozen=True, slots=True)
class Found:
    """A page of tasks. ``more``: others follow; ``total``: so many match, None if they were not all counted.

    ``complete`` is False if too many match that are not kept in the order asked for: then only 10,000 of them were
    sorted, and others may belong on this page.
    """

    tasks: Sequence[TaskState]
    more: bool
    total: int | None
    complete: bool = True


class Finder:
    """Finds tasks in the queues of one store. Each question to the store has 5 s; raises BrokerUnavailable."""

    def __init__(self, broker: Broker, queues: Sequence[str], *, hidden: Hidden | None = None) -> None:
        """Take the broker, the queues that are looked at, and what tells which tasks are not to be seen."""
        self._broker, self._queues, self._hidden = broker, tuple(queues), hidden

    async def find(self, query: Query) -> Found:
        """Return the page that a query asks for."""
        need = query.offset + query.limit + 1
        if query.among("id") is not None:
            found = self._in_order(query, await self._by_id(query))
            return _page(query, found, total=len(found), complete=True)
        plans = [plan(query, await self._counts(query, queue), need=need) for queue in query.queues(self._queues)]
        if not any(each.other for each in plans):
            return await self._found(query, plans, _Allowance(math.inf))
        try:
            return await self._found(query, plans, _Allowance(MOST_SORTED))
        except _SpentError:
            # What is asked for together is rarely found together: then the smallest index decides.
            plans = [Plan(each.other, None) if each.other else each for each in plans]
            return await self._found(query, plans, _Allowance(math.inf))

    async def _found(self, query: Query, plans: Sequence[Plan], allowance: "_Allowance") -> Found:
        need = query.offset + query.limit + 1
        totals = [each.total for each in plans if each.total is not None]
        exact = self._hidden is None and len(totals) == len(plans)
        sources = [source for each in plans for source in each.sources]
        if exact and len(sources) == 1 and sources[0].ordered:
            # What comes before the page need not be read.
            size = min(PAGE, query.limit + 1)
            stream = self._stream(query, sources[0], size=size, skip=query.offset)
            found = await _first(query, [stream], query.limit + 1)
            return Found(found[: query.limit], len(found) > query.limit, sum(totals))
        size = min(PAGE, need)
        streams: list[_Tasks] = [
            self._stream(query, source, size=size, allowance=allowance) for source in sources if source.ordered
        ]
        kept, complete = await self._sorted(query, [one for one in sources if not one.ordered], allowance)
        found = await _first(query, [*streams, _Listed(kept)], need)
        total = len(found) if complete and len(found) < need else sum(totals) if exact else None
        return _page(query, found, total=total, complete=complete)

    async def each(self, query: Query) -> AsyncIterator[TaskState]:
        """Yield every task that a query means, however many, in no order and whatever its page."""
        if query.among("id") is not None:
            for task in await self._by_id(query):
                yield task
            return
        known: set[str] = set()
        for queue in query.queues(self._queues):
            counts = await self._counts(query, queue)
            for source in plan(query, counts, need=math.inf).sources:
                stream = self._stream(query, source, size=PAGE)
                while (found := await stream.next()) is not None:
                    if found.id not in known:
                        known.add(found.id)
                        yield found

    async def _by_id(self, query: Query) -> list[TaskState]:
        found: dict[str, TaskState] = {}
        for queue in query.queues(self._queues):
            for task_id in query.among("id") or ():
                task = await self._broker.get(queue, str(task_id), deadline=soon())
                if task is not None and self._takes(query, task):
                    found.setdefault(task.id, task)
        return list(found.values())

    async def _counts(self, query: Query, queue: str) -> Counts:
        inspector = self._broker.inspector
        stats = await inspector.stats(queue, deadline=soon())
        return Counts(stats, {key: await inspector.count(queue, *key, deadline=soon()) for key in named(query)})

    async def _sorted(
        self, query: Query, sources: Sequence[Source], allowance: "_Allowance"
    ) -> tuple[list[TaskState], bool]:
        """Return what matches in these sources in order, and whether that is all of it.

        If there is too much, each source has its share: what a small one leaves over is for the greater ones.
        """
        kept: dict[str, TaskState] = {}
        complete, left = True, MOST_SORTED
        for place, source in enumerate(sorted(sources, key=lambda one: one.count)):
            share = left // (len(sources) - place)
            found = await _first(query, [self._stream(query, source, size=PAGE, allowance=allowance)], share + 1)
            complete = complete and len(found) <= share
            left -= min(share, len(found))
            kept |= {task.id: task for task in found[:share]}
        return self._in_order(query, kept.values()), complete

    def _takes(self, query: Query, task: TaskState) -> bool:
        return query.takes(task) and not (self._hidden is not None and self._hidden(task))

    def _stream(
        self, query: Query, source: Source, *, size: int, skip: int = 0, allowance: "_Allowance | None" = None
    ) -> "_Stream":
        allowance = allowance or _Allowance(math.inf)
        reader = _Reader(self._broker.inspector, query, source, size=size, skip=skip, allowance=allowance)
        return _Stream(reader, lambda task: self._takes(query, task))

    @staticmethod
    def _in_order(query: Query, tasks: Iterable[TaskState]) -> list[TaskState]:
        return sorted(tasks, key=query.sort.key, reverse=query.sort.descending)


def _page(query: Query, found: Sequence[TaskState], *, total: int | None, complete: bool) -> Found:
    end = query.offset + query.limit
    return Found(found[query.offset : end], len(found) > end, total, complete)


class _SpentError(Exception):
    """More was read than is allowed."""


class _Allowance:
    """How many tasks may still be read, whether they are meant or not."""

    def __init__(self, tasks: float) -> None:
        self._left = tasks

    def spend(self, tasks: int) -> None:
        """Count tasks that were read; raises _SpentError."""
        self._left -= tasks
        if self._left < 0:
            raise _SpentError


class _Tasks(Protocol):
    """Tasks one after the other."""

    async def next(self) -> TaskState | None:
        """Return the next, None after the last."""
        ...


async def _first(query: Query, streams: Sequence[_Tasks], need: int) -> list[TaskState]:
    """Return the first tasks of what these streams, each of them in order, have together; none twice."""
    found: dict[str, TaskState] = {}
    heads = [(task, stream) for stream in streams if (task := await stream.next()) is not None]
    choose = max if query.sort.descending else min
    while heads:
        place = choose(range(len(heads)), key=lambda place: query.sort.key(heads[place][0])) if len(heads) > 1 else 0
        task, stream = heads[place]
        # What moves while others are read may be met twice.
        found.setdefault(task.id, task)
        if len(found) >= need:
            break
        following = await stream.next()
        heads[place : place + 1] = [] if following is None else [(following, stream)]
    return list(found.values())


class _Listed:
    """What has been read and sorted."""

    def __init__(self, tasks: Sequence[TaskState]) -> None:
        self._tasks = iter(tasks)

    async def next(self) -> TaskState | None:
        return next(self._tasks, None)


class _Stream:
    """Those tasks of a source that match, read when they are asked for."""

    def __init__(self, reader: "_Reader", takes: Callable[[TaskState], bool]) -> None:
        self._reader, self._takes = reader, takes
        self._read: deque[TaskState] = deque()

    async def next(self) -> TaskState | None:
        while not self._read:
            page = await self._reader.page()
            if not page:
                return None
            self._read.extend(task for task in page if self._takes(task))
        return self._read.popleft()


class _Reader:
    """Reads a source page by page, in the direction that the query asks for.

    From the latest on it goes by time, because ranks shift when something is added in front: each page begins with the
    time at which the one before it ended, so tasks may come twice. From the end, and in a line, it goes by rank. Where
    a page was not enough, the next one is twice as long.
    """

    def __init__(
        self, inspector: Inspector, query: Query, source: Source, *, size: int, skip: int, allowance: _Allowance
    ) -> None:
        self._inspector, self._source, self._size = inspector, source, size
        self._allowance = allowance
        self._since, self._until = query.bounds(source.field) if source.field else (None, None)
        self._offset, self._whole = skip, False
        self._count = source.count + source.ghosts
        turned = source.field is not None and source.ordered and not query.sort.descending
        self._by_time = source.field is not None and not turned and not skip
        # The last in line is the one that waits for the shortest time, mostly.
        self._from_end = turned or (source.by is None and source.value == "queued" and query.sort.descending)

    async def page(self) -> list[TaskState]:
        """Return the next tasks, none at the end."""
        if self._by_time:
            return await self._earlier()
        while self._offset < self._count:
            size = min(self._size, self._count - self._offset)
            place = self._count - self._offset - size if self._from_end else self._offset
            page = await self._ask(size, place)
            self._allowance.spend(len(page))
            self._offset += size
            self._size = min(PAGE, 2 * self._size)
            if page:
                return page[::-1] if self._from_end else page
        return []

    async def _earlier(self) -> list[TaskState]:
        if self._whole:
            return []
        page = await self._ask(self._size, self._offset)
        self._allowance.spend(len(page))
        # A page may be short because something has moved on, so that only an empty one is surely the end.
        self._whole = len(page) >= self._count
        # The times of ghosts are put off (see trim.lua), so they tell nothing of where they stood.
        last = min((self._source.when(task) for task in page if not task.flags & GHOST), default=self._until)
        if last == self._until:
            self._offset += self._size
        else:
            self._until, self._offset = last, 0
        self._size = min(PAGE, 2 * self._size)
        return page

    async def _ask(self, limit: int, offset: int) -> list[TaskState]:
        source = self._source
        if source.by is None:
            return await self._inspector.tasks(
                source.queue,
                cast("StateName", source.value),
                limit=limit,
                offset=offset,
                since=self._since,
                until=self._until,
                deadline=soon(),
            )
        return await self._inspector.index(
            source.queue,
            source.by,
            source.value,
            limit=limit,
            offset=offset,
            since=self._since,
            until=self._until,
            deadline=soon(),
        )
