"""What a consumer answers at its health address: that it lives, that it makes progress, what it has done."""

import asyncio
import logging
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from prometheus_client.parser import text_string_to_metric_families

from taskqueue import TaskQueue, metrics
from taskqueue import server as consuming
from taskqueue import signs as module
from taskqueue.cli import run, server_app
from taskqueue.errors import Fenced
from taskqueue.health import Health, listening
from taskqueue.intake import Intake
from taskqueue.server import TaskQueueServer
from taskqueue.signs import Signs
from tests.acceptance.test_cli import NAMED
from tests.acceptance.test_consumer import consumer, running, state_of
from tests.servers import RedisServer, free_port
from tests.target import Target
from tests.target import listening as serving
from tests.tasks import SECRET
from tests.waiting import until
from tests.work import consume, queue_at

POLL = 0.1


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    async with serving() as target:
        yield target


class Asked:
    """A consumer with a health address, and who asks there."""

    def __init__(self, server: TaskQueueServer, base: str, session: ClientSession, signs: Signs) -> None:
        self.server, self._base, self._session, self.signs = server, base, session, signs

    async def get(self, path: str) -> tuple[int, str]:
        async with self._session.get(self._base + path) as response:
            return response.status, await response.text()

    async def becomes(self, status: int, words: str = "") -> None:
        """Wait until /readyz answers so."""
        last: list[tuple[int, str]] = [(0, "")]

        async def there() -> bool:
            last[0] = await self.get("/readyz")
            return last[0][0] == status and words in last[0][1]

        await until(there, f"/readyz answers {status} {words}, not {last[0]}")

    async def numbers(self) -> dict[tuple[str, ...], float]:
        """Return every sample: its name, then the values of its labels in the order of their names."""
        status, text = await self.get("/metrics")
        assert status == 200
        return {
            (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@asynccontextmanager
async def asked(tq: TaskQueue, target: Target, **options: Any) -> AsyncIterator[Asked]:
    signs, port = Signs(poll_max=POLL, capacity=3), free_port()
    health = Health(listening(f"127.0.0.1:{port}"), tq.broker, ["default"], signs)
    intake, companions = Intake(tq.broker, ["default"], signs), [health.serve]
    server = consumer(
        tq.url, target, intake=intake, companions=companions, poll_max=POLL, concurrent_limit=3, **options
    )
    async with running(server), ClientSession() as session:
        yield Asked(server, f"http://127.0.0.1:{port}", session, signs)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three polls of 0.1 s, as of any consumer whose polls are longer than a second."""
    monkeypatch.setattr(module, "SHORTEST_POLL", POLL)
    monkeypatch.setattr(module, "BEATS", 2.0)
    monkeypatch.setattr(consuming, "CALL_DEADLINE", POLL)


async def test_without_redis_it_lives_but_is_not_ready_until_redis_is_back(
    private_server: RedisServer, target: Target, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tq = queue_at(private_server)
    async with asked(tq, target) as consumer:
        await consumer.becomes(200)
        private_server.stop()
        await consumer.becomes(503, "the broker has not answered for")
        assert await consumer.get("/livez") == (200, "ok\n")
        private_server.start()
        await consumer.becomes(200)
        assert consumer.signs.errors > 0
    await tq.aclose()
    assert not [record for record in caplog.records if "livez" in record.getMessage()]


async def test_before_the_first_answer_it_lives_and_is_not_ready(target: Target) -> None:
    tq = TaskQueue(f"redis://127.0.0.1:{free_port()}/0", secret=SECRET)
    async with asked(tq, target) as consumer:
        await consumer.becomes(503, "starting: no exchange with the broker yet")
        assert (await consumer.get("/livez"))[0] == 200
    await tq.aclose()


async def test_full_it_is_ready_and_with_a_dead_redis_not_even_then(
    private_server: RedisServer, target: Target, impatient: None
) -> None:
    tq = queue_at(private_server)
    target.handler = target.gated
    for number in range(3):
        await tq.push(f"/{number}")
    async with asked(tq, target, stop_grace=0.0) as consumer:
        await target.started(3)
        await consumer.becomes(200)
        private_server.stop()
        await consumer.becomes(503, "no beat was answered for")
        private_server.start()
        await consumer.becomes(200)
    await tq.aclose()


async def test_paused_it_is_not_ready(any_server: RedisServer, target: Target) -> None:
    tq = queue_at(any_server)
    async with asked(tq, target) as consumer:
        await consumer.becomes(200)
        consumer.server.pause()
        await consumer.becomes(503, "paused")
        consumer.server.resume()
        await consumer.becomes(200)
    assert str(consumer.signs.unready(0.0)) == "stopping: it was told to"
    await tq.aclose()


async def test_fenced_it_is_not_ready(any_server: RedisServer, target: Target) -> None:
    tq, signs = queue_at(any_server), Signs()
    job = asyncio.create_task(
        consume(consumer(tq.url, target, intake=Intake(tq.broker, ["default"], signs), poll_max=POLL))
    )
    await until(lambda: _value(signs.phase == "consuming"), "it consumes")
    await tq.broker.claim("default", "one", begins=False, deadline=time.monotonic() + 10)
    with pytest.raises(Fenced) as caught:
        await job
    assert signs.unready(time.monotonic()) == f"stopping: {caught.value}"
    await tq.aclose()


async def test_metrics_tell_what_was_done_and_what_waits(any_server: RedisServer, target: Target) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status={"/bad": 404, "/busy": 503}.get(request.path, 200))

    target.handler = answer
    tq = queue_at(any_server)
    async with asked(tq, target) as consumer:
        await tq.push("/later", delay=3600)
        for path in ("/good", "/good", "/bad", "/busy"):
            task_id = await tq.push(path, retry_max_count=1)
        await until(lambda: _failed(tq, task_id), "the last has used up its retries")
        numbers = await consumer.numbers()
    await tq.aclose()
    assert numbers["taskqueue_finished_total", "default", "completed"] == 2
    assert numbers["taskqueue_finished_total", "default", "failed"] == 2
    assert numbers["taskqueue_retries_total", "default", "server"] == 1
    assert numbers["taskqueue_wait_seconds_count", "default"] == 4, "once a task"
    assert numbers["taskqueue_run_seconds_count", "default"] == 5, "every try"
    assert numbers["taskqueue_tasks", "default", "scheduled"] == 1
    assert numbers["taskqueue_tasks", "default", "failed"] == 2
    assert numbers["taskqueue_tasks", "default", "completed"] == 2
    assert numbers["taskqueue_oldest_wait_seconds", "default"] == 0
    assert numbers["taskqueue_consumers", "default"] == 1
    assert (numbers["taskqueue_consumer_busy",], numbers["taskqueue_consumer_capacity",]) == (0, 3)
    assert numbers["taskqueue_broker_errors_total",] == 0
    assert [key for key in numbers if key[0] == "taskqueue_build_info"] == [("taskqueue_build_info", "0.1.0")]
    texts = {value for key in numbers for value in key[1:]}
    assert not texts & {"/good", "/bad", task_id}


async def test_metrics_do_not_hang_with_redis_and_count_its_queues_now_and_then(
    private_server: RedisServer, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "CALL_DEADLINE", 0.1)
    tq = queue_at(private_server)
    counted = metrics.Metrics(tq.broker, ["default"], Signs(), version="1")
    assert b'taskqueue_tasks{queue="default",state="queued"} 0.0' in await counted.text()
    await tq.push("/a")
    assert b'state="queued"} 0.0' in await counted.text(), "it is not asked again so soon"
    monkeypatch.setattr(metrics, "FRESH", 0.0)
    assert b'state="queued"} 1.0' in await counted.text()
    private_server.pause()
    text = await counted.text()
    private_server.resume()
    assert b"taskqueue_tasks{" not in text, "rather none than old ones"
    assert b"taskqueue_consumer_busy 0.0" in text
    await tq.aclose()


async def test_without_the_library_metrics_say_what_to_install(
    any_server: RedisServer, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "taskqueue.metrics")
    tq = queue_at(any_server)
    async with asked(tq, target) as consumer:
        assert (await consumer.get("/livez"))[0] == 200
        assert await consumer.get("/metrics") == (
            501,
            'metrics need a library: pip install "http-taskqueue[metrics]"\n',
        )
    await tq.aclose()


def test_an_address_in_use_ends_with_78(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert run(server_app, [*NAMED, "--url=redis://127.0.0.1:1/0", "--health-addr", address]) == 78
    assert f"health_addr: nothing can listen at {address}" in capsys.readouterr().err


async def _failed(tq: TaskQueue, task_id: str) -> bool:
    return (await state_of(tq, task_id)).state == "failed"


async def _value(value: bool) -> bool:  # noqa: FBT001
    return value
