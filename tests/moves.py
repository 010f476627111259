"""The moves of producers and consumers on a broker, each in one word."""

import random
import time
from collections.abc import Sequence
from typing import Final

from taskqueue.broker import Broker, Exchange, Lease, Seen, Withdrawal
from taskqueue.inspector import Log, QueueStats
from taskqueue.task import Reservation, SealedTask, Settlement, StateName, TaskState, Verdict

COMPLETE: Final = Verdict("complete", status=200)
FAIL: Final = Verdict("fail", "exhausted", 500)
OPERATOR: Final = "ada@desk"
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
    keep: bool = False,
    waits: bool = False,
) -> Exchange:
    token = token or f"{random.getrandbits(64):x}"
    return await broker.exchange(
        lease, settlements, token=token, want=want, room=room, keep=keep, waits=waits, deadline=soon()
    )


async def reserve(
    broker: Broker, lease: Lease, want: int = 1, *, token: str = "", room: int = ROOM
) -> list[Reservation]:
    return list((await exchange(broker, lease, token=token, want=want, room=room)).reservations)


async def settle(broker: Broker, lease: Lease, *settlements: Settlement, keep: bool = False) -> list[str]:
    return list((await exchange(broker, lease, *settlements, want=0, keep=keep)).stale)


async def begun(broker: Broker, lease: Lease, want: int = 1) -> list[Reservation]:
    """Reserve so many and let them run."""
    held = await reserve(broker, lease, want)
    assert len(held) == want
    for item in held:
        assert await broker.begin("default", item.id, item.delivery, deadline=soon())
    return held


async def state_of(broker: Broker, task_id: str) -> TaskState:
    state = await broker.get("default", task_id, deadline=soon())
    assert state is not None
    return state


async def names_of(broker: Broker, *task_ids: str) -> list[StateName]:
    """Return the states of these tasks."""
    return [(await state_of(broker, task_id)).state for task_id in task_ids]


async def log_of(broker: Broker, task_id: str) -> Log:
    return await broker.inspector.log("default", task_id, deadline=soon())


async def withdraw(
    broker: Broker, *task_ids: str, word: Withdrawal = "cancelled", force: bool = False, actor: str = OPERATOR
) -> list[str]:
    return await broker.withdraw("default", task_ids, word, actor=actor, force=force, deadline=soon())


async def retry(broker: Broker, *task_ids: str, record: bytes = b"") -> int:
    tasks = [(task_id, record) for task_id in task_ids]
    return await broker.inspector.retry("default", tasks, actor=OPERATOR, deadline=soon())


async def stats_of(broker: Broker) -> QueueStats:
    return await broker.inspector.stats("default", deadline=soon())


def ended(
    reservation: Reservation,
    verdict: Verdict = COMPLETE,
    *,
    response: bytes = b"",
    on_success: SealedTask | None = None,
    on_failure: SealedTask | None = None,
) -> Settlement:
    return Settlement(reservation.id, reservation.delivery, verdict, response, on_success, on_failure)


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
