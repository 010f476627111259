"""The moves of producers and consumers on a broker, each in one word."""

import random
import time
from collections.abc import Sequence
from typing import Final

from taskqueue.broker import Broker, Exchange, Lease, Seen
from taskqueue.task import Reservation, SealedTask, Settlement, TaskState, Verdict

COMPLETE: Final = Verdict("complete", status=200)
ROOM: Final = 4 * 1024 * 1024


def soon() -> float:
    """Return a deadline that no healthy server misses."""
    return time.monotonic() + 10


async def claimed(broker: Broker, name: str = "one", *, queue: str = "default", begins: bool = True) -> Lease:
    lease, _ = await broker.claim(queue, name, begins=begins, deadline=soon())
    return lease


async def push(broker: Broker, tasks: Sequence[SealedTask], *, queue: str = "default") -> list[str]:
    await broker.push(queue, tasks, deadline=soon())
    return [task.id for task in tasks]


async def exchange(
    broker: Broker,
    lease: Lease,
    *settlements: Settlement,
    token: str = "",
    want: int = 1,
    room: int = ROOM,
) -> Exchange:
    token = token or f"{random.getrandbits(64):x}"
    return await broker.exchange(lease, settlements, token=token, want=want, room=room, deadline=soon())


async def reserve(
    broker: Broker, lease: Lease, want: int = 1, *, token: str = "", room: int = ROOM
) -> list[Reservation]:
    return list((await exchange(broker, lease, token=token, want=want, room=room)).reservations)


async def settle(broker: Broker, lease: Lease, *settlements: Settlement) -> list[str]:
    return list((await exchange(broker, lease, *settlements, want=0)).stale)


async def state_of(broker: Broker, task_id: str) -> TaskState:
    state = await broker.get("default", task_id, deadline=soon())
    assert state is not None
    return state


def ended(reservation: Reservation, verdict: Verdict = COMPLETE) -> Settlement:
    return Settlement(reservation.id, reservation.delivery, verdict)


def ids(reservations: Sequence[Reservation]) -> list[str]:
    return [reservation.id for reservation in reservations]


async def seen(broker: Broker, name: str = "one") -> Seen:
    """Return a consumer as somebody else would see it now."""
    owner = await broker.owner("default", name, deadline=soon())
    return Seen(name, owner.epoch, owner.beat)


async def reclaim(broker: Broker, dead: Seen) -> int:
    return await broker.reclaim("default", dead, deadline=soon())


def number(epoch: str) -> int:
    return int(epoch.partition("-")[0])
