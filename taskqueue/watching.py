"""How the queues go from one look to the next, and which consumers live: two looks tell what one cannot.

Times of the store's clock are compared with one another only, so that it does not matter whether ours agrees.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from .admin import Admin, gone
from .inspector import ConsumerInfo, QueueStats
from .query import Query, Term
from .task import TaskState

FAILURES: Final = Query(terms=(Term("state", "=", ("failed",)),), limit=5)
# A consumer beats at least twice a second; so long until one that does not is called silent.
SILENT_AFTER: Final = 2.0
BETWEEN_LOOKS: Final = 0.1

Life: TypeAlias = Literal["alive", "silent", "ended"]
"""Of a consumer: it beats; it does not; it ran on this very machine and its process is no more."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One queue at one look; tasks that completed and failed a second since the last look, None at the first."""

    stats: QueueStats
    completed_per_second: float | None = None
    failed_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """The queues at one moment (ms since 1970), and the tasks that failed last."""

    at: int
    queues: Sequence[Seen]
    failures: Sequence[TaskState]


class Watcher:
    """Looks at queues again and again."""

    def __init__(self, admin: Admin) -> None:
        """Take how to look."""
        self._admin = admin
        self._last: float | None = None
        self._marks: dict[tuple[str, str], int] = {}

    async def look(self) -> Look:
        """Look at all the queues; raises BrokerUnavailable."""
        now, last = time.monotonic(), self._last
        seconds = None if last is None else now - last
        seen = []
        for stats in await self._admin.stats():
            completed = await self._ended(stats, "completed", seconds)
            failed = await self._ended(stats, "failed", seconds)
            seen.append(Seen(stats, completed, failed))
        failures = (await self._admin.tasks(FAILURES)).tasks
        self._last = now
        return Look(time.time_ns() // 1_000_000, seen, failures)

    async def _ended(
        self, stats: QueueStats, state: Literal["completed", "failed"], seconds: float | None
    ) -> float | None:
        key = (stats.queue, state)
        if key not in self._marks:
            latest = await self._admin.latest(stats.queue, state)
            self._marks[key] = latest
            return None
        count, self._marks[key] = await self._admin.ended_since(stats.queue, state, self._marks[key])
        return count / seconds if seconds else None


@dataclass(frozen=True, slots=True)
class Worker:
    """A consumer, of all the queues that it serves; ``claimed`` is when it took the first, in ms since 1970."""

    name: str
    state: Life
    host: str
    pid: int
    claimed: int
    holds: int
    queues: Sequence[str]


async def workers(admin: Admin, *, runs: Callable[[int], bool]) -> list[Worker]:
    """Return the consumers of these queues by name; looks for two seconds at those that do not beat.

    ``runs`` tells whether a process runs on this machine.
    """
    host = socket.gethostname()
    first = [(queue.queue, one) for queue in await admin.stats() for one in queue.consumers]
    beats = {_key(queue, one): one.beat for queue, one in first}
    quiet = {_key(queue, one) for queue, one in first if not gone(one, host=host, runs=runs)}
    ended = beats.keys() - quiet
    until = time.monotonic() + SILENT_AFTER
    while quiet and time.monotonic() < until:
        await asyncio.sleep(BETWEEN_LOOKS)
        now = [(queue.queue, one) for queue in await admin.stats() for one in queue.consumers]
        quiet -= {key for queue, one in now if (key := _key(queue, one)) in quiet and one.beat != beats[key]}
    parts: dict[tuple[str, str, int], list[tuple[str, ConsumerInfo]]] = {}
    for queue, one in first:
        parts.setdefault((one.name, one.host, one.pid), []).append((queue, one))
    return [_worker(parts[key], ended, quiet) for key in sorted(parts)]


_Key: TypeAlias = tuple[str, str]


def _key(queue: str, one: ConsumerInfo) -> _Key:
    return queue, one.name


def _worker(parts: Sequence[tuple[str, ConsumerInfo]], ended: set[_Key], quiet: set[_Key]) -> Worker:
    keys = {_key(queue, one) for queue, one in parts}
    state: Life = "ended" if keys & ended else "silent" if keys & quiet else "alive"
    _, any_of_it = parts[0]
    return Worker(
        name=any_of_it.name,
        state=state,
        host=any_of_it.host,
        pid=any_of_it.pid,
        claimed=min(one.claimed for _, one in parts),
        holds=sum(one.holds for _, one in parts),
        queues=[queue for queue, _ in parts],
    )
