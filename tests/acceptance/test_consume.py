"""A consumer in the web process, in processes of its own: workers, deaths, and a taskqueue-server for the same code."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from taskqueue import TaskQueue
from tests.acceptance import test_cli
from tests.acceptance.test_cli import SECRET
from tests.doors import fetch
from tests.house import tree
from tests.invariants import assert_invariants
from tests.servers import RedisServer, free_port
from tests.shop import reached
from tests.waiting import until, wait_until

APPLICATION: Final = """
import asyncio, os, pathlib
import taskqueue
from taskqueue.middleware.asgi import TaskQueueMiddleware

tq = taskqueue.TaskQueue()

async def inner(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError
    if scope["path"] != "/":
        with open("ran", "a") as ran:
            print(os.getpid(), file=ran)
    while scope["path"] == "/waits" and not pathlib.Path("let-go").exists():
        await asyncio.sleep(0.01)
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b""}})

app = TaskQueueMiddleware(inner, tq, consume={consume})
"""


class Web:
    """A web server with the application, and what it says."""

    def __init__(self, folder: Path, url: str, *options: str) -> None:
        self.port = free_port()
        self._log = folder / f"log-{self.port}"
        command = [sys.executable, "-m", "uvicorn", "main:app", "--port", str(self.port), *options]
        variables = {"TASKQUEUE_URL": url, "TASKQUEUE_SECRET": SECRET, "TASKQUEUE_LEASE": "2"}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env={"PYTHONPATH": str(tree.ROOT), **variables}, stdout=log, stderr=log
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def answers(self) -> None:
        async def answer() -> bool:
            try:
                return (await fetch("GET", f"http://127.0.0.1:{self.port}/")).status == 200
            except OSError:
                return False

        await until(answer, f"it answers, not {self.log}")


@contextmanager
def serving(folder: Path, url: str, *options: str) -> Iterator[Web]:
    web = Web(folder, url, *options)
    try:
        yield web
        web.process.terminate()
        web.process.wait(20)
    finally:
        web.process.kill()
        web.process.wait()


@pytest.fixture
async def tq(any_server: RedisServer) -> AsyncIterator[TaskQueue]:
    queue = TaskQueue(any_server.url, secret=SECRET)
    yield queue
    await queue.aclose()
    assert_invariants(any_server.client())


def write(folder: Path, consume: str) -> None:
    (folder / "main.py").write_text(APPLICATION.format(consume=consume))


def ran(folder: Path) -> list[int]:
    """Return the processes in which tasks have begun."""
    return [int(pid) for pid in (folder / "ran").read_text().split()] if (folder / "ran").exists() else []


def consumers(any_server: RedisServer) -> set[bytes]:
    found: set[bytes] = any_server.client().smembers("taskqueue:{default}:consumers")  # type: ignore[assignment]
    return found


async def test_what_a_killed_web_process_had_under_way_runs_in_another(
    tq: TaskQueue, any_server: RedisServer, tmp_path: Path
) -> None:
    write(tmp_path, "taskqueue.Consume(concurrent_limit=3, adaptive=False)")
    tasks = [await tq.push("/waits") for _ in range(5)]
    with serving(tmp_path, any_server.url) as dying:
        wait_until(lambda: len(ran(tmp_path)) == 3, "three have begun")
        dying.process.kill()
        dying.process.wait()
    with serving(tmp_path, any_server.url) as other:
        wait_until(lambda: ran(tmp_path).count(other.process.pid) == 2 + 1, "it is as full as may be")
        (tmp_path / "let-go").touch()
        deliveries = [(await reached(tq, task_id, "completed")).delivery for task_id in tasks]
    assert deliveries == [2, 2, 2, 1, 1]
    assert consumers(any_server) == set()


async def test_each_worker_of_a_server_has_a_consumer(tq: TaskQueue, any_server: RedisServer, tmp_path: Path) -> None:
    write(tmp_path, "True")
    tasks = [await tq.push("/waits") for _ in range(2)]
    with serving(tmp_path, any_server.url, "--workers=2") as web:
        wait_until(lambda: len(set(ran(tmp_path))) == 2, f"each has begun one, not {ran(tmp_path)}")
        assert len(consumers(any_server)) == 2
        await web.answers()
        (tmp_path / "let-go").touch()
        for task_id in tasks:
            assert (await reached(tq, task_id, "completed")).delivery == 1
    assert consumers(any_server) == set(), "both have left"


async def test_of_two_workers_with_one_name_one_consumes(
    tq: TaskQueue, any_server: RedisServer, tmp_path: Path
) -> None:
    write(tmp_path, '"one"')
    with serving(tmp_path, any_server.url, "--workers=2") as web:
        wait_until(
            lambda: "tries again every 10 s: consumer one of queue default: process" in web.log,
            f"the other is told, not {web.log}",
        )
        await web.answers()
        tasks = [await tq.push("/") for _ in range(3)]
        for task_id in tasks:
            await reached(tq, task_id, "completed")
        assert consumers(any_server) == {b"one"}


def test_wrong_configuration_ends_the_web_server(any_server: RedisServer, tmp_path: Path) -> None:
    write(tmp_path, '"two words"')
    web = Web(tmp_path, any_server.url)
    assert web.process.wait(20) != 0
    assert "name: 'two words' is no consumer name: 1 to 64 of A-Z" in web.log


async def test_a_server_that_calls_the_application_is_its_only_consumer(
    tq: TaskQueue, any_server: RedisServer, tmp_path: Path
) -> None:
    write(tmp_path, "True")
    with test_cli.consuming(tmp_path, "--name=i", "--app=main:app", TASKQUEUE_URL=any_server.url) as server:
        assert consumers(any_server) == {b"i"}
        (tmp_path / "let-go").touch()
        task_id = await tq.push("/waits")
        state = await reached(tq, task_id, "completed")
        assert (state.holder, ran(tmp_path)) == ("i", [server.process.pid])
        assert server.end(signal.SIGTERM) == 0
        assert not [entry for entry in server.entries() if "beside the application" in str(entry["message"])]
