"""What a queue in memory is made of: lines, indexes by time, consumers, logs."""

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, NamedTuple

from ..broker import Capacity
from ..identity import Identity
from ..inspector import Ended, Released
from ..task import PRIORITIES, SealedTask, StateName, TaskState

INDEX_OF: Final[dict[StateName, str]] = {
    "scheduled": "scheduled",
    "prepared": "prepared",
    "waiting": "waiting",
    "completed": "finished",
    "failed": "failed",
    "cancelled": "cancelled",
    "archived": "archived",
}


class Admission(NamedTuple):
    """Until when (in ms of the store's clock) and up to how much new tasks are taken."""

    not_after: int
    capacity: Capacity


class Lines:
    """The ids that wait: a line for each priority, out of which any one is taken as cheaply as the first."""

    def __init__(self) -> None:
        self.by_priority: dict[int, OrderedDict[str, None]] = {
            priority: OrderedDict() for priority in reversed(PRIORITIES)
        }

    def __len__(self) -> int:
        return sum(map(len, self.by_priority.values()))

    def __iter__(self) -> Iterator[str]:
        """Yield the ids in the order in which they are given out: the highest priority first."""
        for line in self.by_priority.values():
            yield from line

    def __contains__(self, task: TaskState) -> bool:
        return task.id in self.by_priority[task.priority]

    def append(self, task: TaskState) -> None:
        """Put a task at the back of its line."""
        self.by_priority[task.priority][task.id] = None

    def put_back(self, task: TaskState) -> None:
        """Put a task at the front of its line."""
        self.append(task)
        self.by_priority[task.priority].move_to_end(task.id, last=False)

    def fronts(self) -> list[str]:
        """Return the first of each line, of the highest priority first."""
        return [next(iter(line)) for line in self.by_priority.values() if line]

    def take(self, task: TaskState) -> None:
        """Take a task out of its line, if it is there."""
        self.by_priority[task.priority].pop(task.id, None)


class Index:
    """Ids by time, the earliest first, and those of one time in their own order: what in Redis is a sorted set."""

    def __init__(self) -> None:
        self.times: dict[str, int] = {}
        self._order: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._order)

    def put(self, task_id: str, time: int) -> None:
        """Add an id, or give it another time."""
        self.remove(task_id)
        self.times[task_id] = time
        insort(self._order, (time, task_id))

    def remove(self, task_id: str) -> None:
        """Remove an id if it is there."""
        if task_id in self.times:
            del self._order[bisect_left(self._order, (self.times.pop(task_id), task_id))]

    def first(self, count: int) -> list[str]:
        """Return at most so many ids, from the earliest on."""
        return [task_id for _, task_id in self._order[:count]]

    def until(self, time: int, count: int) -> list[str]:
        """Return at most so many ids whose time is not later than this."""
        return self.first(min(count, bisect_right(self._order, time, key=itemgetter(0))))

    def latest(self, count: int, offset: int, since: int | None, until: int | None) -> list[str]:
        """Return at most so many ids of this time, from the latest backwards, behind the first ``offset`` of them."""
        start = 0 if since is None else bisect_left(self._order, since, key=itemgetter(0))
        end = len(self._order) if until is None else bisect_right(self._order, until, key=itemgetter(0))
        last = max(start, end - offset)
        return [task_id for _, task_id in reversed(self._order[max(start, last - count) : last])]

    @property
    def earliest(self) -> int | None:
        """The first time of all."""
        return self._order[0][0] if self._order else None


@dataclass(slots=True)
class Consumer:
    """Who has a name, or had it last: its lease, and what it holds in the order it was given.

    One that was found dead is not ``watched`` any more; its epoch stays, so that it is told, should it wake.
    """

    epoch: str
    identity: Identity
    begins: bool
    claimed: int
    held: list[str]
    beat: int = 0
    token: str = ""
    count: int = 0
    watched: bool = True

    @property
    def random(self) -> str:
        """What tells this claim, or this reclaim, from all others."""
        return self.epoch.partition("-")[2]


@dataclass(slots=True)
class TaskLog:
    """The long part of a task's life: see Log; and, out of the way, its record and what is to follow from its end."""

    ended: dict[int, Ended] = field(default_factory=dict)
    acts: dict[tuple[int, str], str] = field(default_factory=dict)
    released: Released | None = None
    fields: dict[str, bytes] = field(default_factory=dict)
    record: bytes | None = None
    following: dict[StateName, SealedTask] = field(default_factory=dict)
