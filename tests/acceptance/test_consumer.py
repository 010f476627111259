"""A consumer at work: real server, real application over HTTP, everything between them as in production."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import pytest
from aiohttp import web

from taskqueue import server as consuming
from taskqueue import slots
from taskqueue.broker import connect
from taskqueue.errors import BrokerUnavailable, ConfigError, Fenced
from taskqueue.hooks import FailedTask
from taskqueue.inprocess import AsgiReplayer
from taskqueue.line import Line
from taskqueue.policy import Rules
from taskqueue.prefetch import Held, Prefetch
from taskqueue.producer import TaskQueue
from taskqueue.replay import HttpReplayer
from taskqueue.server import TaskQueueServer
from taskqueue.slots import Slots
from taskqueue.strategy import Strict, Weighted
from taskqueue.task import TaskState
from tests.invariants import Queue, assert_invariants
from tests.servers import RedisServer
from tests.target import Target, listening
from tests.tasks import KEYRING, SECRET
from tests.waiting import until
from tests.work import consume, queue_at

# No door in these applications, and nobody waits for a second try.
RULES: Final = Rules(receipt_required=False, backoff_min=0.01, backoff_max=0.01)
BASE: Final = "taskqueue:{default}"


@pytest.fixture
def client(any_server: RedisServer) -> Any:
    return any_server.client()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that soon misses its broker."""
    monkeypatch.setattr(consuming, "CALL_DEADLINE", 0.1)


def consumer(
    url: str, target: Target, *, name: str = "one", queues: Sequence[str] = ("default",), **options: Any
) -> Any:
    """Return a consumer, not running yet."""
    options = {"rules": RULES, "stop_grace": 10.0, **options}
    broker = connect(url, namespace="taskqueue")
    return TaskQueueServer(broker, HttpReplayer(target.url, KEYRING), KEYRING, name=name, queues=queues, **options)


@asynccontextmanager
async def running(server: TaskQueueServer) -> AsyncIterator[TaskQueueServer]:
    """Run a consumer, and stop it in good order."""
    job = asyncio.create_task(consume(server))
    try:
        yield server
    finally:
        server.stop()
        await job


async def push(tq: TaskQueue, *paths: str, **options: Any) -> list[str]:
    async with tq.transaction():
        return [tq.add(path, **options) for path in paths]


async def state_of(tq: TaskQueue, task_id: str) -> TaskState:
    state = await tq.get(task_id)
    assert state is not None
    return state


async def reached(tq: TaskQueue, task_id: str, name: str) -> TaskState:
    """Wait until the task is in this state; return it."""

    async def there() -> bool:
        return (await state_of(tq, task_id)).state == name

    await until(there, f"the task is {name}")
    return await state_of(tq, task_id)


def queue_of(client: Any, name: str = "default") -> Queue:
    return assert_invariants(client).get(name, Queue())


@pytest.mark.accept("CT06")
async def test_a_thousand_of_one_commit_run_in_order(tq: TaskQueue, target: Target, any_server: RedisServer) -> None:
    paths = [f"/{number}" for number in range(1000)]
    async with running(consumer(any_server.url, target)):
        await push(tq, *paths)
        await target.finished(1000)
    assert target.done == target.paths == paths
    assert target.most_running == 1


@pytest.mark.accept("CT40")
@pytest.mark.parametrize("limit", [0, 7])
async def test_a_thousand_tasks_have_exactly_a_thousand_effects(
    tq: TaskQueue, target: Target, any_server: RedisServer, client: Any, limit: int
) -> None:
    async with running(consumer(any_server.url, target, concurrent_limit=limit)):
        ids = await push(tq, *(f"/{number}" for number in range(1000)))
        await target.finished(1000)
    assert sorted(target.paths) == sorted(f"/{number}" for number in range(1000))
    assert {headers["X-Task-Id"] for headers in target.headers} == set(ids)
    queue = queue_of(client)
    assert set(queue.indexes["finished"]) == {task_id.encode() for task_id in ids}
    assert queue.records == set()


@pytest.mark.accept("CT15")
async def test_a_queue_is_seen_only_by_its_consumers(tq: TaskQueue, target: Target, any_server: RedisServer) -> None:
    async with listening() as other, running(consumer(any_server.url, target, queues=["mailhost"])):
        await push(tq, "/mail", queue="mail")
        await push(tq, "/host", queue="mailhost")
        await target.finished(1)
        async with running(consumer(any_server.url, other, name="two", queues=["mail", "default"])):
            await push(tq, "/default")
            await other.finished(2)
    assert target.paths == ["/host"]
    assert sorted(other.paths) == ["/default", "/mail"]


@pytest.mark.accept("CT20")
async def test_while_it_runs_a_task_is_in_the_reservation_of_its_consumer(
    tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
) -> None:
    target.handler = target.gated
    async with running(consumer(any_server.url, target, name="instance1")):
        first, second = await push(tq, "/first", "/second")
        await target.started()
        assert client.lrange(f"{BASE}:reserved:instance1", 0, -1) == [first.encode()]
        assert client.lrange(BASE, 0, -1) == [second.encode()]
        target.gate.set()
        await reached(tq, second, "completed")
        assert client.lrange(f"{BASE}:reserved:instance1", 0, -1) == []
    assert (await state_of(tq, first)).status == 200


class TestWaking:
    @pytest.fixture
    def no_polling(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(consuming, "POLL_MIN", 3600.0)

    @pytest.fixture
    def no_hints(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def silent(_server: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(TaskQueueServer, "_listen", silent)

    async def _idle(self, tq: TaskQueue, target: Target) -> None:
        """Return when the consumer has done one task and rests."""
        await reached(tq, (await push(tq, "/warm-up"))[0], "completed")

    @pytest.mark.accept("CT21")
    @pytest.mark.usefixtures("no_polling")
    async def test_the_hint_alone_starts_a_task(self, tq: TaskQueue, target: Target, any_server: RedisServer) -> None:
        async with running(consumer(any_server.url, target, poll_max=3600)):
            await self._idle(tq, target)
            for number in range(3):
                await reached(tq, (await push(tq, f"/{number}"))[0], "completed")

    @pytest.mark.usefixtures("no_polling")
    async def test_a_subscription_that_dies_is_made_anew(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
    ) -> None:
        async with running(consumer(any_server.url, target, poll_max=3600)):
            await self._idle(tq, target)
            assert client.client_kill_filter(_type="pubsub") == 1
            await reached(tq, (await push(tq, "/1"))[0], "completed")

    @pytest.mark.accept("CT22")
    @pytest.mark.usefixtures("no_hints")
    async def test_the_poll_alone_starts_a_task(self, tq: TaskQueue, target: Target, any_server: RedisServer) -> None:
        async with running(consumer(any_server.url, target, poll_max=0.1)):
            await self._idle(tq, target)
            for number in range(3):
                await reached(tq, (await push(tq, f"/{number}"))[0], "completed")

    @pytest.mark.usefixtures("no_polling")
    async def test_a_delayed_task_needs_neither_a_poll_nor_another_hint(
        self, tq: TaskQueue, target: Target, any_server: RedisServer
    ) -> None:
        async with running(consumer(any_server.url, target, poll_max=3600)):
            await self._idle(tq, target)
            await push(tq, "/third", delay=0.15)
            await push(tq, "/second", delay=0.1)
            await push(tq, "/first", delay=0.05)
            await target.finished(4)
        assert target.done == ["/warm-up", "/first", "/second", "/third"]

    @pytest.mark.usefixtures("no_polling", "no_hints")
    async def test_a_full_queue_does_not_starve_another(
        self, tq: TaskQueue, target: Target, any_server: RedisServer
    ) -> None:
        for queue in ("mail", "mailhost"):
            await push(tq, *(f"/{queue}" for _ in range(200)), queue=queue)
        async with running(consumer(any_server.url, target, queues=["mail", "mailhost"], poll_max=3600)):
            await target.finished(400)
        # In turn; of what is reserved ahead, a hundred at most, each has its half.
        for start in range(0, 400, 80):
            assert set(target.done[start : start + 80]) == {"/mail", "/mailhost"}

    @pytest.mark.accept("TA05")
    @pytest.mark.usefixtures("no_polling", "no_hints")
    @pytest.mark.parametrize(("limit", "ahead"), [(1, 0), (6, 0), (6, 30)])
    async def test_queues_get_their_part_by_weight_and_an_empty_one_costs_nothing(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch, limit: int,
        ahead: int,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(Prefetch, "depth", lambda _prefetch, _now: ahead)
        for queue in ("mail", "mailhost"):
            await push(tq, *(f"/{queue}" for _ in range(180)), queue=queue)
        weights = {"default": 50, "mail": 1, "mailhost": 2}
        server = consumer(
            *(any_server.url, target),
            queues=list(weights),
            strategy=Weighted(weights),
            concurrent_limit=limit,
            poll_max=3600,
        )
        async with running(server):
            await target.finished(360)
        begun = [path for path in target.paths[:180] if path == "/mailhost"]
        assert abs(len(begun) - 120) <= limit + ahead / 3, "two of three"

    @pytest.mark.accept("TA06")
    async def test_strict_serves_a_queue_only_when_the_higher_ones_are_empty(
        self, tq: TaskQueue, target: Target, any_server: RedisServer
    ) -> None:
        for queue in ("mail", "mailhost"):
            await push(tq, *(f"/{queue}" for _ in range(10)), queue=queue)
        strategy = Strict({"mail": 1, "mailhost": 2})
        async with running(consumer(any_server.url, target, queues=["mail", "mailhost"], strategy=strategy)):
            await target.finished(20)
        assert target.done == ["/mailhost"] * 10 + ["/mail"] * 10

    @pytest.mark.accept("TA07")
    @pytest.mark.parametrize("none", [0, -1])
    async def test_a_strategy_may_keep_every_slot_for_a_while(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, none: int
    ) -> None:
        class Keeping:
            asked, opened = 0, False

            def share(self, free: int, promising: Sequence[str]) -> Mapping[str, int]:
                self.asked += 1
                assert self.asked < 200, "asked without a rest"
                return dict.fromkeys(promising, free if self.opened else none)

        strategy, queues = Keeping(), ["mail", "mailhost"]
        for queue in queues:
            await push(tq, f"/{queue}", queue=queue)
        server = consumer(any_server.url, target, queues=queues, strategy=strategy, poll_max=0.05)
        async with running(server):
            await _passed(0.5)
            assert target.paths == []
            assert strategy.asked > 1, "not asked again"
            strategy.opened = True
            await target.finished(2)

    async def test_a_consumer_without_a_free_slot_rests(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        turns = 0
        turn = TaskQueueServer._turn

        async def counted(server: TaskQueueServer) -> None:
            nonlocal turns
            turns += 1
            await turn(server)

        target.handler = target.gated
        async with running(consumer(any_server.url, target, poll_max=0.05)):
            await push(tq, "/runs")
            await target.started()
            (later,) = await push(tq, "/waits", delay=0.05)
            monkeypatch.setattr(TaskQueueServer, "_turn", counted)
            await _passed(0.5)
            assert turns < 40, "the loop turned for nothing"
            target.gate.set()
            await reached(tq, later, "completed")


async def _passed(seconds: float) -> None:
    end = time.monotonic() + seconds

    async def over() -> bool:
        return time.monotonic() >= end

    await until(over, "the time is over")


SERVE: Final = "from taskqueue.cli import server_main; server_main()"


class Process:
    """``taskqueue-server --name=instance1`` as a process of its own; killed at the end if it still runs."""

    def __init__(self, url: str, target: Target, *options: str) -> None:
        name = () if any(option.startswith("--name") for option in options) else ("--name=instance1",)
        given = (*name, f"--url={url}", f"--target={target.url}", "--queue=default", "--no-receipt")
        clean = {key: value for key, value in os.environ.items() if not key.startswith("TASKQUEUE")}  # noqa: TID251
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        self._child = subprocess.Popen(
            [sys.executable, "-c", SERVE, *given, *options], env=clean | {"TASKQUEUE_SECRET": SECRET}, stderr=self._log
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()
        self._log.close()

    @property
    def pid(self) -> int:
        return self._child.pid

    def send(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()

    async def ended(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Send this signal, if any, and wait for the end of the process; return exit code and log."""
        if number is not None:
            self._child.send_signal(number)
        await until(self._over, "the process has ended")
        self._log.seek(0)
        return self._child.returncode, self._log.read().decode()

    async def _over(self) -> bool:
        return self._child.poll() is not None


class TestProcess:
    @pytest.mark.accept("CT23")
    async def test_killed_in_a_task_and_started_again_it_runs_the_task_again_once(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
    ) -> None:
        target.handler = target.gated
        (task_id,) = await push(tq, "/task")
        with Process(any_server.url, target) as child:
            await target.started()
            child.kill()
        assert client.lrange(f"{BASE}:reserved:instance1", 0, -1) == [task_id.encode()]
        target.gate.set()
        with Process(any_server.url, target) as child:
            state = await reached(tq, task_id, "completed")
            assert (await child.ended(signal.SIGTERM))[0] == 0
        assert target.paths == ["/task", "/task"]
        assert (state.delivery, state.crashes) == (2, 1)
        assert [headers["X-Task-Attempt"] for headers in target.headers] == ["1", "2"]

    @pytest.mark.accept("CT24")
    async def test_what_runs_is_not_given_out_again_and_what_ran_at_a_kill_goes_first(
        self, tq: TaskQueue, target: Target, any_server: RedisServer
    ) -> None:
        async def hold(request: web.Request) -> web.StreamResponse:
            if len(target.paths) > 400 and not target.gate.is_set():
                await asyncio.Event().wait()
            return web.Response()

        target.handler = hold
        paths = [f"/{number}" for number in range(1000)]
        await push(tq, *paths)
        with Process(any_server.url, target, "--concurrent-limit=3") as child:
            await target.started(403)
            child.kill()
        first, held = target.paths[:400], target.paths[400:]
        assert len(held) == 3
        target.paths.clear()
        target.gate.set()
        with Process(any_server.url, target, "--concurrent-limit=3") as child:
            await target.finished(1000)
            assert (await child.ended(signal.SIGTERM))[0] == 0
        again = [path for path in target.paths if path in {*first, *held}]
        assert set(target.paths[: len(again)]) == set(again), "given back to the front"
        # In order, but three at a time, each on a connection that is new.
        assert all(abs(place - at) < 3 for at, place in enumerate(map(sorted(again, key=paths.index).index, again)))
        assert target.most_running <= 6, "3 of the dead consumer, 3 of the new one"
        # What had ended but could not be told before the kill runs a second time; nothing else does.
        repeated = set(first) & set(target.paths)
        assert len(repeated) <= 6, "what was being told, and as many that may wait for it"
        assert len(target.paths) == 1000 - len(first) + len(repeated)
        assert set(first) | set(target.paths) == set(paths)

    async def test_terminated_it_ends_its_task_and_leaves_the_rest(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
    ) -> None:
        target.handler = target.gated
        first, second = await push(tq, "/first", "/second")
        with Process(any_server.url, target) as child:
            await target.started()
            ending = asyncio.ensure_future(child.ended(signal.SIGTERM))
            await _passed(0.1)
            assert not ending.done(), "its task still runs"
            target.gate.set()
            code, log = await ending
        assert code == 0, log
        assert target.done == ["/first"]
        assert (await state_of(tq, first)).state == "completed"
        assert (await state_of(tq, second)).attempt == 0
        assert queue_of(client).reserved == {}

    @pytest.mark.accept("CT26")
    async def test_a_second_of_its_name_is_refused_while_the_first_lives(
        self, tq: TaskQueue, target: Target, any_server: RedisServer
    ) -> None:
        target.handler = target.gated
        (task_id,) = await push(tq, "/task")
        with Process(any_server.url, target) as first:
            await target.started()
            with Process(any_server.url, target) as second:
                code, log = await second.ended()
            assert code == 69, log
            assert f"process {first.pid} on {socket.gethostname()} runs under this name" in log
            assert "--name" in log
            target.gate.set()
            assert (await reached(tq, task_id, "completed")).delivery == 1
            assert (await first.ended(signal.SIGTERM))[0] == 0
        assert target.paths == ["/task"]

    @pytest.mark.accept("CT26")
    async def test_a_frozen_first_is_taken_over_and_fenced(
        self, tq: TaskQueue, target: Target, any_server: RedisServer
    ) -> None:
        target.handler = target.gated
        (task_id,) = await push(tq, "/task")
        with Process(any_server.url, target) as first:
            await target.started()
            first.send(signal.SIGSTOP)
            with Process(any_server.url, target) as second:
                await target.started(2)
                first.send(signal.SIGCONT)
                code, log = await first.ended()
                assert code == 75, log
                assert "another server has taken over the name" in log
                target.gate.set()
                assert (await reached(tq, task_id, "completed")).delivery == 2
                assert (await second.ended(signal.SIGTERM))[0] == 0

    @pytest.mark.accept("CT25")
    async def test_what_a_dead_consumer_held_is_taken_over_by_another_name(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
    ) -> None:
        target.handler = target.gated
        held, *_ = await push(tq, "/held", "/next")
        with Process(any_server.url, target) as first:
            await target.started()
            first.kill()
        target.gate.set()
        with Process(any_server.url, target, "--name=another", "--lease=2") as second:
            state = await reached(tq, held, "completed")
            assert (await second.ended(signal.SIGTERM))[0] == 0
        assert (state.delivery, state.holder) == (2, "another")
        assert target.paths[0] == "/held"
        assert client.smembers(f"{BASE}:consumers") == set()


class TestLimit:
    @pytest.mark.accept("CT27")
    async def test_never_more_than_the_limit(self, tq: TaskQueue, target: Target, any_server: RedisServer) -> None:
        async def slow(_request: web.Request) -> web.StreamResponse:
            await until(crowded, "three run at once, or the last ones")
            return web.Response()

        async def crowded() -> bool:
            return target.running >= 3 or len(target.paths) == 20

        target.handler = slow
        await push(tq, *(f"/{number}" for number in range(20)))
        async with running(consumer(any_server.url, target, concurrent_limit=3)):
            await target.finished(20)
        assert target.most_running == 3

    @pytest.mark.accept("CT27")
    async def test_zero_is_no_limit(self, tq: TaskQueue, target: Target, any_server: RedisServer) -> None:
        target.handler = target.gated
        await push(tq, *(f"/{number}" for number in range(250)))
        async with running(consumer(any_server.url, target, concurrent_limit=0)):
            await target.started(250)
            target.gate.set()
            await target.finished(250)
        assert target.most_running == 250

    async def test_of_many_that_end_at_once_the_broker_is_told_bit_by_bit(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target.handler = target.gated
        ids = await push(tq, *(f"/{number}" for number in range(250)))
        server = consumer(any_server.url, target, concurrent_limit=0, poll_max=3600)
        exchange, told = server._broker.exchange, list[int]()

        async def counted(lease: Any, settlements: Sequence[Any], **options: Any) -> Any:
            told.append(len(settlements))
            return await exchange(lease, settlements, **options)

        monkeypatch.setattr(server._broker, "exchange", counted)
        async with running(server):
            await target.started(250)
            target.gate.set()
            for task_id in ids:
                await reached(tq, task_id, "completed")
        assert (sum(told), max(told) <= 100) == (250, True)

    async def test_the_records_in_flight_are_bounded_also_without_a_limit(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(slots, "IN_FLIGHT_BYTES", 2_500_000)
        target.handler = target.gated
        body = bytes(1_000_000)
        await push(tq, *(f"/{number}" for number in range(6)), method="POST", payload=body)
        async with running(consumer(any_server.url, target, concurrent_limit=0)) as server:
            await target.started(2)
            await _passed(0.1)
            assert target.running <= 3
            assert server._slots.jobs.bytes <= 2_500_000 + 1_000_100
            target.gate.set()
            await target.finished(6)
        assert server._slots.jobs.bytes == 0


class TestOutcomes:
    @pytest.mark.accept("CT28")
    async def test_a_redirect_is_not_followed_but_told(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, client: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def redirect(request: web.Request) -> web.StreamResponse:
            location = f"{target.url}/elsewhere?token=private"
            return web.Response(status=int(request.path[1:]), headers={"Location": location})

        target.handler = redirect
        caplog.set_level(logging.INFO, "taskqueue.server")
        done, moved = await push(tq, "/302", "/301")
        async with running(consumer(any_server.url, target)):
            assert (await reached(tq, done, "completed")).status == 302
            assert (await reached(tq, moved, "failed")).reason == "redirect"
        assert target.paths == ["/302", "/301"]
        for status, level in (("302", logging.WARNING), ("301", logging.ERROR)):
            (line,) = [record for record in caplog.records if f"GET /{status}" in record.getMessage()]
            assert line.levelno == level
            assert f"answered {status}" in line.getMessage()
            assert f"{target.url}/elsewhere" in line.getMessage()
            assert "private" not in line.getMessage()
        queue = queue_of(client)
        assert (queue.waiting, queue.reserved, queue.records) == ([], {}, {moved.encode()})

    @pytest.mark.accept("CT32")
    async def test_only_the_one_that_ended_is_taken_out(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
    ) -> None:
        async def one_goes(request: web.Request) -> web.StreamResponse:
            return await target.gated(request) if request.query["n"] != "1" else web.Response()

        target.handler = one_goes
        # The same request three times, as far as bytes can tell; then one whose record is of another key.
        zero, one, two = await push(tq, "/same?n=0", "/same?n=1", "/same?n=2")
        async with running(consumer(any_server.url, target, concurrent_limit=3)):
            await reached(tq, one, "completed")
            assert set(client.lrange(f"{BASE}:reserved:one", 0, -1)) == {zero.encode(), two.encode()}
            assert set(client.hkeys(f"{BASE}:records")) == {zero.encode(), two.encode()}
            target.gate.set()
            await reached(tq, two, "completed")
            await reached(tq, zero, "completed")
        assert queue_of(client).reserved == {}

    @pytest.mark.accept("CT34")
    async def test_a_handler_that_raises_frees_its_slot(
        self, tq: TaskQueue, target: Target, any_server: RedisServer
    ) -> None:
        async def broken(request: web.Request) -> web.StreamResponse:
            if request.path == "/raises":
                request.transport.abort()  # type: ignore[union-attr]
            return web.Response(status=500 if request.path == "/fails" else 200)

        target.handler = broken
        paths = ["/raises", "/fails", "/raises", "/fails", "/raises", "/sixth"]
        tasks = await push(tq, *paths, retry_max_count=2)
        async with running(consumer(any_server.url, target)):
            assert (await reached(tq, tasks[5], "completed")).attempt == 1
            for task_id in tasks[:5]:
                state = await reached(tq, task_id, "failed")
                assert (state.reason, state.attempt) == ("exhausted", 3)
        assert target.paths[:6] == paths
        assert len(target.paths) == 5 * 3 + 1

    @pytest.mark.parametrize("before", [True, False], ids=["preparing", "replaying"])
    async def test_a_fault_of_the_replay_itself_ends_neither_consumer_nor_neighbours(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture, *, before: bool,
    ) -> None:  # fmt: skip
        prepare = HttpReplayer.prepare

        async def fault() -> Any:
            raise RuntimeError("a fault of ours")

        def faulty(replayer: HttpReplayer, delivery: Any) -> Any:
            if delivery.task.target != "/faulty":
                return prepare(replayer, delivery)
            if before:
                raise RuntimeError("a fault of ours")
            return fault

        monkeypatch.setattr(HttpReplayer, "prepare", faulty)
        first, second = await push(tq, "/faulty", "/good", retry_max_count=0)
        async with running(consumer(any_server.url, target)):
            assert (await reached(tq, first, "failed")).reason == "exhausted"
            await reached(tq, second, "completed")
        assert "the replay itself failed" in caplog.text

    @pytest.mark.accept("CT33", "TA47")
    async def test_an_altered_record_is_set_aside_and_not_sent(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
    ) -> None:
        altered, swapped, short, good = await push(tq, "/altered", "/swapped", "/short", "/good")
        records = f"{BASE}:records"
        record = client.hget(records, altered)
        client.hset(records, altered, record[:-1] + bytes([record[-1] ^ 1]))
        client.hset(records, swapped, client.hget(records, good))
        client.hset(records, short, b"\x01")
        client.hset(f"{BASE}:control", "bytes", sum(map(len, client.hvals(records))))
        async with running(consumer(any_server.url, target)):
            await reached(tq, good, "completed")
        assert target.paths == ["/good"]
        for task_id, reason in ((altered, "seal"), (swapped, "seal"), (short, "format")):
            state = await state_of(tq, task_id)
            assert (state.state, state.reason) == ("failed", reason)

    async def test_a_record_of_another_secret_or_release_is_parked(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
    ) -> None:
        stranger = TaskQueue(any_server.url, secret=SECRET[::-1], queues=["default"], namespace="taskqueue")
        (foreign,) = await push(stranger, "/foreign")
        await stranger.aclose()
        newer, good = await push(tq, "/newer", "/good")
        client.hset(f"{BASE}:records", newer, b"\x09" + client.hget(f"{BASE}:records", newer)[1:])
        async with running(consumer(any_server.url, target)):
            await reached(tq, good, "completed")
        for task_id, reason in ((foreign, "key"), (newer, "version")):
            state = await state_of(tq, task_id)
            assert (state.state, state.reason, state.attempt) == ("scheduled", reason, 0)
        assert target.paths == ["/good"]

    async def test_an_expired_task_fails(self, tq: TaskQueue, target: Target, any_server: RedisServer) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("taskqueue.record._now_ms", lambda: 1)
            (task_id,) = await push(tq, "/old")
        async with running(consumer(any_server.url, target)):
            assert (await reached(tq, task_id, "failed")).reason == "expired"
        assert target.paths == []


class TestStopping:
    async def test_what_runs_ends_and_nothing_else_starts(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
    ) -> None:
        target.handler = target.gated
        first, second = await push(tq, "/first", "/second")
        async with running(consumer(any_server.url, target)) as server:
            await target.started()
            server.stop()
            await _passed(0.05)
            assert target.running == 1
            target.gate.set()
        assert target.done == ["/first"]
        assert (await state_of(tq, first)).state == "completed"
        assert (await state_of(tq, second)).state == "queued"
        assert queue_of(client).reserved == {}

    @pytest.mark.parametrize("how", ["grace", "now"])
    async def test_what_does_not_end_is_given_back_in_order_and_has_spent_nothing(
        self,
        tq: TaskQueue,
        target: Target,
        any_server: RedisServer,
        client: Any,
        how: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        target.handler = target.gated
        paths = [f"/{number}" for number in range(5)]
        tasks = await push(tq, *paths)
        grace = 0.05 if how == "grace" else 3600
        async with running(consumer(any_server.url, target, concurrent_limit=3, stop_grace=grace)) as server:
            await target.started(3)
            server.stop()
            if how == "now":
                server.stop(now=True)
        why = "ended while it ran, because the consumer ends: it will be given out again"
        assert [line for line in caplog.messages if "ended while" in line] == [
            f"task {one}: {why}" for one in tasks[:3]
        ]
        assert client.lrange(BASE, 0, -1) == [task_id.encode() for task_id in reversed(tasks)]
        assert [(await state_of(tq, task_id)).attempt for task_id in tasks] == [0] * 5
        assert queue_of(client).reserved == {}
        target.gate.set()
        target.paths.clear()
        async with running(consumer(any_server.url, target)):
            await target.finished(5)
        assert target.paths == paths

    async def test_one_that_is_broken_off_starts_nothing_of_what_it_holds(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Prefetch, "depth", lambda _prefetch, _now: 5)
        complaints: list[Mapping[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
        target.handler = target.gated
        await push(tq, *(f"/{number}" for number in range(7)))
        server = consumer(any_server.url, target, concurrent_limit=2)
        job = asyncio.create_task(consume(server))
        await target.started(2)
        assert len(server._slots._prefetch) == 5
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert complaints == []
        assert len(target.paths) == 2

    async def test_what_is_answered_to_one_that_is_broken_off_counts_for_nothing(
        self, tq: TaskQueue, any_server: RedisServer
    ) -> None:
        told: list[FailedTask] = []
        begun = asyncio.Event()

        async def app(scope: Any, _receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                return
            begun.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await send({"type": "http.response.start", "status": 410, "headers": []})

        (task_id,) = await push(tq, "/failing")
        broker = connect(any_server.url, namespace="taskqueue")
        server = TaskQueueServer(
            broker, AsgiReplayer(app), KEYRING, name="one", queues=["default"], rules=RULES, on_failed=told.append
        )
        job = asyncio.create_task(consume(server))
        await begun.wait()
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert told == []
        assert (await state_of(tq, task_id)).state == "reserved"

    @pytest.mark.parametrize("now", [True, False])
    async def test_what_arrives_while_stopping_is_given_back(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, client: Any, *, now: bool
    ) -> None:
        target.handler = target.gated
        server = consumer(any_server.url, target, concurrent_limit=3)
        exchange = server._broker.exchange

        async def stopped_meanwhile(*arguments: Any, **options: Any) -> Any:
            result = await exchange(*arguments, **options)
            if result.reservations:
                server.stop(now=now)
            return result

        server._broker.exchange = stopped_meanwhile
        tasks = await push(tq, "/1", "/2", "/3", "/4")
        await consume(server)
        assert target.paths == []
        assert client.lrange(BASE, 0, -1) == [task_id.encode() for task_id in reversed(tasks)]
        assert queue_of(client).reserved == {}

    async def test_what_arrives_while_paused_is_given_back_and_waits(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
    ) -> None:
        server = consumer(any_server.url, target, concurrent_limit=3)
        exchange = server._broker.exchange

        async def paused_meanwhile(*arguments: Any, **options: Any) -> Any:
            result = await exchange(*arguments, **options)
            if result.reservations and not target.paths:
                server.pause()
            return result

        server._broker.exchange = paused_meanwhile
        paths = ["/1", "/2", "/3", "/4"]
        tasks = await push(tq, *paths)

        async def given_back() -> bool:
            waiting = client.lrange(BASE, 0, -1)
            return server._paused and bool(waiting == [task_id.encode() for task_id in reversed(tasks)])

        async with running(server):
            await until(given_back, "all wait in their order")
            assert target.paths == []
            server._broker.exchange = exchange
            server.resume()
            await target.finished(4)
        assert sorted(target.paths) == paths
        assert {headers["X-Task-Attempt"] for headers in target.headers} == {"1"}

    async def test_what_was_started_and_never_ran_is_given_back(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = consumer(any_server.url, target)
        start = Slots._start

        def stopped_right_after(slots: Slots, held: Held) -> None:
            start(slots, held)
            server.stop(now=True)

        async def no_trim(*_arguments: object) -> None:
            """Let nothing else run before the next turn of the loop."""

        monkeypatch.setattr(Slots, "_start", stopped_right_after)
        monkeypatch.setattr(Line, "trim", no_trim)
        (task_id,) = await push(tq, "/task")
        await consume(server)
        assert (await state_of(tq, task_id)).state == "queued"
        assert target.paths == []

    async def test_what_a_lost_reply_has_reserved_is_given_back(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
    ) -> None:
        server = consumer(any_server.url, target)
        exchange = server._broker.exchange
        lost: list[Any] = []

        async def reply_lost(*arguments: Any, **options: Any) -> Any:
            result = await exchange(*arguments, **options)
            if not lost and result.reservations:
                lost.append(result)
                server.stop()
                raise BrokerUnavailable("the reply is lost")
            return result

        server._broker.exchange = reply_lost
        (task_id,) = await push(tq, "/task")
        await consume(server)
        assert len(lost) == 1
        assert (await state_of(tq, task_id)).state == "queued"
        assert queue_of(client).reserved == {}
        assert target.paths == []

    @pytest.mark.usefixtures("impatient")
    async def test_a_stop_before_the_broker_ever_answered(self, target: Target, private_server: RedisServer) -> None:
        private_server.kill()
        server = consumer(private_server.url, target)
        async with running(server):
            await _until_lost(server)


class TestBrokerTrouble:
    @pytest.mark.accept("CT31")
    async def test_a_restart_in_the_middle_loses_and_repeats_nothing(
        self, target: Target, private_server: RedisServer
    ) -> None:
        async def brief(_request: web.Request) -> web.StreamResponse:
            if len(target.paths) == 50:
                await asyncio.to_thread(private_server.restart)
            return web.Response()

        target.handler = brief
        tq = queue_at(private_server)
        paths = [f"/{number}" for number in range(100)]
        await push(tq, *paths)
        async with running(consumer(private_server.url, target)):
            await target.finished(100)
        await tq.aclose()
        assert target.paths == paths
        queue = queue_of(private_server.client())
        assert len(queue.indexes["finished"]) == 100

    @pytest.mark.usefixtures("impatient")
    async def test_tasks_that_end_while_the_broker_is_away_are_settled_when_it_is_back(
        self, target: Target, private_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        target.handler = target.gated
        tq = queue_at(private_server)
        tasks = await push(tq, "/1", "/2", "/3")
        async with running(consumer(private_server.url, target, concurrent_limit=3)) as server:
            await target.started(3)
            private_server.kill()
            target.gate.set()
            await target.finished(3)
            await _until_lost(server)
            private_server.start()
            for task_id in tasks:
                await reached(tq, task_id, "completed")
        await tq.aclose()
        assert len(target.paths) == 3
        assert "broker unreachable" in caplog.text
        assert "broker back" in caplog.text

    async def test_an_emptied_broker_is_claimed_again(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, client: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        target.handler = target.gated
        await push(tq, "/lost")
        async with running(consumer(any_server.url, target)):
            await target.started()
            client.flushall()
            target.gate.set()
            (task_id,) = await push(tq, "/new")
            await reached(tq, task_id, "completed")
        assert "the store has lost its data" in caplog.text

    @pytest.mark.usefixtures("impatient")
    async def test_a_broker_that_stays_away_ends_the_consumer_that_does_not_wait(
        self, target: Target, private_server: RedisServer
    ) -> None:
        server = consumer(private_server.url, target, wait_broker=0.1, poll_max=0.05)
        private_server.kill()
        with pytest.raises(BrokerUnavailable):
            await consume(server)

    async def test_a_wrong_password_ends_the_consumer(self, target: Target, private_server: RedisServer) -> None:
        private_server.client().config_set("requirepass", "right")
        with pytest.raises(ConfigError, match="password"):
            await consume(consumer(private_server.url.replace("redis://", "redis://:wrong@"), target))

    async def test_the_fenced_one_ends_and_changes_nothing(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, client: Any
    ) -> None:
        target.handler = target.gated
        (task_id,) = await push(tq, "/task")
        async with listening() as other:
            other.handler = other.gated
            first = asyncio.create_task(consume(consumer(any_server.url, target)))
            await target.started()
            async with running(consumer(any_server.url, other)):
                await other.started()
                target.gate.set()
                with pytest.raises(Fenced, match="taken over"):
                    await first
                assert (await state_of(tq, task_id)).state == "reserved"
                assert client.lrange(f"{BASE}:reserved:one", 0, -1) == [task_id.encode()]
                other.gate.set()
                await reached(tq, task_id, "completed")
        assert (await state_of(tq, task_id)).delivery == 2


async def _until_lost(server: TaskQueueServer) -> None:
    async def lost() -> bool:
        return bool(server._absence)

    await until(lost, "the consumer has missed the broker")


class TestTargetTrouble:
    async def test_a_target_that_was_down_costs_no_attempt_and_no_order(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(slots, "TARGET_PAUSE", 0.05)
        await target.down()
        paths = [f"/{number}" for number in range(10)]
        tasks = await push(tq, *paths)

        async def tried_twice() -> bool:
            return (await state_of(tq, tasks[0])).delivery >= 2

        async with running(consumer(any_server.url, target)):
            await until(tried_twice, "the first has been tried twice")
            await target.up()
            await target.finished(10)
        assert target.paths == paths
        assert {headers["X-Task-Attempt"] for headers in target.headers} == {"1"}
        assert caplog.text.count("left alone") == 1
        assert "answers again" in caplog.text

    async def test_a_target_that_was_down_is_tried_with_one_task(
        self, tq: TaskQueue, target: Target, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(slots, "TARGET_PAUSE", 0.05)
        await target.down()
        tasks = await push(tq, *(f"/{number}" for number in range(10)))

        async def tried(times: int) -> bool:
            return max([(await state_of(tq, task_id)).delivery for task_id in tasks]) >= times

        target.handler = target.gated
        async with running(consumer(any_server.url, target, concurrent_limit=5)):
            await until(lambda: tried(2), "one has been tried twice")
            await target.up()
            await target.started()
            await _passed(0.1)
            assert target.running == 1
            target.gate.set()
            await target.finished(10)
        assert {(await state_of(tq, task_id)).attempt for task_id in tasks} == {1}
