"""The WSGI door on gunicorn: two workers forked from one loaded application, threads, a mount point."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

import taskqueue
from taskqueue.policy import Answered
from tests.doors import Consumer, fetch
from tests.house import tree
from tests.servers import RedisServer, free_port
from tests.tasks import SECRET
from tests.waiting import until, wait_until
from tests.wire import captured, send


@contextmanager
def gunicorn(url: str, log: Path, *options: str, **variables: str) -> Iterator[str]:
    """Serve the application with two workers of four threads; yield its base address."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "tests.acceptance.gunicorn_app:app", "--bind", f"127.0.0.1:{port}"]
    command += ["--preload", "--workers", "2", "--worker-class", "gthread", "--threads", "4", "--no-control-socket"]
    own = {
        "PATH": "/usr/bin:/bin",
        "TASKQUEUE_URL": url,
        "TASKQUEUE_SECRET": SECRET,
        "PYTHONWARNINGS": "error::ResourceWarning",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options], cwd=tree.ROOT, env={**own, **variables}, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: log.read_text().count("Booting worker") == 2, f"two workers, not {log.read_text()}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(20) == 0, log.read_text()


@pytest.fixture
async def tq(any_server: RedisServer) -> AsyncIterator[taskqueue.TaskQueue]:
    queue = taskqueue.TaskQueue(any_server.url, secret=SECRET)
    yield queue
    await queue.aclose()


async def pids(base: str) -> set[str]:
    """Return the processes that answer."""
    return {(await fetch("GET", base + "/pid")).text for _ in range(8)}


async def _two(base: str) -> bool:
    return len(await pids(base)) == 2


async def test_forked_workers_commit_and_refuse_what_the_other_has_started(
    any_server: RedisServer, tq: taskqueue.TaskQueue, tmp_path: Path
) -> None:
    with gunicorn(any_server.url, tmp_path / "log") as base:
        await until(lambda: _two(base), "both workers answer")
        asked = [fetch("POST", base + "/order", data=b"x" * 90_000, headers={"X-Login": "ada"}) for _ in range(20)]
        assert {answer.status for answer in await asyncio.gather(*asked)} == {200}
        tasks = await Consumer(tq).tasks()
        assert [(len(task.body), task.user_id) for task in tasks] == [(90_000, "ada")] * 20
        await tq.reset()

        await fetch("POST", base + "/order", data=b"body", headers={"X-Login": "ada"})
        request = await captured(tq, base)
        first = await send(base, request)
        assert (first.status, first.body) == (200, b"ADA 4")
        refused = [await send(base, request) for _ in range(12)]
        assert {(answer.status, answer.headers["x-task-refused"]) for answer in refused} == {(403, "replayed")}
        assert await _two(base)


@pytest.mark.parametrize("mount", ["", "/shop"])
async def test_a_task_comes_back_below_its_mount_point(
    any_server: RedisServer, tq: taskqueue.TaskQueue, tmp_path: Path, mount: str
) -> None:
    with gunicorn(any_server.url, tmp_path / "log", SCRIPT_NAME=mount) as base:
        assert (await fetch("POST", f"{base}{mount}/order", headers={"X-Login": "ada"})).status == 200
        task, outcome = await Consumer(tq).replay(base)
        assert task.target == f"{mount}/b%C3%BCild?x=%2F"
        assert isinstance(outcome, Answered)
        assert (outcome.status, outcome.receipted, outcome.logged_in) == (200, True, True)


async def test_a_body_that_does_not_come_and_names_that_are_dropped(
    any_server: RedisServer, tq: taskqueue.TaskQueue, tmp_path: Path
) -> None:
    with gunicorn(any_server.url, tmp_path / "log", "--header-map", "dangerous") as base:
        for name in ("X_Task_User_Id", "x-task_id"):
            assert (await fetch("GET", base + "/pid", headers={name: "mallory"})).status == 403
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(base).port)
        writer.write(b"POST /order HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()
        assert await tq.size() == 0


async def test_a_stream_whose_tasks_cannot_be_stored_is_broken_off(private_server: RedisServer, tmp_path: Path) -> None:
    with gunicorn(private_server.url, tmp_path / "log") as base:
        assert (await fetch("GET", base + "/stream")).body == b"onetwo"
        private_server.kill()
        with pytest.raises(aiohttp.ClientPayloadError):
            await fetch("GET", base + "/stream")
        assert "1 task(s) will not run" in (tmp_path / "log").read_text()
