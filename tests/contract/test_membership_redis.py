"""A consumer among others in Redis: lines that break, replies that are lost, what is broken off."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from taskqueue.brokers.pulse import RedisPulse
from taskqueue.brokers.redis import RedisBroker
from taskqueue.brokers.scripts import SCRIPTS
from taskqueue.errors import BrokerUnavailable
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
            assert await asyncio.to_thread(pulse.beat, lease) == []
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
        assert first == [500, 200]
        assert_invariants(client)
        assert number((found := pulse.beat(other)[0]).epoch) == number(dead.epoch) + 1
        assert await reclaim(broker, found) == 200
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
