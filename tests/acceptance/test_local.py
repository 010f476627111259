"""An application, its door and its consumer in one process, with nothing beside it: the whole story on ``local://``."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

import taskqueue
from taskqueue import cli
from taskqueue.inprocess import AiohttpReplayer, AsgiReplayer
from taskqueue.middleware import aiohttp as aiohttp_door
from taskqueue.replay import Replayer
from taskqueue.server import TaskQueueServer
from tests.doors import (
    Handlers,
    Reply,
    View,
    adding,
    aiohttp_app,
    behind_asgi_door,
    fetch,
    serving,
    serving_aiohttp,
    serving_asgi,
)
from tests.house import tree
from tests.stores import LocalStore
from tests.waiting import until

pytestmark = pytest.mark.accept("CT35")

NEVER: Final = 3600.0


@asynccontextmanager
async def served(kind: str, handlers: Handlers, tq: taskqueue.TaskQueue) -> AsyncIterator[tuple[str, Replayer]]:
    """Serve these handlers behind their door; yield the address, and the way for a consumer in this process."""
    if kind == "aiohttp":
        app = aiohttp_app(handlers)
        aiohttp_door.setup(app, tq)
        async with serving_aiohttp(app) as base:
            yield base, AiohttpReplayer(app, tq.keyring, started=True)
    else:
        called: Any = behind_asgi_door(kind, handlers, tq)
        async with serving_asgi(called) as base:
            yield base, AsgiReplayer(called, started=True)


@asynccontextmanager
async def shop(kind: str, handlers: Handlers, tq: taskqueue.TaskQueue) -> AsyncIterator[str]:
    """Serve, with a consumer beside it that is woken by hints alone; yield the address."""
    async with served(kind, handlers, tq) as (base, replayer):
        server = TaskQueueServer(
            tq.broker, replayer, tq.keyring, name="inside", queues=tq.queues, concurrent_limit=2, poll_max=NEVER
        )
        job = asyncio.create_task(server.run())
        try:
            yield base
        finally:
            server.stop()
            await job


@pytest.mark.parametrize("kind", ["aiohttp", "starlette"])
async def test_what_is_committed_runs_in_the_same_process_and_what_is_aborted_never(kind: str) -> None:
    tq = taskqueue.TaskQueue(LocalStore().url, queues=["default"])
    ran: list[str] = []

    async def build(view: View) -> Reply:
        task = taskqueue.current_task()
        assert task is not None
        ran.append(task.id)
        if view.headers.get("X-Then"):
            taskqueue.add("/build", method="POST", payload=None, headers={"X-Then": ""})
        return Reply()

    handlers = {
        "/order": adding("/build", method="POST", payload=None, headers={"X-Then": "another"}),
        "/refuse": adding("/build", method="POST", payload=None, reply=Reply(422)),
        "/build": build,
    }
    async with shop(kind, handlers, tq) as base:
        assert (await fetch("POST", f"{base}/refuse")).status == 422
        task_id = (await fetch("POST", f"{base}/order")).text

        async def both_ran() -> bool:
            return len(ran) == 2 and (await tq.broker.inspector.stats("default", deadline=_soon())).completed == 2

        await until(both_ran, "the task and the one that it added have completed")
    state = await tq.get(task_id)
    assert state is not None
    assert (state.state, state.status, state.attempt) == ("completed", 200, 1)
    assert ran[0] == task_id
    await tq.aclose()


@pytest.mark.parametrize("kind", ["aiohttp", "starlette"])
async def test_the_door_may_bring_the_consumer(kind: str) -> None:
    tq = taskqueue.TaskQueue(LocalStore().url, queues=["default"])
    ran = asyncio.Event()

    async def build(_view: View) -> Reply:
        ran.set()
        return Reply()

    handlers = {"/order": adding("/build", method="POST", payload=None), "/build": build}
    async with serving(kind, handlers, tq, consume="inside") as base:
        await fetch("POST", f"{base}/order")
        await ran.wait()


def _soon() -> float:
    return asyncio.get_running_loop().time() + 10


def test_synchronous_code_wakes_a_consumer_in_another_loop() -> None:
    tq = taskqueue.TaskQueue(LocalStore().url, queues=["default"], public_url="https://example.org")
    ran = asyncio.Event()

    async def build(_view: View) -> Reply:
        ran.set()
        return Reply()

    async def consume() -> None:
        async with shop("starlette", {"/build": build}, tq):
            await asyncio.to_thread(tq.push_sync, "/build")
            await ran.wait()

    asyncio.run(consume())


APPLICATION: Final = """
import asyncio, os, signal
from aiohttp import web
import taskqueue
from taskqueue.middleware import aiohttp as door

tq = taskqueue.TaskQueue("local://", queues=["default"], public_url="https://example.org")

async def first(request):
    taskqueue.add("/second")
    return web.Response()

async def second(request):
    print("second", request.headers["X-Task-Id"], flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    return web.Response()

async def started(app):
    await tq.push("/first")

app = web.Application()
app.add_routes([web.get("/first", first), web.get("/second", second)])
app.on_startup.append(started)
door.setup(app, tq)
"""


def test_a_server_that_calls_the_application_serves_what_that_adds(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(APPLICATION)
    done = subprocess.run(
        [sys.executable, "-c", "from taskqueue.cli import server_main; server_main()", "--name=one", "--app=main:app"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tree.ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("second ")
    assert "the store is inside this process: what waits when it ends is lost" in done.stderr


class TestFromOutside:
    """Another process would only ever see a store of its own, and an empty one."""

    @pytest.mark.parametrize(
        "command",
        [
            ["list"],
            ["stats"],
            ["queues"],
            ["queues", "pause", "default"],
            ["show", "id"],
            ["retry", "id"],
            ["retry", "--all", "--yes"],
        ],
        ids=" ".join,
    )
    def test_a_command_says_so(self, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(cli.app, [*command, "--url", "local://shop"]) == 78
        told = capsys.readouterr()
        assert told.out == ""
        assert "url: 'local://shop' is inside the process that uses it, and this one would find an empty" in told.err
        assert "ask inside the application" in told.err

    def test_the_doctor_says_so(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TASKQUEUE_URL", "local://")
        assert cli.run(cli.app, ["doctor"]) == 1
        told = capsys.readouterr().out
        assert "error" in told
        assert "is inside the process that uses it" in told
        assert "remedy: ask inside the application" in told
        assert "persistence" not in told

    def test_a_server_with_a_target_says_so(self, capsys: pytest.CaptureFixture[str]) -> None:
        flags = ["--name=one", "--target=http://127.0.0.1:1", "--url=local://"]
        assert cli.run(cli.server_app, flags) == 78
        assert "give --app instead of --target, or run a TaskQueueServer inside" in capsys.readouterr().err
