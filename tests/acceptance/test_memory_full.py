"""A store without memory left, on each kind of server: nothing comes in, and all that is in can come out."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from aiohttp import web

from taskqueue.broker import Seen, Trimmed
from taskqueue.brokers.redis import RedisBroker
from taskqueue.errors import BrokerUnavailable, CommitUncertain
from taskqueue.producer import TaskQueue
from taskqueue.task import Settlement, Verdict
from tests.acceptance.test_consumer import consumer, push, queue_of, reached, running
from tests.invariants import assert_invariants
from tests.servers import RedisServer
from tests.target import Target
from tests.tasks import opaque, opaque_tasks
from tests.work import queue_at, soon

BASE: Final = "taskqueue:{default}"
RESPONSE: Final = b"sealed response" * 1000


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Any]:
    client = redis_server.client()
    yield client
    client.config_set("maxmemory", 0)


@pytest.fixture
async def broker(redis_server: RedisServer, client: Any) -> AsyncIterator[RedisBroker]:
    broker = RedisBroker(redis_server.url, namespace="taskqueue")
    yield broker
    await broker.aclose()
    assert_invariants(client)


@pytest.fixture
async def tq(redis_server: RedisServer) -> AsyncIterator[TaskQueue]:
    tq = queue_at(redis_server)
    yield tq
    await tq.aclose()


@contextmanager
def full(client: Any) -> Iterator[None]:
    """Leave the server no memory: it refuses every command that may need some."""
    client.config_set("maxmemory", 1)
    assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    yield
    client.config_set("maxmemory", 0)


async def test_a_consumer_drains_a_full_store(
    tq: TaskQueue, target: Target, client: Any, redis_server: RedisServer
) -> None:
    """The good, the bad and those that come back: all leave the line, with their logs."""

    async def mixed(request: web.Request) -> web.StreamResponse:
        number = int(request.path[1:])
        again = target.paths.count(request.path) > 1
        status = 404 if number % 3 == 0 else 503 if number % 3 == 1 and not again else 200
        return web.Response(status=status, body=b"x" * 20_000)

    target.handler = mixed
    ids = await push(tq, *(f"/{number}" for number in range(60)))
    with full(client):
        async with running(consumer(redis_server.url, target, concurrent_limit=5)):
            for number, task_id in enumerate(ids):
                await reached(tq, task_id, "failed" if number % 3 == 0 else "completed")
            with pytest.raises(BrokerUnavailable, match=r"no memory left .*: free some, or raise it"):
                await push(tq, "/more")
        queue = queue_of(client)
        assert (queue.waiting, queue.reserved, queue.consumers) == ([], {}, set())
        assert (len(queue.indexes["failed"]), len(queue.indexes["finished"])) == (20, 40)
        assert len(target.paths) == 80


async def test_a_commit_of_any_size_is_refused_whole_and_without_doubt(tq: TaskQueue, client: Any) -> None:
    with full(client):
        for count in (1, 250):
            with pytest.raises(BrokerUnavailable, match="no memory left") as caught:
                await push(tq, *(f"/{number}" for number in range(count)))
            assert not isinstance(caught.value, CommitUncertain)
        assert client.keys() == []


async def test_what_was_prepared_can_be_promoted_and_discarded(broker: RedisBroker, client: Any) -> None:
    kept, dropped = opaque_tasks(3), opaque_tasks(2)
    await broker.prepare("default", [*kept, *dropped], deadline=soon())
    with full(client):
        await broker.discard("default", [task.id for task in dropped], deadline=soon())
        await broker.promote("default", [task.id for task in kept], deadline=soon())
        assert client.lrange(BASE, 0, -1) == [task.id.encode() for task in reversed(kept)]


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (Verdict("complete", status=200), "completed"),
        (Verdict("retry", "server", 503, 60.0, 30.0), "scheduled"),
        (Verdict("fail", "client", 422), "failed"),
        (Verdict("release", "stopped"), "queued"),
        (Verdict("release", "key", delay=60.0), "scheduled"),
    ],
)
async def test_each_end_of_a_delivery_is_taken(broker: RedisBroker, client: Any, verdict: Verdict, state: str) -> None:
    await broker.push("default", [opaque("a"), opaque("b", due=-1)], deadline=soon())
    with full(client):
        lease, _ = await broker.claim("default", "one", begins=True, deadline=soon())
        await broker.due("default", deadline=soon())
        got = await broker.exchange(lease, (), token="1", want=2, room=10**6, deadline=soon())
        (first, *_) = got.reservations
        assert await broker.begin("default", first.id, first.delivery, deadline=soon())
        ended = [Settlement(one.id, one.delivery, verdict, RESPONSE) for one in got.reservations]
        told = await broker.exchange(lease, ended, token="2", want=0, room=0, deadline=soon())
        assert told.stale == []
        found = await broker.get("default", "a", deadline=soon())
        assert found is not None
        assert found.state == state


async def test_consumers_come_die_and_go(broker: RedisBroker, client: Any) -> None:
    tasks = opaque_tasks(600)
    for start in range(0, 600, 200):
        await broker.push("default", tasks[start : start + 200], deadline=soon())
    lease, _ = await broker.claim("default", "one", begins=True, deadline=soon())
    for _ in range(6):
        token = f"{random.getrandbits(64):x}"
        await broker.exchange(lease, (), token=token, want=100, room=10**6, deadline=soon())
    with full(client):
        other, _ = await broker.claim("default", "two", begins=True, deadline=soon())
        pulse = broker.pulse(timeout=10)
        (dead,) = (await asyncio.to_thread(pulse.beat, other)).others
        pulse.close()
        assert dead == Seen("one", lease.epoch, "0")
        assert await broker.reclaim("default", dead, deadline=soon()) == 600
        assert client.lrange(BASE, 0, -1) == [task.id.encode() for task in reversed(tasks)]
        await broker.leave(other, deadline=soon())
        assert await broker.trim("default", [("failed", 0, 0)], most=10, deadline=soon()) == Trimmed(0)
        await broker.reset("default", deadline=soon())
        assert client.llen(BASE) == 0


async def test_operators_can_make_room(broker: RedisBroker, client: Any) -> None:
    await broker.push("default", [opaque("held"), opaque("queued"), opaque("later", due=-60_000)], deadline=soon())
    lease, _ = await broker.claim("default", "one", begins=True, deadline=soon())
    await broker.exchange(lease, (), token="1", want=1, room=1, deadline=soon())
    with full(client):
        assert await broker.hasten("default", ["later"], actor="me", deadline=soon()) == 1
        done = await broker.withdraw(
            "default", ["held", "queued", "later"], "archived", actor="me", force=True, deadline=soon()
        )
        assert done == ["marked", "archived", "archived"]
        ended = [Settlement("held", 1, Verdict("complete", status=200))]
        await broker.exchange(lease, ended, token="2", want=9, room=9, deadline=soon())
        assert await broker.trim("default", [("archived", 0, 0)], most=10, deadline=soon()) == Trimmed(3)
    assert await broker.inspector.index("default", "label", "label", limit=9, offset=0, deadline=soon()) == []


async def test_what_has_failed_cannot_be_queued_again_until_there_is_memory(broker: RedisBroker, client: Any) -> None:
    await broker.push("default", [opaque("a")], deadline=soon())
    lease, _ = await broker.claim("default", "one", begins=True, deadline=soon())
    (one,) = (await broker.exchange(lease, (), token="1", want=1, room=1, deadline=soon())).reservations
    failed = Settlement(one.id, one.delivery, Verdict("fail", "client", 422))
    await broker.exchange(lease, [failed], token="2", want=0, room=0, deadline=soon())
    with full(client), pytest.raises(BrokerUnavailable, match="no memory left"):
        await broker.inspector.retry("default", [("a", b"a longer record")], deadline=soon())
    assert await broker.inspector.retry("default", [("a", b"a longer record")], deadline=soon()) == 1
