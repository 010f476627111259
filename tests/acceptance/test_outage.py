"""What is away comes back, and nothing was spent: a killed store, a deploy, an application that asks for patience."""

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import pytest
from aiohttp import web

from taskqueue import server as consuming
from taskqueue import slots
from taskqueue.brokers import redis as redis_broker
from taskqueue.producer import TaskQueue
from taskqueue.retention import USUAL
from tests.acceptance.test_consumer import consumer, push, queue_of, reached, running, state_of
from tests.servers import RedisServer
from tests.target import Target
from tests.tasks import SECRET
from tests.waiting import until
from tests.work import Doing, Ran, Work, queue_at

CONTROL: Final = "taskqueue:{default}:control"


class TestStore:
    async def test_killed_and_started_again_it_has_lost_nothing_and_nothing_has_run_twice(
        self, target: Target, private_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It dies while three run and many wait; the three end while it is away, and are told when it is back."""
        monkeypatch.setattr(consuming, "CALL_DEADLINE", 0.2)
        target.handler = target.gated
        tq = queue_at(private_server)
        tasks = await push(tq, *(f"/{number}" for number in range(50)))
        async with running(consumer(private_server.url, target, concurrent_limit=3)) as server:
            await target.started(3)
            private_server.kill()
            target.gate.set()
            await target.finished(3)

            async def missed() -> bool:
                return bool(server._absence)

            await until(missed, "the consumer has missed its store")
            private_server.start()
            for task_id in tasks:
                state = await reached(tq, task_id, "completed")
                assert (state.delivery, state.attempt, state.crashes) == (1, 1, 0)
        await tq.aclose()
        assert sorted(target.paths) == sorted(f"/{number}" for number in range(50))
        queue = queue_of(private_server.client())
        assert (queue.reserved, queue.consumers, queue.logs) == ({}, set(), set())


class TestDeploy:
    async def test_a_deploy_spends_no_attempt_keeps_the_order_and_fails_nothing(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(slots, "TARGET_PAUSE", 0.05)
        paths = [f"/{number}" for number in range(40)]
        tasks = await push(tq, *paths[:10])

        async def refused_again() -> bool:
            found = [await state_of(tq, task_id) for task_id in tasks[len(target.done) :][:1]]
            return bool(found) and found[0].delivery >= 3

        async with running(consumer(any_server.url, target)):
            for deploy in range(1, 4):
                await target.finished(10 * deploy)  # nothing is cut off: the old one has answered all it had begun
                await reached(tq, tasks[-1], "completed")
                await target.down()
                tasks += await push(tq, *paths[10 * deploy : 10 * deploy + 10])
                await until(refused_again, "it has been refused several times")
                await target.up()
            await target.finished(40)
            await reached(tq, tasks[-1], "completed")
        assert target.paths == paths
        assert {headers["X-Task-Attempt"] for headers in target.headers} == {"1"}
        queue = queue_of(any_server.client())
        logs = [
            await tq.broker.inspector.log("default", task_id.decode(), deadline=time.monotonic() + 10)
            for task_id in queue.logs
        ]
        assert "failed" not in queue.indexes
        assert all(log.released is not None and not log.ended for log in logs)
        assert caplog.text.count("answers again") == 3


# A producer that is killed as it is about to make its tasks of a second queue runnable.
KILLED: Final = """
import os, signal, sys, taskqueue
from taskqueue.brokers.redis import RedisBroker

promote = RedisBroker.promote

async def promote_one(self, queue, *arguments, **options):
    if queue == "mail":
        os.kill(os.getpid(), signal.SIGKILL)
    await promote(self, queue, *arguments, **options)

RedisBroker.promote = promote_one
tq = taskqueue.TaskQueue(sys.argv[1], secret=sys.argv[2], queues=["default", "mail"], namespace="taskqueue")
with tq.transaction():
    for queue in ("default", "mail"):
        tq.add(f"/{queue}", queue=queue)
"""


class TestProducer:
    async def test_killed_between_the_two_phases_it_leaves_a_doubt_that_a_consumer_tells(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        producer = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, any_server.url, SECRET)
        assert await producer.wait() == -signal.SIGKILL
        client: Any = any_server.client()
        (doubtful,) = client.zrange("taskqueue:{mail}:prepared", 0, -1)
        monkeypatch.setattr(redis_broker, "IN_DOUBT_AFTER_MS", 0)
        async with running(consumer(any_server.url, target, queues=["default", "mail"])):
            assert (await reached(tq, doubtful.decode(), "failed")).reason == "in-doubt"
            await target.finished(1)
        assert target.paths == ["/default"], "the queue that was promoted"


class TestKept:
    async def test_what_has_ended_is_kept_for_its_time(
        self, tq: TaskQueue, target: Target, any_server: RedisServer
    ) -> None:
        """A day for what has completed, 30 for what has failed, and 10,000 of either."""
        client: Any = any_server.client()

        async def mixed(request: web.Request) -> web.StreamResponse:
            return web.Response(status=404 if request.path == "/failed" else 200)

        target.handler = mixed
        kept = {}
        async with running(consumer(any_server.url, target)):
            for state, index, days in (("completed", "finished", 1), ("failed", "failed", 30)):
                old, young = await push(tq, f"/{state}", f"/{state}")
                for task_id, minutes in ((old, -1), (young, 1)):
                    ended = (await reached(tq, task_id, state)).changed
                    about = {task_id: ended - days * 86_400_000 + minutes * 60_000}
                    client.zadd(f"taskqueue:{{default}}:{index}", about)
                kept[old] = young
        async with running(consumer(any_server.url, target)):
            for old, young in kept.items():

                async def forgotten(old: str = old) -> bool:
                    return await tq.get(old) is None

                await until(forgotten, "the older one is forgotten")
                assert await tq.get(young) is not None
        assert {number for _, _, number in USUAL.values()} == {10_000}


async def warm_up(tq: TaskQueue) -> None:
    """Let the server meet all scripts: one that it does not know is sent once more, behind what travelled with it."""
    (task_id,) = await push(tq, "/warm-up")
    await reached(tq, task_id, "completed")


class TestRetryAfter:
    @pytest.fixture
    def answer(self, target: Target) -> Callable[..., None]:
        """Let the first request for /first be answered like this, all others well."""

        def chosen(status: int, retry_after: str) -> None:
            async def first(_request: web.Request) -> web.StreamResponse:
                if target.paths.count("/first") == 1 and target.paths[-1] == "/first":
                    return web.Response(status=status, headers={"Retry-After": retry_after})
                return web.Response()

            target.handler = first

        return chosen

    @pytest.mark.parametrize("status", [429, 503])
    async def test_it_holds_for_the_whole_queue(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, answer: Callable[..., None], status: int
    ) -> None:
        answer(status, "1")
        async with running(consumer(any_server.url, target)):
            await warm_up(tq)
            first, second = await push(tq, "/first", "/second")
            again = await reached(tq, first, "completed")
            other = await reached(tq, second, "completed")
        until_then = int(any_server.client().hget(CONTROL, "slowed") or 0)
        assert other.reserved >= until_then, "by the store's own clock"
        assert again.reserved >= until_then
        assert again.attempt == 2

    async def test_another_queue_goes_on(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, answer: Callable[..., None]
    ) -> None:
        answer(429, "3600")
        async with running(consumer(any_server.url, target, queues=["default", "mail"])):
            await warm_up(tq)
            first, second = await push(tq, "/first", "/second")
            await reached(tq, first, "scheduled")
            (elsewhere,) = await push(tq, "/elsewhere", queue="mail")
            await reached(tq, elsewhere, "completed")
            assert (await state_of(tq, second)).state == "queued"
        assert target.paths == ["/warm-up", "/first", "/elsewhere"]

    @pytest.mark.parametrize(("status", "retry_after"), [(500, "60"), (423, "60"), (429, "0"), (503, "soon")])
    async def test_other_answers_hold_for_their_task_alone(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, answer: Callable[..., None], status: int,
        retry_after: str,
    ) -> None:  # fmt: skip
        answer(status, retry_after)
        _, second = await push(tq, "/first", "/second")
        async with running(consumer(any_server.url, target)):
            await reached(tq, second, "completed")
        assert any_server.client().hget(CONTROL, "slowed") is None

    async def test_it_is_believed_for_ten_minutes_at_most(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, answer: Callable[..., None]
    ) -> None:
        answer(503, "86400")
        (task_id,) = await push(tq, "/first")
        async with running(consumer(any_server.url, target)):
            state = await reached(tq, task_id, "scheduled")
        client: Any = any_server.client()
        assert int(client.hget(CONTROL, "slowed")) == state.changed + 600_000
        assert state.due == state.changed + 86_400_000


def test_stats_tell_of_a_queue_that_is_slowed(
    taskqueue: Callable[..., Ran], store: Doing, any_server: RedisServer
) -> None:
    @store
    async def _(work: Work) -> None:
        await work.broker.size("default", deadline=time.monotonic() + 10)

    assert "patience" not in taskqueue("stats").err
    assert taskqueue("stats", "--json").document["queues"][0]["slowed"] == 0
    client: Any = any_server.client()
    client.hset(CONTROL, "slowed", round(time.time() * 1000) + 300_000)
    assert (
        "queue default: the application has asked for patience (Retry-After), for 5 min more" in taskqueue("stats").err
    )
    assert 290_000 < taskqueue("stats", "--json").document["queues"][0]["slowed"] <= 300_000
