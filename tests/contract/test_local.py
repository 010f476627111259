"""What a store inside a process must do beside what every store must: threads, loops, forks, and no other process."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

import taskqueue
from taskqueue.broker import Broker, connect, kept_secret
from taskqueue.brokers import local
from taskqueue.brokers.local import LocalBroker
from taskqueue.brokers.local_store import Ear, clock
from taskqueue.doctor import check_durability
from taskqueue.durability import durability
from taskqueue.errors import BrokerUnavailable, ConfigError
from taskqueue.seal import unseal
from tests.house import tree
from tests.moves import claimed, ended, exchange, ids, push, reserve, soon, state_of
from tests.stores import LocalStore
from tests.tasks import opaque, opaque_tasks

pytestmark = pytest.mark.accept("CT35")

PUBLIC: Final = "https://example.org"


@pytest.fixture
def store() -> LocalStore:
    return LocalStore()


@pytest.fixture
async def broker(store: LocalStore) -> AsyncIterator[Broker]:
    broker = store.open()
    yield broker
    await broker.aclose()
    store.queues()


class TestSharing:
    async def test_the_same_name_is_the_same_store(self, store: LocalStore) -> None:
        one, two = (taskqueue.TaskQueue(store.url, queues=["default"], public_url=PUBLIC) for _ in range(2))
        await one.push("/a")
        assert (await one.size(), await two.size()) == (1, 1)
        await one.aclose()
        assert await two.size() == 1, "it stays when one of them is closed"
        assert await taskqueue.TaskQueue(f"{store.url}-other", queues=["default"]).size() == 0

    async def test_without_a_name_there_is_one_too(self) -> None:
        tq = taskqueue.TaskQueue("local://", queues=["unnamed"], public_url=PUBLIC)
        await tq.push("/a")
        assert await taskqueue.TaskQueue("local://", queues=["unnamed"]).size() == 1
        await tq.reset()

    def test_no_secret_has_to_be_set_and_records_are_sealed_all_the_same(self, store: LocalStore) -> None:
        tq = taskqueue.TaskQueue(store.url, queues=["default"], public_url=PUBLIC)
        task_id = tq.push_sync("/a", payload=b"canary")
        (record,) = store.everything()["default", ":records"].values()
        assert b"canary" not in record
        other = taskqueue.TaskQueue(store.url, queues=["default"]).keyring
        assert unseal(other, queue="default", task_id=task_id, record=record).body == b"canary"
        assert kept_secret("local://") == kept_secret(store.url)


class TestThreadsAndLoops:
    @pytest.fixture
    def often(self) -> Iterator[None]:
        """Let threads take turns as often as they can."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(before)

    async def test_a_push_in_another_thread_wakes_who_listens_in_their_own(
        self, broker: Broker, store: LocalStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        heard_in: list[int] = []
        hear = Ear._hear

        def noted(ear: Ear, queue: str) -> None:
            heard_in.append(threading.get_ident())
            hear(ear, queue)

        monkeypatch.setattr(Ear, "_hear", noted)
        async with broker.hints(["default"], "one") as hints:
            assert await anext(hints) == "default"
            await asyncio.to_thread(lambda: asyncio.run(push(store.open(), opaque_tasks(1))))
            assert await anext(hints) == "default"
        assert heard_in == [threading.get_ident()]

    async def test_a_listener_hears_of_its_own_queues_alone(self, broker: Broker) -> None:
        async with broker.hints(["default"], "one") as hints:
            await anext(hints)
            await push(broker, opaque_tasks(1, queue="mail"), queue="mail")
            await push(broker, opaque_tasks(1))
            assert await anext(hints) == "default"

    async def test_a_loop_that_was_closed_while_it_listened_does_not_spoil_a_push(
        self, broker: Broker, store: LocalStore
    ) -> None:
        loop = asyncio.new_event_loop()
        listening = store.open().hints(["default"], "one")
        await asyncio.to_thread(loop.run_until_complete, listening.__aenter__())
        loop.close()
        (pushed,) = await push(broker, opaque_tasks(1))
        assert (await state_of(broker, pushed)).state == "queued"
        await listening.__aexit__(None, None, None)

    def test_producers_and_consumers_in_many_threads_lose_nothing_and_run_nothing_twice(
        self, store: LocalStore, often: None
    ) -> None:
        ran: list[str] = []

        async def produce(name: str) -> list[str]:
            broker = store.open()
            return [task_id for number in range(40) for task_id in await push(broker, [opaque(f"{name}-{number}")])]

        async def consume(name: str) -> None:
            broker = store.open()
            lease = await claimed(broker, name)
            while len(ran) < 160:
                taken = await reserve(broker, lease, 3)
                assert (await exchange(broker, lease, *map(ended, taken), want=0)).stale == []
                ran.extend(ids(taken))

        with ThreadPoolExecutor(8) as pool:
            consumers = [pool.submit(asyncio.run, consume(f"c{number}")) for number in range(4)]
            producers = [pool.submit(asyncio.run, produce(f"p{number}")) for number in range(4)]
            pushed = [task_id for done in producers for task_id in done.result()]
            for done in consumers:
                done.result()
        assert sorted(ran) == sorted(pushed)
        assert store.queue().waiting == []

    async def test_what_had_its_turn_too_late_is_refused_unless_it_is_there_already(
        self, broker: Broker, store: LocalStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = opaque_tasks(1)
        await push(broker, known)
        unchanged = store.everything()
        monkeypatch.setattr(local, "clock_at", lambda _: clock() - 1)
        for verb in (broker.push, broker.prepare):
            with pytest.raises(BrokerUnavailable, match="only after the deadline"):
                await verb("default", opaque_tasks(1), deadline=soon())
            await verb("default", known, deadline=soon())
        assert store.everything() == unchanged

    async def test_others_have_their_turn_while_a_consumer_is_busy(self, broker: Broker) -> None:
        turned = asyncio.Event()
        asyncio.get_running_loop().call_soon(turned.set)
        await broker.size("default", deadline=soon())
        assert turned.is_set()


def run(program: str) -> str:
    """Run a program in which every warning is an error; return what it prints, and its log."""
    head = f"""
import asyncio, logging, os, sys, threading, warnings
sys.modules["redis"] = None
import taskqueue
logging.basicConfig(stream=sys.stdout, format="%(message)s")
logging.getLogger("asyncio").setLevel(logging.ERROR)  # that a step took long says something of the machine alone
tq = taskqueue.TaskQueue("local://", queues=["default"], public_url={PUBLIC!r})
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", head + program],
        cwd=tree.ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


class TestProcesses:
    def test_redis_need_not_even_be_installed(self) -> None:
        program = """
from taskqueue.inprocess import AsgiReplayer
from taskqueue.middleware.asgi import TaskQueueMiddleware
from taskqueue.server import TaskQueueServer

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    print("ran", scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
    server.stop()

async def main():
    global server
    replayer = AsgiReplayer(TaskQueueMiddleware(app, tq), started=True)
    server = TaskQueueServer(tq.broker, replayer, tq.keyring, name="one", queues=tq.queues)
    task_id = await tq.push("/a")
    await server.run()
    print((await tq.get(task_id)).state)

asyncio.run(main())
"""
        assert run(program) == "ran /a\ncompleted\n"

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
    def test_a_child_begins_with_a_store_of_its_own(self) -> None:
        program = """
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from taskqueue.brokers.local_store import here
asyncio.run(tq.push("/parent"))
store = here.find("", "taskqueue")
held, free = threading.Event(), threading.Event()
def hold():
    with store._lock:
        held.set()
        free.wait()
holder = threading.Thread(target=hold)
holder.start()
held.wait()
child = os.fork()
if child == 0:
    print(asyncio.run(tq.size()))
    asyncio.run(tq.push("/child"))
    print(asyncio.run(tq.size()), flush=True)
    os._exit(0)
free.set()
holder.join()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(asyncio.run(tq.size()))
"""
        forked = "this process was forked: its local stores are its own, and begin empty"
        assert run(program) == f"{forked}\n0\n1\n1\n"


class TestRefusals:
    @pytest.mark.parametrize(
        "url",
        [
            *("local://a/b", "local:///a", "local://a b", "local://ann:pw@a"),
            *("local://a?b=c", "local://?mode=async", "local://?mode=sync&b=c"),
        ],
    )
    def test_a_url_that_names_more_than_a_store(self, url: str) -> None:
        with pytest.raises(ConfigError, match=r"url: .* must be local:// or local://NAME") as caught:
            connect(url, namespace="taskqueue")
        assert "pw" not in str(caught.value)

    @pytest.mark.parametrize("level", ["process", "disk", "replica:1"])
    def test_more_than_a_process_can_keep(self, level: str) -> None:
        with pytest.raises(ConfigError, match=f"durability: {level} outlives the process, .*take memory"):
            connect("local://", namespace="taskqueue", durability=durability(level))

    async def test_what_it_can_keep_is_told(self) -> None:
        info = await LocalBroker("local://", namespace="none", durability=durability("memory")).inspector.store(
            deadline=soon()
        )
        (found,) = check_durability(info, None)
        assert (found.level, found.what) == (
            "warning",
            "the store is inside this process: what waits when it ends is lost",
        )
        assert [one.level for one in check_durability(info, durability("memory"))] == ["ok"]


async def test_labels_of_what_is_forgotten_take_no_memory() -> None:
    store = LocalStore()
    broker = store.open()
    await broker.push("default", [opaque(label=f"label-{number}") for number in range(9)], deadline=soon())
    assert len(store._stored("default").found) == 9
    await broker.purge("default", most=9, deadline=soon())
    assert store._stored("default").found == {}
