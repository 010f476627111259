"""A consumer does the same in both event loops: uvloop's where that is installed, asyncio's own where it is not."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from aiohttp import web

from taskqueue import TaskQueue
from tests.acceptance.test_cli import SECRET, consuming
from tests.house import tree
from tests.servers import RedisServer
from tests.target import listening
from tests.waiting import until


def variables(loop: str, folder: Path) -> dict[str, str]:
    """Return those with which a process finds uvloop, or does not."""
    if loop == "uvloop":
        return {}
    (folder / "uvloop.py").write_text("raise ImportError\n")
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(tree.ROOT)))}


def became(tq: TaskQueue, task_id: str, state: str, reason: str = "") -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        now = await tq.get(task_id)
        return now is not None and (now.state, now.reason) == (state, reason)

    return condition


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_both_loops(any_server: RedisServer, loop: str, tmp_path: Path) -> None:
    """Many at a time, one past its time, one that runs while the consumer is told to stop."""
    arguments = ("--name=i", f"--url={any_server.url}", "--no-receipt", "--concurrent-limit=4", "--poll-max=0.05")
    async with listening() as target, aclosing(TaskQueue(any_server.url, secret=SECRET)) as tq:

        async def handler(request: web.Request) -> web.StreamResponse:
            if request.path == "/endless":
                await asyncio.Event().wait()
            return await target.gated(request) if request.path == "/held" else web.Response()

        target.handler = handler
        with consuming(tmp_path, *arguments, f"--target={target.url}", **variables(loop, tmp_path)) as consumer:
            assert consumer.entries()[0]["loop"] == loop
            plain = [await tq.push(f"/{number}", payload=b"x" * 1000) for number in range(20)]
            endless = await tq.push("/endless", timeout=0.1, retry_max_count=0)
            await until(became(tq, endless, "failed", "exhausted"), "the time of one is over")
            for task_id in plain:
                await until(became(tq, task_id, "completed"), "the others are done")
            held = await tq.push("/held")
            await target.started(22)
            consumer.process.send_signal(signal.SIGTERM)
            consumer.says("stopping: 1 task(s) running")
            target.gate.set()
            assert await asyncio.to_thread(consumer.process.wait, 20) == 0
        await until(became(tq, held, "completed"), "the last is done")
        assert sorted(target.done) == sorted([*(f"/{number}" for number in range(20)), "/held"])
