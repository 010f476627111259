"""Celery, with threads: acks_late, because by default it forgets a task before it has run; and no results.

Prefetch is at least 200, or four times the limit, which is its default: with less it waits for Redis. No gossip, no
mingle, no heartbeat, no events: these are for people who watch. A synchronous client, urllib3, with one pool for all
threads, and as many threads as the limit; prefork would use both cores. The body travels as text, latin-1, in JSON.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final

import urllib3
from celery import Celery

from benchmarks import work

PREFETCH: Final = 200

_pool: Final = urllib3.PoolManager(maxsize=work.CONCURRENT, block=False)


def _replay(path: str, headers: dict[str, str], body: str) -> None:
    answer = _pool.request("POST", work.target() + path, headers=headers, body=body.encode("latin-1"))
    if answer.status >= 300:
        raise RuntimeError(answer.status)


def _app(limit: int) -> tuple[Any, Any]:
    app = Celery("bench", broker=work.redis_url(), set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=max(4, PREFETCH // limit),
        broker_pool_limit=work.CONCURRENT,
        broker_connection_retry_on_startup=True,
    )
    return app, app.task(_replay, name="replay")


class Producing:
    """One message a task, each sent in a thread: it has no coroutines, and no way to queue many in one go."""

    def __init__(self, task: Any, threads: ThreadPoolExecutor) -> None:
        self._task, self._threads = task, threads

    def _send(self) -> None:
        self._task.apply_async((work.PATH, work.HEADERS, work.BODY.decode("latin-1")))

    async def one(self) -> None:
        """See Producer."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._send)

    async def many(self, count: int) -> bool:
        """See Producer."""
        return count == 0


@asynccontextmanager
async def producer() -> AsyncIterator[Producing]:
    """See Contender."""
    with ThreadPoolExecutor(work.CONCURRENT) as threads:
        yield Producing(_app(1)[1], threads)


def consume(limit: int, variant: str) -> None:
    """See Contender."""
    if variant != "http":
        raise ValueError(f"celery: knows no {variant}")
    app, _ = _app(limit)
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR"]
    app.worker_main(["--quiet", "worker", "--pool=threads", f"--concurrency={limit}", *quiet])
