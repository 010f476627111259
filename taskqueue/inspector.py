"""Looking into a store: what people and tools ask, and what they are told. Never needed to run a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from .task import StateName, TaskState

Control: TypeAlias = Literal["paused", "closed", "disabled", "limit"]
"""What an operator may say of a queue from any machine.

``paused``: nothing is given out, until it is resumed; ``closed``: no new task is taken, so that it drains;
``disabled``: nothing is given out, and no consumer starts on it; ``limit``: so many tasks, over all consumers, may be
held at a time.
"""


@dataclass(frozen=True, slots=True)
class ConsumerInfo:
    """A consumer that has claimed a queue: where it runs, how many tasks it holds, and ``beat``, which grows."""

    name: str
    host: str
    pid: int
    claimed: int
    holds: int
    beat: int = 0


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How many tasks of a queue are where.

    ``oldest`` is how many ms the first in line has waited; ``slowed`` for how many ms more none will be given out,
    because the application has asked for patience (Retry-After). ``control``: what an operator has said, see Control.
    ``ghosts``: tasks that were taken out of the line, but whose ids are still in it.
    """

    queue: str
    queued: int
    scheduled: int
    prepared: int
    reserved: int
    failed: int
    completed: int
    oldest: int
    slowed: int
    consumers: Sequence[ConsumerInfo]
    control: Mapping[Control, int] = field(default_factory=dict)
    waiting: int = 0
    cancelled: int = 0
    archived: int = 0
    ghosts: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a delivery ended that did not complete: times in ms of the broker's clock, ``begun`` 0 if it had not."""

    delivery: int
    attempt: int
    reserved: int
    begun: int
    ended: int
    status: int
    reason: str
    consumer: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody did to a task: ``retried hastened restarted marked``, or what it was withdrawn as."""

    at: int
    what: str
    actor: str


@dataclass(frozen=True, slots=True)
class Released:
    """When a task was given back unspent, first and last, how often, and why and by whom the last time.

    ``lost`` means that the consumer ended, or died, with it.
    """

    first: int
    last: int
    count: int
    reason: str
    actor: str


@dataclass(frozen=True, slots=True)
class Log:
    """The long part of a task's life.

    ``fields`` are sealed (``response``, ``report``, ``progress``, ...), but for ``response_file``: that there is one.
    """

    ended: Sequence[Ended] = ()
    acts: Sequence[Act] = ()
    released: Released | None = None
    fields: Mapping[str, bytes] = field(default_factory=dict)


By: TypeAlias = Literal["owner", "label", "route"]
"""What tasks are found by, beside their state."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What the store says of itself: ``appendonly``, ``fsync`` and ``eviction`` are None if it does not tell.

    ``fsync`` is its ``appendfsync``; ``primary``: it takes writes, and ``replicas`` are connected to it. ``max_bytes``
    0 means no limit; ``clock_offset`` is its clock minus ours, in seconds; ``volatile``: it ends with this process.
    """

    product: str
    version: str
    appendonly: bool | None
    eviction: str | None
    used_bytes: int
    max_bytes: int
    clock_offset: float
    fsync: str | None = None
    primary: bool = True
    replicas: int = 0
    volatile: bool = False


class Inspector(Protocol):
    """Looking into a store: for people and tools, never needed to run a task. Raises as Broker does."""

    async def stats(self, queue: str, *, deadline: float) -> QueueStats:
        """Count."""
        ...

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
        """Return tasks of one state: those in line in their order, all others the newest first.

        ``since`` and ``until`` (ms, both included) are of when they came into that state, of scheduled ones of when
        they are due; what waits in line or is held has no such order, and then they must be None.
        """
        ...

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
        """Return tasks of one owner, label or route, in whatever state, those that were added last first.

        ``since`` and ``until`` (ms, both included) are of when they were added.
        """
        ...

    async def count(self, queue: str, by: By, value: str, *, deadline: float) -> int:
        """Return how many tasks that is."""
        ...

    async def log(self, queue: str, task_id: str, *, deadline: float) -> Log:
        """Return the long part of a task's life, empty if there is none."""
        ...

    async def record(self, queue: str, task_id: str, *, deadline: float) -> bytes | None:
        """Return a task's sealed record, or None once it is gone."""
        ...

    async def retry(self, queue: str, tasks: Sequence[tuple[str, bytes]], *, actor: str = "", deadline: float) -> int:
        """Queue failed or cancelled tasks again, each (id, new record or b"" to keep the old); return how many were."""
        ...

    async def scan(self, queue: str, cursor: int, *, deadline: float) -> tuple[int, list[TaskState]]:
        """Return some of all tasks, and where to go on: from 0 until it is 0 again. One may come twice."""
        ...

    async def store(self, *, deadline: float) -> StoreInfo:
        """Return what the store says of itself."""
        ...

    async def queues(self, *, deadline: float) -> list[str]:
        """Return the name of every queue that has tasks or had a consumer, sorted. Looks through the whole store."""
        ...
