"""taskiq with a Redis stream: of its brokers the one that acknowledges, here when the task has been executed.

The list broker is as fast and loses what a dead worker had taken. ORJSON serialiser and no parsing of parameters: the
fastest it has; the body travels as text, latin-1, as JSON holds no bytes. Prefetch as many as the limit. No result
backend. The worker runs in this process (taskiq.api), which spares it a parent process. uvloop.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from taskiq.acks import AcknowledgeType
from taskiq.api import run_receiver_task
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisStreamBroker

from benchmarks import work
from benchmarks.contender import run
from benchmarks.contenders.http import send, session

_shared: Final[list[Any]] = []


async def _replay(path: str, headers: dict[str, str], body: str) -> None:
    await send(_shared[0], path, headers, body.encode("latin-1"))


def _broker() -> tuple[Any, Any]:
    broker = RedisStreamBroker(work.redis_url()).with_serializer(ORJSONSerializer())
    return broker, broker.register_task(_replay, task_name="replay")


class Taskiq:
    """One message a task; it has no way to queue many in one go."""

    def __init__(self, task: Any) -> None:
        self._task = task

    async def one(self) -> None:
        """See Producer."""
        await self._task.kiq(work.PATH, work.HEADERS, work.BODY.decode("latin-1"))

    async def many(self, count: int) -> bool:
        """See Producer."""
        return count == 0


@asynccontextmanager
async def producer() -> AsyncIterator[Taskiq]:
    """See Contender."""
    broker, task = _broker()
    await broker.startup()
    yield Taskiq(task)
    await broker.shutdown()


async def _main(limit: int) -> None:
    broker, _ = _broker()
    broker.is_worker_process = True
    async with session() as shared:
        _shared.append(shared)
        await run_receiver_task(
            broker,
            validate_params=False,
            max_async_tasks=limit,
            max_prefetch=limit,
            run_startup=True,
            ack_time=AcknowledgeType.WHEN_EXECUTED,
        )
        await asyncio.Event().wait()


def consume(limit: int, variant: str) -> None:
    """See Contender."""
    if variant != "http":
        raise ValueError(f"taskiq: knows no {variant}")
    run(_main(limit))
