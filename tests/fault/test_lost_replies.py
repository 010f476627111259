"""Each script meets a line that is cut, slow, or passes single bytes: nothing is lost, and nothing happens twice."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest
from aiohttp import web

from taskqueue.broker import Seen
from taskqueue.brokers.redis import RedisBroker
from taskqueue.brokers.scripts import SCRIPTS
from taskqueue.producer import TaskQueue
from taskqueue.task import CHILD, Settlement, Verdict
from tests.acceptance.test_consumer import consumer, push, queue_of, reached, running
from tests.proxy import Fault, Proxy, proxied
from tests.servers import RedisServer
from tests.target import listening
from tests.tasks import SECRET, opaque, opaque_tasks
from tests.work import Work, queue_at, soon

FAULTS: Final = pytest.mark.parametrize("fault", ["cut before", "cut after", "cut within", "delay", "split"])
TIMES: Final = 3


@pytest.fixture
def client(any_server: RedisServer) -> Any:
    client: Any = any_server.client()
    for script in SCRIPTS.values():
        client.script_load(script.source)  # so that no call is sent twice for another reason
    return client


@pytest.fixture
async def proxy(any_server: RedisServer, client: Any) -> AsyncIterator[Proxy]:
    async with proxied(any_server.port) as proxy:
        yield proxy


def struck(proxy: Proxy, fault: Fault) -> bool:
    """Tell whether this has happened as often as it was to: what was cut is asked for again, and cut again."""
    return proxy.hits == TIMES if fault.startswith("cut") else proxy.hits >= 1


def sha(script: str) -> bytes:
    return SCRIPTS[script].sha.encode()


@FAULTS
@pytest.mark.parametrize("script", ["claim", "beat", "due", "exchange", "trim", "leave"])
async def test_in_a_consumers_life(
    proxy: Proxy, any_server: RedisServer, client: Any, fault: Fault, script: str
) -> None:
    """Of 30 tasks a third completes, a third is retried once, a third fails."""
    tq = queue_at(any_server)
    async with listening() as target:

        async def mixed(request: web.Request) -> web.StreamResponse:
            kind = int(request.path[1:]) % 3
            again = target.paths.count(request.path) > 1
            return web.Response(status=200 if kind == 0 or again else 503 if kind == 1 else 404)

        target.handler = mixed
        ids = await push(tq, *(f"/{number}" for number in range(30)))
        proxy.inject(fault, sha(script), times=TIMES)
        async with running(consumer(proxy.url, target, concurrent_limit=3)):
            for number, task_id in enumerate(ids):
                state = await reached(tq, task_id, "failed" if number % 3 == 2 else "completed")
                assert (state.attempt, state.crashes) == (2 if number % 3 == 1 else 1, 0)
                assert state.delivery == state.attempt
        assert 1 <= proxy.hits <= TIMES
        assert Counter(target.paths) == {f"/{number}": 2 if number % 3 == 1 else 1 for number in range(30)}
    queue = queue_of(client)
    assert (queue.waiting, queue.reserved, queue.consumers, queue.leases) == ([], {}, set(), set())
    await tq.aclose()


@FAULTS
@pytest.mark.parametrize("script", ["push", "prepare", "promote"])
async def test_in_a_commit(proxy: Proxy, client: Any, fault: Fault, script: str) -> None:
    tq = TaskQueue(proxy.url, secret=SECRET, queues=["default"], namespace="taskqueue")
    proxy.inject(fault, sha(script), times=TIMES)
    ids = await push(tq, *(f"/{number}" for number in range(10 if script == "push" else 250)))
    assert struck(proxy, fault)
    assert queue_of(client).waiting == [task_id.encode() for task_id in reversed(ids)]
    await tq.aclose()


@FAULTS
async def test_in_an_abort(proxy: Proxy, client: Any, fault: Fault) -> None:
    broker = RedisBroker(proxy.url, namespace="taskqueue")
    tasks = opaque_tasks(5)
    await broker.prepare("default", tasks, deadline=soon())
    proxy.inject(fault, sha("discard"), times=TIMES)
    await broker.discard("default", [task.id for task in tasks], deadline=soon())
    assert struck(proxy, fault)
    assert client.keys() == []
    await broker.aclose()


@FAULTS
async def test_as_a_delivery_begins(proxy: Proxy, client: Any, fault: Fault) -> None:
    broker = RedisBroker(proxy.url, namespace="taskqueue")
    await broker.push("default", opaque_tasks(1), deadline=soon())
    lease, _ = await broker.claim("default", "one", begins=True, deadline=soon())
    (one,) = (await broker.exchange(lease, (), token="1", want=1, room=1, deadline=soon())).reservations
    proxy.inject(fault, sha("begin"), times=TIMES)
    assert await broker.begin("default", one.id, one.delivery, deadline=soon())
    assert struck(proxy, fault)
    assert not await broker.begin("default", one.id, one.delivery, deadline=soon())
    proxy.inject(fault, sha("leave"), times=TIMES)
    await broker.leave(lease, deadline=soon())
    assert queue_of(client).leases == {"one"}, "it still holds the task"
    await broker.aclose()


@FAULTS
async def test_as_what_a_dead_one_held_is_given_back(proxy: Proxy, client: Any, fault: Fault) -> None:
    broker = RedisBroker(proxy.url, namespace="taskqueue")
    pushed = opaque_tasks(600)  # more than one call gives back
    await broker.push("default", pushed, deadline=soon())
    lease, _ = await broker.claim("default", "one", begins=True, deadline=soon())
    for token in range(6):
        await broker.exchange(lease, (), token=str(token), want=100, room=2**20, deadline=soon())
    proxy.inject(fault, sha("reclaim"), times=TIMES)
    await broker.reclaim("default", Seen("one", lease.epoch, "0"), deadline=soon())
    assert struck(proxy, fault)
    queue = queue_of(client)
    assert queue.waiting == [task.id.encode() for task in reversed(pushed)]
    assert (queue.reserved, queue.consumers) == ({}, set())
    await broker.aclose()


@FAULTS
async def test_as_a_family_ends(proxy: Proxy, client: Any, fault: Fault) -> None:
    """Each end counts once for the parent, and what follows from its own end is queued once."""
    broker = RedisBroker(proxy.url, namespace="taskqueue")
    await broker.push("default", [opaque("parent")], deadline=soon())
    lease, _ = await broker.claim("default", "one", begins=True, deadline=soon())
    await broker.exchange(lease, (), token="1", want=1, room=1, deadline=soon())
    await broker.push("default", [opaque(name, parent="parent", flags=CHILD) for name in "abc"], deadline=soon())
    ended = [Settlement("parent", 1, Verdict("complete", status=200), b"", opaque("good"), opaque("bad"))]
    ended += [Settlement(name, 1, Verdict("complete", status=200)) for name in "abc"]
    for number, settlement in enumerate(ended):
        proxy.inject(fault, sha("exchange"), times=1)
        given = await broker.exchange(lease, [settlement], token=f"{number}+", want=1, room=9, deadline=soon())
        assert given.stale == []
    assert proxy.hits >= 1
    queue = queue_of(client)
    assert [task_id for ids in (*queue.reserved.values(), queue.waiting) for task_id in ids] == [b"good"]
    assert set(queue.indexes["finished"]) == {b"parent", b"a", b"b", b"c"}
    await broker.aclose()


@FAULTS
async def test_as_an_operator_intervenes(proxy: Proxy, client: Any, fault: Fault) -> None:
    broker = RedisBroker(proxy.url, namespace="taskqueue")
    await broker.push("default", [opaque("held"), opaque("queued"), opaque("stuck")], deadline=soon())
    await broker.push("default", [opaque("later", due=-60_000)], deadline=soon())
    lease, _ = await broker.claim("default", "one", begins=True, deadline=soon())
    await broker.exchange(lease, (), token="1", want=1, room=1, deadline=soon())
    client.lrem("taskqueue:{default}", 1, "stuck")
    doings: dict[str, Callable[[], Awaitable[Any]]] = {
        "withdraw": lambda: broker.withdraw(
            "default", ["held", "queued"], "cancelled", actor="me", force=True, deadline=soon()
        ),
        "hasten": lambda: broker.hasten("default", ["later"], actor="me", deadline=soon()),
        "restart": lambda: broker.restart("default", ["stuck"], actor="me", deadline=soon()),
        "note": lambda: broker.note("default", "held", 1, {"report": b"sealed"}, deadline=soon()),
    }
    for script, doing in doings.items():
        proxy.inject(fault, sha(script), times=TIMES)
        answer = await doing()
        assert script not in ("withdraw", "note") or answer in (["marked", "cancelled"], True)
    queue = queue_of(client)
    assert (queue.marks, queue.ghosts, queue.waiting) == ({b"held"}, 1, [b"stuck", b"queued", b"later"])
    assert client.hget("taskqueue:{default}:log:held", "report") == b"sealed"
    await broker.aclose()


@FAULTS
@pytest.mark.parametrize("script", ["retry", "reset"])
async def test_as_an_operator_works(proxy: Proxy, client: Any, fault: Fault, script: str) -> None:
    broker = RedisBroker(proxy.url, namespace="taskqueue")
    work = Work(broker)
    failed = opaque_tasks(5)
    await work.fail(*failed)
    proxy.inject(fault, sha(script), times=TIMES)
    if script == "retry":
        await broker.inspector.retry("default", [(task.id, b"") for task in failed], deadline=soon())
        queue = queue_of(client)
        assert sorted(queue.waiting) == sorted(task.id.encode() for task in failed)
        assert "failed" not in queue.indexes
    else:
        await broker.reset("default", deadline=soon())
        assert client.keys("*:log:*") == client.keys("*:records") == client.keys("*:state") == []
    assert struck(proxy, fault)
    await broker.aclose()
