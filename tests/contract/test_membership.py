"""A consumer among others, on each kind of server: beats, fences, take-overs, names. No clock is compared anywhere."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import combinations
from typing import Any, Final

import pytest

from taskqueue import membership as membership_module
from taskqueue.broker import Lease, Owner, Seen
from taskqueue.brokers import link
from taskqueue.brokers import redis as redis_broker
from taskqueue.brokers.pulse import RedisPulse
from taskqueue.brokers.redis import RedisBroker
from taskqueue.brokers.scripts import SCRIPTS
from taskqueue.errors import BrokerUnavailable, Fenced, NameInUse
from taskqueue.identity import Identity, own
from taskqueue.membership import Membership
from tests.contract.test_broker import (
    BASE,
    claimed,
    ended,
    everything,
    exchange,
    ids,
    push,
    queue_of,
    reserve,
    settle,
    soon,
    state_of,
)
from tests.invariants import assert_invariants
from tests.proxy import Fault, proxied
from tests.servers import RedisServer
from tests.tasks import opaque_tasks
from tests.waiting import until

ELSEWHERE: Final = Identity("another.example", 4711, "boot", "1")


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
async def pulse(broker: RedisBroker) -> AsyncIterator[RedisPulse]:
    pulse = broker.pulse(timeout=10)
    yield pulse
    pulse.close()


def seen(client: Any, name: str = "one") -> Seen:
    """Return a consumer as somebody else would see it now."""
    epoch, beat = client.hmget(f"{BASE}:consumer:{name}", "epoch", "beat")
    return Seen(name, epoch.decode(), beat.decode())


async def reclaim(broker: RedisBroker, dead: Seen) -> int:
    return await broker.reclaim("default", dead, deadline=soon())


def begin(broker: RedisBroker, task_id: str, delivery: int) -> Awaitable[bool]:
    return broker.begin("default", task_id, delivery, deadline=soon())


class TestBeating:
    async def test_a_beat_counts_and_shows_the_others(
        self, broker: RedisBroker, client: Any, pulse: RedisPulse
    ) -> None:
        one, two = await claimed(broker, "one"), await claimed(broker, "two")
        await claimed(broker, "of-mail", queue="mail")
        assert pulse.beat(one) == [Seen("two", two.epoch, "0")]
        assert pulse.beat(two) == [Seen("one", one.epoch, "1")]
        assert pulse.beat(one) == [Seen("two", two.epoch, "1")]
        assert seen(client).beat == "2"

    async def test_a_forgotten_script_is_sent_again(self, broker: RedisBroker, client: Any, pulse: RedisPulse) -> None:
        lease = await claimed(broker)
        pulse.beat(lease)
        client.script_flush()
        pulse.beat(lease)
        assert seen(client).beat == "2"

    async def test_a_line_that_was_cut_between_two_beats_is_made_anew(
        self, broker: RedisBroker, client: Any, pulse: RedisPulse
    ) -> None:
        lease = await claimed(broker)
        pulse.beat(lease)
        client.client_kill_filter(_type="normal", skipme=True)
        pulse.beat(lease)
        assert seen(client).beat == "2"

    @pytest.mark.parametrize("fault", ["cut before", "cut after", "swallow"])
    async def test_a_beat_without_an_answer_is_told_and_the_next_goes_another_way(
        self, redis_server: RedisServer, fault: Fault
    ) -> None:
        async with proxied(redis_server.port) as proxy:
            broker = RedisBroker(proxy.url, namespace="taskqueue")
            lease = await claimed(broker)
            pulse = broker.pulse(timeout=0.1)
            await asyncio.to_thread(pulse.beat, lease)
            proxy.inject(fault, SCRIPTS["beat"].sha.encode())
            with pytest.raises(BrokerUnavailable):
                await asyncio.to_thread(pulse.beat, lease)
            assert await asyncio.to_thread(pulse.beat, lease) == []
            pulse.close()
            pulse.close()
            await broker.aclose()


class TestReclaiming:
    async def test_what_the_dead_one_held_goes_to_the_front_in_order(self, broker: RedisBroker, client: Any) -> None:
        dead, other = await claimed(broker, "one"), await claimed(broker, "two")
        pushed = await push(broker, opaque_tasks(6))
        first, second, _ = await reserve(broker, dead, 3)
        assert await begin(broker, first.id, first.delivery)
        assert ids(await reserve(broker, other, 1)) == pushed[3:4]
        assert await reclaim(broker, seen(client)) == 3
        assert client.lrange(BASE, 0, -1) == [task_id.encode() for task_id in reversed(pushed[:3] + pushed[4:])]
        assert ids(await reserve(broker, other, 6)) == pushed[:3] + pushed[4:]
        begun, not_begun = await state_of(broker, first.id), await state_of(broker, second.id)
        assert (begun.delivery, begun.attempt, begun.crashes) == (2, 2, 1)
        assert (not_begun.delivery, not_begun.attempt, not_begun.crashes) == (2, 1, 0)

    async def test_where_nobody_notes_starts_all_may_have_begun(self, broker: RedisBroker, client: Any) -> None:
        dead = await claimed(broker, begins=False)
        (task_id,) = await push(broker, opaque_tasks(1))
        await reserve(broker, dead)
        await reclaim(broker, seen(client))
        state = await state_of(broker, task_id)
        assert (state.state, state.attempt, state.crashes) == ("queued", 1, 1)

    async def test_the_name_is_watched_no_more_but_its_epoch_is_kept_for_a_day(
        self, broker: RedisBroker, client: Any, pulse: RedisPulse
    ) -> None:
        dead, other = await claimed(broker, "one"), await claimed(broker, "two")
        assert await reclaim(broker, seen(client)) == 0
        assert pulse.beat(other) == []
        assert 86_390 <= client.ttl(f"{BASE}:consumer:one") <= 86_400
        assert number(seen(client).epoch) == number(dead.epoch) + 1
        again = await claimed(broker, "one")
        assert number(again.epoch) == number(dead.epoch) + 2
        assert client.ttl(f"{BASE}:consumer:one") == -1

    async def test_one_that_has_beaten_since_is_left_alone(
        self, broker: RedisBroker, client: Any, pulse: RedisPulse
    ) -> None:
        lease = await claimed(broker)
        await push(broker, opaque_tasks(1))
        (held,) = await reserve(broker, lease)
        before = seen(client)
        pulse.beat(lease)
        unchanged = everything(client)
        assert await reclaim(broker, before) == 0
        assert everything(client) == unchanged
        assert await settle(broker, lease, ended(held)) == []

    async def test_whoever_is_second_changes_nothing(self, broker: RedisBroker, client: Any) -> None:
        lease, other = await claimed(broker), await claimed(broker, "two")
        await push(broker, opaque_tasks(2))
        await reserve(broker, lease, 2)
        dead = seen(client)
        assert await reclaim(broker, dead) == 2
        await reserve(broker, other, 2)
        unchanged = everything(client)
        assert await reclaim(broker, dead) == 0
        assert everything(client) == unchanged

    async def test_of_many_who_find_it_dead_exactly_one_takes_over(
        self, redis_server: RedisServer, broker: RedisBroker, client: Any
    ) -> None:
        lease = await claimed(broker)
        pushed = await push(broker, opaque_tasks(30))
        await reserve(broker, lease, 30)
        dead = seen(client)
        finders = [RedisBroker(redis_server.url, namespace="taskqueue") for _ in range(8)]
        returned = await asyncio.gather(*(reclaim(finder, dead) for finder in finders))
        for finder in finders:
            await finder.aclose()
        assert sorted(returned) == [0] * 7 + [30]
        assert client.lrange(BASE, 0, -1) == [task_id.encode() for task_id in reversed(pushed)]

    async def test_one_that_has_come_back_or_never_was_is_left_alone(self, broker: RedisBroker, client: Any) -> None:
        await claimed(broker)
        dead = seen(client)
        await push(broker, opaque_tasks(1))
        await reserve(broker, await claimed(broker))
        unchanged = everything(client)
        assert await reclaim(broker, dead) == 0
        assert await reclaim(broker, Seen("nobody", "1-a", "0")) == 0
        assert everything(client) == unchanged

    async def test_more_than_one_call_can_move(self, broker: RedisBroker, client: Any) -> None:
        lease = await claimed(broker)
        pushed = await push(broker, opaque_tasks(1203))
        for _ in range(13):
            await reserve(broker, lease, 100)
        assert await reclaim(broker, seen(client)) == 1203
        assert client.lrange(BASE, 0, -1) == [task_id.encode() for task_id in reversed(pushed)]

    async def test_one_that_was_broken_off_is_finished_by_whoever_looks_next(
        self, broker: RedisBroker, client: Any, pulse: RedisPulse
    ) -> None:
        lease, other = await claimed(broker), await claimed(broker, "two")
        pushed = await push(broker, opaque_tasks(700))
        for _ in range(7):
            await reserve(broker, lease, 100)
        dead = seen(client)
        first = client.eval(SCRIPTS["reclaim"].source, 1, BASE, "one", "f" * 16, dead.epoch, dead.beat)
        assert first == [500, 200]
        assert_invariants(client)
        assert number((found := pulse.beat(other)[0]).epoch) == number(dead.epoch) + 1
        assert await reclaim(broker, found) == 200
        assert client.lrange(BASE, 0, -1) == [task_id.encode() for task_id in reversed(pushed)]


def number(epoch: str) -> int:
    return int(epoch.partition("-")[0])


class TestFenced:
    @pytest.mark.parametrize("by", ["reclaim", "claim"])
    @pytest.mark.parametrize("call", ["settle", "reserve", "beat", "leave", "begin"])
    async def test_its_calls_change_nothing(
        self, broker: RedisBroker, client: Any, pulse: RedisPulse, by: str, call: str
    ) -> None:
        lease = await claimed(broker)
        await push(broker, opaque_tasks(3))
        (held,) = await reserve(broker, lease)
        if by == "claim":
            await claimed(broker)
        else:
            await reclaim(broker, seen(client))
            await reserve(broker, await claimed(broker, "two"))
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "settle": lambda: exchange(broker, lease, ended(held), want=0),
            "reserve": lambda: exchange(broker, lease, want=2),
            "beat": lambda: asyncio.to_thread(pulse.beat, lease),
            "leave": lambda: broker.leave(lease, deadline=soon()),
        }
        unchanged = everything(client)
        if call == "begin":
            assert not await begin(broker, held.id, held.delivery)
        else:
            with pytest.raises(Fenced, match="another server has taken over the name") as caught:
                await calls[call]()
            assert not caught.value.gone
        assert everything(client) == unchanged

    @pytest.mark.parametrize("call", ["beat", "leave"])
    async def test_an_emptied_store_is_told_apart(
        self, broker: RedisBroker, client: Any, pulse: RedisPulse, call: str
    ) -> None:
        lease = await claimed(broker)
        client.flushall()
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "beat": lambda: asyncio.to_thread(pulse.beat, lease),
            "leave": lambda: broker.leave(lease, deadline=soon()),
        }
        with pytest.raises(Fenced, match="redis has lost its data") as caught:
            await calls[call]()
        assert caught.value.gone
        assert everything(client) == {}


class TestLeaving:
    async def test_the_name_is_free_at_once(self, broker: RedisBroker, client: Any) -> None:
        lease = await claimed(broker)
        await broker.leave(lease, deadline=soon())
        owner = await broker.owner("default", "one", deadline=soon())
        assert (owner.free, owner.identity.gone) == (True, False)
        assert everything(client) == {}

    async def test_with_something_reserved_the_name_stays_for_others_to_reclaim(
        self, broker: RedisBroker, client: Any, pulse: RedisPulse
    ) -> None:
        lease, other = await claimed(broker), await claimed(broker, "two")
        await push(broker, opaque_tasks(1))
        await reserve(broker, lease)
        await broker.leave(lease, deadline=soon())
        assert pulse.beat(other) == [Seen("one", lease.epoch, "0")]
        assert await reclaim(broker, seen(client)) == 1


class TestNames:
    async def test_an_owner_is_known_by_its_process(self, broker: RedisBroker) -> None:
        lease = await claimed(broker)
        assert await broker.owner("default", "one", deadline=soon()) == Owner(lease.epoch, "0", own())

    async def test_of_many_who_want_a_dead_ones_name_exactly_one_gets_it(
        self, redis_server: RedisServer, broker: RedisBroker, client: Any
    ) -> None:
        await claimed(broker)
        newcomers = [RedisBroker(redis_server.url, namespace="taskqueue") for _ in range(4)]
        for _ in range(20):
            dead = await broker.owner("default", "one", deadline=soon())
            answers = await asyncio.gather(
                *(new.claim("default", "one", dead=dead, begins=True, deadline=soon()) for new in newcomers),
                return_exceptions=True,
            )
            won = [answer for answer in answers if not isinstance(answer, BaseException)]
            assert [type(answer) for answer in answers].count(NameInUse) == 3
            assert [lease.epoch for lease, _ in won] == [seen(client).epoch]
            assert number(won[0][0].epoch) == number(dead.epoch) + 1
        for new in newcomers:
            await new.aclose()

    async def test_of_many_who_want_a_free_name_exactly_one_gets_it(self, broker: RedisBroker, client: Any) -> None:
        free = await broker.owner("default", "one", deadline=soon())
        await broker.claim("default", "one", dead=free, begins=True, deadline=soon())
        unchanged = everything(client)
        with pytest.raises(NameInUse, match="has just taken the name"):
            await broker.claim("default", "one", dead=free, begins=True, deadline=soon())
        assert everything(client) == unchanged

    async def test_an_owner_that_has_beaten_since_keeps_its_name(
        self, broker: RedisBroker, client: Any, pulse: RedisPulse
    ) -> None:
        lease = await claimed(broker)
        silent = await broker.owner("default", "one", deadline=soon())
        pulse.beat(lease)
        unchanged = everything(client)
        with pytest.raises(NameInUse):
            await broker.claim("default", "one", dead=silent, begins=True, deadline=soon())
        assert everything(client) == unchanged

    @pytest.mark.parametrize("fault", ["cut before", "cut after"])
    async def test_a_claim_whose_reply_is_lost_is_the_same_claim(
        self, redis_server: RedisServer, client: Any, fault: Fault
    ) -> None:
        async with proxied(redis_server.port) as proxy:
            broker = RedisBroker(proxy.url, namespace="taskqueue")
            pushed = await push(broker, opaque_tasks(3))
            await reserve(broker, await claimed(broker), 3)
            dead = await broker.owner("default", "one", deadline=soon())
            proxy.inject(fault, SCRIPTS["claim"].sha.encode())
            lease, _ = await broker.claim("default", "one", dead=dead, begins=True, deadline=soon())
            assert proxy.hits == 1
            assert number(lease.epoch) == 2
            assert queue_of(client).waiting == [task_id.encode() for task_id in reversed(pushed)]
            await broker.aclose()


class Woken:
    """Somebody who may be woken."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def __call__(self) -> None:
        self.event.set()


def member(
    broker: RedisBroker,
    name: str = "one",
    *,
    wake: Callable[[], None] | None = None,
    begins: Callable[[], bool] = lambda: True,
) -> Membership:
    return Membership(broker, name, lease=1.0, patience=lambda: 60.0, begins=begins, wake=wake or Woken())


@asynccontextmanager
async def belonging(member: Membership, *queues: str) -> AsyncIterator[list[Lease]]:
    """Join, and leave in the end."""
    try:
        yield await member.join(*queues or ("default",))
    finally:
        await member.leave()


@pytest.fixture
async def somewhere(any_server: RedisServer) -> AsyncIterator[RedisBroker]:
    """A broker on one server: these tests take the time that beats take."""
    broker = RedisBroker(any_server.url, namespace="taskqueue")
    yield broker
    await broker.aclose()
    assert_invariants(any_server.client())


async def claimed_elsewhere(broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, queue: str = "default") -> Lease:
    """Claim the name as a process on another host."""
    with monkeypatch.context() as patch:
        patch.setattr(redis_broker, "own", lambda: ELSEWHERE)
        return await claimed(broker, queue=queue)


class Rival(RedisBroker):
    """A broker that notes what is asked of it, and whose first claim waits until another one gets as far."""

    def __init__(self, url: str, *, meeting: asyncio.Barrier | None = None, **options: Any) -> None:
        super().__init__(url, **options)
        self.asked: list[str] = []
        self._meeting = meeting

    async def owner(self, queue: str, consumer: str, *, deadline: float) -> Owner:
        self.asked.append("owner")
        return await super().owner(queue, consumer, deadline=deadline)

    async def claim(self, queue: str, consumer: str, **options: Any) -> tuple[Lease, int]:
        self.asked.append(f"claim {queue}")
        meeting, self._meeting = self._meeting, None
        if meeting is not None:
            await meeting.wait()
        return await super().claim(queue, consumer, **options)


@pytest.mark.parametrize("lease", [2.0, 8.0, 3600.0])
async def test_a_line_that_is_open_at_this_end_only_is_given_up_within_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, lease: float
) -> None:
    """How long an answer is waited for: by a beat, also with a long lease, by a call, and by who listens to hints."""
    broker = RedisBroker("redis://127.0.0.1:1", namespace="taskqueue")
    beats: list[float] = []
    monkeypatch.setattr(broker, "pulse", lambda *, timeout: beats.append(timeout))
    Membership(broker, "one", lease=lease, patience=lambda: 60.0, begins=lambda: True, wake=Woken())
    assert beats[0] <= lease / 2, "another beat must come in time"
    assert max(beats[0], link.READ_TIMEOUT, 2 * redis_broker.HINT_PING) < 10


class TestMembership:
    async def test_it_joins_beats_and_leaves_without_a_trace(
        self, somewhere: RedisBroker, any_server: RedisServer
    ) -> None:
        client: Any = any_server.client()

        async def beaten() -> bool:
            return all(int(client.hget(f"taskqueue:{{{queue}}}:consumer:one", "beat")) > 1 for queue in ("a", "b"))

        async with belonging(member(somewhere), "a", "b"):
            await until(beaten, "it beats in both queues")
        assert everything(client) == {}

    async def test_a_process_that_is_gone_is_not_waited_for(
        self, somewhere: RedisBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(membership_module, "LISTEN", 3600.0)
        with monkeypatch.context() as patch:
            patch.setattr(redis_broker, "own", lambda: replace(own(), pid=2**22 + 1))
            before = await claimed(somewhere)
        async with belonging(member(somewhere)) as (lease,):
            assert number(lease.epoch) == number(before.epoch) + 1

    async def test_one_elsewhere_that_stays_silent_is_taken_over(
        self, somewhere: RedisBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        await claimed_elsewhere(somewhere, monkeypatch)
        monkeypatch.setattr(membership_module, "LISTEN", 0.05)
        async with belonging(member(somewhere)):
            assert "has gone silent: taking the name over" in caplog.text

    async def test_one_elsewhere_that_beats_keeps_its_name(
        self, somewhere: RedisBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lease = await claimed_elsewhere(somewhere, monkeypatch)
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
        self, somewhere: RedisBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lease = await claimed_elsewhere(somewhere, monkeypatch)
        monkeypatch.setattr(membership_module, "LISTEN", 0.2)
        job = asyncio.create_task(member(somewhere).join("default"))
        await somewhere.leave(lease, deadline=soon())
        (taken,) = await job
        assert number(taken.epoch) == 1

    async def test_of_two_who_start_under_one_name_one_has_all_queues(self, any_server: RedisServer) -> None:
        """Whatever the order they name them in, and whatever they do not share, one of them stays."""
        client: Any = any_server.client()
        wants = [("a", "b", "c"), ("c", "b", "a"), ("b", "a", "d"), ("c", "b")]
        for first, second in combinations(wants, 2):
            meeting = asyncio.Barrier(2)
            rivals = [Rival(any_server.url, namespace="taskqueue", meeting=meeting) for _ in range(2)]
            members = [member(rival) for rival in rivals]
            joined = await asyncio.gather(
                *(one.join(*queues) for one, queues in zip(members, (first, second), strict=True)),
                return_exceptions=True,
            )
            refused = [answer for answer in joined if isinstance(answer, NameInUse)]
            (leases,) = (answer for answer in joined if not isinstance(answer, BaseException))
            assert len(refused) == 1, (first, second)
            for lease in leases:
                epoch = client.hget(f"taskqueue:{{{lease.queue}}}:consumer:one", "epoch")
                assert epoch.decode() == lease.epoch
            for one, rival in zip(members, rivals, strict=True):
                await one.leave()
                await rival.aclose()

    async def test_an_owner_in_one_queue_is_met_before_any_other_is_taken(
        self, somewhere: RedisBroker, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lease = await claimed_elsewhere(somewhere, monkeypatch)
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
        assert everything(any_server.client()) == {}

    async def test_all_silences_are_listened_to_at_once(
        self, any_server: RedisServer, somewhere: RedisBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queues = ("c", "a", "b")
        for queue in queues:
            await claimed_elsewhere(somewhere, monkeypatch, queue)
        monkeypatch.setattr(membership_module, "LISTEN", 0.05)
        broker = Rival(any_server.url, namespace="taskqueue")
        async with belonging(member(broker), *queues) as leases:
            assert [lease.queue for lease in leases] == list(queues)
        assert broker.asked == ["owner"] * 6 + ["claim a", "claim b", "claim c"]
        await broker.aclose()

    async def test_where_nobody_notes_starts_it_is_said_when_the_name_is_taken(
        self, somewhere: RedisBroker, any_server: RedisServer
    ) -> None:
        """An application may make its door as late as at its startup."""
        client: Any = any_server.client()
        notes = [True]
        one = member(somewhere, begins=lambda: notes[0])
        notes[0] = False
        async with belonging(one):
            assert client.hget(f"{BASE}:consumer:one", "begins") == b"0"

    async def test_the_dead_are_found_and_what_they_held_is_given_back(
        self, somewhere: RedisBroker, any_server: RedisServer, caplog: pytest.LogCaptureFixture
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
        assert queue_of(any_server.client()).waiting == [task_id.encode() for task_id in reversed(pushed)]

    async def test_the_one_that_was_taken_over_is_told(self, somewhere: RedisBroker) -> None:
        woken = Woken()
        first = member(somewhere, wake=woken)
        async with belonging(first):
            first.require()
            await claimed(somewhere)
            await woken.event.wait()
            with pytest.raises(Fenced, match="taken over the name"):
                first.require()

    async def test_an_old_lease_that_is_refused_says_nothing_of_the_new_one(
        self, somewhere: RedisBroker, any_server: RedisServer
    ) -> None:
        """After a loss of data the name is taken again; a beat of before may still be under way then."""
        one = member(somewhere)
        async with belonging(one) as (before,):
            any_server.client().flushall()
            (after,) = await one.join("default")
            assert after != before
            one._on_fenced(before, Fenced("taken over"))
            one.require()
            one._on_fenced(after, Fenced("taken over"))
            with pytest.raises(Fenced):
                one.require()
