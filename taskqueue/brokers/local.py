"""A queue inside one process: ``local://``, for tests, development, and what runs in a single process anyway.

Everything is lost when the process ends, and no other process sees it: the consumer runs in this one. TaskQueues with
the same name (``local://NAME``) share one store, from whatever threads and event loops. A forked child begins with
empty stores of its own. What a move does is in ``memory``, how moves get there in ``local_store``.
"""

import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from ..broker import (
    IN_DOUBT_AFTER_MS,
    UNLIMITED,
    Beat,
    Capacity,
    Exchange,
    Lease,
    Owner,
    Seen,
    Trimmed,
    Withdrawal,
    masked,
)
from ..durability import Durability
from ..errors import ConfigError
from ..identity import own
from ..inspector import Control
from ..task import SealedTask, Settlement, TaskState
from .local_inspection import LocalInspector
from .local_store import Ear, Way, clock_at, here
from .memory import MemoryQueue
from .places import Admission

_URL: Final = re.compile(r"local://([A-Za-z0-9._-]*)(\?mode=sync)?")


class LocalPulse:
    """The Pulse of a LocalBroker."""

    def __init__(self, way: Way) -> None:
        """Take the way to the store."""
        self._way = way

    def beat(self, lease: Lease) -> Beat:
        """See Pulse."""
        return self._way.store.make(lease.queue, lambda queue, _: queue.beat(lease))

    def close(self) -> None:
        """See Pulse. There is nothing to close."""


class LocalBroker:
    """A Broker in this process."""

    def __init__(
        self, url: str, *, namespace: str, capacity: Capacity = UNLIMITED, durability: Durability | None = None
    ) -> None:
        """Take ``local://`` or ``local://NAME``, maybe with ``?mode=sync``, of which those who commit take care.

        Raises ConfigError for another URL, and for more than it can keep.
        """
        match = _URL.fullmatch(url)
        if not match:
            raise ConfigError(
                f"url: {masked(url)!r} must be local:// or local://NAME, the name of letters, digits or any of . _ -,"
                " and after that ?mode=sync or nothing"
            )
        if durability is not None and durability.level != "memory":
            raise ConfigError(
                f"durability: {durability} outlives the process, and a local store does not; take memory, or another"
                " store: embedded:///directory, redis://host:port/db"
            )
        self.replays_at_commit: Final = match[2] is not None
        self._way, self._capacity = Way(match[1], namespace), capacity
        self._call = self._way.call

    async def push(self, queue: str, tasks: Sequence[SealedTask], *, deadline: float) -> None:
        """See Broker."""
        admission = Admission(clock_at(deadline), self._capacity)
        await self._call(queue, deadline, lambda line, at: line.push(tasks, admission, at=at))

    async def prepare(self, queue: str, tasks: Sequence[SealedTask], *, deadline: float) -> None:
        """See Broker."""
        admission = Admission(clock_at(deadline), self._capacity)
        await self._call(queue, deadline, lambda line, at: line.prepare(tasks, admission, at=at))

    async def promote(self, queue: str, ids: Sequence[str], *, deadline: float) -> None:
        """See Broker."""
        await self._call(queue, deadline, lambda line, at: line.promote(ids, at=at))

    async def discard(self, queue: str, ids: Sequence[str], *, deadline: float) -> None:
        """See Broker."""
        await self._call(queue, deadline, lambda line, at: line.discard(ids, at=at))

    async def begin(self, queue: str, task_id: str, delivery: int, *, deadline: float) -> bool:
        """See Broker."""
        return await self._call(queue, deadline, lambda line, at: line.begin(task_id, delivery, at=at))

    async def note(
        self, queue: str, task_id: str, delivery: int, fields: Mapping[str, bytes], *, deadline: float
    ) -> bool:
        """See Broker."""
        return await self._call(queue, deadline, lambda line, _: line.note(task_id, delivery, fields))

    async def owner(self, queue: str, consumer: str, *, deadline: float) -> Owner:
        """See Broker."""
        return await self._call(queue, deadline, lambda line, _: line.owner(consumer))

    async def claim(
        self, queue: str, consumer: str, *, dead: Owner | None = None, begins: bool, deadline: float
    ) -> tuple[Lease, int]:
        """See Broker."""
        random, me = secrets.token_hex(8), own()

        def move(line: MemoryQueue, at: int) -> tuple[Lease, int, int]:
            return line.claim(consumer, random, me, begins=begins, dead=dead, at=at)

        lease, returned, left = await self._call(queue, deadline, move)
        while left:
            _, some, left = await self._call(queue, deadline, move)
            returned += some
        return lease, returned

    async def reclaim(self, queue: str, dead: Seen, *, deadline: float) -> int:
        """See Broker."""
        random, returned, left = secrets.token_hex(8), 0, 1
        while left:
            some, left = await self._call(queue, deadline, lambda line, at: line.reclaim(dead, random, at=at))
            returned += some
        return returned

    async def leave(self, lease: Lease, *, deadline: float) -> None:
        """See Broker."""
        await self._call(lease.queue, deadline, lambda line, _: line.leave(lease))

    def pulse(self, *, timeout: float) -> LocalPulse:  # noqa: ARG002  no answer is ever waited for
        """See Broker."""
        return LocalPulse(self._way)

    async def exchange(
        self,
        lease: Lease,
        settlements: Sequence[Settlement],
        *,
        token: str,
        want: int,
        room: int,
        keep: bool = False,
        waits: bool = False,  # noqa: ARG002  nobody is handed anything: a hint is heard as soon
        deadline: float,
    ) -> Exchange:
        """See Broker."""

        def move(line: MemoryQueue, at: int) -> Exchange:
            stale = line.settle(lease, settlements, keep=keep, at=at)
            return Exchange(line.reserve(lease, token, want, room, at=at), stale)

        return await self._call(lease.queue, deadline, move)

    async def due(self, queue: str, *, deadline: float) -> float | None:
        """See Broker."""
        wait = await self._call(queue, deadline, lambda line, at: line.due(IN_DOUBT_AFTER_MS, at=at))
        return None if wait is None else wait / 1000

    async def trim(self, queue: str, limits: Sequence[tuple[str, int, int]], *, most: int, deadline: float) -> Trimmed:
        """See Broker."""
        return await self._call(queue, deadline, lambda line, at: line.trim(limits, most=most, at=at))

    @asynccontextmanager
    async def hints(self, queues: Sequence[str], consumer: str) -> AsyncIterator[AsyncIterator[str]]:  # noqa: ARG002
        """See Broker. The stream never ends."""
        store, ear = self._way.store, Ear(queues)
        store.listen(ear)
        try:
            yield ear.hints()
        finally:
            store.leave(ear)

    async def get(self, queue: str, task_id: str, *, deadline: float) -> TaskState | None:
        """See Broker."""
        return await self._call(queue, deadline, lambda line, _: line.states.get(task_id))

    async def size(self, queue: str, *, deadline: float) -> int:
        """See Broker."""
        return await self._call(queue, deadline, lambda line, _: len(line.lines))

    async def control(self, queue: str, changes: Mapping[Control, int | None], *, deadline: float) -> None:
        """See Broker."""
        await self._call(queue, deadline, lambda line, _: line.say(changes))

    async def withdraw(
        self, queue: str, ids: Sequence[str], word: Withdrawal, *, actor: str, force: bool, deadline: float
    ) -> list[str]:
        """See Broker."""
        return await self._call(
            queue, deadline, lambda line, at: line.withdraw(ids, word, actor=actor, force=force, at=at)
        )

    async def hasten(self, queue: str, ids: Sequence[str], *, actor: str, deadline: float) -> int:
        """See Broker."""
        return await self._call(queue, deadline, lambda line, at: line.hasten(ids, actor=actor, at=at))

    async def restart(self, queue: str, ids: Sequence[str], *, actor: str, deadline: float) -> int:
        """See Broker."""
        return await self._call(queue, deadline, lambda line, at: line.restart(ids, actor=actor, at=at))

    async def purge(self, queue: str, *, most: int, deadline: float) -> int:
        """See Broker."""
        return await self._call(queue, deadline, lambda line, at: line.purge(most, at=at))

    async def reset(self, queue: str, *, deadline: float) -> None:
        """See Broker."""
        await self._call(queue, deadline, lambda line, _: line.reset())

    async def routes(self, *, deadline: float) -> Mapping[str, bytes]:  # noqa: ARG002  it always answers
        """See Broker."""
        return self._way.store.routes

    async def route(self, pattern: str, rule: bytes | None, *, deadline: float) -> None:  # noqa: ARG002  as routes
        """See Broker."""
        self._way.store.keep_route(pattern, rule)

    @property
    def trouble(self) -> str | None:
        """See Broker. This store is always there."""
        return None

    @property
    def inspector(self) -> LocalInspector:
        """See Broker."""
        return LocalInspector(self._way)

    async def aclose(self) -> None:
        """See Broker. Nothing is open; what is stored stays, for all who use this store."""


def open_broker(
    url: str, *, namespace: str, capacity: Capacity = UNLIMITED, durability: Durability | None = None
) -> LocalBroker:
    """Return the broker for a ``local://`` URL; see ``taskqueue.broker.connect``."""
    return LocalBroker(url, namespace=namespace, capacity=capacity, durability=durability)


def kept_secret(_url: str) -> str:
    """Return the secret of this process; see ``taskqueue.broker.kept_secret``."""
    return here.secret
