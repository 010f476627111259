"""A consumer among others in Redis: lines that break, replies that are lost, what is broken off."""

import asyncio
from collections.abc import AsyncIterator
from itertools import combinations
from typing import Any, Final

import pytest

from taskqueue import membership as membership_module
from taskqueue.broker import Beat, Broker, Lease, Owner
from taskqueue.brokers import hearing, link
from taskqueue.brokers.pulse import RedisPulse
from taskqueue.brokers.redis import RedisBroker
from taskqueue.brokers.scripts import SCRIPTS
from taskqueue.errors import BrokerUnavailable, NameInUse
from taskqueue.membership import Membership
from tests.contract.test_membership import ELSEWHERE, Woken, belonging, claimed_by, member
from tests.invariants import assert_invariants
from tests.moves import claimed, number, push, reclaim, reserve, seen, soon
from tests.proxy import Fault, proxied
from tests.servers import RedisServer
from tests.tasks import opaque_tasks

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
async def pulse(broker: RedisBroker) -> AsyncIterator[RedisPulse]:
    pulse = broker.pulse(timeout=10)
    yield pulse
    pulse.close()


class TestBeating:
    async def test_a_forgotten_script_is_sent_again(self, broker: RedisBroker, client: Any, pulse: RedisPulse) -> None:
        lease = await claimed(broker)
        pulse.beat(lease)
        client.script_flush()
        pulse.beat(lease)
        assert (await seen(broker)).beat == "2"

    async def test_a_line_that_was_cut_between_two_beats_is_made_anew(
        self, broker: RedisBroker, client: Any, pulse: RedisPulse
    ) -> None:
        lease = await claimed(broker)
        pulse.beat(lease)
        client.client_kill_filter(_type="normal", skipme=True)
        pulse.beat(lease)
        assert (await seen(broker)).beat == "2"

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
            assert await asyncio.to_thread(pulse.beat, lease) == Beat(())
            pulse.close()
            pulse.close()
            await broker.aclose()


class TestReclaiming:
    async def test_the_epoch_of_a_dead_one_is_kept_for_a_day(self, broker: RedisBroker, client: Any) -> None:
        await claimed(broker)
        assert await reclaim(broker, await seen(broker)) == 0
        assert 86_390 <= client.ttl(f"{BASE}:consumer:one") <= 86_400
        await claimed(broker)
        assert client.ttl(f"{BASE}:consumer:one") == -1

    async def test_one_that_was_broken_off_is_finished_by_whoever_looks_next(
        self, broker: RedisBroker, client: Any, pulse: RedisPulse
    ) -> None:
        lease, other = await claimed(broker), await claimed(broker, "two")
        pushed = await push(broker, opaque_tasks(700))
        for _ in range(7):
            await reserve(broker, lease, 100)
        dead = await seen(broker)
        first = client.eval(SCRIPTS["reclaim"].source, 1, BASE, "one", "f" * 16, dead.epoch, dead.beat)
        assert first == [200, 500]
        assert_invariants(client)
        assert number((found := pulse.beat(other).others[0]).epoch) == number(dead.epoch) + 1
        assert await reclaim(broker, found) == 500
        assert client.lrange(BASE, 0, -1) == [task_id.encode() for task_id in reversed(pushed)]


class TestNames:
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
            assert client.lrange(BASE, 0, -1) == [task_id.encode() for task_id in reversed(pushed)]
            await broker.aclose()


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
    Membership(
        broker, "one", lease=lease, patience=lambda: 60.0, begins=lambda: True, wake=Woken(), on_marked=lambda _: None
    )
    assert beats[0] <= lease / 2, "another beat must come in time"
    assert max(beats[0], link.READ_TIMEOUT, 2 * hearing.HINT_PING) < 10


@pytest.fixture
async def somewhere(any_server: RedisServer) -> AsyncIterator[Broker]:
    """A broker on one server: these tests take the time that beats take."""
    broker = RedisBroker(any_server.url, namespace="taskqueue")
    yield broker
    await broker.aclose()
    assert_invariants(any_server.client())


class TestRivals:
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

    async def test_all_silences_are_listened_to_at_once(
        self, any_server: RedisServer, somewhere: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queues = ("c", "a", "b")
        for queue in queues:
            await claimed_by(ELSEWHERE, somewhere, monkeypatch, queue)
        monkeypatch.setattr(membership_module, "LISTEN", 0.05)
        broker = Rival(any_server.url, namespace="taskqueue")
        async with belonging(member(broker), *queues) as leases:
            assert [lease.queue for lease in leases] == list(queues)
        assert broker.asked == ["owner"] * 6 + ["claim a", "claim b", "claim c"]
        await broker.aclose()

    async def test_where_nobody_notes_starts_it_is_said_when_the_name_is_taken(
        self, somewhere: Broker, any_server: RedisServer
    ) -> None:
        """An application may make its door as late as at its startup."""
        client: Any = any_server.client()
        notes = [True]
        one = member(somewhere, begins=lambda: notes[0])
        notes[0] = False
        async with belonging(one):
            assert client.hget(f"{BASE}:consumer:one", "begins") == b"0"
