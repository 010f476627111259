"""A consumer that has found nothing is handed what comes: a message brings it, one exchange tells how it ended."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgpack
import pytest

from taskqueue import server as consuming
from taskqueue.broker import Handed
from taskqueue.brokers import hearing
from taskqueue.brokers.redis import RedisBroker
from taskqueue.intake import Intake
from taskqueue.line import Line
from taskqueue.producer import TaskQueue
from tests.acceptance.test_consumer import BASE, consumer, push, reached, running
from tests.invariants import assert_invariants
from tests.moves import claimed, exchange
from tests.servers import RedisServer
from tests.target import Target, listening
from tests.tasks import opaque
from tests.waiting import until
from tests.work import consume


@pytest.fixture
def client(any_server: RedisServer) -> Any:
    return any_server.client()


@pytest.fixture
async def broker(any_server: RedisServer) -> AsyncIterator[RedisBroker]:
    broker = RedisBroker(any_server.url, namespace="taskqueue")
    yield broker
    await broker.aclose()


async def waits(client: Any, *names: str, queue: str = "default") -> None:
    """Return when these consumers wait, and no others."""

    async def there() -> bool:
        idle = client.zrange(f"taskqueue:{{{queue}}}:idle", 0, -1)
        return {name.decode().partition(":")[0] for name in idle} == set(names)

    await until(there, f"{names} wait for {queue}")


NO_ANSWERS: Final[list[Any]] = [{}, [b"t"], [None] * 6, [b"t", b"i", b"r", 1, 1, b"0"]]
PATIENT: Final[dict[str, Any]] = {"poll_max": 3600.0, "concurrent_limit": 3}


@pytest.fixture(autouse=True)
def _asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer asks again only when it has something to tell, or has heard something."""
    monkeypatch.setattr(consuming, "POLL_MIN", 3600.0)


async def test_a_task_costs_one_call_of_the_producer_and_one_of_the_consumer(
    tq: TaskQueue, target: Target, any_server: RedisServer, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = consumer(any_server.url, target, **PATIENT)
    calls = list[tuple[int, int]]()
    ask = server._broker.exchange

    async def counted(lease: Any, settlements: Sequence[Any], **options: Any) -> Any:
        calls.append((len(settlements), options["want"]))
        return await ask(lease, settlements, **options)

    monkeypatch.setattr(server._broker, "exchange", counted)
    async with running(server):
        for number in range(5):
            await waits(client, "one")
            calls.clear()
            (task_id,) = await push(tq, f"/{number}")
            state = await reached(tq, task_id, "completed")
            assert (state.delivery, state.attempt, state.holder) == (1, 1, "one")
            await waits(client, "one")
            assert [told for told, _ in calls] == [1]
    assert target.paths == [f"/{number}" for number in range(5)]


async def test_while_it_runs_it_is_seen_with_its_consumer(
    tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
) -> None:
    target.handler = target.gated
    async with running(consumer(any_server.url, target, **PATIENT)):
        await waits(client, "one")
        (task_id,) = await push(tq, "/")
        await target.started(1)
        assert client.hgetall(f"{BASE}:handed") == {b"one": task_id.encode()}
        stats = await tq.broker.inspector.stats("default", deadline=asyncio.get_running_loop().time() + 1e6)
        assert [one.holds for one in stats.consumers] == [1]
        assert_invariants(client)
        target.gate.set()
        await reached(tq, task_id, "completed")


async def test_of_several_that_wait_one_alone_is_woken(
    tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
) -> None:
    names = ("one", "two", "three", "four")
    servers = [consumer(any_server.url, target, name=name, **PATIENT) for name in names]
    async with running(servers[0]), running(servers[1]), running(servers[2]), running(servers[3]):
        holders = []
        for number in range(8):
            await waits(client, *names)
            await asyncio.sleep(0.03)  # until those are done who have heard that they are several
            (task_id,) = await push(tq, f"/{number}")
            holders.append((await reached(tq, task_id, "completed")).holder)
    assert len(set(holders)) > 1
    assert len(target.paths) == 8


async def test_one_that_was_killed_while_it_waited_is_handed_nothing(
    tq: TaskQueue, target: Target, any_server: RedisServer, client: Any, broker: RedisBroker
) -> None:
    async with broker.hints(["default"], "gone") as hints:
        assert await anext(hints) == "default"
        await exchange(broker, await claimed(broker, "gone"), waits=True)
    # Its connection is closed, as that of a process that was killed is.
    async with running(consumer(any_server.url, target, name="other", **PATIENT)):
        await waits(client, "gone", "other")
        (task_id,) = await push(tq, "/")
        state = await reached(tq, task_id, "completed")
        assert (state.holder, state.delivery, state.attempt) == ("other", 2, 1)
        await waits(client, "other")


async def test_a_message_that_is_lost_comes_with_the_next_exchange(
    tq: TaskQueue, target: Target, any_server: RedisServer, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = hearing.Hearing._hint
    lost = []

    def hint(self: hearing.Hearing, kind: bytes, channel: bytes, *words: Any) -> str | None:
        heard = deaf(self, kind, channel, *words)
        if isinstance(heard, Handed):
            lost.append(heard)
            return None
        return heard

    monkeypatch.setattr(hearing.Hearing, "_hint", hint)
    monkeypatch.setattr(consuming, "POLL_MIN", 0.05)
    async with running(consumer(any_server.url, target)):
        await waits(client, "one")
        (task_id,) = await push(tq, "/")
        state = await reached(tq, task_id, "completed")
    assert (state.delivery, state.attempt, len(lost)) == (1, 1, 1)
    assert target.paths == ["/"]


@pytest.mark.parametrize(
    "said",
    [b"", b"\xc1", b"\x07", b"\x90", b"\x96\xa1t\xa1i\xa1r\x01\x01", msgpack.packb([b"\xff", b"i", b"r", 1, 1, 0])]
    + [msgpack.packb(values) for values in NO_ANSWERS],
)
async def test_what_no_script_has_said_ends_no_consumer(
    tq: TaskQueue, target: Target, any_server: RedisServer, client: Any, said: bytes
) -> None:
    async with running(consumer(any_server.url, target, **PATIENT)):
        await waits(client, "one")
        assert client.publish(f"{BASE}:to:one", said) == 1
        await push(tq, "/")
        await target.finished(1)


async def test_a_consumer_that_hears_nothing_does_not_wait(
    tq: TaskQueue, target: Target, any_server: RedisServer, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing.Hearing, "_hint", lambda *_: None)
    monkeypatch.setattr(consuming, "POLL_MIN", 0.05)
    async with running(consumer(any_server.url, target)):
        (task_id,) = await push(tq, "/")
        await reached(tq, task_id, "completed")
        await asyncio.sleep(0.2)
        assert client.exists(f"{BASE}:idle") == 0


async def test_who_ends_when_nothing_is_left_does_not_wait(
    tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
) -> None:
    target.handler = target.gated
    await push(tq, "/1")
    intake = Intake(tq.broker, ["default"], burst=True)
    job = asyncio.create_task(consume(consumer(any_server.url, target, intake=intake, **PATIENT)))
    await target.started(1)
    await asyncio.sleep(0.1)
    assert client.exists(f"{BASE}:idle") == 0
    target.gate.set()
    await job


async def test_who_stops_while_it_waits_leaves_nothing_behind(
    tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
) -> None:
    for number in range(20):
        async with running(consumer(any_server.url, target, **PATIENT)) as server:
            await waits(client, "one")
            # The very moment at which a task is handed over, or a little before or after.
            pushed = asyncio.create_task(push(tq, f"/{number}"))
            for _ in range(number % 7):
                await asyncio.sleep(0)
            server.stop()
            await pushed
        assert client.exists(f"{BASE}:idle", f"{BASE}:consumers", f"{BASE}:handed") == 0
    async with running(consumer(any_server.url, target, **PATIENT)):
        await target.finished(20)
    assert sorted(target.paths) == sorted(f"/{number}" for number in range(20))


async def test_who_is_paused_is_handed_nothing(
    tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
) -> None:
    async with running(consumer(any_server.url, target, **PATIENT)) as server:
        await waits(client, "one")
        server.pause()
        server._wake.set()
        await waits(client)
        (task_id,) = await push(tq, "/")
        assert client.lrange(BASE, 0, -1) == [task_id.encode()]
        server.resume()
        await reached(tq, task_id, "completed")


@pytest.mark.parametrize(("limit", "waiting"), [(1, ()), (2, ("one",))])
async def test_one_that_waits_has_a_slot_for_each_of_its_queues(
    tq: TaskQueue, target: Target, any_server: RedisServer, client: Any, limit: int, waiting: Sequence[str]
) -> None:
    options: dict[str, Any] = {"queues": ("default", "mail"), "concurrent_limit": limit}
    async with running(consumer(any_server.url, target, **options)):
        await asyncio.sleep(0.2)
        await waits(client, *waiting)
        await waits(client, *waiting, queue="mail")
        await push(tq, "/1", queue="default")
        await push(tq, "/2", queue="mail")
        await target.finished(2)
    assert target.most_running <= limit


async def test_who_has_no_slot_left_is_handed_nothing(
    tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
) -> None:
    target.handler = target.gated
    options: dict[str, Any] = {"queues": ("default", "mail"), "concurrent_limit": 2, "poll_max": 3600.0}
    async with listening() as other, running(consumer(any_server.url, target, **options)):
        await waits(client, "one")
        await waits(client, "one", queue="mail")
        await push(tq, "/1")
        await push(tq, "/2")
        await target.started(2)
        await waits(client, queue="mail")
        async with running(consumer(any_server.url, other, name="two", queues=("mail",))):
            await push(tq, "/3", queue="mail")
            await other.finished(1)
        target.gate.set()


async def test_many_that_come_at_once_run_once_each(
    tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
) -> None:
    servers = [consumer(any_server.url, target, name=name, **PATIENT) for name in ("one", "two")]
    async with running(servers[0]), running(servers[1]):
        numbers = itertools.count()

        async def request() -> None:
            for _ in range(50):
                await push(tq, f"/{next(numbers)}")

        await asyncio.gather(*(request() for _ in range(6)))
        await target.finished(300)
    assert sorted(target.paths) == sorted(f"/{number}" for number in range(300))
    assert len(assert_invariants(client)["default"].indexes["finished"]) == 300


class TestLine:
    """What a consumer makes of late answers, whichever way they come."""

    async def test_a_late_answer_that_overtakes_the_answer_counts(self, broker: RedisBroker) -> None:
        async with broker.hints(["default"], "one") as hints:
            assert await anext(hints) == "default"
            line = Line(await claimed(broker))
            taken = await exchange(broker, line.lease, token=line.token, waits=True)
            await broker.push("default", [opaque()], deadline=asyncio.get_running_loop().time() + 1e6)
            heard = await anext(hints)
        assert isinstance(heard, Handed)
        line.late = heard
        assert line.take_late() is None  # it does not wait yet
        assert line.answered(taken, waits=True) == []
        reservation = line.take_late()
        assert reservation == heard.reservation
        assert line.take_late() is None
        again = await exchange(broker, line.lease, token=line.token)
        assert again.reservations == [reservation]
        assert line.answered(again, waits=False) == []
        assert line.waits == ""

    async def test_what_was_not_heard_of_is_taken_from_the_answer(self, broker: RedisBroker) -> None:
        async with broker.hints(["default"], "one") as hints:
            assert await anext(hints) == "default"
            line = Line(await claimed(broker))
            line.answered(await exchange(broker, line.lease, token=line.token, waits=True), waits=True)
            await broker.push("default", [opaque()], deadline=asyncio.get_running_loop().time() + 1e6)
            heard = await anext(hints)
            assert isinstance(heard, Handed)
            (fresh,) = line.answered(await exchange(broker, line.lease, token=line.token), waits=False)
        line.late = heard  # it comes after all
        assert (line.take_late(), fresh) == (None, heard.reservation)
