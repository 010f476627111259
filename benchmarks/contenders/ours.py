"""Ours, as its README has it. Only the log is turned down to warnings, as the others write none for a task.

At least once: a task is reserved by its consumer until it is settled. Sealed, signed, leased.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from benchmarks import work
from taskqueue import TaskQueue

COMMON: Final = (f"--name=bench-{os.getpid()}", "--log-level=warning")


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
    """See Contender.

    ``http``: to an application without our door; ``keep``: the same, and all that completes stays in the log;
    ``workers2``: the same from two processes; ``door``: to an application with it; else in process.
    """
    from taskqueue.cli import server_main  # a producer has no need of it

    target = f"--target={work.target()}"
    http = [target, "--no-receipt"]
    ways = {"http": http, "keep": [*http, "--keep=all"], "workers2": [*http, "--workers=2"], "door": [target]}
    app = [f"--app=benchmarks.apps:{variant}", *(["--no-receipt"] if variant == "bare" else [])]
    sys.argv = ["taskqueue-server", *COMMON, f"--concurrent-limit={limit}", *ways.get(variant, app)]
    server_main()
