"""Looking into a queue inside this process, and queueing again what has failed."""

import platform
from collections.abc import Sequence
from itertools import islice

from ..inspector import Act, By, ConsumerInfo, Log, QueueStats, StoreInfo
from ..task import StateName, TaskState
from .local_store import Way
from .memory import MemoryQueue
from .places import INDEX_OF, Consumer, Index, TaskLog


class LocalInspector:
    """The Inspector of a LocalBroker."""

    def __init__(self, way: Way) -> None:
        """Take the way to the store."""
        self._way = way

    async def stats(self, queue: str, *, deadline: float) -> QueueStats:
        """See Inspector."""
        return await self._way.call(queue, deadline, counted)

    async def tasks(
        self,
        queue: str,
        state: StateName,
        *,
        limit: int,
        offset: int,
        since: int | None = None,
        until: int | None = None,
        deadline: float,
    ) -> list[TaskState]:
        """See Inspector."""

        def look(line: MemoryQueue, _: int) -> list[TaskState]:
            if state in INDEX_OF:
                ids = line.indexes[INDEX_OF[state]].latest(limit, offset, since, until)
            else:
                ids = _ids(line, state, limit, offset)
            found = [line.states[task_id] for task_id in ids]
            return [task for task in found if task.state == state]  # What is held is one list for both states.

        return await self._way.call(queue, deadline, look)

    async def index(
        self,
        queue: str,
        by: By,
        value: str,
        *,
        limit: int,
        offset: int,
        since: int | None = None,
        until: int | None = None,
        deadline: float,
    ) -> list[TaskState]:
        """See Inspector."""

        def look(line: MemoryQueue, _: int) -> list[TaskState]:
            ids = line.found.get((by, value), Index()).latest(limit, offset, since, until)
            return [line.states[task_id] for task_id in ids]

        return await self._way.call(queue, deadline, look)

    async def count(self, queue: str, by: By, value: str, *, deadline: float) -> int:
        """See Inspector."""
        return await self._way.call(queue, deadline, lambda line, _: len(line.found.get((by, value), ())))

    async def log(self, queue: str, task_id: str, *, deadline: float) -> Log:
        """See Inspector."""

        def look(line: MemoryQueue, _: int) -> Log:
            log = _log(line, task_id)
            acts = [Act(at, what, actor) for (at, what), actor in log.acts.items()]
            return Log(list(log.ended.values()), acts, log.released, dict(log.fields))

        return await self._way.call(queue, deadline, look)

    async def record(self, queue: str, task_id: str, *, deadline: float) -> bytes | None:
        """See Inspector."""
        return await self._way.call(
            queue, deadline, lambda line, _: line.records.get(task_id, _log(line, task_id).record)
        )

    async def retry(self, queue: str, tasks: Sequence[tuple[str, bytes]], *, actor: str = "", deadline: float) -> int:
        """See Inspector."""
        return await self._way.call(queue, deadline, lambda line, at: line.retry(tasks, actor=actor, at=at))

    async def scan(self, queue: str, cursor: int, *, deadline: float) -> tuple[int, list[TaskState]]:  # noqa: ARG002  all at once
        """See Inspector."""
        return 0, await self._way.call(queue, deadline, lambda line, _: list(line.states.values()))

    async def store(self, *, deadline: float) -> StoreInfo:  # noqa: ARG002  it always answers
        """See Inspector. The bytes are those of the records."""
        return StoreInfo(
            product="python",
            version=platform.python_version(),
            appendonly=False,
            eviction="noeviction",
            used_bytes=sum(queue.bytes for queue in self._way.store.queues()),
            max_bytes=0,
            clock_offset=0.0,
            volatile=True,
        )

    async def queues(self, *, deadline: float) -> list[str]:  # noqa: ARG002  as store
        """See Inspector."""
        return sorted(queue.name for queue in self._way.store.queues() if queue.states or _watched(queue))


def counted(line: MemoryQueue, at: int) -> QueueStats:
    """Return how many tasks of a queue are where, at this time."""
    consumers = [
        ConsumerInfo(name, one.identity.host, one.identity.pid, one.claimed, len(one.held), one.beat)
        for name, one in _watched(line)
    ]
    counts: dict[str, int] = {state: len(line.indexes[index]) for state, index in INDEX_OF.items()}
    return QueueStats(
        queue=line.name,
        queued=len(line.lines),
        reserved=sum(consumer.holds for consumer in consumers),
        **counts,
        oldest=max((at - line.states[task_id].changed for task_id in line.lines.fronts()), default=0),
        slowed=max(0, line.slowed - at),
        consumers=consumers,
        control=dict(line.control),
    )


def _watched(line: MemoryQueue) -> list[tuple[str, Consumer]]:
    return [(name, one) for name, one in sorted(line.consumers.items()) if one.watched]


def _log(line: MemoryQueue, task_id: str) -> TaskLog:
    return line.logs.get(task_id) or TaskLog()


def _ids(line: MemoryQueue, state: StateName, limit: int, offset: int) -> list[str]:
    if state == "queued":
        return list(islice(line.lines, offset, offset + limit))
    held = [task_id for _, one in _watched(line) for task_id in reversed(one.held)]
    return held[offset : offset + limit]
