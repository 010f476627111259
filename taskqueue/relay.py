"""From an outbox to the broker: tasks that were committed as rows of the application's own database are pushed.

A row is removed after the broker has confirmed it, so a relay that dies in between only pushes it again, and a push is
idempotent by id: the broker knows a task as long as it keeps it, 24 hours or 10,000 tasks of its queue after it has
completed. Several relays may work on one outbox; where the database can lock rows they share them, elsewhere one of two
that push the same changes nothing. One alone keeps the order of the commits within each queue.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeAlias

from .broker import CALL_DEADLINE, Broker
from .commit import chunks
from .errors import BrokerUnavailable, QueueFull, TaskQueueError
from .task import SealedTask

log = logging.getLogger("taskqueue.relay")

# Of one pass: rows, and bytes of their records.
ROWS: Final = 200
BYTES: Final = 4 * 1024 * 1024
# Seconds.
POLL_MIN: Final = 0.02
REMIND: Final = 60.0

Push: TypeAlias = Callable[[Sequence[SealedTask]], Coroutine[Any, Any, Collection[str]]]
"""Takes tasks in order, and returns the ids of those that the broker has confirmed."""


class Outbox(Protocol):
    """A table of tasks that are committed and not pushed yet."""

    async def pass_on(self, push: Push, *, without: Collection[str]) -> int:
        """Push the first rows in order, and remove those confirmed; return how many rows were looked at.

        All in one transaction, the rows locked if the database can, those locked by others left out. At most ``ROWS``
        rows, and see ``portion``; ``without`` are queues whose rows are left alone. Raises whatever the database does.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections to the database."""
        ...


def portion(sizes: Iterable[tuple[int, int]]) -> list[int]:
    """Take (row, bytes of its record) in order and return the rows of one pass: 4 MiB at most, one row at least."""
    rows: list[int] = []
    weight = 0
    for row, size in sizes:
        weight += size
        if rows and weight > BYTES:
            break
        rows.append(row)
    return rows


def from_now(task: SealedTask, *, now: int) -> SealedTask:
    """Return the task with a delay turned into a time: it counts from its commit, not from its push. ``now`` in ms."""
    return replace(task, due=now - task.due) if task.due < 0 else task


class Relay:
    """Pushes what is in an outbox, until it is stopped."""

    def __init__(self, outbox: Outbox, broker: Broker, *, poll_max: float = 1.0) -> None:
        """Take an outbox and where its tasks go; ``poll_max``: seconds between two looks at an empty one, at most."""
        self._outbox, self._broker, self._poll_max = outbox, broker, poll_max
        self._stopped = asyncio.Event()
        self._left: dict[str, float] = {}  # queues that take nothing, and until when they are not asked again
        self._reminded: dict[str, float] = {}
        self._pushed = 0

    def stop(self) -> None:
        """Let the pass under way end, and begin no other."""
        self._stopped.set()

    async def run(self) -> None:
        """Push until stopped. Trouble with the database or the broker is logged, and tried again."""
        poll = POLL_MIN
        while not self._stopped.is_set():
            before = self._pushed
            found = await self._pass()
            if self._pushed > before:
                poll = POLL_MIN
                if found >= ROWS:
                    continue
            await self._rest(poll * random.uniform(0.8, 1.0))
            poll = min(poll * 2, self._poll_max)
        await self._outbox.aclose()

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            return

    async def _pass(self) -> int:
        now = time.monotonic()
        self._left = {queue: until for queue, until in self._left.items() if until > now}
        try:
            return await self._outbox.pass_on(self._push, without=tuple(self._left))
        except Exception as error:  # noqa: BLE001 - each database has its own, and none may end the relay
            self._remind("", f"the outbox cannot be read or cleared, trying on: {type(error).__name__}: {error}")
            return 0

    async def _push(self, tasks: Sequence[SealedTask]) -> Collection[str]:
        by_queue: dict[str, list[SealedTask]] = {}
        for task in tasks:
            by_queue.setdefault(task.queue, []).append(task)
        confirmed: set[str] = set()
        for queue, some in by_queue.items():
            for chunk in chunks(some):
                done = await self._push_some(queue, chunk)
                confirmed.update(task.id for task in chunk[:done])
                if done < len(chunk):
                    break
            if self._broker.trouble is not None:
                break  # Nothing else would get through: do not keep the rows locked for that.
        self._pushed += len(confirmed)
        return confirmed

    async def _push_some(self, queue: str, tasks: Sequence[SealedTask]) -> int:
        """Push these, or if the queue has no room for all of them as many as go in; return how many did."""
        try:
            await self._broker.push(queue, tasks, deadline=time.monotonic() + CALL_DEADLINE)
        except QueueFull as error:
            if len(tasks) > 1:
                half = len(tasks) // 2
                done = await self._push_some(queue, tasks[:half])
                return done if done < half else done + await self._push_some(queue, tasks[half:])
            self._leave(queue, error)
        except TaskQueueError as error:
            self._leave(queue, error)
        else:
            return len(tasks)
        return 0

    def _leave(self, queue: str, error: TaskQueueError) -> None:
        """Leave a queue's rows alone for a moment, so that the others' come first."""
        self._left[queue] = time.monotonic() + self._poll_max
        why = "full" if isinstance(error, QueueFull) else "not to be had"
        why = why if isinstance(error, BrokerUnavailable) else "refused"
        self._remind(queue, f"queue {queue}: {why}; its tasks wait in the outbox: {error}")

    def _remind(self, what: str, text: str) -> None:
        now = time.monotonic()
        if now - self._reminded.get(what, -REMIND) >= REMIND:
            self._reminded[what] = now
            log.warning("%s", text)
