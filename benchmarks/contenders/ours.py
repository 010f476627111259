"""Ours, as its README has it. Only the log is turned down to warnings, as the others write none for a task.

At least once: a task is reserved by its consumer until it is settled. Sealed, signed, leased.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from benchmarks import work
from taskqueue import TaskQueue

COMMON: Final = ("--name=bench", "--log-level=warning")


class Ours:
    """Each task in a transaction of its own, as a request would commit it."""

    def __init__(self, tq: TaskQueue) -> None:
        self._tq = tq

    def _add(self) -> None:
        self._tq.add(work.PATH, method="POST", headers=work.HEADERS, payload=work.BODY)

    async def one(self) -> None:
        """See Producer."""
        async with self._tq.transaction():
            self._add()

    async def many(self, count: int) -> bool:
        """See Producer."""
        async with self._tq.transaction():
            for _ in range(count):
                self._add()
        return True


@asynccontextmanager
async def producer() -> AsyncIterator[Ours]:
    """See Contender."""
    tq = TaskQueue(work.redis_url(), secret=work.SECRET)
    yield Ours(tq)
    await tq.aclose()


def consume(limit: int, variant: str) -> None:
    """See Contender. ``http``: to an application without our door; ``door``: to one with it; else in process."""
    from taskqueue.cli import server_main  # a producer has no need of it

    ways = {"http": [f"--target={work.target()}", "--no-receipt"], "door": [f"--target={work.target()}"]}
    app = [f"--app=benchmarks.apps:{variant}", *(["--no-receipt"] if variant == "bare" else [])]
    sys.argv = ["taskqueue-server", *COMMON, f"--concurrent-limit={limit}", *ways.get(variant, app)]
    server_main()
