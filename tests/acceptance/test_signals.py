"""What a process manager says by signals, and what the consumer does: TERM, INT, QUIT, USR1, USR2, CONT."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from taskqueue import TaskQueue
from tests.acceptance.test_cli import SECRET, Consumer, consuming
from tests.servers import RedisServer
from tests.waiting import wait_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
STOPS = pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name
)


@pytest.fixture
def application() -> Iterator[socket.socket]:
    """A listening application of which the test reads and writes every byte."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        yield listener


@pytest.fixture
def tq(any_server: RedisServer) -> TaskQueue:
    return TaskQueue(any_server.url, secret=SECRET)


@pytest.fixture
def consumer(tq: TaskQueue, application: socket.socket, tmp_path: Path) -> Iterator[Consumer]:
    target = f"http://127.0.0.1:{application.getsockname()[1]}"
    options = ("--no-receipt", "--stop-grace=86400", "--poll-max=0.05", "--concurrent-limit=2")
    with consuming(tmp_path, "--name=i", "--target", target, "--url", tq.url, *options) as consumer:
        yield consumer


def begun(application: socket.socket) -> socket.socket:
    """Return the connection on which the next request has arrived."""
    connection, _ = application.accept()
    connection.settimeout(20)
    assert connection.recv(100).startswith(b"GET /")
    return connection


def state_of(tq: TaskQueue, task_id: str) -> tuple[str, int]:
    state = tq.get_sync(task_id)
    assert state is not None
    return state.state, state.attempt


def reached(tq: TaskQueue, task_id: str, state: str) -> None:
    wait_until(lambda: state_of(tq, task_id)[0] == state, f"the task is {state}")


@pytest.mark.accept("TA11")
@STOPS
@pytest.mark.accept("TA04")
def test_the_first_lets_what_runs_end_and_the_second_gives_it_back_unspent(
    number: signal.Signals, tq: TaskQueue, consumer: Consumer, application: socket.socket, any_server: RedisServer
) -> None:
    ends, hangs = tq.push_sync("/ends"), tq.push_sync("/hangs")
    with begun(application) as one, begun(application):
        later = tq.push_sync("/later")
        consumer.process.send_signal(number)
        consumer.says("stopping: 2 task(s) running")
        one.sendall(OK)
        wait_until(lambda: {state_of(tq, ends)[0], state_of(tq, hangs)[0]} >= {"completed"}, "one has ended")
        assert consumer.process.poll() is None, "the other one has all its time"
        assert consumer.end(number) == 0
    states = {state_of(tq, task_id) for task_id in (ends, hangs)}
    assert states == {("completed", 1), ("queued", 0)}
    assert state_of(tq, later) == ("queued", 0)
    assert any_server.client().keys("*:reserved:*") == []
    assert any_server.client().keys("*:consumer*") == []


@pytest.mark.accept("TA12")
def test_paused_it_starts_nothing_until_it_is_resumed(
    tq: TaskQueue, consumer: Consumer, application: socket.socket
) -> None:
    first = tq.push_sync("/first")
    with begun(application) as one:
        consumer.process.send_signal(signal.SIGUSR2)
        consumer.says("paused: 1 task(s) running")
        second = tq.push_sync("/second")
        one.sendall(OK)
        reached(tq, first, "completed")  # what runs goes on, and is told
        application.settimeout(0.5)
        with pytest.raises(TimeoutError):
            application.accept()
        application.settimeout(20)
        assert state_of(tq, second) == ("queued", 0)
        consumer.process.send_signal(signal.SIGCONT)
        with begun(application) as two:
            two.sendall(OK)
            reached(tq, second, "completed")
    consumer.says("resumed")
    assert consumer.end() == 0


def test_a_paused_one_keeps_its_name_and_stops_as_ever(
    tq: TaskQueue, consumer: Consumer, any_server: RedisServer
) -> None:
    consumer.process.send_signal(signal.SIGUSR2)
    consumer.says("paused")
    client = any_server.client()
    beat = int(client.hget("taskqueue:{default}:consumer:i", "beat") or 0)
    wait_until(lambda: int(client.hget("taskqueue:{default}:consumer:i", "beat") or 0) > beat + 1, "it goes on beating")
    assert consumer.end() == 0


def test_asked_it_tells_what_runs_and_where(tq: TaskQueue, consumer: Consumer, application: socket.socket) -> None:
    task_id = tq.push_sync("/slow")
    with begun(application) as connection:
        consumer.process.send_signal(signal.SIGUSR1)
        consumer.says("1 task(s) running")
        consumer.says(f"task {task_id}, delivery 1")
        (told,) = [
            text for entry in consumer.entries() if (text := str(entry["message"])).startswith(f"task {task_id}")
        ]
        assert "in deliver" in told
        assert "in _replay" in told, "down to where it waits for the answer"
        consumer.says("thread taskqueue-heart")
        connection.sendall(OK)
        reached(tq, task_id, "completed")
    assert consumer.end() == 0


ASGI: Final = """
async def view(scope, receive, send):
    if scope["type"] == "http":
        await held()

async def held():
    await asyncio.Event().wait()

app = taskqueue.middleware.asgi.TaskQueueMiddleware(view, tq)
"""
WSGI: Final = """
def view(environ, start_response):
    held()

def held():
    while not pathlib.Path("go").exists():
        time.sleep(0.01)

app = taskqueue.middleware.wsgi.TaskQueueMiddleware(view, tq)
"""


@pytest.mark.parametrize("application", [ASGI, WSGI], ids=["asgi", "wsgi"])
def test_asked_it_tells_where_in_the_application(tq: TaskQueue, tmp_path: Path, application: str) -> None:
    made = f"tq = taskqueue.TaskQueue({tq.url!r}, secret={SECRET!r}, queues=['default'])\n"
    imports = "import asyncio, pathlib, time\nimport taskqueue, taskqueue.middleware.asgi, taskqueue.middleware.wsgi\n"
    (tmp_path / "main.py").write_text(imports + made + application)
    task_id = tq.push_sync("/slow")
    with consuming(tmp_path, "--name=i", "--app=main:app", "--stop-grace=0") as consumer:
        reached(tq, task_id, "running")
        wait_until(lambda: _asked(consumer), "it tells where it is held")
        (tmp_path / "go").touch()
        assert consumer.end() == 0


def _asked(consumer: Consumer) -> bool:
    consumer.process.send_signal(signal.SIGUSR1)
    consumer.says("thread taskqueue-heart")
    told = [str(entry["message"]) for entry in consumer.entries()]
    return any("main.py" in text and "in held" in text for text in told)
