"""An application that is stopped and started: what had not begun there has spent nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from taskqueue import TaskQueue, TaskState, delivery, slots
from taskqueue.broker import connect
from taskqueue.middleware.aiohttp import setup
from taskqueue.policy import Rules
from taskqueue.replay import HttpReplayer
from taskqueue.server import TaskQueueServer
from tests.acceptance.test_consumer import running
from tests.servers import RedisServer, free_port
from tests.tasks import KEYRING, SECRET
from tests.waiting import until

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def tq(any_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TaskQueue]:
    monkeypatch.setattr(slots, "TARGET_PAUSE", 0.02)
    tq = TaskQueue(any_server.url, secret=SECRET, namespace="taskqueue")
    yield tq
    await tq.aclose()


class Place:
    """A port with nobody on it, an application behind a door, or a server that closes each connection unanswered."""

    def __init__(self, tq: TaskQueue) -> None:
        self.port, self.closed, self._tq = free_port(), 0, tq

    def consumer(self, *, begins: bool = True) -> TaskQueueServer:
        rules = Rules(backoff_min=0.01, backoff_max=0.01)
        replayer = HttpReplayer(f"http://127.0.0.1:{self.port}", KEYRING)
        broker = connect(self._tq.url, namespace="taskqueue")
        return TaskQueueServer(
            broker, replayer, KEYRING, name="one", queues=["default"], rules=rules, begins=lambda: begins
        )

    async def leaving(self) -> asyncio.Server:
        async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            self.closed += 1
            writer.close()

        return await asyncio.start_server(close, "127.0.0.1", self.port)

    async def serving(self, handler: Handler) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/task", handler)
        setup(app, TaskQueue(self._tq.url, secret=SECRET, namespace="taskqueue"))
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        return runner


async def fine(_request: web.Request) -> web.Response:
    return web.Response()


async def reached(tq: TaskQueue, task_id: str, condition: Callable[[TaskState], bool]) -> TaskState:
    async def found() -> bool:
        state = await tq.get(task_id)
        return state is not None and condition(state)

    await until(found, "the task gets there")
    state = await tq.get(task_id)
    assert state is not None
    return state


async def test_a_connection_that_closes_before_the_task_begins_spends_no_attempt(tq: TaskQueue) -> None:
    place, task_id = Place(tq), await tq.push("/task")
    server = await place.leaving()
    async with running(place.consumer()):
        await reached(tq, task_id, lambda _: place.closed >= 3)
        server.close()
        await server.wait_closed()
        runner = await place.serving(fine)
        state = await reached(tq, task_id, lambda state: state.state == "completed")
    await runner.cleanup()
    assert state.attempt == 1
    assert state.delivery > 3


async def test_one_that_closes_while_it_runs_spends_one(tq: TaskQueue) -> None:
    place, task_id = Place(tq), await tq.push("/task")
    runs = 0

    async def close_first(request: web.Request) -> web.Response:
        nonlocal runs
        runs += 1
        if runs == 1:
            assert request.transport is not None
            request.transport.abort()
        return web.Response()

    runner = await place.serving(close_first)
    async with running(place.consumer()):
        state = await reached(tq, task_id, lambda state: state.state == "completed")
    await runner.cleanup()
    assert (runs, state.attempt, state.delivery) == (2, 2, 2)


async def test_it_does_not_go_on_like_that_for_ever(tq: TaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "SPARED", 2)
    place, task_id = Place(tq), await tq.push("/task", retry_max_count=1)
    server = await place.leaving()
    async with running(place.consumer()):
        state = await reached(tq, task_id, lambda state: state.state == "failed")
    server.close()
    await server.wait_closed()
    assert (state.attempt, state.delivery, state.reason) == (2, 4, "exhausted")


async def test_where_nobody_notes_starts_each_broken_connection_spends_one(tq: TaskQueue) -> None:
    place, task_id = Place(tq), await tq.push("/task", retry_max_count=1)
    server = await place.leaving()
    async with running(place.consumer(begins=False)):
        state = await reached(tq, task_id, lambda state: state.state == "failed")
    server.close()
    await server.wait_closed()
    assert (state.attempt, state.delivery, state.reason) == (2, 2, "exhausted")
