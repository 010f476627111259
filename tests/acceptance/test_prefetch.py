"""What a consumer has reserved ahead of its slots costs nobody anything: not started, it is given back unspent."""

import asyncio
import time

import pytest

from taskqueue import TaskQueue, prefetch
from taskqueue.errors import Fenced
from taskqueue.intake import Intake
from taskqueue.prefetch import Prefetch
from tests.acceptance.test_consumer import consumer, push, queue_of, reached, running, state_of
from tests.servers import RedisServer
from tests.target import Target
from tests.waiting import until
from tests.work import consume


@pytest.fixture
def target(target: Target) -> Target:
    target.handler = target.gated
    return target


@pytest.fixture(autouse=True)
def three_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold three tasks whatever the pace, for as long as a test may take."""
    monkeypatch.setattr(Prefetch, "depth", lambda _prefetch, _now: 3)
    monkeypatch.setattr(prefetch, "STALE", 3600.0)


async def reserved(server: RedisServer, target: Target, count: int) -> None:
    """Wait until one runs, and the others of so many are held."""

    async def there() -> bool:
        return sum(map(len, queue_of(server.client()).reserved.values())) == count

    await until(there, f"{count} tasks are reserved")
    await target.started()


async def untouched(tq: TaskQueue, ids: list[str]) -> None:
    """See to it that these wait, and that nothing was spent."""
    states = [await state_of(tq, task_id) for task_id in ids]
    assert {(state.state, state.attempt, state.crashes) for state in states} == {("queued", 0, 0)}


async def in_line(tq: TaskQueue, server: RedisServer, ids: list[str]) -> None:
    """Wait until just these wait, in this order, untouched."""

    async def there() -> bool:
        return [task_id.decode() for task_id in reversed(queue_of(server.client()).waiting)] == ids

    await until(there, "they wait in their order")
    await untouched(tq, ids)


async def test_no_more_run_than_may_and_all_in_order(tq: TaskQueue, target: Target, any_server: RedisServer) -> None:
    paths = [f"/{number}" for number in range(20)]
    await push(tq, *paths)
    async with running(consumer(any_server.url, target)):
        await reserved(any_server, target, 4)
        target.gate.set()
        await target.finished(20)
    assert target.paths == paths
    assert target.most_running == 1


async def test_at_a_stop_what_is_held_goes_back_in_front(
    tq: TaskQueue, target: Target, any_server: RedisServer
) -> None:
    ids = await push(tq, *(f"/{number}" for number in range(6)))
    async with running(consumer(any_server.url, target)) as server:
        await reserved(any_server, target, 4)
        server.stop()
        await in_line(tq, any_server, ids[1:])
        target.gate.set()
    assert target.paths == ["/0"]


async def test_in_a_pause_others_can_have_it(tq: TaskQueue, target: Target, any_server: RedisServer) -> None:
    ids = await push(tq, *(f"/{number}" for number in range(6)))
    async with running(consumer(any_server.url, target)) as server:
        await reserved(any_server, target, 4)
        server.pause()
        await in_line(tq, any_server, ids[1:])
        server.resume()
        await reserved(any_server, target, 4)
        target.gate.set()
        await target.finished(6)
    assert target.paths == [f"/{number}" for number in range(6)]


async def test_what_waits_too_long_for_a_slot_runs_elsewhere(
    tq: TaskQueue, target: Target, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await push(tq, *(f"/{number}" for number in range(3)))
    async with running(consumer(any_server.url, target)):
        await reserved(any_server, target, 3)
        monkeypatch.setattr(Prefetch, "depth", lambda _prefetch, _now: 0)
        monkeypatch.setattr(prefetch, "STALE", 0.0)
        await in_line(tq, any_server, ids[1:])
        monkeypatch.setattr(prefetch, "STALE", 3600.0)
        async with running(consumer(any_server.url, target, name="two", concurrent_limit=2)):
            await target.started(3)
            target.gate.set()
            await target.finished(3)
    assert (await state_of(tq, ids[1])).holder == "two"


async def test_who_has_lost_the_name_starts_nothing_more(
    tq: TaskQueue, target: Target, any_server: RedisServer
) -> None:
    await push(tq, *(f"/{number}" for number in range(4)))
    server = consumer(any_server.url, target)
    job = asyncio.create_task(consume(server))
    await reserved(any_server, target, 4)
    any_server.client().hset("taskqueue:{default}:consumer:one", "epoch", "9-another")
    with pytest.raises(Fenced):
        await job
    assert target.paths == ["/0"]
    any_server.client().delete("taskqueue:{default}:reserved:one", "taskqueue:{default}:consumer:one")
    any_server.client().flushdb()


async def test_a_cancelled_one_does_not_run(tq: TaskQueue, target: Target, any_server: RedisServer) -> None:
    ids = await push(tq, *(f"/{number}" for number in range(4)))
    async with running(consumer(any_server.url, target)):
        await reserved(any_server, target, 4)
        soon = time.monotonic() + 10
        await tq.broker.withdraw("default", [ids[2]], "cancelled", actor="me", force=True, deadline=soon)
        await reached(tq, ids[2], "cancelled")
        target.gate.set()
        await target.finished(3)
    assert target.paths == ["/0", "/1", "/3"]


async def test_a_limit_of_tasks_counts_what_is_held(tq: TaskQueue, target: Target, any_server: RedisServer) -> None:
    ids = await push(tq, *(f"/{number}" for number in range(8)))
    target.gate.set()
    await consume(consumer(any_server.url, target, intake=Intake(tq.broker, ["default"], limit=3)))
    assert target.done == ["/0", "/1", "/2"]
    await untouched(tq, ids[4:])
