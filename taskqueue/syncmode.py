"""Mode ``sync`` of a local store: a commit has its tasks replayed, here and now, before it returns.

It is a consumer that lives for one commit. It takes what waits in the commit's queues and replays it, one task after
the other, as every consumer does; then it is gone. What is delayed, or is to be tried again, stays scheduled, and
whoever commits to that queue when it is due replays it too. A task that adds tasks is a commit inside a delivery: those
run before its own delivery ends, up to a depth.

A request that commits waits for its tasks, so nothing of it may be in their way: they have a thread or a turn of the
event loop of their own, and a context in which there is neither its transaction nor its user.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import Context
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from . import settings
from .assembly import on_failed_for, rules_for
from .broker import CALL_DEADLINE, Lease
from .catalogue import Settings
from .commit import to_its_end
from .delivery import Courier
from .errors import ConfigError
from .hooks import FailedTask, tell
from .jobs import GIVEN_BACK
from .loading import Application, Kind, replayer_for
from .portal import waiting
from .producer import NO_APPLICATION, TaskQueue
from .replay import Replayer
from .server import BATCH_BYTES
from .slots import BATCH_TASKS
from .task import Reservation, Settlement, Task

log = logging.getLogger("taskqueue.server")

DEEPEST: Final = 20
"""So deep a task may be in tasks that have added it: with one more, it waits for another commit."""

_names: Final = count(1)


@dataclass(frozen=True, slots=True)
class _Held:
    """A task that a commit of this process has taken: how deep it is in other tasks; whether its delivery has ended."""

    depth: int
    ended: Future[None] = field(default_factory=Future)


_held: Final[dict[str, _Held]] = {}


class SyncMode:
    """Replays what commits have stored, in one application."""

    def __init__(
        self,
        tq: TaskQueue,
        kind: Kind,
        make: Callable[[], Any],
        *,
        loop: asyncio.AbstractEventLoop | None,
        ready: Callable[[], bool],
        state: Mapping[str, Any] | None,
    ) -> None:
        """Take the application's kind and what gives it, and the event loop it lives in, or None if any will do.

        ``ready``: whether it has started; ``state``: of its lifespan (ASGI).
        """
        self._tq, self._loop, self._ready, self._state = tq, loop, ready, state
        self._app, self._chosen = Application("", kind, make()), settings.load()

    def require(self) -> None:
        """Raise ConfigError if the application has not started yet, or its event loop turns no more."""
        if (self._loop is not None and not self._loop.is_running()) or not self._ready():
            raise ConfigError(NO_APPLICATION)

    async def replay(self, tasks: Sequence[Task], adding: str | None) -> None:
        """Return when these tasks, which are queued, have been delivered; ``adding`` is the task that added them.

        What goes wrong is logged: they are committed. A cancellation is held back as long.
        """
        parent = None if adding is None else _held.get(adding)
        depth = 1 if parent is None else parent.depth + 1
        if depth > DEEPEST:
            _leave(tasks, f"they were added {DEEPEST} deep by tasks that add tasks")
        elif self._loop is not None and waiting.get() is self._loop:
            _leave(tasks, "the event loop of the application itself waits for this commit; commit with `await`")
        else:
            work, cancelled = await to_its_end(self._at_home(tasks, depth))
            work.result()
            if cancelled is not None:
                raise cancelled

    async def _at_home(self, tasks: Sequence[Task], depth: int) -> None:
        """Replay in the application's event loop, in a context in which nothing is set."""
        if self._loop is None or self._loop is asyncio.get_running_loop():
            await asyncio.create_task(self._replay(tasks, depth), context=Context())
        else:
            there = Context().run(asyncio.run_coroutine_threadsafe, self._replay(tasks, depth), self._loop)
            await asyncio.wrap_future(there)

    async def _replay(self, tasks: Sequence[Task], depth: int) -> None:
        tq = self._tq
        try:
            async with replayer_for(
                self._app, tq.keyring, concurrent_limit=1, started=True, state=self._state
            ) as replayer:
                visit = _Visit(tq, replayer, self._chosen, depth)
                for queue in dict.fromkeys(task.queue for task in tasks):
                    await visit.serve(queue)
        except Exception:
            log.exception("what a commit has stored could not be replayed, and waits for the next")
        # Another commit may have been faster to take some.
        for held in [_held[task.id] for task in tasks if task.id in _held]:
            await asyncio.wrap_future(held.ended)


class _Visit:
    """The consumer of one commit."""

    def __init__(self, tq: TaskQueue, replayer: Replayer, chosen: Settings, depth: int) -> None:
        self._broker, self._name, self._depth = tq.broker, f"sync-{next(_names)}", depth
        self._on_failed, self._failed = on_failed_for(chosen), list[FailedTask]()
        self._courier = Courier(
            replayer,
            tq.keyring,
            rules_for(chosen),
            tq.broker,
            timeout=chosen.timeout,
            failed=self._failed.append,
            begins=lambda: tq.notes_starts,
        )

    async def serve(self, queue: str) -> None:
        """Deliver what waits in this queue; a delivery that is given back is the last."""
        lease, _ = await self._broker.claim(queue, self._name, begins=self._courier.begins(), deadline=_soon())
        # All before the first of them runs: what that adds then stands in line alone, and no other runs inside it.
        line = await self._reserved(lease)
        _held.update((one.id, _Held(self._depth)) for one in line)
        try:
            while line and self._courier.target_down is None:
                settlement = await self._courier.deliver(self._courier.prepare(line[0]))
                await self._exchange(lease, [settlement])
                _held.pop(line.pop(0).id).ended.set_result(None)
                await self._tell_failed()
        finally:
            for one in line:
                _held.pop(one.id).ended.set_result(None)
            await self._exchange(lease, [Settlement(one.id, one.delivery, GIVEN_BACK) for one in line])
            await self._broker.leave(lease, deadline=_soon())

    async def _reserved(self, lease: Lease) -> list[Reservation]:
        await self._broker.due(lease.queue, deadline=_soon())
        line: list[Reservation] = []
        while some := await self._exchange(lease, (), want=BATCH_TASKS):
            line += some
        return line

    async def _exchange(
        self, lease: Lease, settlements: Sequence[Settlement], *, want: int = 0
    ) -> Sequence[Reservation]:
        token = secrets.token_hex(8)
        exchange = await self._broker.exchange(
            lease, settlements, token=token, want=want, room=BATCH_BYTES, deadline=_soon()
        )
        return exchange.reservations

    async def _tell_failed(self) -> None:
        while self._failed:
            failed = self._failed.pop()
            if self._on_failed is not None:
                await tell(self._on_failed, failed)


def _leave(tasks: Sequence[Task], why: str) -> None:
    ids = [task.id for task in tasks]
    log.error(
        "%d task(s) are not replayed now, and wait for the next commit to their queues: %s: %s",
        len(ids),
        why,
        ", ".join(ids),
        extra={"task_ids": ids},
    )


def _soon() -> float:
    return time.monotonic() + CALL_DEADLINE
