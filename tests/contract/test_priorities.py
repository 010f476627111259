"""Priorities inside a queue, and what an operator says of a queue from whatever machine: in every store."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

import taskqueue
from taskqueue.broker import Broker, Lease
from taskqueue.errors import ConfigError, QueueClosed
from taskqueue.task import Reservation, SealedTask, Settlement, Verdict
from tests.moves import claimed, ended, ids, reserve, settle, soon
from tests.stores import Inspectable
from tests.tasks import SECRET, opaque, opaque_tasks

RELEASE = Verdict("release", "stopped")


@pytest.fixture
async def broker(store: Inspectable) -> AsyncIterator[Broker]:
    broker = store.open()
    yield broker
    await broker.aclose()
    store.queues()


@pytest.fixture
async def lease(broker: Broker) -> Lease:
    return await claimed(broker)


def urgent(*priorities: int) -> list[SealedTask]:
    """Return a task of each of these priorities, in order."""
    return [replace(opaque(), priority=priority) for priority in priorities]


async def pushed(broker: Broker, tasks: Sequence[SealedTask]) -> list[str]:
    await broker.push("default", tasks, deadline=soon())
    return [task.id for task in tasks]


@pytest.mark.accept("MY08")
async def test_the_higher_priority_goes_first_and_equals_in_their_order(broker: Broker, lease: Lease) -> None:
    low, first, second, high, top, lowest = await pushed(broker, urgent(1, 4, 4, 5, 9, 0))
    assert ids(await reserve(broker, lease, 4)) == [top, high, first, second]
    assert ids(await reserve(broker, lease, 4)) == [low, lowest]


async def test_the_line_is_shown_and_counted_in_that_order(broker: Broker) -> None:
    low, normal, high = await pushed(broker, urgent(3, 4, 7))
    assert await broker.size("default", deadline=soon()) == 3
    inspector = broker.inspector
    assert (await inspector.stats("default", deadline=soon())).queued == 3
    shown = await inspector.tasks("default", "queued", limit=10, offset=0, deadline=soon())
    assert [(task.id, task.priority) for task in shown] == [(high, 7), (normal, 4), (low, 3)]
    for limit in (1, 2):
        pages = [
            task.id
            for offset in range(0, 3, limit)
            for task in await inspector.tasks("default", "queued", limit=limit, offset=offset, deadline=soon())
        ]
        assert pages == [high, normal, low]


async def test_what_is_given_back_or_retried_stays_in_its_line(broker: Broker, lease: Lease) -> None:
    first, second, normal = await pushed(broker, urgent(8, 8, 4))
    given: list[Reservation] = await reserve(broker, lease, 2)
    await settle(broker, lease, *(Settlement(one.id, one.delivery, RELEASE) for one in given))
    assert ids(await reserve(broker, lease, 3)) == [first, second, normal]
    await broker.claim("default", "one", begins=True, deadline=soon())
    other = await claimed(broker, "two")
    assert ids(await reserve(broker, other, 3)) == [first, second, normal]


async def test_a_retry_and_a_delay_come_back_into_the_line_of_their_priority(broker: Broker, lease: Lease) -> None:
    delayed = replace(opaque(due=1), priority=9)
    normal, _ = await pushed(broker, [opaque(), delayed])
    await broker.due("default", deadline=soon())
    (one, two) = await reserve(broker, lease, 2)
    assert (one.id, two.id) == (delayed.id, normal)
    await settle(broker, lease, ended(one, Verdict("retry", "status", 503)), ended(two, Verdict("fail", "client", 404)))
    await broker.due("default", deadline=soon())
    assert await broker.inspector.retry("default", [(normal, b"")], deadline=soon()) == 1
    assert ids(await reserve(broker, lease, 2)) == [delayed.id, normal]


class TestControl:
    @pytest.mark.accept("MY09")
    async def test_a_limit_counts_what_all_consumers_hold(self, broker: Broker, lease: Lease) -> None:
        await pushed(broker, opaque_tasks(10))
        other = await claimed(broker, "two")
        await broker.control("default", {"limit": 3}, deadline=soon())
        held = await reserve(broker, lease, 2)
        assert len(await reserve(broker, other, 5)) == 1
        assert await reserve(broker, lease, 5) == []
        await settle(broker, lease, ended(held[0]))
        assert len(await reserve(broker, other, 5)) == 1
        await broker.control("default", {"limit": None}, deadline=soon())
        assert len(await reserve(broker, other, 5)) == 5

    async def test_a_paused_queue_takes_tasks_and_gives_none(self, broker: Broker, lease: Lease) -> None:
        await broker.control("default", {"paused": 1}, deadline=soon())
        (task_id,) = await pushed(broker, opaque_tasks(1))
        assert await reserve(broker, lease) == []
        assert (await broker.inspector.stats("default", deadline=soon())).control == {"paused": 1}
        await broker.control("default", {"paused": None}, deadline=soon())
        assert ids(await reserve(broker, lease)) == [task_id]

    async def test_a_closed_queue_drains(self, broker: Broker, lease: Lease) -> None:
        voted = opaque()
        await broker.prepare("default", [voted], deadline=soon())
        (task_id,) = await pushed(broker, opaque_tasks(1))
        await broker.control("default", {"closed": 1}, deadline=soon())
        with pytest.raises(QueueClosed, match="taskqueue queues open default"):
            await broker.push("default", opaque_tasks(1), deadline=soon())
        with pytest.raises(QueueClosed):
            await broker.prepare("default", opaque_tasks(1), deadline=soon())
        await broker.promote("default", [voted.id], deadline=soon())
        assert ids(await reserve(broker, lease, 2)) == [task_id, voted.id]

    async def test_a_repeated_push_is_known_though_the_queue_was_closed_meanwhile(self, broker: Broker) -> None:
        tasks = opaque_tasks(1)
        await pushed(broker, tasks)
        await broker.control("default", {"closed": 1}, deadline=soon())
        await pushed(broker, tasks)

    @pytest.mark.accept("MY10")
    async def test_no_consumer_starts_on_a_disabled_queue_nor_gets_anything(self, broker: Broker, lease: Lease) -> None:
        await pushed(broker, opaque_tasks(1))
        await broker.control("default", {"disabled": 1}, deadline=soon())
        assert await reserve(broker, lease) == []
        with pytest.raises(ConfigError, match="taskqueue queues enable default"):
            await claimed(broker, "two")
        await broker.control("default", {"disabled": None}, deadline=soon())
        await claimed(broker, "two")

    async def test_consumers_hear_of_it_at_once(self, broker: Broker) -> None:
        async with broker.hints(["default"], "one") as hints:
            assert await anext(hints) == "default"  # the subscription itself
            await broker.control("default", {"paused": None}, deadline=soon())
            assert await anext(hints) == "default"


async def test_a_purge_forgets_what_waits_and_nothing_else(broker: Broker, lease: Lease) -> None:
    (running,) = await pushed(broker, opaque_tasks(1))
    await reserve(broker, lease)
    voted = opaque()
    await broker.prepare("default", [voted], deadline=soon())
    await pushed(broker, [*urgent(0, 4, 9), opaque(due=-3_600_000)])
    assert await broker.purge("default", most=3, deadline=soon()) == 3
    assert await broker.purge("default", most=3, deadline=soon()) == 1
    assert await broker.purge("default", most=3, deadline=soon()) == 0
    stats = await broker.inspector.stats("default", deadline=soon())
    assert (stats.queued, stats.scheduled, stats.prepared, stats.reserved) == (0, 0, 1, 1)
    assert await broker.get("default", running, deadline=soon()) is not None


async def test_add_says_how_urgent_a_task_is(store: Inspectable) -> None:
    tq = taskqueue.TaskQueue(store.url, secret=SECRET)
    tq.defaults("/invoices/{year}", priority=7)
    async with tq.transaction():
        expected = {
            tq.add("/a"): 4,
            tq.add("/a", priority=9): 9,
            tq.add("/invoices/2026"): 7,
            tq.add("/invoices/2026", priority=0): 0,
        }
    for task_id, priority in expected.items():
        state = await tq.get(task_id)
        assert state is not None
        assert state.priority == priority
    await tq.aclose()


@pytest.mark.parametrize("priority", [-1, 10, 4.0, "high", True])
async def test_a_priority_is_a_whole_number_from_0_to_9(priority: object) -> None:
    tq = taskqueue.TaskQueue("redis://nowhere", secret=SECRET)
    async with tq.transaction() as transaction:
        with pytest.raises(taskqueue.InvalidTask, match=r"priority: .* from 0 to 9; 9 goes first"):
            tq.add("/a", priority=priority)  # type: ignore[arg-type]
        assert len(transaction) == 0
