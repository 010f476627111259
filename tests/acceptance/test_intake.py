"""A consumer that ends by itself: after so many tasks, or when nothing is left; and how one waits that does not."""

import asyncio
import importlib
import itertools
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from taskqueue import TaskQueue, line
from taskqueue import server as module
from taskqueue.cli import run, server_app
from taskqueue.intake import Intake
from taskqueue.server import TaskQueueServer
from tests.acceptance.test_cli import NAMED, ended
from tests.acceptance.test_consumer import BASE, consumer, push, queue_of, running, state_of
from tests.servers import RedisServer
from tests.target import Target
from tests.tasks import SECRET
from tests.waiting import until
from tests.work import consume


def sent(tq: TaskQueue, target: Target, *, limit: int | None = None, burst: bool = False, **options: Any) -> Any:
    """Return a consumer that ends by itself."""
    return consumer(tq.url, target, intake=Intake(tq.broker, ["default"], limit=limit, burst=burst), **options)


@pytest.mark.accept("TA13")
async def test_with_a_limit_it_handles_so_many_and_exits(
    tq: TaskQueue, target: Target, any_server: RedisServer, tmp_path: Path
) -> None:
    await push(tq, *(f"/{number}" for number in range(7)))
    arguments = ("--name=i", "--target", target.url, "--url", tq.url, "--queue=default", "--limit=5", "--no-receipt")
    done = await asyncio.to_thread(
        ended, "server_main", *arguments, "--concurrent-limit=3", cwd=tmp_path, TASKQUEUE_SECRET=SECRET
    )
    assert done.returncode == 0, done.stderr
    assert sorted(target.done) == [f"/{number}" for number in range(5)]
    assert await tq.size() == 2
    assert queue_of(any_server.client()).reserved == {}


@pytest.mark.accept("TA13")
@pytest.mark.parametrize("library", ["json", "pydantic"], ids=["", "with pydantic in the process"])
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--limit=5"], "name that with --queue"),
        (["--limit=5", "--queue=a", "--queue=b"], "name that with --queue"),
        (["--limit=5", "--queue=a", "--workers=2"], "leave --workers out"),
        (["--limit=0", "--queue=a"], "--limit: '0' must be a whole number from 1"),
    ],
)
def test_a_limit_needs_one_queue_and_one_process(
    flags: list[str],
    told: str,
    library: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    importlib.import_module(library)
    monkeypatch.chdir(tmp_path)
    assert run(server_app, [*NAMED, *flags]) == 2
    assert told in capsys.readouterr().err


async def test_a_retry_counts_and_what_was_given_back_does_not(tq: TaskQueue, target: Target) -> None:
    await target.down()  # The port is known, and nobody is there.
    answers = [503, 200, 200]

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=answers.pop(0))

    target.handler = answer
    server = sent(tq, target, limit=3)
    job = asyncio.create_task(consume(server))
    await push(tq, "/a", "/b", "/c")

    async def given_back() -> bool:
        states = [
            await tq.get(task.id)
            for task in await tq.broker.inspector.tasks(
                "default", "queued", limit=9, offset=0, deadline=time.monotonic() + 10
            )
        ]
        return any(state is not None and state.delivery > 1 for state in states)

    await until(given_back, "one was given back")
    await target.up()
    await job
    assert len(target.paths) == 3
    assert answers == []


async def test_in_a_burst_all_there_is_runs_and_what_is_delayed_stays(tq: TaskQueue, target: Target) -> None:
    now, later = await push(tq, "/a", "/b"), await push(tq, "/later", delay=3600)
    await consume(sent(tq, target, burst=True))
    assert target.done == ["/a", "/b"]
    assert [(await state_of(tq, task_id)).state for task_id in (*now, *later)] == ["completed"] * 2 + ["scheduled"]


async def test_a_burst_waits_for_what_runs_and_takes_what_that_has_added(tq: TaskQueue, target: Target) -> None:
    asked = 0

    class Counting(Intake):
        async def over(self, *, idle: bool) -> bool:
            nonlocal asked
            asked += 1
            return await super().over(idle=idle)

    async def adds(request: web.Request) -> web.Response:
        if request.path == "/first":
            before = asked
            await until(lambda: _value(asked > before + 5), "the consumer has found nothing else, several times")
            await tq.push("/second")
        return web.Response()

    target.handler = adds
    await tq.push("/first")
    intake = Counting(tq.broker, ["default"], burst=True)
    await consume(consumer(tq.url, target, intake=intake, concurrent_limit=5, poll_max=0.02))
    assert target.done == ["/first", "/second"]


async def test_a_burst_does_not_take_a_slowed_queue_for_an_empty_one(
    tq: TaskQueue, target: Target, any_server: RedisServer
) -> None:
    await tq.push("/a")
    client: Any = any_server.client()
    client.hset("taskqueue:{default}:control", "slowed", int(time.time() * 1000) + 500)
    await consume(sent(tq, target, burst=True, poll_max=0.05))
    assert target.done == ["/a"]


class Clock:
    """A clock that goes on by what was waited, without waiting."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.mark.accept("TA14")
async def test_on_an_empty_queue_the_waits_grow_to_30_s_and_a_task_is_noticed_earlier(
    tq: TaskQueue, target: Target, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = any_server.client()
    clock, waits, stepping = Clock(), list[float](), True
    wait = TaskQueueServer._woken

    async def step(server: TaskQueueServer, seconds: float) -> bool:
        waits.append(seconds)
        if not stepping:
            return await wait(server, seconds)
        clock.ahead += max(0.0, seconds)
        await asyncio.sleep(0)
        return False

    async def grown() -> bool:
        return sum(seconds > 15 for seconds in waits) > 10

    for told in (module, line):
        monkeypatch.setattr(told, "time", clock)
    monkeypatch.setattr(TaskQueueServer, "_woken", step)
    async with running(consumer(tq.url, target, poll_max=30.0)):
        await until(grown, "the waits have grown")
        longest = list(itertools.accumulate((seconds for seconds in waits if seconds > 0), max))
        assert longest[0] <= module.POLL_MIN
        assert all(after <= 2.6 * before for before, after in itertools.pairwise(longest)), "twice, with jitter"
        assert 20 < longest[-1] <= 30
        await until(lambda: _value(dict(client.pubsub_numsub(BASE))[BASE.encode()] == 1), "it listens")
        stepping, before = False, len(waits)
        await until(lambda: _value(len(waits) > before), "it waits in earnest, 24 s at least")
        await tq.push("/a")
        await target.finished(1)


@pytest.mark.accept("TA46")
async def test_over_a_ceiling_no_task_is_started_and_those_that_run_go_on(
    tq: TaskQueue, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    target.handler = target.gated
    allowed, asked = True, 0

    def may_start() -> bool:
        nonlocal asked
        asked += 1
        return allowed

    intake = Intake(tq.broker, ["default"], may_start=may_start)
    server = consumer(tq.url, target, intake=intake, concurrent_limit=5, poll_max=0.02)
    async with running(server):
        first = await tq.push("/first")
        await target.started()
        allowed = False
        second = await tq.push("/second")
        target.gate.set()
        await target.finished(1)
        before = asked
        await until(lambda: _value(asked > before + 20), "it was asked again and again")
        assert (await state_of(tq, first)).state == "completed"
        assert (await state_of(tq, second)).state == "queued"
        assert intake.signs.unready(time.monotonic()) is None, "its turn will come: that is no outage"
        allowed = True
        await target.finished(2)


async def _value(value: bool) -> bool:  # noqa: FBT001
    return value
