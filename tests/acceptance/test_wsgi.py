"""A WSGI application called in the consumer's process: threads, at most as many as tasks may run."""

import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from taskqueue import TaskQueue
from taskqueue.loading import Application, replayer_for
from taskqueue.replay import Replayer
from taskqueue.request import HANDOVER
from tests.acceptance.test_cli import SECRET as CLI_SECRET
from tests.acceptance.test_cli import consuming as consuming_process
from tests.acceptance.test_consumer import push, reached
from tests.invariants import assert_invariants
from tests.servers import RedisServer
from tests.shop import consuming
from tests.tasks import KEYRING, SECRET
from tests.waiting import until, wait_until


class Threads:
    """An application that notes what runs in which thread; it lets a path go when its gate is opened."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.left: list[str] = []
        self.names: set[str] = set()
        self.running = 0
        self.most_running = 0
        self.gates: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def __call__(self, environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["asgi.scope"][HANDOVER].admitted = True  # as a door does
        path = environ["PATH_INFO"]
        with self._lock:
            self.entered.append(path)
            self.names.add(threading.current_thread().name)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            if path in self.gates:
                assert self.gates[path].wait(20)
            if path == "/raises":
                raise LookupError("no such report")
        finally:
            with self._lock:
                self.running -= 1
                self.left.append(path)
        start_response("200 OK", [])
        return [b"x" * 65536] * 20

    def replayer(self, limit: int) -> Replayer:
        """Return what the consumer makes of it."""
        return replayer_for(Application("main:app", "wsgi", self), KEYRING, concurrent_limit=limit)

    async def have_entered(self, *paths: str) -> None:
        await until(lambda: _value(self.entered == list(paths)), f"{paths} have begun, now {self.entered}")


async def _value(value: bool) -> bool:  # noqa: FBT001
    return value


@pytest.fixture
async def tq(any_server: RedisServer) -> AsyncIterator[TaskQueue]:
    tq = TaskQueue(any_server.url, secret=SECRET)
    yield tq
    await tq.aclose()
    assert_invariants(any_server.client())


@pytest.fixture
def app() -> Threads:
    return Threads()


@pytest.mark.parametrize("limit", [1, 3])
async def test_as_many_threads_as_tasks_may_run(limit: int, tq: TaskQueue, app: Threads) -> None:
    paths = [f"/{number}" for number in range(3 * limit)]
    gate = threading.Event()
    app.gates = dict.fromkeys(paths, gate)
    ids = await push(tq, *paths)
    async with consuming(tq.url, app.replayer(limit), concurrent_limit=limit):
        await app.have_entered(*paths[:limit])
        gate.set()
        for task_id in ids:
            await reached(tq, task_id, "completed")
    assert app.most_running == limit
    assert len(app.names) == limit
    assert sorted(app.left) == sorted(paths)


async def test_past_its_time_a_thread_keeps_its_slot_and_then_the_task_is_a_time_out(
    tq: TaskQueue, app: Threads
) -> None:
    gate = app.gates["/hangs"] = threading.Event()
    (hangs,) = await push(tq, "/hangs", timeout=0.1, retry_max_count=0)
    (later,) = await push(tq, "/later")
    async with consuming(tq.url, app.replayer(1), concurrent_limit=1, poll_max=0.02):
        await app.have_entered("/hangs")
        # Long past its time, and the consumer looks at its queue every 20 ms.
        with pytest.raises(AssertionError, match="not within"):
            await until(lambda: _value(len(app.entered) > 1), "the next one has begun", limit=0.5)
        held, waiting = await tq.get(hangs), await tq.get(later)
        assert held is not None
        assert waiting is not None
        assert (held.state, waiting.state) == ("reserved", "queued")
        gate.set()
        ended = await reached(tq, hangs, "failed")
        assert (ended.reason, ended.status, ended.attempt) == ("exhausted", 0, 1)
        await reached(tq, later, "completed")
    assert app.entered == ["/hangs", "/later"]


async def test_what_a_view_raises_is_a_500_and_is_shown(
    tq: TaskQueue, app: Threads, caplog: pytest.LogCaptureFixture
) -> None:
    (task_id,) = await push(tq, "/raises", retry_max_count=0)
    async with consuming(tq.url, app.replayer(1)):
        assert (await reached(tq, task_id, "failed")).status == 500
    assert "LookupError: no such report" in caplog.text


HANGING: Final = """
import threading, time
import taskqueue

tq = taskqueue.TaskQueue()

def app(environ, start_response):
    open("entered", "w").close()
    while True:
        time.sleep(0.01)
"""


def test_a_thread_that_never_ends_does_not_keep_the_process(any_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(HANGING)
    arguments = ("--name=i", "--app=main:app", "--no-receipt", "--stop-grace=86400")
    tq = TaskQueue(any_server.url, secret=CLI_SECRET)
    task_id = tq.push_sync("/hangs")
    with consuming_process(tmp_path, *arguments, TASKQUEUE_URL=tq.url) as consumer:
        wait_until((tmp_path / "entered").exists, "the view has begun")
        consumer.process.send_signal(signal.SIGTERM)
        consumer.says("stopping: 1 task(s) running")
        assert consumer.end() == 0
        consumer.says("left before the application did: thread WSGI_0 still works")
    state = tq.get_sync(task_id)
    assert state is not None
    assert state.state == "queued", "given back, and nobody works on it"
