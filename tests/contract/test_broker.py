"""What every broker must do, tried on every store there is. After each test the whole store is inspected."""

import random
import time
from collections.abc import AsyncIterator

import pytest

from taskqueue.broker import Broker, Lease, Trimmed
from taskqueue.errors import BrokerUnavailable, Fenced
from taskqueue.task import Settlement, Verdict
from tests.invariants import Queue
from tests.moves import COMPLETE, claimed, ended, exchange, ids, push, reserve, settle, soon, state_of
from tests.stores import Inspectable
from tests.tasks import opaque, opaque_tasks
from tests.waiting import until


@pytest.fixture
async def broker(store: Inspectable) -> AsyncIterator[Broker]:
    broker = store.open()
    yield broker
    await broker.aclose()
    store.queues()


@pytest.fixture
async def lease(broker: Broker) -> Lease:
    return await claimed(broker)


class TestPushing:
    async def test_what_is_pushed_waits_in_order(self, broker: Broker, store: Inspectable) -> None:
        first = await push(broker, opaque_tasks(3))
        second = await push(broker, opaque_tasks(2))
        assert store.queue().waiting == [task_id.encode() for task_id in reversed(first + second)]
        assert await broker.size("default", deadline=soon()) == 5

    async def test_a_repeated_push_changes_nothing(self, broker: Broker, store: Inspectable) -> None:
        tasks = opaque_tasks(3)
        await push(broker, tasks)
        before = store.everything()
        await push(broker, tasks)
        assert store.everything() == before

    async def test_a_push_repeated_after_the_task_has_moved_on_changes_nothing(
        self, broker: Broker, store: Inspectable, lease: Lease
    ) -> None:
        tasks = opaque_tasks(4)
        await push(broker, tasks)
        done, failed, retried, _reserved = await reserve(broker, lease, 4)
        verdicts = ended(done), ended(failed, Verdict("fail", "x")), ended(retried, Verdict("retry", "x", delay=60))
        await settle(broker, lease, *verdicts)
        before = store.everything()
        await push(broker, tasks)
        assert store.everything() == before

    async def test_a_record_is_stored_byte_for_byte(self, broker: Broker, lease: Lease) -> None:
        record = bytes(range(256)) * 5000
        await push(broker, [opaque("id", record=record)])
        assert await broker.inspector.record("default", "id", deadline=soon()) == record
        assert (await reserve(broker, lease))[0].record == record

    @pytest.mark.parametrize("verb", ["push", "prepare"])
    async def test_what_comes_after_its_deadline_is_refused(
        self, broker: Broker, store: Inspectable, verb: str
    ) -> None:
        with pytest.raises(BrokerUnavailable, match="the deadline had passed"):
            await getattr(broker, verb)("default", opaque_tasks(2), deadline=time.monotonic())
        assert store.everything() == {}

    async def test_a_delay_counts_from_the_push(self, broker: Broker, store: Inspectable) -> None:
        await push(broker, [opaque("later", due=-60_000), opaque("long-past", due=1)])
        state = await state_of(broker, "later")
        assert (state.state, state.due) == ("scheduled", state.added + 60_000)
        assert store.queue().indexes["scheduled"] == {b"later": state.due}
        assert (await state_of(broker, "long-past")).state == "queued"

    async def test_two_namespaces_are_two_worlds(self, broker: Broker, store: Inspectable) -> None:
        other = store.open(namespace="other")
        await push(other, opaque_tasks(1))
        assert await broker.size("default", deadline=soon()) == 0
        assert await other.size("default", deadline=soon()) == 1
        await other.reset("default", deadline=soon())
        await other.aclose()
        assert store.everything() == {}


class TestTwoPhases:
    async def test_what_is_prepared_is_not_given_out(self, broker: Broker, lease: Lease) -> None:
        await broker.prepare("default", [opaque("id")], deadline=soon())
        assert await reserve(broker, lease) == []
        assert (await state_of(broker, "id")).state == "prepared"

    async def test_a_promise_keeps_the_order_of_the_promotion(self, broker: Broker, lease: Lease) -> None:
        for task_id in "cab":
            await broker.prepare("default", [opaque(task_id)], deadline=soon())
        await broker.promote("default", list("abc"), deadline=soon())
        assert ids(await reserve(broker, lease, 3)) == list("abc")

    async def test_each_step_repeated_changes_nothing(self, broker: Broker, store: Inspectable) -> None:
        tasks = opaque_tasks(3)
        names = [task.id for task in tasks]
        for _ in range(2):
            await broker.prepare("default", tasks, deadline=soon())
            assert len(store.queue().indexes["prepared"]) == 3
        for _ in range(2):
            await broker.promote("default", names, deadline=soon())
            assert len(store.queue().waiting) == 3
        # Late: the transaction has committed, and nothing forgets it now.
        await broker.discard("default", names, deadline=soon())
        await broker.prepare("default", tasks, deadline=soon())
        assert len(store.queue().waiting) == 3

    async def test_what_is_discarded_is_forgotten(self, broker: Broker, store: Inspectable) -> None:
        for _ in range(2):
            await broker.prepare("default", [opaque("id", due=-1000)], deadline=soon())
            await broker.discard("default", ["id", "unknown"], deadline=soon())
            assert store.everything() == {}

    async def test_a_delay_counts_from_the_vote(self, broker: Broker) -> None:
        await broker.prepare("default", [opaque("id", due=-60_000)], deadline=soon())
        await broker.promote("default", ["id"], deadline=soon())
        state = await state_of(broker, "id")
        assert (state.state, state.due) == ("scheduled", state.added + 60_000)

    async def test_if_one_is_gone_none_is_promoted(self, broker: Broker, store: Inspectable) -> None:
        await broker.prepare("default", [opaque("there")], deadline=soon())
        with pytest.raises(BrokerUnavailable, match="1 prepared task"):
            await broker.promote("default", ["there", "gone"], deadline=soon())
        assert store.queue().waiting == []

    async def test_what_was_set_aside_as_in_doubt_is_queued_by_a_late_promotion(
        self, broker: Broker, store: Inspectable
    ) -> None:
        await broker.prepare("default", [opaque("id")], deadline=soon())
        await broker.due("default", deadline=soon())
        assert (await state_of(broker, "id")).state == "prepared", "not yet"
        store.backdate("prepared", {"id": store.clock() - 60_001})
        await broker.due("default", deadline=soon())
        doubtful = await state_of(broker, "id")
        assert (doubtful.state, doubtful.reason) == ("failed", "in-doubt")
        assert store.queue().records == {b"id"}
        await broker.promote("default", ["id"], deadline=soon())
        state = await state_of(broker, "id")
        assert (state.state, state.reason) == ("queued", "")


class TestReserving:
    async def test_first_in_first_out(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        pushed = await push(broker, opaque_tasks(5))
        given = await reserve(broker, lease, 2) + await reserve(broker, lease, 2) + await reserve(broker, lease, 9)
        assert ids(given) == pushed
        assert all((item.delivery, item.attempt, item.crashes) == (1, 1, 0) for item in given)
        assert len(store.queue().reserved["one"]) == 5

    async def test_the_same_token_brings_the_same_batch(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await push(broker, opaque_tasks(6))
        await reserve(broker, lease, 1)
        batch = await reserve(broker, lease, 3, token="lost")
        before = store.everything()
        assert await reserve(broker, lease, 3, token="lost") == batch
        assert await reserve(broker, lease, 1, token="lost") == batch
        assert store.everything() == before
        assert len(await reserve(broker, lease, 9, token="next")) == 2

    async def test_a_batch_is_limited_by_bytes_but_never_empty(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque(record=bytes(size)) for size in (100, 60, 40, 1)])
        assert [len(item.record) for item in await reserve(broker, lease, 9, room=99)] == [100]
        assert [len(item.record) for item in await reserve(broker, lease, 9, room=100)] == [60, 40]
        assert [len(item.record) for item in await reserve(broker, lease, 9, room=0)] == [1]

    async def test_nobody_gets_what_another_holds(self, broker: Broker, lease: Lease) -> None:
        pushed = await push(broker, opaque_tasks(4))
        other = await claimed(broker, "two")
        given = [await reserve(broker, holder, 1) for holder in (lease, other, other, lease)]
        assert [ids(some) for some in given] == [[task_id] for task_id in pushed]

    async def test_nothing_is_taken_when_nothing_is_wanted(self, broker: Broker, lease: Lease) -> None:
        await push(broker, opaque_tasks(1))
        assert await reserve(broker, lease, 0) == []
        assert len(await reserve(broker, lease, 1)) == 1

    async def test_what_falls_due_stands_in_line_in_the_order_of_its_time(
        self, broker: Broker, store: Inspectable, lease: Lease
    ) -> None:
        await push(broker, [opaque("third", due=-30), opaque("second", due=-20), opaque("first", due=-10)])
        await until(lambda: _due(store), "all three are due")
        assert await broker.due("default", deadline=soon()) is None
        assert ids(await reserve(broker, lease, 3)) == ["first", "second", "third"]

    async def test_what_is_not_due_tells_when_it_will_be(self, broker: Broker, lease: Lease) -> None:
        assert await broker.due("default", deadline=soon()) is None
        await push(broker, [opaque(due=-60_000), opaque(due=-30_000)])
        wait = await broker.due("default", deadline=soon())
        assert wait is not None
        assert 0 < wait <= 30
        assert await reserve(broker, lease) == []

    async def test_more_fall_due_than_one_call_moves(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        pushed = await push(broker, [opaque(due=-1) for _ in range(150)])
        await until(lambda: _due(store), "all are due")
        assert await broker.due("default", deadline=soon()) == 0
        assert await broker.due("default", deadline=soon()) is None
        given = await reserve(broker, lease, 100) + await reserve(broker, lease, 100)
        assert sorted(ids(given)) == sorted(pushed)

    async def test_more_than_fit_into_one_reply_come_in_several(self, broker: Broker, lease: Lease) -> None:
        pushed = await push(broker, opaque_tasks(250))
        given: list[str] = []
        while batch := await reserve(broker, lease, 100):
            given += ids(batch)
        assert given == pushed


async def _due(store: Inspectable) -> bool:
    """Tell whether all that is scheduled is due, and the next millisecond has begun."""
    return all(due < store.clock() for due in store.queue().indexes.get("scheduled", {}).values())


class TestSettling:
    @pytest.mark.accept("CT32")
    async def test_complete_takes_exactly_this_one(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await push(broker, opaque_tasks(3))
        first, second, third = await reserve(broker, lease, 3)
        assert await settle(broker, lease, ended(second)) == []
        state = await state_of(broker, second.id)
        assert (state.state, state.status) == ("completed", 200)
        queue = store.queue()
        assert queue.reserved["one"] == [third.id.encode(), first.id.encode()]
        assert queue.records == {first.id.encode(), third.id.encode()}

    async def test_retry_comes_back_after_its_delay_and_has_spent_an_attempt(
        self, broker: Broker, store: Inspectable, lease: Lease
    ) -> None:
        await push(broker, [opaque("id")])
        (first,) = await reserve(broker, lease)
        await settle(broker, lease, ended(first, Verdict("retry", "server", 500, delay=0.02)))
        state = await state_of(broker, "id")
        assert (state.state, state.status, state.reason) == ("scheduled", 500, "server")
        assert state.due == state.changed + 20
        await until(lambda: _due(store), "the retry is due")
        await broker.due("default", deadline=soon())
        (second,) = await reserve(broker, lease)
        assert (second.delivery, second.attempt) == (2, 2)
        (entry,) = (await broker.inspector.log("default", "id", deadline=soon())).ended
        assert (entry.delivery, entry.attempt, entry.status, entry.reason) == (1, 1, 500, "server")
        assert (entry.consumer, entry.verdict) == ("one", "retry")

    async def test_fail_keeps_record_and_reason(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        (only,) = await reserve(broker, lease)
        await settle(broker, lease, ended(only, Verdict("fail", "not-found", 404)))
        state = await state_of(broker, "id")
        assert (state.state, state.status, state.reason, state.holder) == ("failed", 404, "not-found", "one")
        queue = store.queue()
        assert queue.records == {b"id"}
        assert queue.logs == {b"id"}

    async def test_release_gives_back_to_the_front_in_order_and_spends_nothing(
        self, broker: Broker, lease: Lease
    ) -> None:
        pushed = await push(broker, opaque_tasks(5))
        batch = await reserve(broker, lease, 3)
        await settle(broker, lease, *(ended(item, Verdict("release", "stopped")) for item in batch))
        again = await reserve(broker, lease, 5)
        assert ids(again) == pushed
        assert [(item.delivery, item.attempt) for item in again] == [(2, 1)] * 3 + [(1, 1)] * 2

    async def test_release_with_a_delay_lets_the_others_pass(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("parked"), opaque("next")])
        (first,) = await reserve(broker, lease)
        await settle(broker, lease, ended(first, Verdict("release", "key", delay=60)))
        state = await state_of(broker, "parked")
        assert (state.state, state.attempt) == ("scheduled", 0)
        assert ids(await reserve(broker, lease, 2)) == ["next"]

    @pytest.mark.parametrize("kind", ["complete", "retry", "fail", "release"])
    async def test_a_repeat_changes_nothing_and_is_not_stale(
        self, broker: Broker, store: Inspectable, lease: Lease, kind: str
    ) -> None:
        await push(broker, opaque_tasks(2))
        batch = await reserve(broker, lease, 2, token="t")
        verdict = {"complete": COMPLETE, "release": Verdict("release", "r"), "fail": Verdict("fail", "f")}.get(
            kind, Verdict("retry", "r", 500, 60)
        )
        endings = [ended(item, verdict) for item in batch]
        assert await settle(broker, lease, *endings) == []
        before = store.everything()
        result = await exchange(broker, lease, *endings, token="t2", want=0)
        assert result.stale == []
        after = store.everything()
        changed = {key for key in before | after if before.get(key) != after.get(key)}
        assert changed <= {("default", ":consumer:one")}, "but for the token"

    async def test_one_round_trip_settles_and_reserves(self, broker: Broker, lease: Lease) -> None:
        await push(broker, opaque_tasks(2))
        (first,) = await reserve(broker, lease)
        result = await exchange(broker, lease, ended(first), want=1)
        assert len(result.reservations) == 1
        assert (await state_of(broker, first.id)).state == "completed"

    async def test_what_another_delivery_has_overtaken_is_stale(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        (first,) = await reserve(broker, lease)
        await settle(broker, lease, ended(first, Verdict("release", "stopped")))
        (second,) = await reserve(broker, lease)
        for verdict in (COMPLETE, Verdict("fail", "x"), Verdict("retry", "x"), Verdict("release", "x")):
            assert await settle(broker, lease, ended(first, verdict)) == ["id"]
        assert (await state_of(broker, "id")).state == "reserved"
        assert await settle(broker, lease, ended(second)) == []

    async def test_what_another_consumer_holds_cannot_be_settled(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        (held,) = await reserve(broker, lease)
        other = await claimed(broker, "two")
        assert await settle(broker, other, ended(held)) == ["id"]
        assert (await state_of(broker, "id")).state == "reserved"

    async def test_an_unknown_task_is_stale(self, broker: Broker, lease: Lease) -> None:
        assert await settle(broker, lease, Settlement("unknown", 1, COMPLETE)) == ["unknown"]


class TestClaiming:
    async def test_what_the_name_had_goes_to_the_front_in_order(self, broker: Broker, lease: Lease) -> None:
        pushed = await push(broker, opaque_tasks(7))
        await reserve(broker, lease, 2)
        await reserve(broker, lease, 3)
        again, returned = await broker.claim("default", "one", begins=True, deadline=soon())
        assert returned == 5
        assert again.epoch != lease.epoch
        assert ids(await reserve(broker, again, 9)) == pushed

    async def test_more_than_one_call_can_move(self, broker: Broker, lease: Lease) -> None:
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
        self, broker: Broker, *, begins: bool, begun: bool, attempt: int, crashes: int
    ) -> None:
        lease = await claimed(broker, begins=begins)
        await push(broker, [opaque("id")])
        await reserve(broker, lease)
        if begun:
            assert await broker.begin("default", "id", 1, deadline=soon())
        (again,) = await reserve(broker, await claimed(broker, begins=begins))
        assert (again.delivery, again.attempt, again.crashes) == (2, attempt, crashes)

    async def test_what_another_name_holds_stays_there(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        (held,) = await reserve(broker, lease)
        _, returned = await broker.claim("default", "two", begins=True, deadline=soon())
        assert returned == 0
        assert await settle(broker, lease, ended(held)) == []

    async def test_the_earlier_holder_is_fenced_and_changes_nothing(
        self, broker: Broker, store: Inspectable, lease: Lease
    ) -> None:
        await push(broker, opaque_tasks(2))
        (held,) = await reserve(broker, lease, token="t")
        again = await claimed(broker)
        await reserve(broker, again)
        before = store.everything()
        for verdict in (COMPLETE, Verdict("fail", "x"), Verdict("retry", "x"), Verdict("release", "x")):
            with pytest.raises(Fenced, match="taken over") as caught:
                await exchange(broker, lease, ended(held, verdict), token="t")
            assert not caught.value.gone
        with pytest.raises(Fenced):
            await exchange(broker, lease)
        assert store.everything() == before

    async def test_two_of_one_name_never_both_act(self, broker: Broker) -> None:
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

    async def test_a_lost_store_is_told_apart_from_a_takeover(
        self, broker: Broker, store: Inspectable, lease: Lease
    ) -> None:
        store.lose()
        for settlements in ((), (Settlement("id", 1, COMPLETE),)):
            with pytest.raises(Fenced, match="lost its data") as caught:
                await exchange(broker, lease, *settlements)
            assert caught.value.gone
        again = await claimed(broker)
        assert again.epoch != lease.epoch
        with pytest.raises(Fenced, match="taken over"):
            await exchange(broker, lease)


class TestBeginning:
    async def test_each_delivery_begins_once(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        (held,) = await reserve(broker, lease)
        assert await broker.begin("default", "id", held.delivery, deadline=soon())
        state = await state_of(broker, "id")
        assert (state.state, state.begun) == ("running", state.changed)
        assert not await broker.begin("default", "id", held.delivery, deadline=soon())
        assert await settle(broker, lease, ended(held)) == []
        assert not await broker.begin("default", "id", held.delivery, deadline=soon())

    async def test_only_the_latest_delivery_may_begin(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        assert not await broker.begin("default", "id", 0, deadline=soon())
        await reserve(broker, lease)
        again = await claimed(broker)
        assert not await broker.begin("default", "id", 1, deadline=soon()), "given back, so nobody's"
        await reserve(broker, again)
        for delivery in (1, 3):
            assert not await broker.begin("default", "id", delivery, deadline=soon())
        assert await broker.begin("default", "id", 2, deadline=soon())

    async def test_an_unknown_task_does_not_begin(self, broker: Broker) -> None:
        assert not await broker.begin("default", "unknown", 1, deadline=soon())


class TestTrimming:
    async def _ended(self, broker: Broker, lease: Lease, verdict: Verdict, count: int = 5) -> list[str]:
        pushed = await push(broker, opaque_tasks(count))
        for item in await reserve(broker, lease, count):
            await settle(broker, lease, ended(item, verdict))
        return pushed

    async def test_by_number_the_oldest_go(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        failed = await self._ended(broker, lease, Verdict("fail", "x"))
        store.backdate("failed", {task_id: position for position, task_id in enumerate(failed)})
        limits = (("finished", 0, 0), ("failed", 10**15, 2))
        assert await broker.trim("default", limits, most=100, deadline=soon()) == Trimmed(3)
        queue = store.queue()
        kept = {task_id.encode() for task_id in failed[3:]}
        assert set(queue.states) == queue.records == queue.logs == kept

    async def test_by_age(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        done = await self._ended(broker, lease, COMPLETE)
        store.backdate("finished", dict.fromkeys(done[:2], 1))
        limits = (("finished", 3_600_000, 100), ("failed", 0, 0))
        assert await broker.trim("default", limits, most=100, deadline=soon()) == Trimmed(2)
        assert set(store.queue().states) == {task_id.encode() for task_id in done[2:]}

    async def test_at_most_so_many_a_call(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await self._ended(broker, lease, COMPLETE)
        await self._ended(broker, lease, Verdict("fail", "x"))
        limits = (("finished", 0, 0), ("failed", 0, 0))
        trimmed = [(await broker.trim("default", limits, most=4, deadline=soon())).count for _ in range(4)]
        assert trimmed == [4, 4, 2, 0]
        assert store.queue().states == {}

    async def test_nothing_else_is_touched(self, broker: Broker, store: Inspectable, lease: Lease) -> None:
        await push(broker, [*opaque_tasks(2), opaque(due=-60_000)])
        await broker.prepare("default", opaque_tasks(1), deadline=soon())
        await reserve(broker, lease)
        before = store.everything()
        assert await broker.trim("default", (("finished", 0, 0), ("failed", 0, 0)), most=9, deadline=soon()) == Trimmed(
            0
        )
        assert store.everything() == before


def _of(store: Inspectable, queue: str) -> dict[tuple[str, str], object]:
    return {place: value for place, value in store.everything().items() if place[0] == queue}


class TestResetting:
    @pytest.mark.accept("CT39")
    async def test_exactly_this_queue_is_emptied(self, broker: Broker, store: Inspectable) -> None:
        for queue in ("mail", "mailhost"):
            lease = await claimed(broker, queue=queue)
            await push(broker, [*opaque_tasks(6, queue=queue), opaque(queue=queue, due=-60_000)], queue=queue)
            await broker.prepare(queue, opaque_tasks(1, queue=queue), deadline=soon())
            done, retried, failed, running = await reserve(broker, lease, 4)
            await broker.begin(queue, running.id, 1, deadline=soon())
            verdicts = ended(retried, Verdict("retry", "x", delay=60)), ended(failed, Verdict("fail", "x"))
            await settle(broker, lease, ended(done), *verdicts)
            assert await broker.size(queue, deadline=soon()) == 2, "reserved ones do not count"
        untouched = _of(store, "mailhost")
        for _ in range(2):
            await broker.reset("mail", deadline=soon())
            assert store.queue("mail") == Queue(leases={"one"}, consumers={"one"})
        assert _of(store, "mailhost") == untouched

    async def test_a_consumer_goes_on_after_a_reset(self, broker: Broker, lease: Lease) -> None:
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

    async def test_a_large_queue_is_emptied_with_its_logs(
        self, broker: Broker, store: Inspectable, lease: Lease
    ) -> None:
        for _ in range(150):
            await push(broker, opaque_tasks(200))
        for item in await reserve(broker, lease, 100):
            await settle(broker, lease, ended(item, Verdict("fail", "x")))
        await broker.reset("default", deadline=soon())
        assert store.queue() == Queue(leases={"one"}, consumers={"one"})


class TestLooking:
    async def test_a_task_is_shown_with_all_that_is_known(self, broker: Broker, lease: Lease) -> None:
        await push(broker, [opaque("id")])
        (held,) = await reserve(broker, lease)
        state = await state_of(broker, "id")
        assert (state.id, state.queue, state.state, state.holder) == ("id", "default", "reserved", "one")
        assert (state.delivery, state.attempt, state.crashes) == (held.delivery, held.attempt, 0)
        assert (state.method, state.path, state.label) == ("POST", "/path", "label")
        assert state.added <= state.reserved == state.changed
        assert await broker.get("default", "unknown", deadline=soon()) is None

    async def test_a_hint_comes_with_the_subscription_and_with_each_push(self, broker: Broker) -> None:
        async with broker.hints(["default", "mail"], "one") as hints:
            assert {await anext(hints), await anext(hints)} == {"default", "mail"}
            await push(broker, opaque_tasks(1, queue="mail"), queue="mail")
            assert await anext(hints) == "mail"
            await broker.prepare("default", [opaque("id")], deadline=soon())
            await broker.promote("default", ["id"], deadline=soon())
            assert await anext(hints) == "default"
