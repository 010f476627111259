"""What a broker in Redis must do beside what every broker must: repeat, refuse, and bear what others write."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import msgpack
import pytest

from taskqueue.broker import Lease, Taken
from taskqueue.brokers import hearing, storing
from taskqueue.brokers.redis import RedisBroker
from taskqueue.brokers.scripts import SCRIPTS
from taskqueue.errors import BrokerUnavailable, ConfigError
from taskqueue.task import Verdict
from tests.invariants import Queue, assert_invariants
from tests.moves import ROOM, claimed, ended, ids, push, reserve, settle, soon, state_of
from tests.servers import RedisServer
from tests.tasks import opaque, opaque_tasks
from tests.waiting import until

BASE: Final = "taskqueue:{default}"


@pytest.fixture
def client(redis_server: RedisServer) -> Any:
    return redis_server.client()


@pytest.fixture
async def broker(redis_server: RedisServer, client: Any) -> AsyncIterator[RedisBroker]:
    broker = RedisBroker(redis_server.url, namespace="taskqueue")
    yield broker
    await broker.aclose()
    assert_invariants(client)


@pytest.fixture
async def lease(broker: RedisBroker) -> Lease:
    return await claimed(broker)


def queue_of(client: Any, name: str = "default") -> Queue:
    return assert_invariants(client).get(name, Queue())


def everything(client: Any) -> dict[bytes, bytes | None]:
    """Return each key with its serialised value, to show that nothing has changed."""
    return {key: client.dump(key) for key in client.scan_iter(count=1000)}


def call(client: Any, name: str, *arguments: str | int | bytes) -> Any:
    """Run a script as a second process would."""
    return client.eval(SCRIPTS[name].source, 1, BASE, *arguments)


async def _due(client: Any) -> bool:
    seconds, micros = client.time()
    return bool(client.zcount(f"{BASE}:scheduled", seconds * 1000 + micros // 1000 + 1, "+inf") == 0)


class TestLateness:
    @pytest.mark.parametrize("verb", ["push", "prepare"])
    async def test_what_comes_to_execution_too_late_is_refused(
        self, broker: RedisBroker, client: Any, verb: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storing, "LATE_MARGIN", 3600)
        store = broker.push if verb == "push" else broker.prepare
        with pytest.raises(BrokerUnavailable, match="after the deadline"):
            await store("default", opaque_tasks(2), deadline=soon())
        assert everything(client) == {}

    @pytest.mark.parametrize("verb", ["push", "prepare"])
    async def test_a_repeat_of_what_is_stored_is_never_late(
        self, broker: RedisBroker, client: Any, verb: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = broker.push if verb == "push" else broker.prepare
        tasks = opaque_tasks(2)
        await store("default", tasks, deadline=soon())
        before = everything(client)
        monkeypatch.setattr(storing, "LATE_MARGIN", 3600)
        await store("default", tasks, deadline=soon())
        assert everything(client) == before


class TestFenced:
    async def test_nothing_is_settled_or_reserved(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        await push(broker, opaque_tasks(2))
        (held,) = await reserve(broker, lease, token="t")
        await claimed(broker)
        before = everything(client)
        arguments = ("one", lease.epoch, "t", 1, ROOM, 1000, 0, 0)
        assert call(client, "exchange", *arguments) == [b"FENCED"]
        ending = (held.id, 1, "complete", 0, 200, "", "", "", "")
        assert call(client, "exchange", *arguments, *ending) == [b"FENCED"]
        assert everything(client) == before


class TestRepeats:
    async def test_a_repeated_claim_is_the_same_claim(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        await push(broker, opaque_tasks(3))
        await reserve(broker, lease, 2)
        arguments = ("one", "0123456789abcdef", "host", 1, "boot", "start", 1, "*", "")
        epoch, returned, left = call(client, "claim", *arguments)
        assert (returned, left) == (2, 0)
        before = everything(client)
        assert call(client, "claim", *arguments) == [epoch, 0, 0]
        assert everything(client) == before

    async def test_a_repeat_of_the_same_start_is_granted(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        await reserve(broker, lease)
        assert call(client, "begin", "id", 1, "start") == [1]
        before = everything(client)
        assert call(client, "begin", "id", 1, "start") == [1]
        assert call(client, "begin", "id", 1, "another") == [0]
        assert everything(client) == before


class TestResetting:
    async def test_a_reset_that_was_broken_off_is_finished_by_the_next(
        self, broker: RedisBroker, client: Any, lease: Lease
    ) -> None:
        for _ in range(2):
            await push(broker, opaque_tasks(3))
            for item in await reserve(broker, lease, 2):
                await settle(broker, lease, ended(item, Verdict("fail", "x")))
            call(client, "reset")
        await push(broker, opaque_tasks(1))
        await broker.reset("default", deadline=soon())
        assert queue_of(client) == Queue(leases={"one"}, consumers={"one"})

    async def test_reset_finds_also_what_is_not_of_our_making(
        self, broker: RedisBroker, client: Any, lease: Lease
    ) -> None:
        client.lpush(f"{BASE}:reserved:one", "garbage")
        client.hset(f"{BASE}:records", "stray", "x")
        client.zadd(f"{BASE}:failed", {"garbage": 1})
        await broker.reset("default", deadline=soon())
        assert queue_of(client) == Queue(leases={"one"}, consumers={"one"})


GARBAGE: Final = [
    b"",
    b"\xff\xfe",
    b"x" * 300,
    b'{"url": "/"}',
    msgpack.packb(["queued"]),
    msgpack.packb(list("x" * 16)),
]


class TestPoison:
    @pytest.mark.parametrize("garbage", GARBAGE)
    async def test_garbage_in_the_line_is_set_aside(
        self, broker: RedisBroker, client: Any, lease: Lease, garbage: bytes
    ) -> None:
        client.rpush(BASE, garbage)
        pushed = await push(broker, opaque_tasks(1))
        client.lpush(BASE, garbage + b"2")
        assert ids(await reserve(broker, lease, 3)) == pushed
        assert set(queue_of(client).indexes["failed"]) == {garbage, garbage + b"2"}

    @pytest.mark.parametrize("garbage", GARBAGE)
    async def test_a_state_of_garbage_sets_its_task_aside(
        self, broker: RedisBroker, client: Any, lease: Lease, garbage: bytes
    ) -> None:
        await push(broker, [opaque("waiting"), opaque("good"), opaque("scheduled", due=-1)])
        await until(lambda: _due(client), "the scheduled one is due")
        for task_id in ("waiting", "scheduled"):
            client.hset(f"{BASE}:state", task_id, garbage)
        await broker.due("default", deadline=soon())
        assert ids(await reserve(broker, lease, 3)) == ["good"]
        assert await reserve(broker, lease, 3) == []
        for task_id in ("waiting", "scheduled"):
            state = await state_of(broker, task_id)
            assert (state.state, state.reason) == ("failed", "format")

    async def test_a_state_with_text_for_a_number_sets_its_task_aside(
        self, broker: RedisBroker, client: Any, lease: Lease
    ) -> None:
        for position in range(1, 10):
            await push(broker, [opaque("id"), opaque("good")])
            packed = msgpack.unpackb(client.hget(f"{BASE}:state", "id"))
            packed[position] = "text"
            client.hset(f"{BASE}:state", "id", msgpack.packb(packed))
            (good,) = await reserve(broker, lease, 3)
            assert await settle(broker, lease, ended(good)) == []
            assert (await state_of(broker, "id")).reason == "format"
            await broker.reset("default", deadline=soon())
            # Nobody knows any more what it was found by.
            assert client.zrem(f"{BASE}:by:label:label", "id") == 1

    async def test_a_task_without_record_is_set_aside(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        await push(broker, [opaque("id"), opaque("good")])
        client.hdel(f"{BASE}:records", "id")
        client.hincrby(f"{BASE}:control", "bytes", -len(opaque("id").record))
        assert ids(await reserve(broker, lease, 3)) == ["good"]
        assert (await state_of(broker, "id")).reason == "format"

    async def test_a_second_entry_of_one_task_is_dropped(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        await push(broker, opaque_tasks(2))
        client.lpush(BASE, *client.lrange(BASE, 0, -1))
        assert len(await reserve(broker, lease, 9)) == 2
        assert len(queue_of(client).reserved["one"]) == 2

    @pytest.mark.parametrize("garbage", GARBAGE)
    async def test_a_reservation_of_garbage_is_set_aside_by_the_next_claim(
        self, broker: RedisBroker, client: Any, lease: Lease, garbage: bytes
    ) -> None:
        pushed = await push(broker, opaque_tasks(3))
        await reserve(broker, lease, 3)
        client.hset(f"{BASE}:state", pushed[1], garbage)
        client.lpush(f"{BASE}:reserved:one", garbage + b"!")
        again = await claimed(broker)
        assert ids(await reserve(broker, again, 9)) == [pushed[0], pushed[2]]
        assert set(queue_of(client).indexes["failed"]) == {pushed[1].encode(), garbage + b"!"}

    async def test_more_garbage_than_one_call_sets_aside(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        client.rpush(BASE, *(f"garbage-{number}" for number in range(250)))
        await push(broker, [opaque("good")])
        given = [ids(await reserve(broker, lease)) for _ in range(3)]
        assert given == [[], [], ["good"]]

    async def test_a_state_that_cannot_be_read_is_told(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        client.hset(f"{BASE}:state", "id", b"\xc1")
        with pytest.raises(BrokerUnavailable, match="task id: its state"):
            await broker.get("default", "id", deadline=soon())
        assert await reserve(broker, lease) == []


class TestBatches:
    """What is done to many tasks at once is few commands, and none that brings more than it should."""

    async def test_a_batch_is_few_writes(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        pushed = await push(broker, opaque_tasks(200))
        first = await reserve(broker, lease, 100, token="first")
        client.config_resetstat()
        verdicts = [ended(item) for item in first]
        taken = await broker.exchange(lease, verdicts, token="second", want=100, room=ROOM, deadline=soon())
        assert [item.id for item in taken.reservations] == pushed[100:]
        calls = {name: stats["calls"] for name, stats in client.info("commandstats").items()}
        written = ("hset", "hdel", "zadd", "lpush", "rpush", "lrem", "ltrim")
        assert sum(calls.get(f"cmdstat_{name}", 0) for name in written) <= 12

    async def test_no_more_records_are_read_than_may_be_given(
        self, broker: RedisBroker, client: Any, lease: Lease
    ) -> None:
        pushed = await push(broker, [opaque(record=bytes(1000)) for _ in range(20)])
        with client.monitor() as monitor:
            assert ids(await reserve(broker, lease, 20, room=3500)) == pushed[:3]
            client.echo("over")
            said = [words.split() for words in iter(lambda: monitor.next_command()["command"], "ECHO over")]
        (read,) = [words[2:] for words in said if words[:2] == ["HMGET", f"{BASE}:records"]]
        assert read == pushed[:4]


class TestRefusals:
    @pytest.mark.parametrize("suffix", ["", ":state", ":records"])
    async def test_a_key_of_somebody_else_names_the_remedy(self, broker: RedisBroker, client: Any, suffix: str) -> None:
        client.set(BASE + suffix, "somebody else's")
        with pytest.raises(ConfigError, match="choose another namespace"):
            await push(broker, opaque_tasks(1))
        client.flushall()

    async def test_somebody_elses_reservation_key(self, broker: RedisBroker, client: Any) -> None:
        client.set(f"{BASE}:consumer:one", "somebody else's")
        with pytest.raises(ConfigError, match="namespace: a key in redis belongs to something else"):
            await claimed(broker)
        client.flushall()

    @pytest.fixture
    def no_memory(self, client: Any) -> Iterator[None]:
        yield
        client.config_set("maxmemory", 0)

    @pytest.mark.usefixtures("no_memory")
    @pytest.mark.parametrize("due", [0, -1000])
    async def test_a_full_memory_refuses_the_whole_push(self, broker: RedisBroker, client: Any, due: int) -> None:
        await push(broker, opaque_tasks(1))
        before = everything(client)
        client.config_set("maxmemory", 1)
        for store in (broker.push, broker.prepare):
            with pytest.raises(BrokerUnavailable, match="no memory left"):
                await store("default", [opaque(due=due) for _ in range(3)], deadline=soon())
        assert everything(client) == before


class TestHints:
    @pytest.mark.parametrize("fault", ["cut", "frozen"])
    async def test_hints_end_with_their_connection(
        self, private_server: RedisServer, monkeypatch: pytest.MonkeyPatch, fault: str
    ) -> None:
        monkeypatch.setattr(hearing, "HINT_PING", 0.05 if fault == "frozen" else 60)
        broker = RedisBroker(private_server.url, namespace="taskqueue")

        async def listen() -> None:
            async with broker.hints(["default"], "one") as hints:
                assert await anext(hints) == "default"
                if fault == "frozen":
                    private_server.pause()
                else:
                    private_server.kill()
                await anext(hints)

        with pytest.raises(BrokerUnavailable):
            await listen()

    async def test_silence_is_no_dead_line(
        self, broker: RedisBroker, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hearing, "HINT_PING", 0.02)
        async with broker.hints(["default"], "one") as hints:
            await anext(hints)
            before = _pings(client)

            async def pinged() -> bool:
                return _pings(client) > before + 3

            listener = asyncio.ensure_future(anext(hints))
            await until(pinged, "several pings have been answered")
            assert not listener.done()
            await push(broker, opaque_tasks(1))
            assert await listener == "default"


def _pings(client: Any) -> int:
    return int(client.info("commandstats").get("cmdstat_ping", {}).get("calls", 0))


async def test_who_takes_all_there_was_tells_the_others(any_server: RedisServer) -> None:
    broker = RedisBroker(any_server.url, namespace="taskqueue")
    one, _ = await broker.claim("default", "one", begins=True, deadline=soon())

    async def take(lease: Lease, want: int) -> int:
        token = secrets.token_hex(8)
        taken = await broker.exchange(lease, (), token=token, want=want, room=2**20, deadline=soon())
        return len(taken.reservations)

    async with broker.hints(["default"], "one") as hints:
        assert await anext(hints) == "default"
        await broker.push("default", opaque_tasks(1), deadline=soon())
        assert await take(one, 1) == 1  # alone, so nobody has to know
        await broker.claim("default", "two", begins=True, deadline=soon())
        await broker.push("default", opaque_tasks(2), deadline=soon())
        assert await take(one, 1) == 1  # one is left
        assert await take(one, 1) == 1
        assert await take(one, 1) == 0
        await broker.push("default", opaque_tasks(1), deadline=soon())
        heard = [await anext(hints) for _ in range(4)]
    assert [isinstance(hint, Taken) for hint in heard] == [False, False, True, False]
    await broker.aclose()
