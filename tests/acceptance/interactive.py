"""How long users wait while a consumer works in the web process: without a backlog, with one, and with ``adaptive``.

$ make interactive

A report for people. An application on uvicorn has two views for users, one that only answers and one that waits 10 ms
as for a query, and a task that computes for 3 ms and waits for 50. Requests come at a steady rate, whether earlier ones
are answered or not. The bar: with ``adaptive``, one in a hundred takes at most 1.2 times as long as without tasks.
"""

import asyncio
import functools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp

from taskqueue import TaskQueue
from tests.house import tree
from tests.servers import RedisServer, find_binaries, free_port
from tests.tasks import SECRET
from tests.waiting import until

TASKS: Final = 4000
LIMIT: Final = 10
RATE: Final = 50  # requests a second, to each view
WARM, SETTLE, MEASURE = 4.0, 15.0, 8.0  # seconds: before the backlog, before it counts, while it does
# Those of the consumer: the most tasks at a time, and whether it is adaptive.
WAYS: Final = {
    "no backlog": (LIMIT, True),
    "backlog, 10 at a time": (LIMIT, False),
    "backlog, 1 at a time": (1, False),
    "backlog, adaptive": (LIMIT, True),
}
BASE: Final = "no backlog"
VIEWS: Final = ("/cheap", "/query")
APPLICATION: Final = """
import asyncio, time
import taskqueue
from taskqueue.middleware.asgi import TaskQueueMiddleware

async def inner(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError
    if scope["path"] == "/query":
        await asyncio.sleep(0.01)
    if scope["path"] == "/task":
        await asyncio.sleep(0.025)
        end = time.thread_time() + 0.003
        while time.thread_time() < end:
            pass
        await asyncio.sleep(0.025)
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}})
    await send({{"type": "http.response.body", "body": b"ok"}})

app = TaskQueueMiddleware(
    inner, taskqueue.TaskQueue(), consume=taskqueue.Consume(concurrent_limit={limit}, adaptive={adaptive})
)
"""


@asynccontextmanager
async def application(folder: Path, url: str, limit: int, adaptive: object) -> AsyncIterator[str]:
    """Serve the application in a process of its own; yield its address."""
    (folder / "application.py").write_text(APPLICATION.format(limit=limit, adaptive=adaptive))
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "application:app", f"--port={port}", "--log-level=error"]
    environ = {"PYTHONPATH": str(tree.ROOT), "TASKQUEUE_SECRET": SECRET, "TASKQUEUE_URL": url}
    environ["TASKQUEUE_STOP_GRACE"] = "1"
    process = subprocess.Popen(command, cwd=folder, env=environ)  # noqa: ASYNC220  a moment
    base = f"http://127.0.0.1:{port}"

    async def answers() -> bool:
        try:
            async with aiohttp.request("GET", f"{base}/cheap") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    try:
        await until(answers, "the application answers")
        yield base
    finally:
        process.terminate()
        process.wait()


async def users(base: str, seconds: float) -> dict[str, list[float]]:
    """Make requests at the rate for so long; return what each took, in ms, from when it was due."""
    took: dict[str, list[float]] = {view: [] for view in VIEWS}

    async def visit(session: aiohttp.ClientSession, view: str, due: float) -> None:
        await asyncio.sleep(due - time.monotonic())
        async with session.get(base + view) as response:
            await response.read()
        took[view].append((time.monotonic() - due) * 1000)

    begin = time.monotonic() + 0.1
    step = 1 / RATE / len(VIEWS)
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for number in range(round(seconds / step)):
            group.create_task(visit(session, VIEWS[number % len(VIEWS)], begin + number * step))
    return took


async def measured(way: str, url: str) -> tuple[dict[str, list[float]], float]:
    """Return what requests took in one way, and how many tasks ran a second."""
    tq = TaskQueue(url, secret=SECRET, commit_deadline=60)
    with tempfile.TemporaryDirectory() as name:
        async with application(Path(name), url, *WAYS[way]) as base:
            await users(base, WARM)
            if way != BASE:
                async with tq.transaction():
                    for _ in range(TASKS):
                        tq.add("/task", method="POST")
            await users(base, SETTLE)
            before, began = await tq.size(), time.monotonic()
            took = await users(base, MEASURE)
            after, seconds = await tq.size(), time.monotonic() - began
        assert way == BASE or after > 0, "the backlog was too short"
    await tq.reset()
    await tq.aclose()
    return took, (before - after) / seconds


async def report(rounds: int) -> None:
    """Measure all ways in turn, so that a slow moment of the machine meets each of them, and print."""
    took: dict[str, list[dict[str, list[float]]]] = {way: [] for way in WAYS}
    speed: dict[str, list[float]] = {way: [] for way in WAYS}
    with RedisServer(find_binaries()["valkey9"]) as server:
        for _ in range(rounds):
            for way in WAYS:
                found, tasks = await measured(way, server.url)
                took[way].append(found)
                speed[way].append(tasks)
    say = functools.partial(print, flush=True)
    say(f"load average {os.getloadavg()[0]:.1f} at the end, {os.cpu_count()} cores; ms, median of {rounds} rounds")
    say(f"{'view':8} {'':22} {'p50':>8} {'p99':>8} {'p99 ratio':>10} {'of each round':>20} {'tasks/s':>8}")
    for view in VIEWS:
        for way in WAYS:
            p99s = [rank(one[view], 0.99) for one in took[way]]
            ratios = [
                rank(one[view], 0.99) / rank(base[view], 0.99) for one, base in zip(took[way], took[BASE], strict=True)
            ]
            p50 = statistics.median(rank(one[view], 0.5) for one in took[way])
            each = " ".join(f"{ratio:.2f}" for ratio in ratios)
            say(
                f"{view:8} {way:22} {p50:8.2f} {statistics.median(p99s):8.2f} {statistics.median(ratios):10.2f}"
                f" {each:>20} {statistics.median(speed[way]):8.1f}"
            )


def rank(values: list[float], part: float) -> float:
    """Return the least of the values that this part of them does not exceed."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


if __name__ == "__main__":
    asyncio.run(report(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
