"""What a real server refuses for a while is waited out; what it will always refuse is told at once, with the cure."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from redis.exceptions import ResponseError

from taskqueue.brokers import link
from taskqueue.brokers.redis import RedisBroker
from taskqueue.brokers.refusals import is_transient
from taskqueue.errors import BrokerUnavailable, ConfigError, ReplyLost
from tests.conftest import KINDS
from tests.proxy import proxied
from tests.servers import RedisServer, Servers
from tests.tasks import opaque, opaque_tasks
from tests.waiting import until

BASE: Final = "taskqueue:{default}"


def within(seconds: float) -> float:
    return time.monotonic() + seconds


@pytest.fixture(params=KINDS)
def started(request: pytest.FixtureRequest, servers: Servers) -> Any:
    """Start a server of each kind in turn, with options; it is closed at the end."""
    if request.param not in servers.binaries:
        pytest.skip(f"no server binary of kind {request.param} on this machine")
    running: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        running.append(RedisServer(servers.binaries[request.param], *options).start())
        return running[-1]

    yield start
    for server in running:
        server.close()


@asynccontextmanager
async def connected(server: RedisServer) -> AsyncIterator[RedisBroker]:
    """Return a broker that has spoken with the server, or tried to."""
    broker = RedisBroker(server.url, namespace="taskqueue")
    yield broker
    await broker.aclose()


async def refusal(broker: RedisBroker) -> str:
    """Return why a push that has no time to wait is given up, which must be without doubt."""
    with pytest.raises(BrokerUnavailable) as caught:
        await broker.push("default", opaque_tasks(1), deadline=within(0.3))
    assert type(caught.value) is BrokerUnavailable, "refused is not uncertain"
    return str(caught.value)


async def waited_out(broker: RedisBroker, cure: Callable[[], Any]) -> None:
    """Show that a push which has begun to wait succeeds after the cure."""
    pushing = asyncio.ensure_future(broker.push("default", [opaque("waited")], deadline=within(20)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not pushing.done()
    await asyncio.to_thread(cure)
    await pushing
    assert await broker.get("default", "waited", deadline=within(10)) is not None


class TestWaitedOut:
    async def test_loading(self, started: Any) -> None:
        server = started("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
        async with connected(server) as broker:
            client: Any = server.client()
            client.eval("for i = 1, 2000 do redis.call('SET', 'key' .. i, tostring(i * i):rep(20)) end", 0)
            client.bgrewriteaof()  # While it loads a snapshot it answers now and then, which it hardly does else.
            await until(lambda: _rewritten(client, server), "the snapshot is written")
            server.kill()
            start = threading.Thread(target=server.start)
            start.start()
            reasons: list[str] = []

            async def loading() -> bool:
                try:
                    await broker.push("default", opaque_tasks(1), deadline=within(0.3))
                except BrokerUnavailable as error:
                    reasons.append(str(error))
                return any("LOADING" in reason for reason in reasons)

            await until(loading, "a push hears LOADING")
            assert start.is_alive(), "it is still loading"
            await broker.push("default", [opaque("waited")], deadline=within(20))
            await asyncio.to_thread(start.join)

    async def test_busy(self, started: Any) -> None:
        server = started("--busy-reply-threshold", "50")
        async with connected(server) as broker:
            await broker.push("default", opaque_tasks(1), deadline=within(10))
            client: Any = server.client(socket_timeout=20)
            other: Any = server.client(socket_timeout=20)
            slow = threading.Thread(target=lambda: _quietly(lambda: client.eval("while true do end", 0)))
            slow.start()
            reasons: list[str] = []

            async def busy() -> bool:
                reasons.append(await refusal(broker) if not await _answers(broker) else "")
                return "BUSY" in reasons[-1]

            await until(busy, "a push hears BUSY")
            await waited_out(broker, other.script_kill)
            await asyncio.to_thread(slow.join)

    async def test_paused(self, started: Any) -> None:
        """CLIENT PAUSE WRITE: what was sent meanwhile and comes too late does nothing."""
        server = started()
        client: Any = server.client()
        async with connected(server) as broker:
            await broker.push("default", opaque_tasks(1), deadline=within(10))
            client.client_pause(3_600_000, all=False)
            with pytest.raises(ReplyLost):
                await broker.push("default", [opaque("late")], deadline=within(0.3))
            await waited_out(broker, client.client_unpause)
            assert await broker.get("default", "late", deadline=within(10)) is None

    async def test_misconf(self, started: Any) -> None:
        """A snapshot cannot be written, so no write is taken."""
        server = started()
        client: Any = server.client()
        obstacle = server.directory / "dump.rdb"
        obstacle.mkdir()
        client.config_set("save", "3600 1")
        client.set("key", "value")
        client.bgsave()
        await until(lambda: _says(client, "persistence", "rdb_last_bgsave_status", "err"), "the snapshot has failed")
        async with connected(server) as broker:
            assert "MISCONF" in await refusal(broker)
            await waited_out(broker, lambda: client.config_set("stop-writes-on-bgsave-error", "no"))

    async def test_too_few_replicas(self, started: Any) -> None:
        server = started("--min-replicas-to-write", "1")
        async with connected(server) as broker:
            assert "NOREPLICAS" in await refusal(broker)
            await waited_out(broker, lambda: server.client().config_set("min-replicas-to-write", "0"))

    async def test_clusterdown(self, started: Any) -> None:
        server = started("--cluster-enabled", "yes")
        async with connected(server) as broker:
            assert "CLUSTERDOWN" in await refusal(broker)
            client: Any = server.client()
            await waited_out(broker, lambda: client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383))

    async def test_masterdown_and_readonly(self, started: Any) -> None:
        server = started("--replica-serve-stale-data", "no")
        client: Any = server.client()
        async with connected(server) as broker:
            await broker.push("default", opaque_tasks(1), deadline=within(10))
            client.replicaof("127.0.0.1", "1")
            said = await refusal(broker)
            assert "MASTERDOWN" in said
            client.config_set("replica-serve-stale-data", "yes")
            said = await refusal(broker)
            assert "READONLY: this server is a replica, perhaps of a primary that has changed" in said
            await waited_out(broker, lambda: client.replicaof("NO", "ONE"))

    async def test_a_demoted_primary_is_connected_to_anew(self, started: Any) -> None:
        """Behind the same name there may be another server by now."""
        server = started()
        async with proxied(server.port) as proxy:
            broker = RedisBroker(proxy.url, namespace="taskqueue")
            await broker.push("default", opaque_tasks(1), deadline=within(10))
            server.client().replicaof("127.0.0.1", "1")
            await refusal(broker)
            other = started()
            proxy.target_port = other.port
            await broker.push("default", [opaque("id")], deadline=within(10))
            assert other.client().lrange(BASE, 0, -1) == [b"id"]
            await broker.aclose()

    async def test_too_many_clients(self, started: Any) -> None:
        server = started()
        client: Any = server.client()
        client.config_set("maxclients", 1)
        async with connected(server) as broker:
            await refusal(broker)  # It says so unasked, and hangs up: what is heard of it is a matter of luck.
            await waited_out(broker, lambda: client.config_set("maxclients", 100))


async def _answers(broker: RedisBroker) -> bool:
    try:
        await broker.size("default", deadline=within(0.3))
    except BrokerUnavailable:
        return False
    return True


async def _says(client: Any, section: str, name: str, value: str) -> bool:
    return bool(client.info(section)[name] == value)


async def _rewritten(client: Any, server: RedisServer) -> bool:
    info = client.info("persistence")
    idle = not (info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])
    return idle and any(file.stat().st_size > 20_000 for file in server.directory.glob("*/*.base.rdb"))


def _quietly(call: Callable[[], Any]) -> None:
    from redis.exceptions import ResponseError

    with pytest.raises(ResponseError, match="killed"):
        call()


class TestClock:
    """Redis's clock may be set at any time; a push tells it until when it may be carried out."""

    @pytest.fixture
    async def steps(self, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
        """A broker whose link believes that Redis's clock is so many seconds further than it is, from now on."""
        broker = RedisBroker(any_server.url, namespace="taskqueue")
        await broker.push("default", opaque_tasks(1), deadline=within(10))

        def step(seconds: float) -> link.Link:
            broker._link.offset -= seconds * 1000
            return broker._link

        yield broker, step
        await broker.aclose()

    async def test_set_forward_no_push_is_late(self, steps: Any, any_server: RedisServer) -> None:
        broker, step = steps
        step(3600)
        await broker.push("default", [opaque("id")], deadline=within(10))
        await broker.prepare("default", [opaque("other")], deadline=within(10))
        assert any_server.client().hexists(f"{BASE}:state", "id")

    async def test_set_back_it_is_noticed_in_passing(self, steps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Until then a push that Redis comes to too late might be carried out; five seconds bound it."""
        broker, step = steps
        speaks = step(-3600)
        await broker.size("default", deadline=within(10))
        assert speaks.redis_ms(0) > (time.time() - time.monotonic() + 1800) * 1000, "it has not been looked at yet"
        monkeypatch.setattr(link, "CLOCK_AGE", 0.0)
        await broker.size("default", deadline=within(10))
        assert abs(speaks.redis_ms(time.monotonic()) - time.time() * 1000) < 1000

    async def test_it_is_not_asked_for_all_the_time(self, steps: Any, any_server: RedisServer) -> None:
        broker, _ = steps
        client: Any = any_server.client()
        client.config_resetstat()
        for _ in range(20):
            await broker.size("default", deadline=within(10))
        assert client.info("commandstats").get("cmdstat_time", {"calls": 0})["calls"] <= 1


class TestToldAtOnce:
    async def test_a_store_that_evicts_gives_no_lease(self, started: Any) -> None:
        server = started("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
        client: Any = server.client()
        async with connected(server) as broker:
            with pytest.raises(ConfigError, match=r"maxmemory-policy: it is allkeys-lru, .* to noeviction"):
                await broker.claim("default", "one", begins=True, deadline=within(3600))
            assert client.dbsize() == 0
            client.config_set("maxmemory", 0)
            await broker.claim("default", "one", begins=True, deadline=within(10))
            client.config_set("maxmemory", "100mb")
            client.config_set("maxmemory-policy", "noeviction")
            await broker.claim("default", "one", begins=True, deadline=within(10))

    async def test_what_was_sent_before_it_was_refused_stays_in_doubt(self, started: Any) -> None:
        """The reply was lost, then the password was changed: the tasks may be there."""
        server = started()
        async with proxied(server.port) as proxy:
            client: Any = server.client()
            client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all")
            broker = RedisBroker(proxy.url.replace("redis://", "redis://app:pw@"), namespace="taskqueue")
            await broker.push("default", opaque_tasks(1), deadline=within(10))
            proxy.inject("cut after", b"EVALSHA")
            pushing = asyncio.ensure_future(broker.push("default", [opaque("id")], deadline=within(20)))
            await until(lambda: _hit(proxy), "the reply is lost")
            client.execute_command("ACL", "SETUSER", "app", "off")
            with pytest.raises(BrokerUnavailable) as caught:
                await pushing
            # Either the repeat was quicker than we, or it was refused; never a plain "no" for what is stored.
            assert client.hexists(f"{BASE}:state", "id")
            assert type(caught.value).__name__ == "ReplyLost"
            await broker.aclose()


async def _hit(proxy: Any) -> bool:
    return bool(proxy.hits)


@pytest.mark.parametrize(
    ("code", "passes"), [("MISCONF", True), ("READONLY", True), ("NOREPLICAS", True), ("OOM", False)]
)
def test_what_redis_6_says_inside_a_script_counts_too(code: str, passes: bool) -> None:  # noqa: FBT001
    text = f"Error running script (call to f_0): @user_script:90: @user_script: 90: -{code} of what a script did"
    assert is_transient(ResponseError(text)) == passes
    assert not is_transient(ResponseError(f"a task whose label is {code}"))
