"""The producer of a chaos run: adds tasks and writes down, before and after each commit, what it was told.

``python -m tests.chaos.producer TARGET BUILD SEED``. Each line on its standard input is a number of tasks to add, about
that many a second; at the end of the input it adds what is still to be added, and ends. Most transactions are its own,
some are requests to the application, which commits them at its door; some are aborted.
"""

import asyncio
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiohttp

import taskqueue
from taskqueue import CommitUncertain, TaskQueueError
from tests.chaos import builds
from tests.chaos.ledger import Ledger

WORKERS: Final = 4
MOST: Final = 12
ABORTED: Final = 0.05
BY_REQUEST: Final = 0.2


class Aborted(Exception):
    """What goes wrong in a handler."""


class Producer:
    """Adds the tasks ``k1``, ``k2``, ... as they are ordered."""

    def __init__(self, ledger: Ledger, target: str, chance: random.Random) -> None:
        self._tq = taskqueue.TaskQueue()
        self._ledger, self._target, self._chance = ledger, target, chance
        self._ordered, self._added, self._rate = 0, 0, 1.0
        self._closed = False
        self._news = asyncio.Condition()

    async def run(self) -> None:
        """Work until the orders end."""
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work(session))
            while line := await asyncio.to_thread(sys.stdin.readline):
                await self._order(int(line))
            await self._order(0, last=True)
        await self._tq.aclose()

    async def _order(self, count: int, *, last: bool = False) -> None:
        async with self._news:
            self._ordered, self._closed = self._ordered + count, last
            self._rate = max(self._rate, count / WORKERS)
            self._news.notify_all()

    async def _take(self) -> Sequence[str]:
        async with self._news:
            await self._news.wait_for(lambda: self._added < self._ordered or self._closed)
            first = self._added + 1
            self._added = min(self._ordered, self._added + self._chance.randint(1, MOST))
            return [f"k{number}" for number in range(first, self._added + 1)]

    async def _work(self, session: aiohttp.ClientSession) -> None:
        while keys := await self._take():
            self._ledger.note("adding", *keys)
            by_request = self._chance.random() < BY_REQUEST
            aborts = self._chance.random() < ABORTED
            outcome = await (self._request(session, keys, aborts) if by_request else self._commit(keys, aborts))
            self._ledger.note(outcome, *keys)
            await asyncio.sleep(len(keys) / self._rate)

    async def _commit(self, keys: Sequence[str], aborts: bool) -> str:  # noqa: FBT001
        try:
            async with self._tq.transaction():
                for key in keys:
                    self._tq.add(f"/job/{key}", "POST", payload=None)
                if aborts:
                    raise Aborted  # noqa: TRY301  what goes wrong in a handler
        except Aborted:
            return "aborted"
        except CommitUncertain:
            return "uncertain"
        except TaskQueueError:
            return "refused"
        return "acknowledged"

    async def _request(self, session: aiohttp.ClientSession, keys: Sequence[str], aborts: bool) -> str:  # noqa: FBT001
        url = f"{self._target}/enter" + ("?abort=yes" if aborts else "")
        try:
            async with session.post(url, data=" ".join(keys)) as response:
                await response.read()
        except aiohttp.ClientConnectorError:
            return "refused"
        except aiohttp.ClientError:
            return "aborted" if aborts else "uncertain"
        if aborts:
            return "aborted"
        return "acknowledged" if response.status == 200 else "uncertain"


async def main(target: str, build: str, seed: str) -> None:
    """Produce."""
    builds.apply(build)
    with Ledger(Path("ledger"), "producer") as ledger:
        await Producer(ledger, target, random.Random(seed)).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
