"""A consumer, and a commit, that something happens to at any moment: each ends soon, and leaves nothing behind.

The moments are counted: a step of an asyncio task, bytes that arrive, a connection that is made. What is to happen does
so as soon as the loop has done what it is at, in one run after the first moment, in another after the second, and so
on, in an event loop that is new each time.
"""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from typing import Any, Final, TypeAlias

import pytest

from taskqueue.broker import connect
from taskqueue.brokers.wire import Wire
from taskqueue.errors import CommitUncertain, Fenced, NameInUse
from taskqueue.intake import Intake
from taskqueue.policy import Rules
from taskqueue.replay import HttpReplayer
from taskqueue.server import TaskQueueServer
from taskqueue.wire import Connection
from tests.invariants import Queue, assert_invariants
from tests.servers import RedisServer
from tests.tasks import KEYRING, sealed, task
from tests.waiting import until, wait_until
from tests.work import consume, queue_at, soon

TASKS: Final = 6
# Seconds. Everything is at hand: what takes longer would not end.
SOON: Final = 15.0
# Of what is not a connection being made, one moment in so many: all of them take minutes.
STRIDE: Final = 13
MADE: Final = "connection_made"

Loops: TypeAlias = Callable[[], asyncio.AbstractEventLoop] | None
Scene: TypeAlias = Callable[["Moments"], Coroutine[Any, Any, None]]


class Moments:
    """Counts moments, and lets something happen after that with the number ``at``."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.seen = at, list[str]()
        self.happens: Callable[[], object] = lambda: None
        self.on, self.happened = False, False

    def passes(self, what: str) -> None:
        if self.on:
            if len(self.seen) == self.at:
                self.happened = True
                asyncio.get_running_loop().call_soon(self.happens)
            self.seen.append(what)

    def task_in(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        """Make a task, as a factory of an event loop does."""
        return asyncio.Task(Stepwise(work, self), loop=loop, **options)


class Stepwise(Coroutine[Any, Any, Any]):
    """A coroutine each step of which is a moment."""

    def __init__(self, work: Coroutine[Any, Any, Any], moments: Moments) -> None:
        self._work, self._moments = work, moments

    def send(self, value: Any) -> Any:
        self._moments.passes("step")
        return self._work.send(value)

    def throw(self, *error: Any) -> Any:
        self._moments.passes("step")
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()


class Elsewhere:
    """A target in a thread of its own, so that what it does is no moment here: answers all, counts its connections."""

    def __init__(self) -> None:
        self.open = self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)
        self._thread.start()
        assert self._ready.wait(SOON)

    async def _listen(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._over.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.open -= 1
        writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    target = Elsewhere()
    yield target
    target.close()


@pytest.fixture(params=["asyncio", "uvloop"])
def loops(request: pytest.FixtureRequest) -> Loops:
    return pytest.importorskip("uvloop").new_event_loop if request.param == "uvloop" else None


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> list[Moments]:
    """The one that counts, in a list: what arrives and what is made are moments of the last."""
    counting: list[Moments] = []

    def watched(kind: type, name: str) -> None:
        method = getattr(kind, name)

        def then(self: Any, *arguments: Any) -> None:
            method(self, *arguments)
            counting[-1].passes(name)

        monkeypatch.setattr(kind, name, then)

    watched(Connection, MADE)
    watched(Connection, "data_received")
    watched(Wire, "data_received")
    return counting


def run(scene: Scene, loops: Loops, moments: Moments) -> None:
    """Run a scene to its end in a new loop, in which nothing is left then and nothing has been complained of."""
    complaints: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, complaint: complaints.append(complaint))
        loop.set_task_factory(moments.task_in)
        await scene(moments)
        moments.on = False
        await until(_nothing_left, "all tasks have ended", limit=SOON)

    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(main())
    gc.collect()
    assert complaints == []


async def _nothing_left() -> bool:
    return len(asyncio.all_tasks()) == 1


def sweep(scene: Scene, loops: Loops, counting: list[Moments], after: Callable[[], object], *, stride: int) -> int:
    """Run the scene once for each moment that counts, and once more undisturbed; return how many moments there were."""
    counting.append(Moments())
    run(scene, loops, counting[-1])
    after()
    names = counting[-1].seen
    for at in (at for at, name in enumerate(names) if name == MADE or at % stride == 0):
        counting.append(Moments(at))
        run(scene, loops, counting[-1])
        after()
    return len(names)


async def ends(work: Awaitable[Any]) -> Any:
    """Wait until this has ended, which it does soon; return what it was: a task."""
    job = asyncio.ensure_future(work)
    await asyncio.wait([job], timeout=SOON)
    assert job.done(), "it has not ended"
    return job


Happening: TypeAlias = Callable[[TaskQueueServer, "asyncio.Task[None]", Any], object]
HAPPENINGS: Final[dict[str, Happening]] = {
    "stop": lambda server, _job, _client: server.stop(),
    "stop now": lambda server, _job, _client: server.stop(now=True),
    "fence": lambda server, _job, _client: _fence(server),
    "end its tasks": lambda server, _job, _client: server._slots.jobs.cancel(),
    "cancel": lambda _server, job, _client: job.cancel(),
    "cut": lambda _server, _job, client: client.client_kill_filter(_type="normal", skipme=True),
}


def _fence(server: TaskQueueServer) -> None:
    for lease in server._membership._leases.values():
        server._membership._on_fenced(lease, Fenced("another has the name"))


def consumer(url: str, port: int) -> Any:
    """Return one that ends when nothing is left to do."""
    broker, queues = connect(url, namespace="taskqueue"), ["default"]
    return TaskQueueServer(
        broker,
        HttpReplayer(f"http://127.0.0.1:{port}", KEYRING),
        KEYRING,
        name="one",
        queues=queues,
        concurrent_limit=2,
        rules=Rules(receipt_required=False),
        poll_max=0.05,
        intake=Intake(broker, queues, burst=True),
    )


@pytest.mark.parametrize("happening", HAPPENINGS)
def test_a_consumer(
    elsewhere: Elsewhere, any_server: RedisServer, loops: Loops, moments: list[Moments], happening: str
) -> None:
    client = any_server.client()
    ids: list[str] = []

    async def scene(counting: Moments) -> None:
        made = [task(f"/{number}") for number in range(TASKS)]
        ids[:] = [one.id for one in made]
        broker = connect(any_server.url, namespace="taskqueue")
        await broker.push("default", [sealed(one) for one in made], deadline=soon())
        await broker.aclose()
        server = consumer(any_server.url, elsewhere.port)
        job = asyncio.create_task(consume(server))
        counting.happens = lambda: HAPPENINGS[happening](server, job, client)
        counting.on = True
        await ends(job)
        assert job.cancelled() or isinstance(job.exception(), Fenced | NameInUse | None)
        assert not job.cancelled() or happening == "cancel"

    def after() -> None:
        """The next of its name does what is left."""
        wait_until(lambda: not elsewhere.open, "no connection to the target is open", limit=SOON)
        wait_until(lambda: len(client.client_list()) <= others, "no connection to the store is open", limit=SOON)
        wait_until(lambda: not _hearts(), "no thread beats", limit=SOON)
        assert_invariants(client)
        with asyncio.Runner() as runner:
            runner.run(consume(consumer(any_server.url, elsewhere.port)))
        queue = assert_invariants(client).get("default", Queue())
        assert [queue.states[one.encode()][0] for one in ids] == ["completed"] * TASKS
        client.flushall()

    others = len(client.client_list())
    assert sweep(scene, loops, moments, after, stride=STRIDE) > 100


@pytest.mark.parametrize("queues", [["default"], ["default", "mail"]])
@pytest.mark.parametrize("cut", [False, True])
def test_a_commit_that_is_cancelled_tells_the_truth(
    any_server: RedisServer, loops: Loops, moments: list[Moments], queues: list[str], *, cut: bool
) -> None:
    client = any_server.client()
    ends_as: list[str] = []

    async def scene(counting: Moments) -> None:
        tq = queue_at(any_server)

        async def commit() -> list[str]:
            async with tq.transaction():
                return [tq.add("/path", queue=queue) for queue in queues]

        job = asyncio.create_task(commit())

        def happens() -> None:
            job.cancel()
            if cut:
                HAPPENINGS["cut"](None, None, client)  # type: ignore[arg-type]

        counting.happens, counting.on = happens, True
        await ends(job)
        counting.on = False
        await tq.aclose()
        states = {
            task_id.decode(): state[0]
            for queue in assert_invariants(client).values()
            for task_id, state in queue.states.items()
        }
        will_run = {task_id for task_id, state in states.items() if state == "queued"}
        error = None if job.cancelled() else job.exception()
        if job.cancelled():
            assert will_run == set()
        elif error is not None:
            assert isinstance(error, CommitUncertain)
            assert will_run <= set(error.ids)
        else:
            assert will_run == set(job.result())
        ends_as.append("cancelled" if job.cancelled() else type(error).__name__)

    sweep(scene, loops, moments, client.flushall, stride=3 if cut else 1)
    assert {"cancelled", "CommitUncertain", "NoneType"} == set(ends_as)


def _hearts() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "taskqueue-heart"]
