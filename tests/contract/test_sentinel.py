"""A Redis that fails over, with real sentinels: writes go on at the new primary, and nothing acknowledged is lost."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest
from redis.exceptions import ResponseError

from taskqueue.broker import Beat, connect, masked
from taskqueue.brokers.sentinel import SentinelBroker, service
from taskqueue.durability import Durability
from taskqueue.errors import BrokerUnavailable, ConfigError
from taskqueue.options import broker_url
from tests.proxy import proxied
from tests.sentinels import SERVICE, Sentinel, Watched, watched
from tests.servers import RedisServer, Servers, free_port
from tests.tasks import opaque, opaque_tasks
from tests.waiting import until

BASE: Final = "taskqueue:{default}"


def within(seconds: float) -> float:
    return time.monotonic() + seconds


def broker_at(url: str, durability: Durability | None = None) -> SentinelBroker:
    return SentinelBroker(url, namespace="taskqueue", durability=durability)


class TestUrls:
    def test_what_it_names(self) -> None:
        named = service("redis+sentinel://app:p%40ss@10.0.0.1:5000,redis.example,[::1]:26380/shop/3?sentinel_user=s")
        assert named.sentinels == [("10.0.0.1", 5000), ("redis.example", 26379), ("::1", 26380)]
        assert (named.name, named.tls) == ("shop", False)
        assert named.to_primary == {"username": "app", "password": "p@ss", "db": 3}
        assert named.to_sentinel == {"username": "s"}

    def test_tls_goes_for_all(self) -> None:
        named = service("rediss+sentinel://h/shop?ssl_ca_certs=/ca.pem&sentinel_password=pw")
        assert (named.tls, named.to_primary["db"]) == (True, 0)
        assert named.to_primary["ssl_ca_certs"] == named.to_sentinel["ssl_ca_certs"] == "/ca.pem"
        assert named.to_sentinel["password"] == "pw"
        assert "username" not in named.to_sentinel
        assert "pw" not in repr(named)

    @pytest.mark.parametrize(
        "url",
        [
            "redis+sentinel://h:1",
            "redis+sentinel://h:1/",
            "redis+sentinel:///shop",
            "redis+sentinel://h:1,/shop",
            "redis+sentinel://h:0/shop",
            "redis+sentinel://h:70000/shop",
            "redis+sentinel://h:x/shop",
            "redis+sentinel://:hunter2@h:1/shop/x",
            "redis+sentinel://h:1/shop/0/more",
            "redis+sentinel://h:1/sh op",
        ],
    )
    def test_what_names_nothing(self, url: str) -> None:
        with pytest.raises(ConfigError, match=r"must be sentinels with commas .* redis\+sentinel://10") as caught:
            connect(url, namespace="taskqueue")
        assert "hunter2" not in str(caught.value)

    def test_an_option_that_cannot_be_read(self) -> None:
        with pytest.raises(ConfigError, match="url: "):
            connect("redis+sentinel://h/shop?socket_keepalive=maybe&max_connections=x", namespace="taskqueue")

    def test_it_passes_as_a_setting_and_its_passwords_are_masked(self) -> None:
        url = "redis+sentinel://app:hunter2@h1:1,h2:2/shop/0?sentinel_user=u&sentinel_password=hunter3&x=1"
        assert broker_url(url) == url
        shown = masked(url)
        assert shown == "redis+sentinel://app:***@h1:1,h2:2/shop/0?sentinel_user=u&sentinel_password=***&x=1"


@pytest.fixture(scope="module")
def service_up(servers: Servers) -> Iterator[Watched]:
    """A service whose primary these tests leave in its place."""
    with watched(_binary(servers, "valkey9"), sentinels=2, replicas=1) as up:
        yield up


def _binary(servers: Servers, kind: str) -> Any:
    if kind not in servers.binaries:
        pytest.skip(f"no server binary of kind {kind} on this machine")
    return servers.binaries[kind]


@pytest.fixture
async def broker(service_up: Watched) -> AsyncIterator[SentinelBroker]:
    service_up.servers[0].client().flushall()
    broker = broker_at(service_up.url)
    yield broker
    await broker.aclose()


class TestFinding:
    async def test_everything_works_at_the_primary(self, service_up: Watched, broker: SentinelBroker) -> None:
        await broker.push("default", opaque_tasks(2), deadline=within(10))
        lease, _ = await broker.claim("default", "one", begins=True, deadline=within(10))
        pulse = broker.pulse(timeout=5)
        assert await asyncio.to_thread(pulse.beat, lease) == Beat(())
        pulse.close()
        async with broker.hints(["default"], "one") as hints:
            assert await anext(hints) == "default"
        assert service_up.servers[0].client().llen(BASE) == 2

    async def test_sentinels_that_are_gone_are_passed_over(self, service_up: Watched) -> None:
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{service_up.sentinels[0].port}"
        broker = broker_at(f"redis+sentinel://{hosts}/{SERVICE}")
        await broker.push("default", opaque_tasks(1), deadline=within(10))
        assert await asyncio.to_thread(_beats, broker, await _lease(broker))
        await broker.aclose()

    async def test_a_sentinel_that_is_silent_is_passed_over(self, service_up: Watched) -> None:
        good = service_up.sentinels[0].port
        async with proxied(good) as proxy:
            proxy.dropping = True
            broker = broker_at(f"redis+sentinel://127.0.0.1:{proxy.port},127.0.0.1:{good}/{SERVICE}")
            await broker.push("default", opaque_tasks(1), deadline=within(10))
            await broker.aclose()

    async def test_a_sentinel_that_is_behind_is_passed_over(self, service_up: Watched, servers: Servers) -> None:
        """It names what is a replica by now."""
        other = RedisServer(_binary(servers, "valkey9"))
        with other, Sentinel(other.binary, other, quorum=1) as behind:
            other.client().replicaof("127.0.0.1", str(service_up.servers[0].port))
            hosts = f"127.0.0.1:{behind.port},127.0.0.1:{service_up.sentinels[0].port}"
            broker = broker_at(f"redis+sentinel://{hosts}/{SERVICE}")
            await broker.push("default", [opaque("id")], deadline=within(10))
            await broker.aclose()
        assert service_up.servers[0].client().hexists(f"{BASE}:state", "id")

    async def test_none_answers(self) -> None:
        broker = broker_at(f"redis+sentinel://127.0.0.1:{free_port()}/{SERVICE}")
        with pytest.raises(BrokerUnavailable, match="no sentinel tells the primary of 'mymaster'"):
            await broker.push("default", opaque_tasks(1), deadline=within(0.3))
        with pytest.raises(BrokerUnavailable, match="no sentinel tells"):
            await asyncio.to_thread(broker.pulse(timeout=1).beat, await _no_lease())
        await broker.aclose()

    async def test_a_service_that_nobody_knows_is_refused_at_once(self, service_up: Watched) -> None:
        broker = broker_at(service_up.url.replace(SERVICE, "mymistake"))
        with pytest.raises(ConfigError, match="no sentinel knows a service named 'mymistake'"):
            await broker.push("default", opaque_tasks(1), deadline=within(3600))
        await broker.aclose()

    async def test_sentinels_with_a_password(self, service_up: Watched) -> None:
        primary = service_up.servers[0]
        with Sentinel(primary.binary, primary, quorum=1, password="s3cret") as closed:
            url = f"redis+sentinel://127.0.0.1:{closed.port}/{SERVICE}"
            for wrong in ("", "?sentinel_password=hunter2"):
                broker = broker_at(url + wrong)
                with pytest.raises(ConfigError, match=r"a sentinel refused .*sentinel_password") as caught:
                    await broker.push("default", opaque_tasks(1), deadline=within(3600))
                assert "hunter2" not in str(caught.value)
                await broker.aclose()
            broker = broker_at(f"{url}?sentinel_password=s3cret")
            await broker.push("default", opaque_tasks(1), deadline=within(10))
            assert await asyncio.to_thread(_beats, broker, await _lease(broker))
            await broker.aclose()


async def _lease(broker: SentinelBroker) -> Any:
    lease, _ = await broker.claim("default", "one", begins=True, deadline=within(10))
    return lease


async def _no_lease() -> Any:
    from taskqueue.broker import Lease

    return Lease("default", "one", "1-x")


def _beats(broker: SentinelBroker, lease: Any) -> bool:
    pulse = broker.pulse(timeout=5)
    try:
        pulse.beat(lease)
    finally:
        pulse.close()
    return True


class Load:
    """Pushes one task after another, each with two seconds, and notes which were acknowledged."""

    def __init__(self, broker: SentinelBroker) -> None:
        self._broker, self._stopped = broker, False
        self.acknowledged: dict[str, float] = {}
        self.refused: list[BrokerUnavailable] = []
        self._job = asyncio.create_task(self._push())

    async def _push(self) -> None:
        while not self._stopped:
            task = opaque()
            try:
                await self._broker.push("default", [task], deadline=within(2))
            except BrokerUnavailable as error:
                self.refused.append(error)
            else:
                self.acknowledged[task.id] = time.monotonic()

    async def goes_on(self, since: float) -> float:
        """Return when a task was acknowledged after this time."""
        await until(lambda: self._after(since), "tasks are acknowledged again", limit=40)
        return next(at for at in self.acknowledged.values() if at > since)

    async def _after(self, since: float) -> bool:
        return any(at > since for at in self.acknowledged.values())

    async def stop(self) -> None:
        self._stopped = True
        await self._job


async def promoted(service: Watched) -> RedisServer:
    """Return the server that has become the primary in place of the first."""
    while (found := await asyncio.to_thread(service.primary)) is None:
        pass
    return found


def _hands_over(sentinel: Any) -> bool:
    try:
        sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE)
    except ResponseError as error:
        if "NOGOODSLAVE" in str(error):  # It has not asked the replica again since that was linked.
            return False
        raise
    return True


@pytest.mark.parametrize(("kind", "fault"), [("valkey9", "kill"), ("redis8", "pause")])
async def test_the_primary_fails_under_load(servers: Servers, record_property: Any, kind: str, fault: str) -> None:
    """Of what was acknowledged at level replica, nothing is lost, and tasks are taken again."""
    with watched(_binary(servers, kind)) as service:
        broker = broker_at(service.url, Durability("replica", 1))
        lease = await _lease(broker)
        load = Load(broker)
        await load.goes_on(time.monotonic())
        getattr(service.servers[0], fault)()
        primary = await promoted(service)
        at = time.monotonic()
        record_property("seconds from promotion to the next acknowledged push", await load.goes_on(at) - at)
        await load.stop()
        held: Any = primary.client().lrange(BASE, 0, -1)
        lost = {task_id.encode() for task_id in load.acknowledged} - set(held)
        assert not lost, f"{len(lost)} of {len(load.acknowledged)} are lost"
        assert await asyncio.to_thread(_beats, broker, lease), "the lease holds at the new primary"
        await broker.aclose()


async def test_a_demoted_primary_is_left(servers: Servers) -> None:
    """It still answers, and says READONLY: the sentinels are asked who is the primary now."""
    with watched(_binary(servers, "valkey9"), sentinels=1, replicas=1) as service:
        broker = broker_at(service.url)
        lease = await _lease(broker)
        pulse = broker.pulse(timeout=5)
        await asyncio.to_thread(pulse.beat, lease)
        load = Load(broker)
        await load.goes_on(time.monotonic())
        sentinel: Any = service.sentinels[0].client()
        await until(lambda: asyncio.to_thread(_hands_over, sentinel), "the sentinel is content with the replica")
        primary = await promoted(service)
        # The sentinels do this too, ten seconds later, and close all its connections.
        service.servers[0].client().replicaof("127.0.0.1", str(primary.port))
        await load.goes_on(time.monotonic())
        await load.stop()

        def beats() -> bool:
            try:
                pulse.beat(lease)
            except BrokerUnavailable:
                return False
            return True

        await until(lambda: asyncio.to_thread(beats), "the heart has found the new primary")
        pulse.close()
        await broker.aclose()
