"""What a commit survives: replicas that are waited for, and what becomes of it when they do not answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import pytest

import taskqueue
from taskqueue import doctor
from taskqueue.broker import Capacity, connect
from taskqueue.brokers.redis import RedisBroker
from taskqueue.brokers.scripts import SCRIPTS
from taskqueue.commit import PUSH_TASKS, commit
from taskqueue.durability import Durability, durability
from taskqueue.errors import BrokerUnavailable, CommitUncertain, ConfigError, QueueFull, ReplyLost
from taskqueue.inspector import StoreInfo
from tests.conftest import KINDS
from tests.proxy import proxied
from tests.servers import RedisServer, Servers
from tests.tasks import opaque, opaque_tasks
from tests.waiting import until, wait_until

BASE: Final = "taskqueue:{default}"
ONE_COPY: Final = Durability("replica", 1)


def within(seconds: float) -> float:
    return time.monotonic() + seconds


@dataclass
class Pair:
    """A primary and its replica, which is up to date when a test begins."""

    primary: RedisServer
    replica: RedisServer

    def broker(self, url: str = "", *, level: Durability = ONE_COPY, capacity: int = 0) -> RedisBroker:
        url = url or self.primary.url
        return RedisBroker(url, namespace="taskqueue", capacity=Capacity(capacity), durability=level)

    def waiting(self, server: RedisServer) -> list[bytes]:
        found: Any = server.client().lrange(BASE, 0, -1)
        return list(found)


def follow(replica: RedisServer, host: str, port: int) -> None:
    """Make a server a replica of another, and wait until it is up to date."""
    client = replica.client()
    client.replicaof(host, str(port))
    wait_until(lambda: _linked(client), "the replica is up to date")


def _linked(client: Any) -> bool:
    return bool(client.info("replication").get("master_link_status") == "up")


@pytest.fixture(scope="module")
def pairs(servers: Servers) -> Iterator[Callable[[str], Pair]]:
    """A pair of each kind, started when first asked for, for the tests of this module that leave them alive."""
    with ExitStack() as stack:
        yield cache(lambda kind: stack.enter_context(_pair(servers, kind)))


@contextmanager
def _pair(servers: Servers, kind: str) -> Iterator[Pair]:
    if kind not in servers.binaries:
        pytest.skip(f"no server binary of kind {kind} on this machine")
    binary, options = servers.binaries[kind], ("--repl-diskless-sync-delay", "0")
    with RedisServer(binary, *options) as primary, RedisServer(binary, *options) as replica:
        follow(replica, "127.0.0.1", primary.port)
        yield Pair(primary, replica)


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, pairs: Callable[[str], Pair]) -> Iterator[Pair]:
    """A pair of each kind in turn, without data; the replica may be frozen."""
    pair = pairs(request.param)
    pair.primary.client().flushall()
    yield pair
    pair.replica.resume()


@pytest.fixture
def doomed_pair(servers: Servers) -> Iterator[Pair]:
    """A pair of this test alone."""
    with _pair(servers, "valkey9") as pair:
        yield pair


@pytest.fixture
async def broker(pair: Pair) -> AsyncIterator[RedisBroker]:
    broker = pair.broker()
    yield broker
    await broker.aclose()


class TestReplicas:
    async def test_what_was_pushed_is_on_the_replica_when_push_returns(self, pair: Pair, broker: RedisBroker) -> None:
        for number in range(50):
            await broker.push("default", [opaque(f"id-{number}")], deadline=within(10))
            assert pair.waiting(pair.replica)[0] == b"id-%d" % number

    async def test_many_in_one_round_trip_are_confirmed_together(self, pair: Pair, broker: RedisBroker) -> None:
        client = pair.primary.client()
        await broker.size("default", deadline=within(10))
        client.config_resetstat()
        await asyncio.gather(*(broker.push("default", opaque_tasks(2), deadline=within(10)) for _ in range(20)))
        assert len(pair.waiting(pair.replica)) == 40
        stats: Any = client.info("commandstats")
        assert 1 <= stats["cmdstat_wait"]["calls"] <= 3

    async def test_both_phases_are_confirmed(self, pair: Pair, broker: RedisBroker) -> None:
        tasks = opaque_tasks(PUSH_TASKS + 1)
        await commit(broker, tasks, deadline=within(10))
        assert len(pair.waiting(pair.replica)) == len(tasks)

    async def test_a_push_that_no_replica_confirms_is_uncertain(self, pair: Pair, broker: RedisBroker) -> None:
        pair.replica.pause()
        with pytest.raises(CommitUncertain) as caught:
            await commit(broker, [opaque("id")], deadline=within(0.5))
        assert caught.value.ids == ("id",)
        assert "stored on the primary, but 0 of 1 replica(s)" in str(caught.value.__cause__)
        assert pair.waiting(pair.primary) == [b"id"]

    async def test_a_prepare_that_no_replica_confirms_is_a_veto(self, pair: Pair, broker: RedisBroker) -> None:
        pair.replica.pause()
        with pytest.raises(BrokerUnavailable, match=r"stored on the primary, but 0 of 1 replica\(s\)") as caught:
            await commit(broker, opaque_tasks(PUSH_TASKS + 1), deadline=within(0.5))
        assert type(caught.value) is BrokerUnavailable
        assert pair.waiting(pair.primary) == []

    async def test_the_replica_may_come_back_before_the_deadline(self, pair: Pair, broker: RedisBroker) -> None:
        pair.replica.pause()
        pushing = asyncio.ensure_future(broker.push("default", [opaque("id")], deadline=within(20)))
        client = pair.primary.client()
        await until(lambda: _holds(client, 1), "the primary has it")
        assert not pushing.done()
        pair.replica.resume()
        await pushing

    @pytest.mark.parametrize("kind", ["push", "prepare", "promote"])
    async def test_a_repeat_on_a_new_line_confirms_nothing_by_itself(self, pair: Pair, kind: str) -> None:
        """On a line that has written nothing, WAIT answers that all replicas have all of it."""
        async with proxied(pair.primary.port) as proxy:
            broker = pair.broker(proxy.url)
            await broker.push("default", [opaque("first")], deadline=within(10))
            await broker.prepare("default", [opaque("second")], deadline=within(10))
            await broker.promote("default", ["second"], deadline=within(10))
            if kind == "promote":
                await broker.prepare("default", [opaque("id")], deadline=within(10))
            pair.replica.pause()
            proxy.inject("cut after", SCRIPTS[kind].sha.encode())
            given = ["id"] if kind == "promote" else [opaque("id")]
            with pytest.raises(ReplyLost, match="0 of 1"):
                await getattr(broker, kind)("default", given, deadline=within(1))
            assert proxy.hits == 1
            await broker.aclose()

    async def test_of_commits_that_share_a_call_each_is_confirmed_or_refused(self, pair: Pair) -> None:
        broker = pair.broker(capacity=3)
        await broker.push("default", [opaque("first")], deadline=within(10))
        pushes = [broker.push("default", [opaque(name)], deadline=within(10)) for name in "abc"]
        raised = await asyncio.gather(*pushes, return_exceptions=True)
        assert [error and type(error) for error in raised] == [None, None, QueueFull]
        assert pair.waiting(pair.replica) == [b"b", b"a", b"first"]
        await broker.aclose()

    async def test_what_was_refused_is_certain_without_any_replica(self, pair: Pair) -> None:
        broker = pair.broker(capacity=1)
        await broker.push("default", [opaque("first")], deadline=within(10))
        pair.replica.pause()
        with pytest.raises(QueueFull):
            await broker.push("default", [opaque("id")], deadline=within(0.5))
        with pytest.raises(BrokerUnavailable, match="were removed") as caught:
            await broker.promote("default", ["unknown"], deadline=within(10))
        assert type(caught.value) is BrokerUnavailable
        await broker.aclose()

    async def test_what_needs_no_replica_is_answered_before_them(self, pair: Pair, broker: RedisBroker) -> None:
        await broker.size("default", deadline=within(10))
        pair.replica.pause()
        pushing = asyncio.ensure_future(broker.push("default", [opaque("id")], deadline=within(20)))
        size = asyncio.create_task(broker.size("default", deadline=within(20)))
        under_way: list[asyncio.Future[Any]] = [pushing, size]
        await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        assert (size.done(), pushing.done()) == (True, False)
        pair.replica.resume()
        await pushing

    async def test_a_user_who_may_not_wait_is_told_so(self, pair: Pair) -> None:
        client: Any = pair.primary.client()
        client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-wait")
        broker = pair.broker(pair.primary.url.replace("redis://", "redis://app:pw@"))
        with pytest.raises(ReplyLost, match="could not be waited for: NOPERM"):
            await broker.push("default", [opaque("id")], deadline=within(0.5))
        assert pair.waiting(pair.primary) == [b"id"], "stored, and therefore in doubt"
        await broker.aclose()

    async def test_more_replicas_than_there_are(self, pair: Pair) -> None:
        broker = pair.broker(level=Durability("replica", 2))
        with pytest.raises(ReplyLost, match="1 of 2"):
            await broker.push("default", [opaque("id")], deadline=within(0.5))
        await broker.aclose()


@pytest.mark.parametrize(("level", "loses"), [(ONE_COPY, False), (Durability("process"), True)])
async def test_the_line_between_them_is_cut_and_then_the_primary_dies(
    doomed_pair: Pair, level: Durability, *, loses: bool
) -> None:
    """Acknowledged and gone: what a failover loses, and that it loses nothing where replicas are waited for."""
    pair = doomed_pair
    async with proxied(pair.primary.port) as cable:
        await asyncio.to_thread(follow, pair.replica, "127.0.0.1", cable.port)
        broker = pair.broker(level=level)
        acknowledged: list[str] = []

        async def push_all() -> None:
            for task in opaque_tasks(100_000):
                await broker.push("default", [task], deadline=within(0.5))
                acknowledged.append(task.id)

        pushing = asyncio.create_task(push_all())
        await until(lambda: _more_than(acknowledged, 200), "200 are acknowledged")
        cable.dropping = True
        enough = len(acknowledged) + 100
        await until(lambda: _more_than(acknowledged, enough, or_ended=pushing), "100 more are, or no more at all")
        pair.primary.kill()
        await asyncio.wait([pushing])
        assert isinstance(pushing.exception(), BrokerUnavailable)
        pair.replica.client().replicaof("NO", "ONE")
        lost = {task_id.encode() for task_id in acknowledged} - set(pair.waiting(pair.replica))
        assert bool(lost) == loses, f"{len(lost)} of {len(acknowledged)} acknowledged are lost"
        await broker.aclose()


async def _more_than(items: list[str], count: int, *, or_ended: "asyncio.Task[None] | None" = None) -> bool:
    return len(items) > count or (or_ended is not None and or_ended.done())


async def _holds(client: Any, count: int) -> bool:
    return bool(client.llen(BASE) == count)


class TestDeclaring:
    @pytest.mark.parametrize(
        ("words", "level"),
        [
            ("memory", Durability("memory")),
            ("process", Durability("process")),
            ("disk", Durability("disk")),
            ("replica", Durability("replica", 1)),
            ("replica:3", Durability("replica", 3)),
        ],
    )
    def test_levels(self, words: str, level: Durability) -> None:
        assert durability(words) == level
        assert durability(str(level)) == level
        assert taskqueue.TaskQueue("redis://h", durability=words).durability == level

    @pytest.mark.parametrize("words", ["", "replica:0", "replica:10", "replica:x", "fsync", "disk:1", "process "])
    def test_what_is_none(self, words: str) -> None:
        with pytest.raises(ConfigError, match=r"durability: .* must be memory, process, disk"):
            taskqueue.TaskQueue("redis://h", durability=words)

    def test_the_setting_counts_where_the_argument_says_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TASKQUEUE_DURABILITY", "Replica:2")
        assert taskqueue.TaskQueue("redis://h").durability == Durability("replica", 2)
        assert taskqueue.TaskQueue("redis://h", durability="memory").durability == Durability("memory")
        monkeypatch.delenv("TASKQUEUE_DURABILITY")
        assert taskqueue.TaskQueue("redis://h").durability is None

    async def test_the_level_reaches_the_broker(self, pair: Pair) -> None:
        pair.replica.pause()
        tq = taskqueue.TaskQueue(pair.primary.url, secret="s3" * 20 + "abcdefgh", durability="replica:1")
        with pytest.raises(CommitUncertain):
            await tq.push("/path")
        await tq.aclose()

    def test_an_embedded_store_has_no_replicas(self) -> None:
        with pytest.raises(ConfigError, match="durability: replica:1 needs replicas"):
            connect("embedded:///tmp/x", namespace="taskqueue", durability=ONE_COPY)


INFO: Final = StoreInfo("valkey", "9", True, "noeviction", 0, 0, 0.0, fsync="everysec")


class TestDoctor:
    @pytest.mark.parametrize(
        ("declared", "appendonly", "fsync", "level"),
        [
            (None, True, "everysec", "ok"),
            (None, False, "everysec", "warning"),
            (None, None, None, "warning"),
            ("memory", False, "everysec", "ok"),
            ("memory", True, "everysec", "ok"),
            ("process", True, None, "ok"),
            ("process", False, None, "error"),
            ("process", None, None, "warning"),
            ("disk", True, "everysec", "error"),
            ("disk", True, "no", "error"),
            ("disk", False, "always", "error"),
            ("disk", True, None, "warning"),
            ("disk", True, "always", "ok"),
            ("replica:1", True, "everysec", "ok"),
            ("replica:1", False, "everysec", "warning"),
        ],
    )
    def test_what_is_declared_is_held_against_what_is_kept(
        self, *, declared: str | None, appendonly: bool | None, fsync: str | None, level: str
    ) -> None:
        info = replace(INFO, appendonly=appendonly, fsync=fsync, replicas=1)
        found, *_ = doctor.check_durability(info, durability(declared) if declared else None)
        assert (found.check, found.level, bool(found.remedy)) == ("persistence", level, level != "ok")

    async def test_a_real_store_tells(self, private_server: RedisServer) -> None:
        client = private_server.client()
        assert await self._level(private_server.url, "disk") == {"persistence": "error"}
        client.config_set("appendfsync", "always")
        assert await self._level(private_server.url, "disk") == {}
        client.config_set("appendonly", "no")
        assert await self._level(private_server.url, "process") == {"persistence": "error"}
        assert await self._level(private_server.url, "memory") == {}

    async def test_replicas_are_counted(self, pair: Pair) -> None:
        assert await self._level(pair.primary.url, "replica:1") == {}
        assert await self._level(pair.primary.url, "replica:2") == {"replicas": "error"}
        assert "broker" in await self._level(pair.replica.url, "replica:1")

    async def _level(self, url: str, declared: str) -> dict[str, str]:
        broker = RedisBroker(url, namespace="taskqueue")
        findings = await doctor.examine(broker, ["default"], declared=durability(declared))
        await broker.aclose()
        concerns = ("persistence", "replicas", "broker")
        return {one.check: one.level for one in findings if one.check in concerns and one.level != "ok"}
