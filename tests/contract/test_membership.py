"""A consumer among others, in every store: beats, fences, take-overs, names. No clock is compared anywhere."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import pytest

from taskqueue import membership as membership_module
from taskqueue.broker import Beat, Broker, Lease, Owner, Pulse, Seen
from taskqueue.brokers import local as local_broker
from taskqueue.brokers import redis as redis_broker
from taskqueue.errors import Fenced, NameInUse
from taskqueue.identity import Identity, own
from taskqueue.membership import Membership
from tests.moves import claimed, ended, exchange, ids, number, push, reclaim, reserve, seen, settle, soon, state_of
from tests.stores import Inspectable
from tests.tasks import opaque_tasks
from tests.waiting import until

ELSEWHERE: Final = Identity("another.example", 4711, "boot", "1")


@pytest.fixture
async def broker(store: Inspectable) -> AsyncIterator[Broker]:
    broker = store.open()
    yield broker
    await broker.aclose()
    store.queues()


@pytest.fixture
async def pulse(broker: Broker) -> AsyncIterator[Pulse]:
    pulse = broker.pulse(timeout=10)
    yield pulse
    pulse.close()


def begin(broker: Broker, task_id: str, delivery: int) -> Awaitable[bool]:
    return broker.begin("default", task_id, delivery, deadline=soon())


class TestBeating:
    async def test_a_beat_counts_and_shows_the_others(self, broker: Broker, store: Inspectable, pulse: Pulse) -> None:
        one, two = await claimed(broker, "one"), await claimed(broker, "two")
        await claimed(broker, "of-mail", queue="mail")
        assert pulse.beat(one) == Beat((Seen("two", two.epoch, "0"),))
        assert pulse.beat(two) == Beat((Seen("one", one.epoch, "1"),))
        assert pulse.beat(one) == Beat((Seen("two", two.epoch, "1"),))
        assert (await seen(broker)).beat == "2"


class TestReclaiming:
    async def test_what_the_dead_one_held_goes_to_the_front_in_order(self, broker: Broker, store: Inspectable) -> None:
        dead, other = await claimed(broker, "one"), await claimed(broker, "two")
        pushed = await push(broker, opaque_tasks(6))
        first, second, _ = await reserve(broker, dead, 3)
        assert await begin(broker, first.id, first.delivery)
        assert ids(await reserve(broker, other, 1)) == pushed[3:4]
        assert await reclaim(broker, await seen(broker)) == 3
        assert store.queue().waiting == [task_id.encode() for task_id in reversed(pushed[:3] + pushed[4:])]
        assert ids(await reserve(broker, other, 6)) == pushed[:3] + pushed[4:]
        begun, not_begun = await state_of(broker, first.id), await state_of(broker, second.id)
        assert (begun.delivery, begun.attempt, begun.crashes) == (2, 2, 1)
        assert (not_begun.delivery, not_begun.attempt, not_begun.crashes) == (2, 1, 0)

    async def test_where_nobody_notes_starts_all_may_have_begun(self, broker: Broker, store: Inspectable) -> None:
        dead = await claimed(broker, begins=False)
        (task_id,) = await push(broker, opaque_tasks(1))
        await reserve(broker, dead)
        await reclaim(broker, await seen(broker))
        state = await state_of(broker, task_id)
        assert (state.state, state.attempt, state.crashes) == ("queued", 1, 1)

    async def test_the_name_is_watched_no_more_but_its_epoch_is_kept(
        self, broker: Broker, store: Inspectable, pulse: Pulse
    ) -> None:
        dead, other = await claimed(broker, "one"), await claimed(broker, "two")
        assert await reclaim(broker, await seen(broker)) == 0
        assert pulse.beat(other) == Beat(())
        assert number((await seen(broker)).epoch) == number(dead.epoch) + 1
        again = await claimed(broker, "one")
        assert number(again.epoch) == number(dead.epoch) + 2

    async def test_one_that_has_beaten_since_is_left_alone(
        self, broker: Broker, store: Inspectable, pulse: Pulse
    ) -> None:
        lease = await claimed(broker)
        await push(broker, opaque_tasks(1))
        (held,) = await reserve(broker, lease)
        before = await seen(broker)
        pulse.beat(lease)
        unchanged = store.everything()
        assert await reclaim(broker, before) == 0
        assert store.everything() == unchanged
        assert await settle(broker, lease, ended(held)) == []

    async def test_whoever_is_second_changes_nothing(self, broker: Broker, store: Inspectable) -> None:
        lease, other = await claimed(broker), await claimed(broker, "two")
        await push(broker, opaque_tasks(2))
        await reserve(broker, lease, 2)
        dead = await seen(broker)
        assert await reclaim(broker, dead) == 2
        await reserve(broker, other, 2)
        unchanged = store.everything()
        assert await reclaim(broker, dead) == 0
        assert store.everything() == unchanged

    async def test_of_many_who_find_it_dead_exactly_one_takes_over(self, broker: Broker, store: Inspectable) -> None:
        lease = await claimed(broker)
        pushed = await push(broker, opaque_tasks(30))
        await reserve(broker, lease, 30)
        dead = await seen(broker)
        finders = [store.open() for _ in range(8)]
        returned = await asyncio.gather(*(reclaim(finder, dead) for finder in finders))
        for finder in finders:
            await finder.aclose()
        assert sorted(returned) == [0] * 7 + [30]
        assert store.queue().waiting == [task_id.encode() for task_id in reversed(pushed)]

    async def test_one_that_has_come_back_or_never_was_is_left_alone(self, broker: Broker, store: Inspectable) -> None:
        await claimed(broker)
        dead = await seen(broker)
        await push(broker, opaque_tasks(1))
        await reserve(broker, await claimed(broker))
        unchanged = store.everything()
        assert await reclaim(broker, dead) == 0
        assert await reclaim(broker, Seen("nobody", "1-a", "0")) == 0
        assert store.everything() == unchanged

    async def test_more_than_one_call_can_move(self, broker: Broker, store: Inspectable) -> None:
        lease = await claimed(broker)
        pushed = await push(broker, opaque_tasks(1203))
        for _ in range(13):
            await reserve(broker, lease, 100)
        assert await reclaim(broker, await seen(broker)) == 1203
        assert store.queue().waiting == [task_id.encode() for task_id in reversed(pushed)]


class TestFenced:
    @pytest.mark.parametrize("by", ["reclaim", "claim"])
    @pytest.mark.parametrize("call", ["settle", "reserve", "beat", "leave", "begin"])
    async def test_its_calls_change_nothing(
        self, broker: Broker, store: Inspectable, pulse: Pulse, by: str, call: str
    ) -> None:
        lease = await claimed(broker)
        await push(broker, opaque_tasks(3))
        (held,) = await reserve(broker, lease)
        if by == "claim":
            await claimed(broker)
        else:
            await reclaim(broker, await seen(broker))
            await reserve(broker, await claimed(broker, "two"))
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "settle": lambda: exchange(broker, lease, ended(held), want=0),
            "reserve": lambda: exchange(broker, lease, want=2),
            "beat": lambda: asyncio.to_thread(pulse.beat, lease),
            "leave": lambda: broker.leave(lease, deadline=soon()),
        }
        unchanged = store.everything()
        if call == "begin":
            assert not await begin(broker, held.id, held.delivery)
        else:
            with pytest.raises(Fenced, match="another server has taken over the name") as caught:
                await calls[call]()
            assert not caught.value.gone
        assert store.everything() == unchanged

    @pytest.mark.parametrize("call", ["beat", "leave"])
    async def test_an_emptied_store_is_told_apart(
        self, broker: Broker, store: Inspectable, pulse: Pulse, call: str
    ) -> None:
        lease = await claimed(broker)
        store.lose()
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "beat": lambda: asyncio.to_thread(pulse.beat, lease),
            "leave": lambda: broker.leave(lease, deadline=soon()),
        }
        with pytest.raises(Fenced, match="the store has lost its data") as caught:
            await calls[call]()
        assert caught.value.gone
        assert store.everything() == {}


class TestLeaving:
    async def test_the_name_is_free_at_once(self, broker: Broker, store: Inspectable) -> None:
        lease = await claimed(broker)
        await broker.leave(lease, deadline=soon())
        owner = await broker.owner("default", "one", deadline=soon())
        assert (owner.free, owner.identity.gone) == (True, False)
        assert store.everything() == {}

    async def test_with_something_reserved_the_name_stays_for_others_to_reclaim(
        self, broker: Broker, store: Inspectable, pulse: Pulse
    ) -> None:
        lease, other = await claimed(broker), await claimed(broker, "two")
        await push(broker, opaque_tasks(1))
        await reserve(broker, lease)
        await broker.leave(lease, deadline=soon())
        assert pulse.beat(other) == Beat((Seen("one", lease.epoch, "0"),))
        assert await reclaim(broker, await seen(broker)) == 1


class TestNames:
    async def test_an_owner_is_known_by_its_process(self, broker: Broker) -> None:
        lease = await claimed(broker)
        assert await broker.owner("default", "one", deadline=soon()) == Owner(lease.epoch, "0", own())

    async def test_of_many_who_want_a_dead_ones_name_exactly_one_gets_it(
        self, broker: Broker, store: Inspectable
    ) -> None:
        await claimed(broker)
        newcomers = [store.open() for _ in range(4)]
        for _ in range(20):
            dead = await broker.owner("default", "one", deadline=soon())
            answers = await asyncio.gather(
                *(new.claim("default", "one", dead=dead, begins=True, deadline=soon()) for new in newcomers),
                return_exceptions=True,
            )
            won = [answer for answer in answers if not isinstance(answer, BaseException)]
            assert [type(answer) for answer in answers].count(NameInUse) == 3
            assert [lease.epoch for lease, _ in won] == [(await seen(broker)).epoch]
            assert number(won[0][0].epoch) == number(dead.epoch) + 1
        for new in newcomers:
            await new.aclose()

    async def test_of_many_who_want_a_free_name_exactly_one_gets_it(self, broker: Broker, store: Inspectable) -> None:
        free = await broker.owner("default", "one", deadline=soon())
        await broker.claim("default", "one", dead=free, begins=True, deadline=soon())
        unchanged = store.everything()
        with pytest.raises(NameInUse, match="has just taken the name"):
            await broker.claim("default", "one", dead=free, begins=True, deadline=soon())
        assert store.everything() == unchanged

    async def test_an_owner_that_has_beaten_since_keeps_its_name(
        self, broker: Broker, store: Inspectable, pulse: Pulse
    ) -> None:
        lease = await claimed(broker)
        silent = await broker.owner("default", "one", deadline=soon())
        pulse.beat(lease)
        unchanged = store.everything()
        with pytest.raises(NameInUse):
            await broker.claim("default", "one", dead=silent, begins=True, deadline=soon())
        assert store.everything() == unchanged


class Woken:
    """Somebody who may be woken."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def __call__(self) -> None:
        self.event.set()


def member(
    broker: Broker,
    name: str = "one",
    *,
    wake: Callable[[], None] | None = None,
    begins: Callable[[], bool] = lambda: True,
    on_marked: Callable[[Sequence[str]], None] = lambda _: None,
) -> Membership:
    return Membership(
        broker,
        name,
        lease=1.0,
        patience=lambda: 60.0,
        begins=begins,
        wake=wake or Woken(),
        on_marked=on_marked,
    )


@asynccontextmanager
async def belonging(member: Membership, *queues: str) -> AsyncIterator[list[Lease]]:
    """Join, and leave in the end."""
    try:
        yield await member.join(*queues or ("default",))
    finally:
        await member.leave()


@pytest.fixture
async def somewhere(place: Inspectable) -> AsyncIterator[Broker]:
    """A broker on few stores: these tests take the time that beats take."""
    broker = place.open()
    yield broker
    await broker.aclose()
    place.queues()


async def claimed_by(who: Identity, broker: Broker, monkeypatch: pytest.MonkeyPatch, queue: str = "default") -> Lease:
    """Claim the name as another process."""
    with monkeypatch.context() as patch:
        for module in (redis_broker, local_broker):
            patch.setattr(module, "own", lambda: who)
        return await claimed(broker, queue=queue)


class TestMembership:
    async def test_it_joins_beats_and_leaves_without_a_trace(self, somewhere: Broker, place: Inspectable) -> None:
        async def beaten() -> bool:
            owners = [await somewhere.owner(queue, "one", deadline=soon()) for queue in ("a", "b")]
            return all(int(owner.beat) > 1 for owner in owners)

        async with belonging(member(somewhere), "a", "b"):
            await until(beaten, "it beats in both queues")
        assert place.everything() == {}

    async def test_a_process_that_is_gone_is_not_waited_for(
        self, somewhere: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(membership_module, "LISTEN", 3600.0)
        before = await claimed_by(replace(own(), pid=2**22 + 1), somewhere, monkeypatch)
        async with belonging(member(somewhere)) as (lease,):
            assert number(lease.epoch) == number(before.epoch) + 1

    async def test_one_elsewhere_that_stays_silent_is_taken_over(
        self, somewhere: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        await claimed_by(ELSEWHERE, somewhere, monkeypatch)
        monkeypatch.setattr(membership_module, "LISTEN", 0.05)
        async with belonging(member(somewhere)):
            assert "has gone silent: taking the name over" in caplog.text

    async def test_one_elsewhere_that_beats_keeps_its_name(
        self, somewhere: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lease = await claimed_by(ELSEWHERE, somewhere, monkeypatch)
        pulse = somewhere.pulse(timeout=10)
        job = asyncio.create_task(member(somewhere).join("default"))

        async def refused() -> bool:
            await asyncio.to_thread(pulse.beat, lease)
            return job.done()

        await until(refused, "the newcomer is refused")
        with pytest.raises(NameInUse, match=r"process 4711 on another\.example runs under this name.*--name"):
            await job
        pulse.close()
        await somewhere.leave(lease, deadline=soon())

    async def test_a_name_that_is_left_meanwhile_is_free(
        self, somewhere: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lease = await claimed_by(ELSEWHERE, somewhere, monkeypatch)
        monkeypatch.setattr(membership_module, "LISTEN", 0.2)
        job = asyncio.create_task(member(somewhere).join("default"))
        await somewhere.leave(lease, deadline=soon())
        (taken,) = await job
        assert number(taken.epoch) == 1

    async def test_an_owner_in_one_queue_is_met_before_any_other_is_taken(
        self, somewhere: Broker, place: Inspectable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lease = await claimed_by(ELSEWHERE, somewhere, monkeypatch)
        pulse = somewhere.pulse(timeout=10)
        newcomer = member(somewhere)
        job = asyncio.create_task(newcomer.join("a", "default", "z"))

        async def refused() -> bool:
            await asyncio.to_thread(pulse.beat, lease)
            return job.done()

        await until(refused, "the newcomer is refused")
        with pytest.raises(NameInUse, match="of queue default"):
            await job
        pulse.close()
        await somewhere.leave(lease, deadline=soon())
        assert place.everything() == {}

    async def test_the_dead_are_found_and_what_they_held_is_given_back(
        self, somewhere: Broker, place: Inspectable, caplog: pytest.LogCaptureFixture
    ) -> None:
        dead = await claimed(somewhere, "dead")
        pushed = await push(somewhere, opaque_tasks(3))
        await reserve(somewhere, dead, 2)
        woken = Woken()
        survivor = member(somewhere, wake=woken)
        async with belonging(member(somewhere, "alive")), belonging(survivor):
            assert not await survivor.take_over()
            await woken.event.wait()
            assert await survivor.take_over()
            assert not await survivor.take_over()
        assert "consumer dead is dead: 2 task(s) given back" in caplog.text
        assert "consumer alive is dead" not in caplog.text
        assert place.queue().waiting == [task_id.encode() for task_id in reversed(pushed)]

    async def test_the_one_that_was_taken_over_is_told(self, somewhere: Broker) -> None:
        woken = Woken()
        first = member(somewhere, wake=woken)
        async with belonging(first):
            first.require()
            await claimed(somewhere)
            await woken.event.wait()
            with pytest.raises(Fenced, match="taken over the name"):
                first.require()

    async def test_an_old_lease_that_is_refused_says_nothing_of_the_new_one(
        self, somewhere: Broker, place: Inspectable
    ) -> None:
        """After a loss of data the name is taken again; a beat of before may still be under way then."""
        one = member(somewhere)
        async with belonging(one) as (before,):
            place.lose()
            (after,) = await one.join("default")
            assert after != before
            one._on_fenced(before, Fenced("taken over"))
            one.require()
            one._on_fenced(after, Fenced("taken over"))
            with pytest.raises(Fenced):
                one.require()
