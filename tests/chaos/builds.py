"""Builds with a fault each: what a chaos run must find, or it proves nothing.

A process of the run applies its build before it begins; the product knows nothing of them.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final

from taskqueue.broker import Exchange, Lease
from taskqueue.brokers.redis import RedisBroker
from taskqueue.producer import TaskQueue
from taskqueue.seal import NONCE_BYTES, seal
from taskqueue.task import SealedTask, Settlement, Task
from taskqueue.transaction import Transaction


def sound() -> None:
    """Change nothing."""


def forgets() -> None:
    """Let the third commit of each process be acknowledged and not stored: lost."""
    push, count = RedisBroker.push, itertools.count(1)

    async def forgetful(self: RedisBroker, queue: str, tasks: Sequence[SealedTask], *, deadline: float) -> None:
        if next(count) != 3:
            await push(self, queue, tasks, deadline=deadline)

    RedisBroker.push = forgetful  # type: ignore[assignment,method-assign]


def hasty() -> None:
    """Push inside ``add``, before anybody knows whether the transaction will be aborted: phantoms."""
    append, pushing = Transaction.append, set[asyncio.Future[None]]()

    def hasty_append(self: Transaction, task: Task, **copies: bool) -> None:
        append(self, task, **copies)
        tq = self.tq
        assert isinstance(tq, TaskQueue)
        made = seal(tq.keyring, task, nonce=bytes(NONCE_BYTES))
        deadline = asyncio.get_running_loop().time() + 2
        job = asyncio.ensure_future(tq.broker.push(task.queue, [made], deadline=deadline))
        pushing.add(job)

    Transaction.append = hasty_append  # type: ignore[method-assign]


def drops() -> None:
    """Let each consumer forget to tell of one task that it is complete: stranded."""
    exchange, dropped = RedisBroker.exchange, list[Settlement]()

    async def dropping(self: RedisBroker, lease: Lease, settlements: Sequence[Settlement], **options: Any) -> Exchange:
        if settlements and not dropped:
            dropped.append(settlements[0])
        return await exchange(self, lease, [one for one in settlements if one not in dropped], **options)

    RedisBroker.exchange = dropping  # type: ignore[method-assign]


def welcomes() -> None:
    """Let the door start whatever comes, also from a consumer that has lost its lease."""

    async def always(*_: object, **__: object) -> bool:
        return True

    RedisBroker.begin = always  # type: ignore[method-assign]


BUILDS: Final[dict[str, Callable[[], None]]] = {
    build.__name__: build for build in (sound, forgets, hasty, drops, welcomes)
}


def apply(name: str) -> None:
    """Change this process into the named build."""
    BUILDS[name]()
