"""What an operator's own code and log learn of tasks: a hook for each that has failed, the task's id on every line."""

import asyncio
import json
import logging
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

import taskqueue
from taskqueue import TaskLogFilter, hooks
from taskqueue.errors import AppNotFound
from taskqueue.hooks import FailedTask
from taskqueue.loading import function
from taskqueue.middleware import aiohttp as door
from taskqueue.replay import HttpReplayer
from taskqueue.server import TaskQueueServer
from tests.house import tree
from tests.servers import RedisServer, free_port
from tests.tasks import SECRET
from tests.waiting import until
from tests.work import consume

views: Final = logging.getLogger("shop.views")


@asynccontextmanager
async def shop(url: str) -> AsyncIterator[tuple[taskqueue.TaskQueue, str]]:
    """Serve an application with a door; yield its queue and its address."""

    async def view(request: web.Request) -> web.Response:
        views.info("at %s", request.path)
        return web.Response(status=int(request.query.get("status", "200")))

    app = web.Application()
    app.router.add_get("/{path:.*}", view)
    tq = taskqueue.TaskQueue(url, secret=SECRET, queues=["default"])
    door.setup(app, tq)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield tq, f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def consuming(tq: taskqueue.TaskQueue, target: str, **options: Any) -> AsyncIterator[TaskQueueServer]:
    """Run a consumer, and stop it in good order."""
    broker = taskqueue.TaskQueue(tq.url, secret=SECRET).broker
    replayer = HttpReplayer(target, tq.keyring)
    server = TaskQueueServer(broker, replayer, tq.keyring, name="one", queues=["default"], **options)
    job = asyncio.create_task(consume(server))
    try:
        yield server
    finally:
        server.stop()
        await job


async def reached(tq: taskqueue.TaskQueue, task_id: str, state: str) -> None:
    async def there() -> bool:
        found = await tq.get(task_id)
        return found is not None and found.state == state

    await until(there, f"the task is {state}")


# on_failed


class Tracker:
    """A hook, plain or async, that notes what it is told and may raise."""

    def __init__(self, error: Exception | None = None) -> None:
        self.told: list[FailedTask] = []
        self.threads: set[int] = set()
        self.error = error

    def plain(self, failed: FailedTask) -> None:
        self.told.append(failed)
        self.threads.add(threading.get_ident())
        if self.error is not None:
            raise self.error

    async def asynchronous(self, failed: FailedTask) -> None:
        self.plain(failed)


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
async def test_the_hook_is_told_of_a_task_that_has_failed(any_server: RedisServer, kind: str) -> None:
    tracker = Tracker()
    async with shop(any_server.url) as (tq, target), consuming(tq, target, on_failed=getattr(tracker, kind)):
        fine = await tq.push("/fine")
        gone = await tq.push("/gone", params={"status": 404, "token": "hush"}, label="a label")
        await reached(tq, fine, "completed")
        await reached(tq, gone, "failed")
    assert tracker.told == [
        FailedTask(
            id=gone,
            queue="default",
            method="GET",
            path="/gone",
            label="a label",
            reason="not-found",
            status=404,
            attempt=1,
            delivery=1,
        )
    ]
    # A plain hook may block, so it must not stand in the way of the loop.
    assert (threading.get_ident() in tracker.threads) is (kind == "asynchronous")


async def test_the_hook_is_told_of_a_record_that_cannot_be_opened(any_server: RedisServer) -> None:
    tracker = Tracker()
    async with shop(any_server.url) as (tq, target):
        spoilt = await tq.push("/x")
        any_server.client().hset("taskqueue:{default}:records", spoilt, b"garbage")
        async with consuming(tq, target, on_failed=tracker.plain):
            await reached(tq, spoilt, "failed")
    (failed,) = tracker.told
    assert (failed.id, failed.reason, failed.path) == (spoilt, "format", "")


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
async def test_a_hook_that_raises_is_logged_and_changes_nothing(
    any_server: RedisServer, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    tracker = Tracker(ValueError("the tracker is down"))
    async with shop(any_server.url) as (tq, target), consuming(tq, target, on_failed=getattr(tracker, kind)):
        gone = await tq.push("/gone?status=404")
        await reached(tq, gone, "failed")
        fine = await tq.push("/fine")
        await reached(tq, fine, "completed")
    assert len(tracker.told) == 1
    (logged,) = [record for record in caplog.records if "on_failed raised" in record.getMessage()]
    assert logged.levelno == logging.ERROR
    assert logged.exc_info is not None
    assert gone in logged.getMessage()


async def test_a_hook_that_never_returns_does_not_keep_a_consumer_from_its_end(
    any_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hooks, "PATIENCE", 0.05)

    async def hang(failed: FailedTask) -> None:
        await asyncio.Event().wait()

    async with shop(any_server.url) as (tq, target), consuming(tq, target, on_failed=hang):
        await reached(tq, await tq.push("/gone?status=404"), "failed")
    assert "on_failed raised" in caplog.text


HOOK: Final = """
import pathlib

def note(failed):
    pathlib.Path("noted").write_text(f"{failed.id} {failed.reason}")

number = 7
"""


async def test_the_command_imports_the_hook(any_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "tracking.py").write_text(HOOK)
    async with shop(any_server.url) as (tq, target):
        gone = await tq.push("/gone?status=404")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", "from taskqueue.cli import server_main; server_main()"),
            *("--name=one", "--target", target, "--url", any_server.url, "--on-failed", "tracking:note"),
            cwd=tmp_path,
            env={"TASKQUEUE_SECRET": SECRET, "PYTHONPATH": str(tree.ROOT)},
            stderr=asyncio.subprocess.PIPE,
        )
        await reached(tq, gone, "failed")
        process.terminate()
        _, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert all(json.loads(line) for line in err.splitlines())
    assert (tmp_path / "noted").read_text() == f"{gone} not-found"


@pytest.mark.parametrize(
    ("name", "words"),
    [("tracking:nothing", "no nothing"), ("absent:f", "no module absent"), ("tracking:number", "int")],
)
def test_a_hook_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    (tmp_path / "tracking.py").write_text(HOOK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tracking", raising=False)
    with pytest.raises(AppNotFound, match=f"^on_failed: .*{words}"):
        function("on_failed", name)


# The log filter


@pytest.fixture
def logged() -> Any:
    """Yield the records of the application's logger as a handler with the filter sees them."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.addFilter(TaskLogFilter())
    vars(handler)["emit"] = records.append
    views.addHandler(handler)
    views.setLevel(logging.INFO)
    yield records
    views.removeHandler(handler)


async def test_a_tasks_id_is_on_the_applications_own_lines(
    any_server: RedisServer, logged: list[logging.LogRecord]
) -> None:
    async with shop(any_server.url) as (tq, target), consuming(tq, target):
        hers = await tq.push("/hers", user_id="ada")
        await reached(tq, hers, "completed")
        nobodys = await tq.push("/nobodys")
        await reached(tq, nobodys, "completed")
    views.info("outside")
    first, second, outside = logged
    assert (vars(first)["task_id"], vars(first)["task_queue"]) == (hers, "default")
    assert (vars(first)["task_attempt"], vars(first)["task_user"]) == (1, "ada")
    assert vars(second)["task_id"] == nobodys
    assert "task_user" not in vars(second)
    assert "task_id" not in vars(outside)


def test_a_format_may_name_the_fields_everywhere() -> None:
    record = logging.makeLogRecord({"msg": "hello", "task_queue": "its own"})
    assert TaskLogFilter(default="-").filter(record)
    assert (
        logging.Formatter("%(task_id)s %(task_queue)s %(task_user)s %(message)s").format(record) == "- its own - hello"
    )
