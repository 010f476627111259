"""Be the producer of a contender: ``python -m benchmarks.produce NAME HOW AMOUNT...``; one JSON line tells what it did.

HOW is ``one`` (one at a time) or ``concurrent`` (100 coroutines, each one at a time) or ``bulk`` (1,000 in one go), for
AMOUNT seconds; ``latency``: AMOUNT tasks, 10 ms apart; ``paced``: so many a second, for so many seconds. Each of these
queues one task more, before the clock runs.
``fill``: AMOUNT tasks, as fast as it can.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from .contender import Producer, load, run
from .work import BULK, CONCURRENT

APART: Final = 0.01


async def one(producer: Producer, seconds: float) -> int:
    """Queue one after the other; return how many."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        await producer.one()
        count += 1
    return count


async def concurrent(producer: Producer, seconds: float) -> int:
    """Queue from many coroutines at once; return how many in all."""
    return sum(await asyncio.gather(*(one(producer, seconds) for _ in range(CONCURRENT))))


async def bulk(producer: Producer, seconds: float) -> int:
    """Queue many in one go, again and again; return how many in all, none if that cannot be."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end and await producer.many(BULK):
        count += BULK
    return count


async def fill(producer: Producer, amount: float) -> int:
    """Queue exactly so many."""
    count = left = int(amount)
    while left >= BULK and await producer.many(BULK):
        left -= BULK
    share, more = divmod(left, CONCURRENT)
    await asyncio.gather(*(_some(producer, share + (number < more)) for number in range(CONCURRENT)))
    return count


async def _some(producer: Producer, count: int) -> None:
    for _ in range(count):
        await producer.one()


HOW: Final[Mapping[str, Callable[[Producer, float], Awaitable[int]]]] = {
    "one": one,
    "concurrent": concurrent,
    "bulk": bulk,
    "fill": fill,
}


async def latency(producer: Producer, amount: int) -> dict[str, object]:
    """Queue now and then; return when each call began, and how long it took (monotonic seconds)."""
    starts, calls = list[float](), list[float]()
    for _ in range(amount):
        starts.append(time.monotonic())
        await producer.one()
        calls.append(time.monotonic() - starts[-1])
        await asyncio.sleep(APART)
    return {"starts": starts, "calls": calls}


async def paced(producer: Producer, rate: float, seconds: float) -> dict[str, object]:
    """Queue at this rate, each millisecond those that are due, whether or not earlier calls have returned."""
    starts, calls = list[float](), list[float]()

    async def call(started: float) -> None:
        await producer.one()
        calls.append(time.monotonic() - started)

    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while (now := time.monotonic()) - begun < seconds:
            while len(starts) < (now - begun) * rate:
                starts.append(time.monotonic())
                group.create_task(call(starts[-1]))
            await asyncio.sleep(0.001)
    return {"starts": starts, "calls": calls}


async def main(name: str, how: str, *amounts: str) -> None:
    """Connect, do it, tell."""
    async with load(name).producer() as producer:
        if how != "fill":
            await producer.one()  # connects, and loads scripts
        if how == "latency":
            told = await latency(producer, int(amounts[0]))
        elif how == "paced":
            told = await paced(producer, *map(float, amounts))
        else:
            began, cpu = time.monotonic(), time.process_time()
            count = await HOW[how](producer, float(amounts[0]))
            told = {"count": count, "seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}
    print(json.dumps(told))  # noqa: T201  the answer


if __name__ == "__main__":
    run(main(*sys.argv[1:]))
