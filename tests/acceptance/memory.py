"""How much memory a consumer takes: idle, with large bodies in flight, and while responses come without end.

$ make memory

A report for people, on Linux; what it depends on is asserted in test_memory.py. The bar: what a consumer takes beyond
idle is at most its bodies in flight, and 64 KiB for each.
"""

import asyncio
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from taskqueue import TaskQueue
from tests.house import tree
from tests.servers import RedisServer, find_binaries
from tests.shop import reached
from tests.tasks import SECRET
from tests.waiting import until

BODY: Final = 2 * 1024 * 1024
IN_FLIGHT: Final = 10
ALLOWED: Final = IN_FLIGHT * (BODY + 64 * 1024)
SERVE: Final = "from taskqueue.cli import server_main; server_main()"

# Every application notes that it holds a task by a file, and lets all go by another one.
HOLDING: Final = """
import asyncio, os
PIECES = 1600  # of 64 KiB, for each
HERE = os.path.dirname(os.path.abspath(__file__))

async def hold(task_id):
    open(os.path.join(HERE, "held-" + task_id), "w").close()
    while not os.path.exists(os.path.join(HERE, "let-go")):
        await asyncio.sleep(0.01)
"""
ASGI: Final = """
import asyncio
import taskqueue
from holding import PIECES, hold
from taskqueue.middleware.asgi import TaskQueueMiddleware

async def inner(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError
    body = (await receive())["body"]
    if scope["path"] == "/hold":
        await hold(dict(scope["headers"])[b"x-task-id"].decode())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(PIECES if scope["path"] == "/endless" else 0):
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})

app = TaskQueueMiddleware(inner, taskqueue.TaskQueue())
"""
AIOHTTP: Final = """
import taskqueue
from aiohttp import web
from holding import PIECES, hold
from taskqueue.middleware.aiohttp import setup

async def view(request):
    body = await request.read()
    if request.path == "/hold":
        await hold(request.headers["X-Task-Id"])
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(PIECES if request.path == "/endless" else 0):
        await response.write(bytes(65536))
    return response

app = web.Application(client_max_size=1 << 26)
app.router.add_route("*", "/{path:.*}", view)
setup(app, taskqueue.TaskQueue())
"""


@dataclass
class Consumer:
    """The process of a consumer, seen from outside."""

    pid: int

    def _field(self, name: str) -> int:
        (line,) = [
            line for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if line.startswith(f"{name}:")
        ]
        return int(line.split()[1]) * 1024

    @property
    def now(self) -> int:
        """Bytes resident."""
        return self._field("VmRSS")

    @property
    def most(self) -> int:
        """The most bytes that were resident since ``forget``."""
        return self._field("VmHWM")

    def forget(self) -> None:
        """Begin a new maximum."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@asynccontextmanager
async def consumer(folder: Path, url: str, *arguments: str) -> AsyncIterator[Consumer]:
    """Run a consumer."""
    environ = {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}  # noqa: TID251  libc's
    environ |= {"PYTHONPATH": str(tree.ROOT), "TASKQUEUE_SECRET": SECRET, "TASKQUEUE_URL": url}
    command = [sys.executable, "-c", SERVE, "--name=i", f"--concurrent-limit={IN_FLIGHT}", "--log-level=error"]
    process = subprocess.Popen([*command, *arguments], cwd=folder, env=environ)  # noqa: ASYNC220  a moment
    try:
        yield Consumer(process.pid)
    finally:
        process.terminate()
        process.wait()


async def measured(folder: Path, tq: TaskQueue, process: Consumer) -> tuple[int, list[tuple[str, int, int]]]:
    """Return the bytes of an idle consumer, and what it takes beyond them: (what, then, at most)."""

    async def run(target: str, count: int, payload: bytes) -> list[str]:
        async with tq.transaction():
            return [tq.add(target, method="POST", payload=payload) for _ in range(count)]

    async def ended(ids: list[str]) -> None:
        for task_id in ids:
            await reached(tq, task_id, "completed")

    await ended(await run("/warm", 3 * IN_FLIGHT, b"x"))
    idle, rows = process.now, list[tuple[str, int, int]]()
    process.forget()
    held = await run("/hold", IN_FLIGHT, bytes(BODY))
    await until(lambda: _value(len(list(folder.glob("held-*"))) == IN_FLIGHT), "all are held", limit=60)
    rows.append(("bodies in flight", process.now - idle, process.most - idle))
    (folder / "let-go").touch()
    await ended(held)
    process.forget()
    before = process.now
    streams = await run("/endless", IN_FLIGHT, b"x")
    await ended(streams)
    rows.append(("endless responses", process.now - before, process.most - before))
    process.forget()
    for _ in range(10):
        await ended(await run("/hold", IN_FLIGHT, bytes(BODY)))
    rows.append(("after 100 bodies more", process.now - idle, process.most - idle))
    return idle, rows


async def _value(value: bool) -> bool:  # noqa: FBT001
    return value


@asynccontextmanager
async def web_server(folder: Path) -> AsyncIterator[str]:
    """Run the application here, for replays over HTTP; yield its address."""
    sys.path.insert(0, str(folder))
    runner = web.AppRunner(importlib.import_module("application").app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def report(way: str) -> None:
    """Measure one way and print it."""
    with tempfile.TemporaryDirectory() as name, RedisServer(find_binaries()["valkey9"]) as server:
        folder = Path(name)
        (folder / "holding.py").write_text(HOLDING)
        (folder / "application.py").write_text(ASGI if way == "asgi" else AIOHTTP)
        os.environ |= {"TASKQUEUE_SECRET": SECRET, "TASKQUEUE_URL": server.url}  # noqa: TID251  the application's
        tq = TaskQueue(server.url, secret=SECRET)
        if way == "http":
            async with web_server(folder) as target, consumer(folder, server.url, f"--target={target}") as process:
                idle, rows = await measured(folder, tq, process)
        else:
            async with consumer(folder, server.url, "--app=application:app") as process:
                idle, rows = await measured(folder, tq, process)
        await tq.aclose()
    for what, then, most in rows:
        print(f"{way:8} {what:22} {_mib(idle)} {_mib(then)} {_mib(most)} {_mib(ALLOWED)}")  # noqa: T201


def _mib(size: int) -> str:
    return f"{size / 1024 / 1024:10.1f}"


if __name__ == "__main__":
    print(f"{'way':8} {'MiB':22} {'idle':>10} {'beyond':>10} {'at most':>10} {'the bar':>10}")  # noqa: T201
    for each in sys.argv[1:] or ("http", "asgi", "aiohttp"):
        asyncio.run(report(each))
