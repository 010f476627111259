"""docket: a Redis stream, acknowledged late by default.

execution_ttl=0 keeps no result. max_connections=1000: redis-py's default, 100, stops it at limit 100.
minimum_check_interval=1 ms: the default, 250 ms, makes four tasks a second at limit 1. uvloop.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

from docket import Docket, Worker

from benchmarks import work
from benchmarks.contender import run
from benchmarks.contenders.http import send, session

_shared: Final[list[Any]] = []


async def replay(path: str, headers: dict[str, str], body: bytes) -> None:
    """Do the work."""
    await send(_shared[0], path, headers, body)


def _docket() -> Any:
    url = f"{work.redis_url()}?max_connections=1000"
    return Docket(name="bench", url=url, execution_ttl=timedelta(0))


class Producing:
    """One message a task; many in one go are as many calls."""

    def __init__(self, docket: Any) -> None:
        self._docket = docket

    async def one(self) -> None:
        """See Producer."""
        await self._docket.add(replay)(work.PATH, work.HEADERS, work.BODY)

    async def many(self, count: int) -> bool:
        """See Producer."""
        return count == 0


@asynccontextmanager
async def producer() -> AsyncIterator[Producing]:
    """See Contender."""
    async with _docket() as docket:
        docket.register(replay)
        yield Producing(docket)


async def _main(limit: int) -> None:
    async with session() as shared, _docket() as docket:
        _shared.append(shared)
        docket.register(replay)
        interval = timedelta(milliseconds=1)
        async with Worker(docket, concurrency=limit, minimum_check_interval=interval) as worker:
            await worker.run_forever()


def consume(limit: int, variant: str) -> None:
    """See Contender."""
    if variant != "http":
        raise ValueError(f"docket: knows no {variant}")
    run(_main(limit))
