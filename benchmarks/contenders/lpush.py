"""No queue, the limit of producers: redis-py pushes body and headers into a list, and waits for the answer."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio

from benchmarks import work


class Lpush:
    """One LPUSH a task."""

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._client = client

    async def one(self) -> None:
        """See Producer."""
        head = json.dumps(["POST", work.PATH, work.HEADERS]).encode()
        await self._client.lpush("bench", head + work.BODY)

    async def many(self, count: int) -> bool:
        """See Producer."""
        head = json.dumps(["POST", work.PATH, work.HEADERS]).encode()
        await self._client.lpush("bench", *[head + work.BODY for _ in range(count)])
        return True


@asynccontextmanager
async def producer() -> AsyncIterator[Lpush]:
    """See Contender."""
    async with redis.asyncio.Redis.from_url(work.redis_url()) as client:
        yield Lpush(client)


def consume(limit: int, variant: str) -> None:
    """See Contender."""
    raise NotImplementedError(f"lpush consumes nothing ({limit}, {variant})")
