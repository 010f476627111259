"""Consumers that die, and what becomes of the tasks they held: taken over, once; and those that kill are found out."""

import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web

from taskqueue.producer import TaskQueue
from tests.acceptance import test_cli
from tests.acceptance.test_consumer import Process, consumer, push, reached, running
from tests.invariants import assert_invariants
from tests.servers import RedisServer
from tests.target import Target
from tests.tasks import SECRET
from tests.waiting import until

NEVER: Final = "--lease=3600"


class TestTakeOver:
    @pytest.mark.accept("CT25")
    async def test_two_survivors_share_what_a_dead_one_held_in_several_queues(
        self, tq: TaskQueue, target: Target, any_server: RedisServer
    ) -> None:
        queues = ("default", "mail", "mailhost")
        target.handler = target.gated
        for queue in queues:
            await push(tq, *(f"/{queue}/{number}" for number in range(3)), queue=queue)
        options = ("--concurrent-limit=9", *(f"--queue={queue}" for queue in queues))
        with Process(any_server.url, target, *options) as dead:
            await target.started(9)
            dead.kill()
        held = list(target.paths)
        for queue in queues:
            await push(tq, *(f"/{queue}/{number}" for number in range(3, 20)), queue=queue)
        async with AsyncExitStack() as survivors:
            for name in ("second", "third"):
                one = consumer(any_server.url, target, name=name, queues=queues, concurrent_limit=2, lease=1.0)
                await survivors.enter_async_context(running(one))
            target.gate.set()
            await target.finished(60)
            client = any_server.client()

            async def all_told() -> bool:
                bases = [f"taskqueue:{{{queue}}}" for queue in queues]
                forgotten = not any(client.sismember(f"{base}:consumers", "instance1") for base in bases)
                return forgotten and sum(client.zcard(f"{base}:finished") for base in bases) == 60

            await until(all_told, "all have ended")
        runs = Counter(target.paths)
        assert {path for path, times in runs.items() if times == 2} == set(held)
        assert sorted(runs) == sorted(f"/{queue}/{number}" for queue in queues for number in range(20))
        assert set(runs.values()) == {1, 2}
        for found in assert_invariants(client).values():
            assert (found.waiting, found.reserved, found.consumers) == ([], {}, set())

    @pytest.mark.accept("CT23")
    async def test_its_own_name_takes_over_without_waiting_for_any_lease(
        self, tq: TaskQueue, target: Target, any_server: RedisServer
    ) -> None:
        target.handler = target.gated
        tasks = await push(tq, "/1", "/2", "/3")
        with Process(any_server.url, target, NEVER, "--concurrent-limit=3") as child:
            await target.started(3)
            child.kill()
        target.gate.set()
        target.paths.clear()
        with Process(any_server.url, target, NEVER) as child:
            for task_id in tasks:
                assert (await reached(tq, task_id, "completed")).delivery == 2
            assert (await child.ended(signal.SIGTERM))[0] == 0
        assert target.paths == ["/1", "/2", "/3"]


# An application behind its door, called in the consumer's own process.
APPLICATION: Final = """
import os, pathlib, time
import taskqueue
from taskqueue.middleware.asgi import TaskQueueMiddleware

tq = taskqueue.TaskQueue("{url}", secret="{secret}", queues=["default"], namespace="taskqueue")

async def inner(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    path = scope["path"]
    with open("ran", "a") as ran:
        print(path, file=ran)
    if path == "/poison":
        os._exit(1)
    if path == "/computes":
        end = time.monotonic() + 4.5
        while time.monotonic() < end:
            pass
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b""}})

app = TaskQueueMiddleware(inner, tq)
"""

# The same behind a door that notes starts in its own memory, and that Starlette makes at the first call.
LATE_DOOR: Final = """
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

late = Starlette(
    routes=[Mount("/", inner)],
    middleware=[Middleware(TaskQueueMiddleware, tq=tq, replay_guard="process")],
)
"""


class TestInProcess:
    @pytest.fixture
    def folder(self, tmp_path: Path, any_server: RedisServer) -> Path:
        (tmp_path / "main.py").write_text(APPLICATION.format(url=any_server.url, secret=SECRET))
        return tmp_path

    async def test_a_busy_loop_is_not_taken_for_a_death(
        self, tq: TaskQueue, any_server: RedisServer, target: Target, folder: Path
    ) -> None:
        """A view computes for twice the lease without a pause; another consumer watches all the time."""
        (task_id,) = await push(tq, "/computes")
        with test_cli.consuming(folder, "--name=busy", "--app=main:app", "--lease=2") as busy:
            async with running(consumer(any_server.url, target, name="watches", lease=2.0)):
                state = await reached(tq, task_id, "completed")
            assert busy.end() == 0
            warnings = [str(entry["message"]) for entry in busy.entries() if entry["level"] == "warning"]
        assert (state.delivery, state.holder) == (1, "busy")
        assert target.paths == []
        assert [words.startswith("the event loop has not turned for") for words in warnings] == [True]
        assert "main.py" in warnings[0], "where it computes"

    async def test_a_task_that_kills_its_consumer_runs_alone_and_then_fails(
        self, tq: TaskQueue, any_server: RedisServer, folder: Path
    ) -> None:
        poison, *others = await push(tq, "/poison", "/1", "/2", "/3", "/4")
        arguments = ("--name=i", "--app=main:app", "--concurrent-limit=3")
        for _ in range(3):
            with test_cli.consuming(folder, *arguments) as dying:
                assert dying.process.wait(20) == 1
        with test_cli.consuming(folder, *arguments) as last:
            state = await reached(tq, poison, "failed")
            for task_id in others:
                await reached(tq, task_id, "completed")
            assert last.end() == 0
        assert (state.reason, state.crashes) == ("crashed", 3)
        ran = (folder / "ran").read_text().split()
        assert ran.count("/poison") == 3
        assert {path: ran.count(path) for path in ("/1", "/2", "/3", "/4")} == dict.fromkeys(
            ("/1", "/2", "/3", "/4"), 1
        ), "the neighbours have run, and nobody died with them"

    async def test_it_is_found_out_also_where_nobody_notes_starts(
        self, tq: TaskQueue, any_server: RedisServer, folder: Path
    ) -> None:
        """The door keeps its own account of deliveries, and is made only when the application starts up."""
        with (folder / "main.py").open("a") as module:
            module.write(LATE_DOOR)
        poison, neighbour = await push(tq, "/poison", "/1")
        arguments = ("--name=i", "--app=main:late", "--concurrent-limit=2")
        for _ in range(3):
            with test_cli.consuming(folder, *arguments) as dying:
                assert dying.process.wait(20) == 1
        with test_cli.consuming(folder, *arguments) as last:
            state = await reached(tq, poison, "failed")
            await reached(tq, neighbour, "completed")
            assert last.end() == 0
        assert (state.reason, state.attempt, state.crashes) == ("crashed", 4, 3)
        assert (folder / "ran").read_text().split().count("/poison") == 3


async def test_over_http_too_the_killer_runs_alone_and_its_neighbours_survive(
    tq: TaskQueue, target: Target, any_server: RedisServer
) -> None:
    """Nobody notes what has begun here, so all three are suspected of the first two deaths."""
    consumers: list[Process] = []
    together: list[int] = []

    async def deadly(request: web.Request) -> web.StreamResponse:
        if request.path == "/poison":
            if not target.gate.is_set():
                await until(crowded, "as many run as may")
            together.append(target.running)
            consumers[-1].kill()
        elif request.path == "/2" and target.gate.is_set():
            await until(thrice, "the suspect before it has had its third run")
        return await target.gated(request)

    async def crowded() -> bool:
        return target.running == 3

    async def thrice() -> bool:
        return len(together) == 3

    target.handler = deadly
    first, poison, second = await push(tq, "/1", "/poison", "/2")
    for number in range(3):
        if number == 2:
            target.gate.set()
        with Process(any_server.url, target, "--concurrent-limit=3") as dying:
            consumers.append(dying)
            assert (await dying.ended())[0] == -signal.SIGKILL
    assert together == [3, 3, 1]
    with Process(any_server.url, target, "--concurrent-limit=3") as last:
        state = await reached(tq, poison, "failed")
        assert (state.reason, state.crashes) == ("crashed", 3)
        for neighbour in (first, second):
            assert (await reached(tq, neighbour, "completed")).crashes == 2
        assert (await last.ended(signal.SIGTERM))[0] == 0
    assert Counter(target.paths) == {"/1": 3, "/poison": 3, "/2": 3}
