"""arq: late acknowledgement is its default, a job is found again by its time-out.

keep_result=0: a result nobody reads costs two commands. poll_delay=0.001: the default, 0.5 s, makes two tasks a second
at limit 1; this one costs CPU when idle. Pickle is its default, and the fastest it has. uvloop. Needs redis-py 5.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq.connections import ArqRedis, RedisSettings, create_pool
from arq.worker import Worker

from benchmarks import work
from benchmarks.contender import run
from benchmarks.contenders.http import send, session


async def replay(context: dict[str, Any], path: str, headers: dict[str, str], body: bytes) -> None:
    """Do the work."""
    await send(context["session"], path, headers, body)


class Arq:
    """One job a task; arq has no way to queue many in one go."""

    def __init__(self, pool: ArqRedis) -> None:
        self._pool = pool

    async def one(self) -> None:
        """See Producer."""
        await self._pool.enqueue_job("replay", work.PATH, work.HEADERS, work.BODY)

    async def many(self, count: int) -> bool:
        """See Producer."""
        return count == 0


@asynccontextmanager
async def producer() -> AsyncIterator[Arq]:
    """See Contender."""
    pool = await create_pool(RedisSettings.from_dsn(work.redis_url()))
    yield Arq(pool)
    await pool.aclose()


async def _main(limit: int) -> None:
    async with session() as shared:
        worker = Worker(
            [replay],
            redis_settings=RedisSettings.from_dsn(work.redis_url()),
            max_jobs=limit,
            poll_delay=0.001,
            keep_result=0,
            handle_signals=False,
            ctx={"session": shared},
        )
        await worker.async_run()


def consume(limit: int, variant: str) -> None:
    """See Contender."""
    if variant != "http":
        raise ValueError(f"arq: knows no {variant}")
    run(_main(limit))
