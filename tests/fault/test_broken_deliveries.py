"""A line to the application that breaks in each phase of a replay: only what may have begun has spent an attempt."""

from collections.abc import AsyncIterator
from typing import Final

import pytest
from aiohttp import web

from taskqueue import TaskQueue, TaskState, slots
from taskqueue.broker import connect
from taskqueue.middleware.aiohttp import setup
from taskqueue.policy import Rules
from taskqueue.replay import HttpReplayer
from taskqueue.server import TaskQueueServer
from tests.acceptance.test_consumer import reached, running
from tests.doors import serving_aiohttp
from tests.proxy import Fault, Proxy, proxied
from tests.servers import RedisServer
from tests.tasks import KEYRING, SECRET

HEAD: Final = b"X-Task-Id"
# A long body goes out in many packets, long after the head; wherever they end, one of them has these words whole.
INSIDE: Final = b"inside"
LONG: Final = bytes(1_000_000) + INSIDE * 10 + bytes(1_000_000)
SHORT: Final = b"a few bytes"


@pytest.fixture
async def tq(any_server: RedisServer) -> AsyncIterator[TaskQueue]:
    tq = TaskQueue(any_server.url, secret=SECRET, namespace="taskqueue")
    yield tq
    await tq.aclose()


class Site:
    """An application behind a door and a proxy; ``runs`` are the bodies of the tasks that ran."""

    def __init__(self, tq: TaskQueue, answer: bytes) -> None:
        self.tq, self._answer = tq, answer
        self.runs: list[bytes] = []

    async def _handler(self, request: web.Request) -> web.Response:
        self.runs.append(await request.read())
        return web.Response(body=self._answer)

    async def delivered(self, body: bytes, fault: Fault, marker: bytes) -> tuple[TaskState, Proxy]:
        """Let this happen to the first delivery of a task, and return what has become of it in the end."""
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/task", self._handler)
        setup(app, TaskQueue(self.tq.url, secret=SECRET, namespace="taskqueue"))
        task_id = await self.tq.push("/task", payload=body, timeout=0.5 if fault == "swallow" else None)
        async with serving_aiohttp(app) as base, proxied(int(base.rpartition(":")[2])) as proxy:
            proxy.inject(fault, marker)
            async with running(self._consumer(f"http://127.0.0.1:{proxy.port}")):
                return await reached(self.tq, task_id, "completed"), proxy

    def _consumer(self, target: str) -> TaskQueueServer:
        rules = Rules(backoff_min=0.01, backoff_max=0.01)
        broker = connect(self.tq.url, namespace="taskqueue")
        return TaskQueueServer(
            broker, HttpReplayer(target, KEYRING), KEYRING, name="one", queues=["default"], rules=rules
        )


@pytest.mark.parametrize(
    ("body", "fault", "marker", "answer", "runs", "attempts", "deliveries"),
    [
        # Cut off before all of the request was there, it has not begun: released, nothing spent.
        pytest.param(SHORT, "cut before", HEAD, b"", 1, 1, 2, id="cut before the request"),
        pytest.param(LONG, "cut before", INSIDE, b"", 1, 1, 2, id="cut inside the request"),
        # It has run, and nobody knows how it ended.
        pytest.param(SHORT, "cut after", HEAD, b"", 2, 2, 2, id="cut before the answer"),
        pytest.param(SHORT, "cut within", HEAD, b"", 2, 2, 2, id="cut inside the head of the answer"),
        pytest.param(SHORT, "cut within", HEAD, bytes(5000), 2, 2, 2, id="cut inside the answer"),
        # Silence tells nothing of what has begun.
        pytest.param(SHORT, "swallow", HEAD, b"", 1, 2, 2, id="silence before the request"),
        pytest.param(LONG, "swallow", INSIDE, b"", 1, 2, 2, id="silence inside the request"),
        pytest.param(SHORT, "delay", HEAD, b"", 1, 1, 1, id="slow before the request"),
        pytest.param(LONG, "delay", INSIDE, b"", 1, 1, 1, id="slow inside the request"),
        pytest.param(SHORT, "split", HEAD, bytes(5000), 1, 1, 1, id="byte by byte"),
    ],
)
async def test_in_each_phase(
    tq: TaskQueue, monkeypatch: pytest.MonkeyPatch, body: bytes, fault: Fault, marker: bytes, answer: bytes, runs: int,
    attempts: int, deliveries: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(slots, "TARGET_PAUSE", 0.02)
    site = Site(tq, answer)
    state, proxy = await site.delivered(body, fault, marker)
    assert proxy.hits == 1
    assert site.runs == [body] * runs
    assert (state.attempt, state.delivery) == (attempts, deliveries)
