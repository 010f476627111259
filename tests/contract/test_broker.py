"""What every broker must do, tried on each kind of server there is. After each test the whole keyspace is inspected."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import msgpack
import pytest

from taskqueue.broker import Exchange, Lease
from taskqueue.brokers import redis as redis_broker
from taskqueue.brokers.redis import RedisBroker
from taskqueue.brokers.scripts import SCRIPTS
from taskqueue.errors import BrokerUnavailable, ConfigError, Fenced
from taskqueue.task import Reservation, SealedTask, Settlement, TaskState, Verdict
from tests.invariants import Queue, assert_invariants
from tests.servers import RedisServer
from tests.tasks import opaque, opaque_tasks
from tests.waiting import until

BASE: Final = "taskqueue:{default}"
COMPLETE: Final = Verdict("complete", status=200)
ROOM: Final = 4 * 1024 * 1024


def soon() -> float:
    """Return a deadline that no healthy server misses."""
    return time.monotonic() + 10


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


async def claimed(broker: RedisBroker, name: str = "one", *, queue: str = "default", begins: bool = True) -> Lease:
    lease, _ = await broker.claim(queue, name, begins=begins, deadline=soon())
    return lease


async def push(broker: RedisBroker, tasks: Sequence[SealedTask], *, queue: str = "default") -> list[str]:
    await broker.push(queue, tasks, deadline=soon())
    return [task.id for task in tasks]


async def exchange(
    broker: RedisBroker,
    lease: Lease,
    *settlements: Settlement,
    token: str = "",
    want: int = 1,
    room: int = ROOM,
) -> Exchange:
    token = token or f"{random.getrandbits(64):x}"
    return await broker.exchange(lease, settlements, token=token, want=want, room=room, deadline=soon())


async def reserve(
    broker: RedisBroker, lease: Lease, want: int = 1, *, token: str = "", room: int = ROOM
) -> list[Reservation]:
    return list((await exchange(broker, lease, token=token, want=want, room=room)).reservations)


async def settle(broker: RedisBroker, lease: Lease, *settlements: Settlement) -> list[str]:
    return list((await exchange(broker, lease, *settlements, want=0)).stale)


async def state_of(broker: RedisBroker, task_id: str) -> TaskState:
    state = await broker.get("default", task_id, deadline=soon())
    assert state is not None
    return state


def ended(reservation: Reservation, verdict: Verdict = COMPLETE) -> Settlement:
    return Settlement(reservation.id, reservation.delivery, verdict)


def ids(reservations: Sequence[Reservation]) -> list[str]:
    return [reservation.id for reservation in reservations]


def queue_of(client: Any, name: str = "default") -> Queue:
    return assert_invariants(client).get(name, Queue())


def everything(client: Any) -> dict[bytes, bytes | None]:
    """Return each key with its serialised value, to show that nothing has changed."""
    return {key: client.dump(key) for key in client.scan_iter(count=1000)}


class TestPushing:
    async def test_what_is_pushed_waits_in_order(self, broker: RedisBroker, client: Any) -> None:
        first = await push(broker, opaque_tasks(3))
        second = await push(broker, opaque_tasks(2))
        assert client.lrange(BASE, 0, -1) == [task_id.encode() for task_id in reversed(first + second)]
        assert await broker.size("default", deadline=soon()) == 5

    async def test_a_repeated_push_changes_nothing(self, broker: RedisBroker, client: Any) -> None:
        tasks = opaque_tasks(3)
        await push(broker, tasks)
        before = everything(client)
        await push(broker, tasks)
        assert everything(client) == before

    async def test_a_push_repeated_after_the_task_has_moved_on_changes_nothing(
        self, broker: RedisBroker, client: Any, lease: Lease
    ) -> None:
        tasks = opaque_tasks(4)
        await push(broker, tasks)
        done, failed, retried, _reserved = await reserve(broker, lease, 4)
        verdicts = ended(done), ended(failed, Verdict("fail", "x")), ended(retried, Verdict("retry", "x", delay=60))
        await settle(broker, lease, *verdicts)
        before = everything(client)
        await push(broker, tasks)
        assert everything(client) == before

    async def test_a_record_is_stored_byte_for_byte(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        record = bytes(range(256)) * 5000
        await push(broker, [opaque("id", record=record)])
        assert client.hget(f"{BASE}:records", "id") == record
        assert (await reserve(broker, lease))[0].record == record

    @pytest.mark.parametrize("verb", ["push", "prepare"])
    async def test_what_comes_to_execution_too_late_is_refused(
        self, broker: RedisBroker, client: Any, verb: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_broker, "LATE_MARGIN", 3600)
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
        monkeypatch.setattr(redis_broker, "LATE_MARGIN", 3600)
        await store("default", tasks, deadline=soon())
        assert everything(client) == before

    async def test_a_delay_counts_from_the_push(self, broker: RedisBroker, client: Any) -> None:
        await push(broker, [opaque("later", due=-60_000), opaque("long-past", due=1)])
        state = await state_of(broker, "later")
        assert (state.state, state.due) == ("scheduled", state.added + 60_000)
        assert client.zscore(f"{BASE}:scheduled", "later") == state.due
        assert (await state_of(broker, "long-past")).state == "queued"

    async def test_two_namespaces_are_two_worlds(self, broker: RedisBroker, client: Any, redis_url: str) -> None:
        other = RedisBroker(redis_url, namespace="other")
        await push(other, opaque_tasks(1))
        assert await broker.size("default", deadline=soon()) == 0
        assert await other.size("default", deadline=soon()) == 1
        await other.reset("default", deadline=soon())
        await other.aclose()
        assert everything(client) == {}


class TestTwoPhases:
    async def test_what_is_prepared_is_not_given_out(self, broker: RedisBroker, lease: Lease) -> None:
        await broker.prepare("default", [opaque("id")], deadline=soon())
        assert await reserve(broker, lease) == []
        assert (await state_of(broker, "id")).state == "prepared"

    async def test_a_promise_keeps_the_order_of_the_promotion(self, broker: RedisBroker, lease: Lease) -> None:
        for task_id in "cab":
            await broker.prepare("default", [opaque(task_id)], deadline=soon())
        await broker.promote("default", list("abc"), deadline=soon())
        assert ids(await reserve(broker, lease, 3)) == list("abc")

    async def test_each_step_repeated_changes_nothing(self, broker: RedisBroker, client: Any) -> None:
        tasks = opaque_tasks(3)
        names = [task.id for task in tasks]
        for _ in range(2):
            await broker.prepare("default", tasks, deadline=soon())
            assert len(queue_of(client).indexes["prepared"]) == 3
        for _ in range(2):
            await broker.promote("default", names, deadline=soon())
            assert len(queue_of(client).waiting) == 3
        # Late: the transaction has committed, and nothing forgets it now.
        await broker.discard("default", names, deadline=soon())
        await broker.prepare("default", tasks, deadline=soon())
        assert len(queue_of(client).waiting) == 3

    async def test_what_is_discarded_is_forgotten(self, broker: RedisBroker, client: Any) -> None:
        for _ in range(2):
            await broker.prepare("default", [opaque("id", due=-1000)], deadline=soon())
            await broker.discard("default", ["id", "unknown"], deadline=soon())
            assert everything(client) == {}

    async def test_a_delay_counts_from_the_vote(self, broker: RedisBroker) -> None:
        await broker.prepare("default", [opaque("id", due=-60_000)], deadline=soon())
        await broker.promote("default", ["id"], deadline=soon())
        state = await state_of(broker, "id")
        assert (state.state, state.due) == ("scheduled", state.added + 60_000)

    async def test_if_one_is_gone_none_is_promoted(self, broker: RedisBroker, client: Any) -> None:
        await broker.prepare("default", [opaque("there")], deadline=soon())
        with pytest.raises(BrokerUnavailable, match="1 prepared task"):
            await broker.promote("default", ["there", "gone"], deadline=soon())
        assert queue_of(client).waiting == []

    async def test_what_was_set_aside_as_in_doubt_is_queued_by_a_late_promotion(
        self, broker: RedisBroker, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await broker.prepare("default", [opaque("id")], deadline=soon())
        await broker.due("default", deadline=soon())
        assert (await state_of(broker, "id")).state == "prepared", "not yet"
        monkeypatch.setattr(redis_broker, "IN_DOUBT_AFTER_MS", 0)
        await broker.due("default", deadline=soon())
        doubtful = await state_of(broker, "id")
        assert (doubtful.state, doubtful.reason) == ("failed", "in-doubt")
        assert queue_of(client).records == {b"id"}
        await broker.promote("default", ["id"], deadline=soon())
        state = await state_of(broker, "id")
        assert (state.state, state.reason) == ("queued", "")


class TestReserving:
    async def test_first_in_first_out(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        pushed = await push(broker, opaque_tasks(5))
        given = await reserve(broker, lease, 2) + await reserve(broker, lease, 2) + await reserve(broker, lease, 9)
        assert ids(given) == pushed
        assert all((item.delivery, item.attempt, item.crashes) == (1, 1, 0) for item in given)
        assert len(queue_of(client).reserved["one"]) == 5

    async def test_the_same_token_brings_the_same_batch(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        await push(broker, opaque_tasks(6))
        await reserve(broker, lease, 1)
        batch = await reserve(broker, lease, 3, token="lost")
        before = everything(client)
        assert await reserve(broker, lease, 3, token="lost") == batch
        assert await reserve(broker, lease, 1, token="lost") == batch
        assert everything(client) == before
        assert len(await reserve(broker, lease, 9, token="next")) == 2

    async def test_a_batch_is_limited_by_bytes_but_never_empty(self, broker: RedisBroker, lease: Lease) -> None:
        await push(broker, [opaque(record=bytes(size)) for size in (100, 60, 40, 1)])
        assert [len(item.record) for item in await reserve(broker, lease, 9, room=99)] == [100]
        assert [len(item.record) for item in await reserve(broker, lease, 9, room=100)] == [60, 40]
        assert [len(item.record) for item in await reserve(broker, lease, 9, room=0)] == [1]

    async def test_nobody_gets_what_another_holds(self, broker: RedisBroker, lease: Lease) -> None:
        pushed = await push(broker, opaque_tasks(4))
        other = await claimed(broker, "two")
        given = [await reserve(broker, holder, 1) for holder in (lease, other, other, lease)]
        assert [ids(some) for some in given] == [[task_id] for task_id in pushed]

    async def test_nothing_is_taken_when_nothing_is_wanted(self, broker: RedisBroker, lease: Lease) -> None:
        await push(broker, opaque_tasks(1))
        assert await reserve(broker, lease, 0) == []
        assert len(await reserve(broker, lease, 1)) == 1

    async def test_what_falls_due_stands_in_line_in_the_order_of_its_time(
        self, broker: RedisBroker, client: Any, lease: Lease
    ) -> None:
        await push(broker, [opaque("third", due=-30), opaque("second", due=-20), opaque("first", due=-10)])
        await until(lambda: _due(client), "all three are due")
        assert await broker.due("default", deadline=soon()) is None
        assert ids(await reserve(broker, lease, 3)) == ["first", "second", "third"]

    async def test_what_is_not_due_tells_when_it_will_be(self, broker: RedisBroker, lease: Lease) -> None:
        assert await broker.due("default", deadline=soon()) is None
        await push(broker, [opaque(due=-60_000), opaque(due=-30_000)])
        wait = await broker.due("default", deadline=soon())
        assert wait is not None
        assert 0 < wait <= 30
        assert await reserve(broker, lease) == []

    async def test_more_fall_due_than_one_call_moves(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        pushed = await push(broker, [opaque(due=-1) for _ in range(150)])
        await until(lambda: _due(client), "all are due")
        assert await broker.due("default", deadline=soon()) == 0
        assert await broker.due("default", deadline=soon()) is None
        given = await reserve(broker, lease, 100) + await reserve(broker, lease, 100)
        assert sorted(ids(given)) == sorted(pushed)

    async def test_more_than_fit_into_one_reply_come_in_several(self, broker: RedisBroker, lease: Lease) -> None:
        pushed = await push(broker, opaque_tasks(250))
        given: list[str] = []
        while batch := await reserve(broker, lease, 100):
            given += ids(batch)
        assert given == pushed


async def _due(client: Any) -> bool:
    seconds, micros = client.time()
    return bool(client.zcount(f"{BASE}:scheduled", seconds * 1000 + micros // 1000 + 1, "+inf") == 0)


class TestSettling:
    @pytest.mark.accept("CT32")
    async def test_complete_takes_exactly_this_one(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        await push(broker, opaque_tasks(3))
        first, second, third = await reserve(broker, lease, 3)
        assert await settle(broker, lease, ended(second)) == []
        state = await state_of(broker, second.id)
        assert (state.state, state.status) == ("completed", 200)
        queue = queue_of(client)
        assert queue.reserved["one"] == [third.id.encode(), first.id.encode()]
        assert queue.records == {first.id.encode(), third.id.encode()}

    async def test_retry_comes_back_after_its_delay_and_has_spent_an_attempt(
        self, broker: RedisBroker, client: Any, lease: Lease
    ) -> None:
        await push(broker, [opaque("id")])
        (first,) = await reserve(broker, lease)
        await settle(broker, lease, ended(first, Verdict("retry", "server", 500, delay=0.02)))
        state = await state_of(broker, "id")
        assert (state.state, state.status, state.reason) == ("scheduled", 500, "server")
        assert state.due == state.changed + 20
        await until(lambda: _due(client), "the retry is due")
        await broker.due("default", deadline=soon())
        (second,) = await reserve(broker, lease)
        assert (second.delivery, second.attempt) == (2, 2)
        entry = msgpack.unpackb(client.hget(f"{BASE}:log:id", "1"))
        assert (entry[0], *entry[4:]) == (1, 500, "server", "one", "retry")

    async def test_fail_keeps_record_and_reason(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        (only,) = await reserve(broker, lease)
        await settle(broker, lease, ended(only, Verdict("fail", "not-found", 404)))
        state = await state_of(broker, "id")
        assert (state.state, state.status, state.reason, state.holder) == ("failed", 404, "not-found", "one")
        queue = queue_of(client)
        assert queue.records == {b"id"}
        assert queue.logs == {b"id"}

    async def test_release_gives_back_to_the_front_in_order_and_spends_nothing(
        self, broker: RedisBroker, lease: Lease
    ) -> None:
        pushed = await push(broker, opaque_tasks(5))
        batch = await reserve(broker, lease, 3)
        await settle(broker, lease, *(ended(item, Verdict("release", "stopped")) for item in batch))
        again = await reserve(broker, lease, 5)
        assert ids(again) == pushed
        assert [(item.delivery, item.attempt) for item in again] == [(2, 1)] * 3 + [(1, 1)] * 2

    async def test_release_with_a_delay_lets_the_others_pass(self, broker: RedisBroker, lease: Lease) -> None:
        await push(broker, [opaque("parked"), opaque("next")])
        (first,) = await reserve(broker, lease)
        await settle(broker, lease, ended(first, Verdict("release", "key", delay=60)))
        state = await state_of(broker, "parked")
        assert (state.state, state.attempt) == ("scheduled", 0)
        assert ids(await reserve(broker, lease, 2)) == ["next"]

    @pytest.mark.parametrize("kind", ["complete", "retry", "fail", "release"])
    async def test_a_repeat_changes_nothing_and_is_not_stale(
        self, broker: RedisBroker, client: Any, lease: Lease, kind: str
    ) -> None:
        await push(broker, opaque_tasks(2))
        batch = await reserve(broker, lease, 2, token="t")
        verdict = {"complete": COMPLETE, "release": Verdict("release", "r"), "fail": Verdict("fail", "f")}.get(
            kind, Verdict("retry", "r", 500, 60)
        )
        endings = [ended(item, verdict) for item in batch]
        assert await settle(broker, lease, *endings) == []
        before = everything(client)
        result = await exchange(broker, lease, *endings, token="t2", want=0)
        assert result.stale == []
        client.hset(f"{BASE}:consumer:one", "token", client.hget(f"{BASE}:consumer:one", "token") or b"")
        after = everything(client)
        changed = {key for key in before | after if before.get(key) != after.get(key)}
        assert changed <= {f"{BASE}:consumer:one".encode()}

    async def test_one_round_trip_settles_and_reserves(self, broker: RedisBroker, lease: Lease) -> None:
        await push(broker, opaque_tasks(2))
        (first,) = await reserve(broker, lease)
        result = await exchange(broker, lease, ended(first), want=1)
        assert len(result.reservations) == 1
        assert (await state_of(broker, first.id)).state == "completed"

    async def test_what_another_delivery_has_overtaken_is_stale(self, broker: RedisBroker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        (first,) = await reserve(broker, lease)
        await settle(broker, lease, ended(first, Verdict("release", "stopped")))
        (second,) = await reserve(broker, lease)
        for verdict in (COMPLETE, Verdict("fail", "x"), Verdict("retry", "x"), Verdict("release", "x")):
            assert await settle(broker, lease, ended(first, verdict)) == ["id"]
        assert (await state_of(broker, "id")).state == "reserved"
        assert await settle(broker, lease, ended(second)) == []

    async def test_what_another_consumer_holds_cannot_be_settled(self, broker: RedisBroker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        (held,) = await reserve(broker, lease)
        other = await claimed(broker, "two")
        assert await settle(broker, other, ended(held)) == ["id"]
        assert (await state_of(broker, "id")).state == "reserved"

    async def test_an_unknown_task_is_stale(self, broker: RedisBroker, lease: Lease) -> None:
        assert await settle(broker, lease, Settlement("unknown", 1, COMPLETE)) == ["unknown"]


class TestClaiming:
    async def test_what_the_name_had_goes_to_the_front_in_order(self, broker: RedisBroker, lease: Lease) -> None:
        pushed = await push(broker, opaque_tasks(7))
        await reserve(broker, lease, 2)
        await reserve(broker, lease, 3)
        again, returned = await broker.claim("default", "one", begins=True, deadline=soon())
        assert returned == 5
        assert again.epoch != lease.epoch
        assert ids(await reserve(broker, again, 9)) == pushed

    async def test_more_than_one_call_can_move(self, broker: RedisBroker, lease: Lease) -> None:
        pushed = await push(broker, opaque_tasks(1203))
        for _ in range(13):
            await reserve(broker, lease, 100)
        again, returned = await broker.claim("default", "one", begins=True, deadline=soon())
        assert returned == 1203
        assert ids(await reserve(broker, again, 3)) == pushed[:3]

    @pytest.mark.parametrize(("begins", "begun", "attempt", "crashes"), [
        (True, True, 2, 1), (True, False, 1, 0), (False, False, 2, 1),
    ])  # fmt: skip
    async def test_an_attempt_is_spent_by_what_may_have_begun(
        self, broker: RedisBroker, *, begins: bool, begun: bool, attempt: int, crashes: int
    ) -> None:
        lease = await claimed(broker, begins=begins)
        await push(broker, [opaque("id")])
        await reserve(broker, lease)
        if begun:
            assert await broker.begin("default", "id", 1, deadline=soon())
        (again,) = await reserve(broker, await claimed(broker, begins=begins))
        assert (again.delivery, again.attempt, again.crashes) == (2, attempt, crashes)

    async def test_what_another_name_holds_stays_there(self, broker: RedisBroker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        (held,) = await reserve(broker, lease)
        _, returned = await broker.claim("default", "two", begins=True, deadline=soon())
        assert returned == 0
        assert await settle(broker, lease, ended(held)) == []

    async def test_the_earlier_holder_is_fenced_and_changes_nothing(
        self, broker: RedisBroker, client: Any, lease: Lease
    ) -> None:
        await push(broker, opaque_tasks(2))
        (held,) = await reserve(broker, lease, token="t")
        again = await claimed(broker)
        await reserve(broker, again)
        before = everything(client)
        for verdict in (COMPLETE, Verdict("fail", "x"), Verdict("retry", "x"), Verdict("release", "x")):
            with pytest.raises(Fenced, match="taken over") as caught:
                await exchange(broker, lease, ended(held, verdict), token="t")
            assert not caught.value.gone
        with pytest.raises(Fenced):
            await exchange(broker, lease)
        # Each script by itself, too: the two travel together and would hide one another.
        assert call(client, "reserve", "one", lease.epoch, "t", 1, ROOM) == [b"FENCED"]
        assert call(client, "settle", "one", lease.epoch, held.id, 1, "complete", 0, 200, "") == [b"FENCED"]
        assert everything(client) == before

    async def test_two_of_one_name_never_both_act(self, broker: RedisBroker) -> None:
        dice = random.Random(1)
        await push(broker, opaque_tasks(400))
        leases: list[Lease] = []
        acted = fenced = 0
        for _ in range(300):
            if not leases or dice.random() < 0.2:
                leases.append(await claimed(broker))
            chosen = dice.choice(leases[-2:])
            try:
                batch = await reserve(broker, chosen, 2)
                assert await settle(broker, chosen, *map(ended, batch[:1])) == []
            except Fenced:
                assert chosen is not leases[-1]
                fenced += 1
            else:
                assert chosen is leases[-1]
                acted += 1
        assert acted > 50
        assert fenced > 50

    async def test_a_repeated_claim_is_the_same_claim(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        await push(broker, opaque_tasks(3))
        await reserve(broker, lease, 2)
        arguments = ("one", "0123456789abcdef", "host", 1, "boot", "start", 1, "*", "")
        epoch, returned, left = call(client, "claim", *arguments)
        assert (returned, left) == (2, 0)
        before = everything(client)
        assert call(client, "claim", *arguments) == [epoch, 0, 0]
        assert everything(client) == before

    async def test_a_lost_store_is_told_apart_from_a_takeover(
        self, broker: RedisBroker, client: Any, lease: Lease
    ) -> None:
        client.flushall()
        for settlements in ((), (Settlement("id", 1, COMPLETE),)):
            with pytest.raises(Fenced, match="lost its data") as caught:
                await exchange(broker, lease, *settlements)
            assert caught.value.gone
        again = await claimed(broker)
        assert again.epoch != lease.epoch
        with pytest.raises(Fenced, match="taken over"):
            await exchange(broker, lease)


def call(client: Any, name: str, *arguments: str | int | bytes) -> Any:
    """Run a script as a second process would."""
    return client.eval(SCRIPTS[name].source, 1, BASE, *arguments)


class TestBeginning:
    async def test_each_delivery_begins_once(self, broker: RedisBroker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        (held,) = await reserve(broker, lease)
        assert await broker.begin("default", "id", held.delivery, deadline=soon())
        state = await state_of(broker, "id")
        assert (state.state, state.begun) == ("running", state.changed)
        assert not await broker.begin("default", "id", held.delivery, deadline=soon())
        assert await settle(broker, lease, ended(held)) == []
        assert not await broker.begin("default", "id", held.delivery, deadline=soon())

    async def test_a_repeat_of_the_same_start_is_granted(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        await reserve(broker, lease)
        assert call(client, "begin", "id", 1, "start") == 1
        before = everything(client)
        assert call(client, "begin", "id", 1, "start") == 1
        assert call(client, "begin", "id", 1, "another") == 0
        assert everything(client) == before

    async def test_only_the_latest_delivery_may_begin(self, broker: RedisBroker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        assert not await broker.begin("default", "id", 0, deadline=soon())
        await reserve(broker, lease)
        again = await claimed(broker)
        assert not await broker.begin("default", "id", 1, deadline=soon()), "given back, so nobody's"
        await reserve(broker, again)
        for delivery in (1, 3):
            assert not await broker.begin("default", "id", delivery, deadline=soon())
        assert await broker.begin("default", "id", 2, deadline=soon())

    async def test_an_unknown_task_does_not_begin(self, broker: RedisBroker) -> None:
        assert not await broker.begin("default", "unknown", 1, deadline=soon())


class TestTrimming:
    async def _ended(self, broker: RedisBroker, lease: Lease, verdict: Verdict, count: int = 5) -> list[str]:
        pushed = await push(broker, opaque_tasks(count))
        for item in await reserve(broker, lease, count):
            await settle(broker, lease, ended(item, verdict))
        return pushed

    async def test_by_number_the_oldest_go(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        failed = await self._ended(broker, lease, Verdict("fail", "x"))
        for position, task_id in enumerate(failed):
            client.zadd(f"{BASE}:failed", {task_id: position})
        limits = (("finished", 0, 0), ("failed", 10**15, 2))
        assert await broker.trim("default", limits, most=100, deadline=soon()) == 3
        queue = queue_of(client)
        kept = {task_id.encode() for task_id in failed[3:]}
        assert set(queue.states) == queue.records == queue.logs == kept

    async def test_by_age(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        done = await self._ended(broker, lease, COMPLETE)
        client.zadd(f"{BASE}:finished", dict.fromkeys(done[:2], 1))
        limits = (("finished", 3_600_000, 100), ("failed", 0, 0))
        assert await broker.trim("default", limits, most=100, deadline=soon()) == 2
        assert set(queue_of(client).states) == {task_id.encode() for task_id in done[2:]}

    async def test_at_most_so_many_a_call(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        await self._ended(broker, lease, COMPLETE)
        await self._ended(broker, lease, Verdict("fail", "x"))
        limits = (("finished", 0, 0), ("failed", 0, 0))
        trimmed = [await broker.trim("default", limits, most=4, deadline=soon()) for _ in range(4)]
        assert trimmed == [4, 4, 2, 0]
        assert queue_of(client).states == {}

    async def test_nothing_else_is_touched(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        await push(broker, [*opaque_tasks(2), opaque(due=-60_000)])
        await broker.prepare("default", opaque_tasks(1), deadline=soon())
        await reserve(broker, lease)
        before = everything(client)
        assert await broker.trim("default", (("finished", 0, 0), ("failed", 0, 0)), most=9, deadline=soon()) == 0
        assert everything(client) == before


class TestResetting:
    @pytest.mark.accept("CT39")
    async def test_exactly_this_queue_is_emptied(self, broker: RedisBroker, client: Any) -> None:
        for queue in ("mail", "mailhost"):
            lease = await claimed(broker, queue=queue)
            await push(broker, [*opaque_tasks(6, queue=queue), opaque(queue=queue, due=-60_000)], queue=queue)
            await broker.prepare(queue, opaque_tasks(1, queue=queue), deadline=soon())
            done, retried, failed, running = await reserve(broker, lease, 4)
            await broker.begin(queue, running.id, 1, deadline=soon())
            verdicts = ended(retried, Verdict("retry", "x", delay=60)), ended(failed, Verdict("fail", "x"))
            await settle(broker, lease, ended(done), *verdicts)
            assert await broker.size(queue, deadline=soon()) == 2, "reserved ones do not count"
        untouched = {key: value for key, value in everything(client).items() if b"{mailhost}" in key}
        for _ in range(2):
            await broker.reset("mail", deadline=soon())
            queues = assert_invariants(client)
            assert queues["mail"] == Queue(leases={"one"}, consumers={"one"})
        assert {key: value for key, value in everything(client).items() if b"{mailhost}" in key} == untouched

    async def test_a_consumer_goes_on_after_a_reset(self, broker: RedisBroker, lease: Lease) -> None:
        await push(broker, opaque_tasks(2))
        first, second = await reserve(broker, lease, 2, token="t")
        await broker.reset("default", deadline=soon())
        assert await settle(broker, lease, ended(first), ended(second, Verdict("release", "x"))) == [
            second.id,
            first.id,
        ]
        assert await reserve(broker, lease, 2, token="t") == []
        pushed = await push(broker, opaque_tasks(1))
        assert ids(await reserve(broker, lease)) == pushed

    async def test_a_large_queue_is_emptied_with_its_logs(self, broker: RedisBroker, client: Any, lease: Lease) -> None:
        for _ in range(150):
            await push(broker, opaque_tasks(200))
        for item in await reserve(broker, lease, 100):
            await settle(broker, lease, ended(item, Verdict("fail", "x")))
        await broker.reset("default", deadline=soon())
        assert queue_of(client) == Queue(leases={"one"}, consumers={"one"})

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


class TestLooking:
    async def test_a_task_is_shown_with_all_that_is_known(self, broker: RedisBroker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        (held,) = await reserve(broker, lease)
        state = await state_of(broker, "id")
        assert (state.id, state.queue, state.state, state.holder) == ("id", "default", "reserved", "one")
        assert (state.delivery, state.attempt, state.crashes) == (held.delivery, held.attempt, 0)
        assert (state.method, state.path, state.label) == ("POST", "/path", "label")
        assert state.added <= state.reserved == state.changed
        assert await broker.get("default", "unknown", deadline=soon()) is None

    async def test_a_hint_comes_with_the_subscription_and_with_each_push(self, broker: RedisBroker) -> None:
        async with broker.hints(["default", "mail"]) as hints:
            assert {await anext(hints), await anext(hints)} == {"default", "mail"}
            await push(broker, opaque_tasks(1, queue="mail"), queue="mail")
            assert await anext(hints) == "mail"
            await broker.prepare("default", [opaque("id")], deadline=soon())
            await broker.promote("default", ["id"], deadline=soon())
            assert await anext(hints) == "default"

    @pytest.mark.parametrize("fault", ["cut", "frozen"])
    async def test_hints_end_with_their_connection(
        self, private_server: RedisServer, monkeypatch: pytest.MonkeyPatch, fault: str
    ) -> None:
        monkeypatch.setattr(redis_broker, "HINT_PING", 0.05 if fault == "frozen" else 60)
        broker = RedisBroker(private_server.url, namespace="taskqueue")

        async def listen() -> None:
            async with broker.hints(["default"]) as hints:
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
        monkeypatch.setattr(redis_broker, "HINT_PING", 0.02)
        async with broker.hints(["default"]) as hints:
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
