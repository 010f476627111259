"""What a producer and a consumer do, as steps of a test; and what a command said."""

import json
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeAlias

from taskqueue import TaskQueue
from taskqueue.broker import Lease
from taskqueue.brokers.redis import RedisBroker
from taskqueue.server import TaskQueueServer
from taskqueue.task import Reservation, SealedTask, Settlement, Verdict
from tests.servers import RedisServer
from tests.tasks import SECRET

FAIL: Final = Verdict("fail", "exhausted", 500)
Doing: TypeAlias = Callable[[Callable[["Work"], Awaitable[None]]], None]


class Ran(NamedTuple):
    """What a command said; ``document`` is its JSON."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[list[str]]:
        """The words of each line."""
        return [line.split() for line in self.out.splitlines()]


class Work:
    """What a producer and a consumer named ``one`` do."""

    def __init__(self, broker: RedisBroker) -> None:
        self.broker = broker
        self._lease: Lease | None = None

    async def push(self, *tasks: SealedTask) -> None:
        await self.broker.push(tasks[0].queue, tasks, deadline=soon())

    async def take(self, count: int = 1) -> Sequence[Reservation]:
        if self._lease is None:
            self._lease, _ = await self.broker.claim("default", "one", begins=True, deadline=soon())
        token = secrets.token_hex(4)
        taken = await self.broker.exchange(self._lease, (), token=token, want=count, room=2**20, deadline=soon())
        for one in taken.reservations:
            assert await self.broker.begin("default", one.id, one.delivery, deadline=soon())
        assert len(taken.reservations) == count
        return taken.reservations

    async def end(
        self, taken: Sequence[Reservation], verdict: Verdict, *, keep: bool = False, response: bytes = b""
    ) -> None:
        assert self._lease is not None
        ended = [Settlement(one.id, one.delivery, verdict, response) for one in taken]
        token = secrets.token_hex(4)
        await self.broker.exchange(self._lease, ended, token=token, want=0, room=0, keep=keep, deadline=soon())

    async def fail(self, *tasks: SealedTask, reason: str = "exhausted", response: bytes = b"") -> None:
        await self.push(*tasks)
        await self.end(await self.take(len(tasks)), replace(FAIL, reason=reason), response=response)


def queue_at(server: RedisServer) -> TaskQueue:
    """Return the queues of a server that the tests of the consumer use."""
    return TaskQueue(server.url, secret=SECRET, queues=["default", "mail", "mailhost"], namespace="taskqueue")


async def consume(server: TaskQueueServer) -> None:
    """Run a server that has its broker to itself, and close that."""
    try:
        await server.run()
    finally:
        await server._broker.aclose()


def soon() -> float:
    return time.monotonic() + 10
