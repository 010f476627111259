"""SAQ: acknowledges late; retries=3, because with its default, 1, what a dead worker had is given up.

ttl=-1 keeps no result. orjson. max_concurrent_ops=100: the default is 20. The body travels as text, latin-1. uvloop.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from redis.asyncio import Redis
from saq import Worker
from saq.queue.redis import RedisQueue

from benchmarks import work
from benchmarks.contender import run
from benchmarks.contenders.http import send, session


async def replay(context: dict[str, Any], *, path: str, headers: dict[str, str], body: str) -> None:
    """Do the work."""
    await send(context["session"], path, headers, body.encode("latin-1"))


def _queue() -> Any:
    return RedisQueue(
        Redis.from_url(work.redis_url()), dump=orjson.dumps, load=orjson.loads, max_concurrent_ops=work.CONCURRENT
    )


class Saq:
    """One job a task; it has no way to queue many in one go."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    async def one(self) -> None:
        """See Producer."""
        await self._queue.enqueue(
            "replay", path=work.PATH, headers=work.HEADERS, body=work.BODY.decode("latin-1"), ttl=-1, retries=3
        )

    async def many(self, count: int) -> bool:
        """See Producer."""
        return count == 0


@asynccontextmanager
async def producer() -> AsyncIterator[Saq]:
    """See Contender."""
    queue = _queue()
    await queue.connect()
    yield Saq(queue)
    await queue.disconnect()


async def _main(limit: int) -> None:
    async with session() as shared:

        async def startup(context: Any) -> None:
            context["session"] = shared

        await Worker(_queue(), functions=[replay], concurrency=limit, startup=startup).start()


def consume(limit: int, variant: str) -> None:
    """See Contender."""
    if variant != "http":
        raise ValueError(f"saq: knows no {variant}")
    run(_main(limit))
