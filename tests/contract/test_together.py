"""Commits and starts that come at once travel together, and each ends as it would have alone."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import anyio
import pytest

import taskqueue
from taskqueue.broker import Capacity
from taskqueue.brokers import link, storing
from taskqueue.brokers.calls import MOST_BYTES
from taskqueue.brokers.link import Link
from taskqueue.brokers.redis import RedisBroker
from taskqueue.brokers.scripts import SCRIPTS
from taskqueue.errors import BrokerUnavailable, CommitUncertain, ConfigError, QueueClosed, QueueFull, ReplyLost
from taskqueue.task import SealedTask
from tests.invariants import assert_invariants
from tests.proxy import Proxy, proxied
from tests.servers import RedisServer
from tests.tasks import SECRET, opaque, opaque_tasks
from tests.waiting import until, wait_until

BASE: Final = "taskqueue:{default}"
PUSH: Final = SCRIPTS["push"].sha.encode()
BEGIN: Final = SCRIPTS["begin"].sha.encode()
KIB: Final = 1024


def within(seconds: float) -> float:
    return time.monotonic() + seconds


def line(client: Any) -> list[str]:
    """Return the ids in line, the front first."""
    return [task_id.decode() for task_id in reversed(client.lrange(BASE, 0, -1))]


def scripts_called(client: Any) -> int:
    """Return how many calls of scripts the server has had."""
    stats = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("eval", "evalsha"))


async def connected(server: RedisServer, url: str = "", **options: Any) -> RedisBroker:
    """Return a broker that has a connection, and a server that knows its scripts; what it pushed is gone again."""
    broker = RedisBroker(url or server.url, namespace="taskqueue", **options)
    await broker.push("default", opaque_tasks(1), deadline=within(10))
    await broker.prepare("default", opaque_tasks(1), deadline=within(10))
    await broker.begin("default", "unknown", 1, deadline=within(10))
    await broker.reset("default", deadline=within(10))
    server.client().config_resetstat()
    return broker


async def at_once(
    broker: RedisBroker, commits: Sequence[Sequence[SealedTask]], *, queue: str = "default"
) -> list[BaseException | None]:
    """Push these commits at once; return what was raised for each."""
    pushes = [broker.push(queue, tasks, deadline=within(10)) for tasks in commits]
    return list(await asyncio.gather(*pushes, return_exceptions=True))


@pytest.fixture
def client(redis_server: RedisServer) -> Any:
    return redis_server.client()


@pytest.fixture
async def broker(redis_server: RedisServer, client: Any) -> AsyncIterator[RedisBroker]:
    broker = await connected(redis_server)
    yield broker
    await broker.aclose()
    assert_invariants(client)


class TestCalls:
    @pytest.mark.parametrize("way", ["push", "prepare"])
    async def test_what_comes_at_once_is_one_call(self, broker: RedisBroker, client: Any, way: str) -> None:
        stores = [getattr(broker, way)("default", opaque_tasks(2), deadline=within(10)) for _ in range(100)]
        await asyncio.gather(*stores)
        assert scripts_called(client) == 1
        assert client.hlen(f"{BASE}:state") == 200

    async def test_not_more_than_200_tasks_a_call(self, broker: RedisBroker, client: Any) -> None:
        assert set(await at_once(broker, [opaque_tasks(3) for _ in range(150)])) == {None}
        assert scripts_called(client) == 3

    async def test_not_more_than_1_mib_a_call_and_what_is_larger_alone(self, broker: RedisBroker, client: Any) -> None:
        sizes = (500 * KIB, 500 * KIB, 25 * KIB, 3 * KIB * KIB, KIB)
        tasks = [opaque(record=bytes(size)) for size in sizes]
        assert set(await at_once(broker, [[task] for task in tasks])) == {None}
        assert scripts_called(client) == 4  # the first two; what did not fit with them; the large one; what came after
        assert line(client) == [task.id for task in tasks]

    async def test_each_queue_and_each_script_has_calls_of_its_own(self, broker: RedisBroker, client: Any) -> None:
        await asyncio.gather(
            *(broker.push("default", opaque_tasks(1), deadline=within(10)) for _ in range(5)),
            *(broker.push("mail", opaque_tasks(1, queue="mail"), deadline=within(10)) for _ in range(5)),
            *(broker.prepare("default", opaque_tasks(1), deadline=within(10)) for _ in range(5)),
        )
        assert scripts_called(client) == 3
        assert (client.llen(BASE), client.llen("taskqueue:{mail}"), client.zcard(f"{BASE}:prepared")) == (5, 5, 5)

    async def test_while_one_is_under_way_the_next_ones_gather(self, private_server: RedisServer) -> None:
        client, broker = private_server.client(), await connected(private_server)
        private_server.pause()
        pushes = [broker.push("default", [opaque("first")], deadline=within(10))]
        await until(lambda: _sent(broker._link), "it is under way")
        for _ in range(20):
            pushes += [broker.push("default", opaque_tasks(1), deadline=within(10))]
            await asyncio.sleep(0)
        private_server.resume()
        await asyncio.gather(*pushes)
        assert scripts_called(client) == 2
        assert line(client)[0] == "first"
        await broker.aclose()

    async def test_a_lone_one_is_sent_in_the_next_turns_of_the_loop(self, private_server: RedisServer) -> None:
        broker = await connected(private_server)
        private_server.pause()
        push = broker.push("default", opaque_tasks(1), deadline=within(10))
        for _ in range(4):
            await asyncio.sleep(0)
        assert await _sent(broker._link)
        private_server.resume()
        await push
        await broker.aclose()

    def test_threads_share_calls_too(self, private_server: RedisServer) -> None:
        tq = taskqueue.TaskQueue(private_server.url, secret=SECRET, namespace="taskqueue", commit_deadline=20)
        tq.push_sync("/first")
        link = next(iter(tq.broker._links.values()))  # type: ignore[attr-defined]
        private_server.client().config_resetstat()
        private_server.pause()
        threads = [threading.Thread(target=tq.push_sync, args=(f"/{number}",)) for number in range(20)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(link._waiting) + len(link._said) == 20, "all have committed")
        private_server.resume()
        for thread in threads:
            thread.join()
        assert tq.size_sync() == 21
        assert scripts_called(private_server.client()) <= 2


async def _sent(link: Link) -> bool:
    return any(call.in_flight for call in link._said)


class TestNeighbours:
    async def test_one_that_does_not_fit_fails_alone(self, redis_server: RedisServer, client: Any) -> None:
        broker = await connected(redis_server, capacity=Capacity(tasks=3, bytes=20))
        commits = [[opaque("a"), opaque("b")], [opaque("c"), opaque("d")], [opaque("e", record=bytes(9))]]
        commits += [[opaque("f")], [opaque("g")], [opaque("a"), opaque("b")]]
        raised = await at_once(broker, commits)
        kinds = [None, QueueFull, QueueFull, None, QueueFull, None]
        assert [error and type(error) for error in raised] == kinds
        assert line(client) == ["a", "b", "f"]
        assert scripts_called(client) == 1
        await broker.aclose()
        assert_invariants(client)

    async def test_of_a_closed_queue_only_what_is_new_is_refused(self, broker: RedisBroker, client: Any) -> None:
        known = [opaque("known")]
        await broker.push("default", known, deadline=within(10))
        await broker.control("default", {"closed": 1}, deadline=within(10))
        raised = await at_once(broker, [[opaque("new")], known, [*known, opaque("newer")]])
        assert [error and type(error) for error in raised] == [QueueClosed, None, QueueClosed]
        assert line(client) == ["known"]

    async def test_one_that_is_late_fails_alone(
        self, broker: RedisBroker, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storing, "LATE_MARGIN", 3600.0)
        pushes = [
            broker.push("default", [opaque(name)], deadline=within(10 if name == "late" else 7200))
            for name in ("a", "late", "b")
        ]
        raised = await asyncio.gather(*pushes, return_exceptions=True)
        assert [error and type(error) for error in raised] == [None, BrokerUnavailable, None]
        assert line(client) == ["a", "b"]
        assert scripts_called(client) == 1

    async def test_what_redis_refuses_to_one_it_does_not_to_others(self, redis_server: RedisServer) -> None:
        client, broker = redis_server.client(), await connected(redis_server)
        client.set(f"{BASE}:scheduled", "of somebody else")
        commits = [[opaque("a")], [opaque("later", due=-1000)], [opaque("b")]]
        raised = await at_once(broker, commits)
        assert [error and type(error) for error in raised] == [None, ConfigError, None]
        assert "namespace" in str(raised[1])
        assert line(client) == ["a", "b"]
        assert scripts_called(client) == 1
        await broker.aclose()

    @pytest.mark.parametrize("others", [0, 2])
    async def test_a_commit_that_redis_refuses_leaves_nothing(self, redis_server: RedisServer, others: int) -> None:
        client, broker = redis_server.client(), await connected(redis_server)
        client.set(f"{BASE}:scheduled", "of somebody else")
        commits = [[opaque("a"), opaque("later", due=-1000)], *([opaque()] for _ in range(others))]
        raised = await at_once(broker, commits)
        assert [error and type(error) for error in raised] == [ConfigError, *[None] * others]
        assert client.llen(BASE) == client.hlen(f"{BASE}:state") == client.hlen(f"{BASE}:records") == others
        await broker.aclose()

    async def test_one_whose_time_is_up_does_not_take_the_others_along(self, private_server: RedisServer) -> None:
        broker = await connected(private_server)
        private_server.pause()
        soon = broker.push("default", [opaque("soon")], deadline=within(0.2))
        patient = [broker.push("default", [opaque(name)], deadline=within(20)) for name in "ab"]
        with pytest.raises(ReplyLost):
            await soon
        assert not any(push.done() for push in patient)
        private_server.resume()
        await asyncio.gather(*patient)
        assert set(line(private_server.client())) >= {"a", "b"}
        await broker.aclose()


class TestStarts:
    """Deliveries that start at once, as many do in an application that is served many."""

    async def test_those_that_come_at_once_are_few_calls_and_each_hears_its_own_answer(
        self, broker: RedisBroker, client: Any
    ) -> None:
        ids = await _reserved(broker, 100)
        await broker.withdraw("default", ids[:1], "cancelled", force=True, actor="test", deadline=within(10))
        client.config_resetstat()
        starts = [(task_id, 1) for task_id in ids] + [("unknown", 1), (ids[1], 1), (ids[2], 2)]
        begun = await asyncio.gather(
            *(broker.begin("default", task_id, delivery, deadline=within(10)) for task_id, delivery in starts)
        )
        assert begun == [False, *[True] * 99, *[False] * 3]
        assert scripts_called(client) == 1

    async def test_those_that_come_one_after_another_while_redis_is_busy_gather(
        self, private_server: RedisServer
    ) -> None:
        client, broker = private_server.client(), await connected(private_server)
        ids = await _reserved(broker, 20)
        client.config_resetstat()
        private_server.pause()
        starts = []
        for task_id in ids:
            starts.append(asyncio.create_task(broker.begin("default", task_id, 1, deadline=within(10))))
            await asyncio.sleep(0)
        await until(lambda: _all_asked(broker._link, 20), "all have asked")
        private_server.resume()
        assert await asyncio.gather(*starts) == [True] * 20
        assert scripts_called(client) <= 3
        await broker.aclose()

    async def test_one_whose_time_is_up_or_who_is_cancelled_takes_no_other_along(
        self, private_server: RedisServer
    ) -> None:
        broker = await connected(private_server)
        ids = await _reserved(broker, 4)
        private_server.pause()
        soon, gone, *patient = (
            asyncio.create_task(broker.begin("default", task_id, 1, deadline=within(0.2 if first else 20)))
            for task_id, first in zip(ids, (True, False, False, False), strict=True)
        )
        await until(lambda: _sent(broker._link), "they are under way")
        gone.cancel()
        with pytest.raises(ReplyLost):
            await soon
        private_server.resume()
        assert await asyncio.gather(*patient) == [True, True]
        assert gone.cancelled()
        await broker.aclose()

    @pytest.mark.parametrize("fault", ["cut before", "cut after", "cut within"])
    async def test_after_a_lost_reply_each_is_asked_for_again_and_granted(
        self, redis_server: RedisServer, client: Any, fault: Any
    ) -> None:
        async with proxied(redis_server.port) as proxy:
            broker = await connected(redis_server, proxy.url)
            ids = await _reserved(broker, 5)
            proxy.inject(fault, BEGIN, times=2)
            starts = [broker.begin("default", task_id, 1, deadline=within(10)) for task_id in [*ids, "unknown"]]
            assert await asyncio.gather(*starts) == [*[True] * 5, False]
            assert proxy.hits == 2
            await broker.aclose()
        assert_invariants(client)


async def _all_asked(link: Link, count: int) -> bool:
    return len(link._said) + len(link._waiting) == count


async def _reserved(broker: RedisBroker, count: int) -> list[str]:
    """Queue so many tasks and reserve them; return their ids."""
    await broker.push("default", opaque_tasks(count), deadline=within(10))
    lease, _ = await broker.claim("default", "one", begins=True, deadline=within(10))
    given = await broker.exchange(lease, (), token="t", want=count, room=MOST_BYTES, deadline=within(10))
    return [one.id for one in given.reservations]


class TestCancelled:
    async def test_one_waiter_hears_the_end_first_and_the_others_nothing_of_it(
        self, private_server: RedisServer
    ) -> None:
        tq = taskqueue.TaskQueue(private_server.url, secret=SECRET, namespace="taskqueue", commit_deadline=20)
        await tq.push("/first")
        await tq.reset()
        private_server.client().config_resetstat()
        private_server.pause()
        commits = [asyncio.create_task(tq.push(f"/{number}")) for number in range(5)]
        link = tq.broker._link  # type: ignore[attr-defined]
        await until(lambda: _sent(link), "they are under way")
        for _ in range(3):
            commits[2].cancel()
            await asyncio.sleep(0)
        assert not commits[2].done()
        private_server.resume()
        ended = await asyncio.gather(*commits, return_exceptions=True)
        assert isinstance(ended[2], CommitUncertain)
        ids = [*ended[:2], *ended[2].ids, *ended[3:]]
        assert line(private_server.client()) == ids
        assert scripts_called(private_server.client()) == 1
        await tq.aclose()

    @pytest.mark.parametrize("by_its_task_too", [False, True])
    async def test_a_scope_that_is_cancelled_waits_for_the_commit(
        self, private_server: RedisServer, *, by_its_task_too: bool
    ) -> None:
        tq = taskqueue.TaskQueue(private_server.url, secret=SECRET, namespace="taskqueue", commit_deadline=20)
        await tq.push("/first")
        scope, ended = anyio.CancelScope(), list[object]()

        async def commit() -> None:
            with scope:
                try:
                    ended.append(await tq.push("/second"))
                except CommitUncertain as error:
                    ended.append(type(error))
                await asyncio.sleep(0)
                ended.append("went on")

        private_server.pause()
        task = asyncio.create_task(commit())
        await until(lambda: _sent(tq.broker._link), "it is under way")  # type: ignore[attr-defined]
        scope.cancel()
        await asyncio.sleep(0)
        if by_its_task_too:
            task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        private_server.resume()
        await asyncio.wait([task])
        assert ended == [CommitUncertain if by_its_task_too else line(private_server.client())[1]]
        await tq.aclose()

    async def test_a_loop_that_is_closed_leaves_none_waiting(self, private_server: RedisServer) -> None:
        def work() -> None:
            asyncio.run(commit_and_go())

        async def commit_and_go() -> None:
            broker = await connected(private_server)
            private_server.pause()
            # Under way, waiting, and not even begun.
            jobs = [asyncio.create_task(_awaited(broker, raised))]
            await until(lambda: _sent(broker._link), "it is under way")
            jobs += [asyncio.create_task(_awaited(broker, raised)) for _ in range(2)]
            await asyncio.sleep(0)
            ended.extend(jobs)

        raised: list[type[BaseException]] = []
        ended: list[asyncio.Task[None]] = []
        await asyncio.to_thread(work)
        private_server.resume()
        assert raised == [asyncio.CancelledError] * 3
        assert all(job.cancelled() for job in ended)


async def _awaited(broker: RedisBroker, raised: list[type[BaseException]]) -> None:
    try:
        await broker.push("default", opaque_tasks(1), deadline=within(3600))
    except BaseException as error:
        raised.append(type(error))
        raise


class TestLostReplies:
    @pytest.fixture
    async def proxy(self, redis_server: RedisServer) -> AsyncIterator[Proxy]:
        async with proxied(redis_server.port) as proxy:
            yield proxy

    @pytest.mark.parametrize("fault", ["cut before", "cut after", "cut within"])
    async def test_each_is_asked_for_again_and_stored_once(
        self, redis_server: RedisServer, client: Any, proxy: Proxy, fault: Any
    ) -> None:
        broker = await connected(redis_server, proxy.url, capacity=Capacity(tasks=12))
        proxy.inject(fault, PUSH, times=2)
        commits = [opaque_tasks(3) for _ in range(4)]
        assert await at_once(broker, commits) == [None] * 4
        assert proxy.hits == 2
        assert line(client) == [task.id for tasks in commits for task in tasks]
        await broker.aclose()
        assert_invariants(client)

    async def test_if_no_reply_comes_each_is_in_doubt(
        self, redis_server: RedisServer, client: Any, proxy: Proxy
    ) -> None:
        broker = await connected(redis_server, proxy.url)
        proxy.inject("cut after", PUSH, times=1000)
        pushes = [broker.push("default", [opaque(name)], deadline=within(0.3)) for name in "abc"]
        raised = await asyncio.gather(*pushes, return_exceptions=True)
        assert [type(error) for error in raised] == [ReplyLost] * 3
        assert line(client) == ["a", "b", "c"]
        await broker.aclose()

    async def test_what_is_sent_by_whoever_has_just_heard_is_asked_for_again_too(
        self, redis_server: RedisServer, client: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link, "READ_TIMEOUT", 0.1)
        broker = await connected(redis_server, proxy.url)
        await broker.push("default", [opaque()], deadline=within(10))
        proxy.inject("swallow", PUSH)
        tasks = [opaque(record=bytes(KIB)) for _ in range(link.SHARE)]
        assert await at_once(broker, [[task] for task in tasks]) == [None] * link.SHARE
        assert proxy.hits == 1
        assert line(client)[1:] == [task.id for task in tasks]
        await broker.aclose()
        assert_invariants(client)

    async def test_company_may_have_changed_by_then(self, redis_server: RedisServer, client: Any, proxy: Proxy) -> None:
        broker = await connected(redis_server, proxy.url)
        proxy.inject("cut after", PUSH)
        pushes = [broker.push("default", [opaque(name)], deadline=within(10)) for name in "ab"]
        await until(lambda: _hit(proxy), "the line is cut")
        pushes += [broker.push("default", [opaque(name)], deadline=within(10)) for name in "cd"]
        assert await asyncio.gather(*pushes) == [None] * 4
        assert line(client) == ["a", "b", "c", "d"]
        await broker.aclose()


async def _hit(proxy: Proxy) -> bool:
    return proxy.hits > 0


async def test_who_has_just_heard_need_not_wait_for_a_whole_turn_of_others(
    redis_server: RedisServer, client: Any, broker: RedisBroker
) -> None:
    # Each of them works for a while before it commits: as long as it takes to prepare a few dozen tasks.
    async def request() -> None:
        for _ in range(3):
            sum(range(5000))
            await broker.push("default", [opaque(record=bytes(KIB))], deadline=within(10))

    before = scripts_called(client)
    await asyncio.gather(*(request() for _ in range(2 * link.SHARE)))
    # The first time nobody has heard anything, and all gather; then they go by shares.
    assert scripts_called(client) - before >= 1 + 2 * 2


@pytest.mark.parametrize("clock", ["new", "old"])
async def test_a_reply_that_has_come_before_anybody_looks_is_no_farewell(
    redis_server: RedisServer, client: Any, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, clock: str
) -> None:
    await asyncio.sleep(0.05)  # nobody speaks any more
    connections = client.info("stats")["total_connections_received"]
    if clock == "old":
        monkeypatch.setattr(link, "CLOCK_AGE", 0.3)
    # The first share is sent by whoever completes it, and its reply is there before the loop has turned once.
    outcomes = [broker.push("default", [opaque(record=bytes(KIB))], deadline=within(10)) for _ in range(link.SHARE + 1)]
    wait_until(lambda: client.llen(BASE) == link.SHARE, "the share is stored")
    if clock == "old":
        measured = broker._link._measured
        wait_until(lambda: time.monotonic() - measured > link.CLOCK_AGE, "the clock has to be measured again")
    assert await asyncio.gather(*outcomes) == [None] * len(outcomes)
    assert client.llen(BASE) == len(outcomes)
    assert client.info("stats")["total_connections_received"] == connections


async def test_each_commit_stands_in_line_whole_and_in_the_order_of_its_adds(redis_server: RedisServer) -> None:
    tq = taskqueue.TaskQueue(redis_server.url, secret=SECRET, namespace="taskqueue", commit_deadline=20)

    async def request() -> list[str]:
        async with tq.transaction():
            return [tq.add(f"/{number}") for number in range(4)]

    rows = await asyncio.gather(*(request() for _ in range(60)))
    ids = line(redis_server.client())
    assert sorted(ids[at : at + 4] for at in range(0, len(ids), 4)) == sorted(rows)
    await tq.aclose()
