"""What a queue may hold, in every store: at the brim a commit is refused whole, and what is stored stays so."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

import taskqueue
from taskqueue.broker import Broker, Capacity, Trimmed
from taskqueue.brokers.redis import RedisBroker
from taskqueue.brokers.scripts import SCRIPTS
from taskqueue.errors import BrokerUnavailable, CommitUncertain, QueueFull
from taskqueue.task import Verdict
from tests.doors import KINDS, adding, fetch, serving
from tests.invariants import assert_invariants
from tests.moves import claimed, ended, push, reserve, settle, soon
from tests.proxy import proxied
from tests.servers import RedisServer
from tests.stores import Inspectable
from tests.tasks import SECRET, opaque, opaque_tasks

DOWN_FOR: Final = 0.2


@pytest.fixture
async def broker(store: Inspectable) -> AsyncIterator[Broker]:
    """A broker whose queues may hold three tasks."""
    broker = store.open(capacity=Capacity(tasks=3))
    yield broker
    await broker.aclose()
    store.queues()


def queue_at(url: str, **options: Any) -> taskqueue.TaskQueue:
    return taskqueue.TaskQueue(url, secret=SECRET, queues=["default", "mail"], namespace="taskqueue", **options)


async def prepare(broker: Broker, *ids: str) -> None:
    await broker.prepare("default", [opaque(task_id) for task_id in ids], deadline=soon())


class TestTasks:
    @pytest.mark.parametrize("way", ["push", "prepare"])
    async def test_what_would_be_too_much_is_refused_whole(self, broker: Broker, store: Inspectable, way: str) -> None:
        await push(broker, opaque_tasks(2))
        unchanged = store.everything()
        with pytest.raises(QueueFull, match=r"queue default: it holds all it may \(3 tasks, .*max_tasks, max_bytes"):
            await getattr(broker, way)("default", opaque_tasks(2), deadline=soon())
        assert store.everything() == unchanged
        await getattr(broker, way)("default", opaque_tasks(1), deadline=soon())

    async def test_all_that_is_to_run_counts_and_what_has_ended_does_not(self, broker: Broker) -> None:
        lease = await claimed(broker)
        await push(broker, [opaque("reserved")])
        (held,) = await reserve(broker, lease)
        await push(broker, [opaque("delayed", due=-60_000)])
        await prepare(broker, "prepared")
        for full in (opaque("one-more"), opaque("one-more", due=-1)):
            with pytest.raises(QueueFull):
                await push(broker, [full])
        await settle(broker, lease, ended(held))
        await push(broker, [opaque("to-fail")])
        with pytest.raises(QueueFull):
            await push(broker, [opaque("one-more")])
        (held,) = await reserve(broker, lease)
        await settle(broker, lease, ended(held, Verdict("fail", "client", 422)))
        await push(broker, [opaque("in-place-of-the-failed")])
        with pytest.raises(QueueFull):
            await push(broker, [opaque("one-more")])
        await broker.discard("default", ["prepared"], deadline=soon())
        await push(broker, [opaque("in-place-of-the-discarded")])

    async def test_what_is_retried_still_counts(self, broker: Broker) -> None:
        lease = await claimed(broker)
        await push(broker, opaque_tasks(3))
        await settle(broker, lease, ended((await reserve(broker, lease))[0], Verdict("retry", "server", 503, 60.0)))
        with pytest.raises(QueueFull):
            await push(broker, opaque_tasks(1))

    async def test_each_queue_has_its_own(self, broker: Broker) -> None:
        await push(broker, opaque_tasks(3))
        await push(broker, opaque_tasks(3, queue="mail"), queue="mail")

    @pytest.mark.parametrize("way", ["push", "prepare"])
    async def test_a_repeat_at_the_brim_is_not_too_much(self, store: Inspectable, way: str) -> None:
        broker = store.open(capacity=Capacity(tasks=3, bytes=18))
        tasks = [opaque(record=b"6bytes") for _ in range(3)]
        for _ in range(2):
            await getattr(broker, way)("default", tasks, deadline=soon())
            assert len(store.queue().states) == 3
        await broker.aclose()

    @pytest.mark.parametrize("way", ["push", "prepare"])
    async def test_nor_is_one_after_a_lost_reply(self, redis_server: RedisServer, way: str) -> None:
        async with proxied(redis_server.port) as proxy:
            broker = RedisBroker(proxy.url, namespace="taskqueue", capacity=Capacity(tasks=3, bytes=18))
            proxy.inject("cut after", SCRIPTS[way].sha.encode(), times=2)
            await getattr(broker, way)("default", [opaque(record=b"6bytes") for _ in range(3)], deadline=soon())
            assert proxy.hits == 2
            assert len(assert_invariants(redis_server.client())["default"].states) == 3
            await broker.aclose()

    async def test_a_promotion_is_never_too_much(self, broker: Broker, store: Inspectable) -> None:
        await prepare(broker, "a", "b", "c")
        await broker.promote("default", ["a", "b", "c"], deadline=soon())
        assert len(store.queue().waiting) == 3

    async def test_no_limit_is_none(self, store: Inspectable) -> None:
        broker = store.open(capacity=Capacity(0, 0))
        await push(broker, opaque_tasks(500))
        assert len(store.queue().waiting) == 500
        await broker.aclose()


class TestBytes:
    @pytest.fixture
    async def broker(self, store: Inspectable) -> AsyncIterator[Broker]:
        """A broker whose queues may hold 1000 bytes."""
        broker = store.open(capacity=Capacity(bytes=1000))
        yield broker
        await broker.aclose()
        store.queues()

    async def test_the_bytes_of_all_records_are_counted(self, broker: Broker, store: Inspectable) -> None:
        await push(broker, [opaque("a", record=bytes(600)), opaque("b", record=bytes(400))])
        assert store.queue().weighed == 1000
        with pytest.raises(QueueFull, match="1000 bytes"):
            await push(broker, [opaque(record=b"1")])
        lease = await claimed(broker)
        await settle(broker, lease, ended((await reserve(broker, lease))[0]))
        assert store.queue().weighed == 400
        await push(broker, [opaque(record=bytes(600))])

    async def test_the_count_follows_every_way_out(self, broker: Broker, store: Inspectable) -> None:
        """Whatever becomes of them: the invariants compare the count with what is stored."""
        lease = await claimed(broker)
        await push(broker, [opaque(f"t{number}", record=bytes(number + 1)) for number in range(6)])
        await prepare(broker, "p0", "p1")
        verdicts = [
            Verdict("complete", status=200),
            Verdict("fail", "client", 422),
            Verdict("retry", "server", 503, 60.0),
            Verdict("release", "stopped"),
        ]
        for verdict in verdicts:
            (held,) = await reserve(broker, lease)
            await settle(broker, lease, ended(held, verdict))
            store.queue()
        await broker.discard("default", ["p0"], deadline=soon())
        await broker.inspector.retry("default", [("t1", bytes(100))], deadline=soon())
        assert store.queue().stored == 100 + 3 + 4 + 5 + 6 + 6
        (held,) = await reserve(broker, lease)
        await settle(broker, lease, ended(held, Verdict("fail", "client", 422)))
        assert await broker.trim(
            "default", [("failed", 0, 0), ("finished", 0, 0)], most=10, deadline=soon()
        ) == Trimmed(2)
        store.queue()
        await broker.reset("default", deadline=soon())
        assert store.queue().weighed == 0


class TestCommit:
    async def test_the_one_that_adds_is_told_and_nothing_is_half_pushed(self, store: Inspectable) -> None:
        tq = queue_at(store.url, max_tasks=250)
        with pytest.raises(QueueFull):
            await committed(tq, 300)  # in two pieces, of which the first would fit
        assert store.everything() == {}
        with pytest.raises(QueueFull):
            await committed(tq, 251, "mail")  # one queue after the other, and the first has room
        assert store.everything() == {}
        await committed(tq, 250)
        assert await tq.size() == 250
        await tq.aclose()

    @pytest.mark.accept("CT05")
    @pytest.mark.parametrize("count", [1, 300])
    async def test_a_queue_that_is_full_vetoes(self, store: Inspectable, count: int) -> None:
        tq = queue_at(store.url, max_tasks=200)
        stored = await committed(tq, 200)
        assert await vetoed(tq, count) is QueueFull
        assert [task_id.decode() for task_id in reversed(store.queue().waiting)] == stored
        await tq.aclose()

    @pytest.mark.accept("CT05")
    @pytest.mark.parametrize("count", [1, 300])
    async def test_a_server_without_memory_vetoes(self, redis_server: RedisServer, count: int) -> None:
        client = redis_server.client()
        tq = queue_at(redis_server.url)
        client.config_set("maxmemory", 1)
        try:
            assert await vetoed(tq, count) is BrokerUnavailable
        finally:
            client.config_set("maxmemory", 0)
        assert client.keys("*") == []
        await tq.aclose()

    @pytest.mark.accept("CT05")
    @pytest.mark.parametrize("count", [1, 300])
    async def test_a_server_that_is_down_vetoes(self, private_server: RedisServer, count: int) -> None:
        tq = queue_at(private_server.url, commit_deadline=DOWN_FOR)
        assert await tq.size() == 0
        private_server.kill()
        assert await vetoed(tq, count) is BrokerUnavailable
        private_server.start()
        assert private_server.client().keys("*") == []
        await tq.aclose()


async def committed(tq: taskqueue.TaskQueue, count: int, *first: str) -> list[str]:
    """Commit one task to each of these queues and that many to the default one; return the ids of those."""
    async with tq.transaction():
        for queue in first:
            tq.add("/first", queue=queue)
        return [tq.add(f"/{number}") for number in range(count)]


async def vetoed(tq: taskqueue.TaskQueue, count: int) -> type[BaseException]:
    """Commit that many tasks in vain; the work done before the vote is undone with it. Return what was raised."""
    ledger = ["as it was"]

    async def handler() -> None:
        await committed(tq, count)
        ledger.append("changed")  # the application's own commit comes after the vote

    with pytest.raises(BrokerUnavailable) as caught:
        await handler()
    assert not isinstance(caught.value, CommitUncertain)
    assert ledger == ["as it was"]
    return caught.type


@pytest.mark.parametrize("kind", KINDS)
async def test_the_client_is_told_503_and_when_to_come_again(
    kind: str, any_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    tq = queue_at(any_server.url, max_tasks=1)
    async with serving(kind, {"/": adding("/later"), "/two": adding("/a", "/b")}, tq) as base:
        answers = [await fetch("GET", base + path) for path in ("/two", "/", "/")]
        assert [answer.status for answer in answers] == [503, 200, 503]
        assert answers[0].headers["Retry-After"] == "1"
        assert answers[0].text == "The queue is full: none of the tasks of this request will run. Try again later.\n"
        assert "queue default: it holds all it may" in caplog.text
        assert await tq.size() == 1
    await tq.aclose()


def test_what_is_not_given_comes_from_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert queue_at("redis://h").capacity == Capacity(tasks=1_000_000, bytes=0)
    (tmp_path / "taskqueue.toml").write_text("max_tasks = 7")
    monkeypatch.setenv("TASKQUEUE_MAX_BYTES", "5000")
    assert queue_at("redis://h").capacity == Capacity(tasks=7, bytes=5000)
    assert queue_at("redis://h", max_tasks=0, max_bytes=1).capacity == Capacity(tasks=0, bytes=1)


@pytest.mark.parametrize("wrong", [{"max_tasks": -1}, {"max_bytes": -1}])
def test_a_limit_below_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(taskqueue.ConfigError, match=r"max_tasks, max_bytes: .*-1.* must be 0 \(no limit\) or more"):
        taskqueue.TaskQueue("redis://127.0.0.1", **wrong)
