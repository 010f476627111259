"""What tasks say of themselves, from end to end: read from the store as people are shown it."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

import taskqueue
from taskqueue.middleware import aiohttp as aiohttp_door
from taskqueue.policy import Rules
from taskqueue.replay import HttpReplayer, Replayer
from taskqueue.reporting import instead
from taskqueue.retention import Retention, retention_rules
from taskqueue.said import Progress, Said, said
from taskqueue.storage import Storage
from taskqueue.sweeping import Sweeper
from tests.doors import serving_aiohttp
from tests.servers import RedisServer
from tests.shop import WAYS, Arrived, Reply, Shop, consuming, open_shop
from tests.tasks import KEYRING
from tests.waiting import until

ONCE = Rules(retry_max_count=0)


@pytest.fixture(params=WAYS)
async def opened(request: pytest.FixtureRequest, any_server: RedisServer) -> AsyncIterator[tuple[Shop, Replayer]]:
    async with open_shop(request.param, any_server.url) as both:
        yield both


async def said_by(shop: Shop, task_id: str) -> Said:
    log = await shop.tq.broker.inspector.log("default", task_id, deadline=time.monotonic() + 10)
    return said(KEYRING, "default", task_id, log.fields)


@pytest.mark.accept("TA18")
async def test_a_task_that_raises_fails_and_only_the_log_knows_why(
    shop: Shop, replayer: Replayer, any_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def view(_arrived: Arrived) -> None:
        taskqueue.report("info", "read 3 rows")
        raise ValueError("a detail of row 4")

    shop.views["/build"] = view
    task_id = await shop.tq.push("/build")
    async with consuming(any_server.url, replayer, rules=ONCE):
        state = await shop.reached(task_id, "failed")
    found = await said_by(shop, task_id)
    assert found == Said(report=taskqueue.Report("info", "read 3 rows"))
    shown = instead(state.state, state.reason, state.status)
    assert shown is not None
    assert (shown.type, shown.message) == ("error", "The task failed (exhausted, status 500).")
    traces = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert "a detail of row 4" in traces


@pytest.mark.accept("TA19")
async def test_a_nested_error_makes_it_failed(shop: Shop, replayer: Replayer, any_server: RedisServer) -> None:
    async def view(_arrived: Arrived) -> None:
        taskqueue.report("success", "imported", {"rows": 2}).add("info", "row 1").add("error", "no date")

    shop.views["/build"] = view
    task_id = await shop.tq.push("/build")
    async with consuming(any_server.url, replayer):
        state = await shop.reached(task_id, "failed")
    assert (state.reason, state.status, state.attempt) == ("reported", 200, 1)
    error = taskqueue.Report("error", "no date")
    info = taskqueue.Report("info", "row 1", children=[error])
    assert (await said_by(shop, task_id)).report == taskqueue.Report(
        "success", "imported", {"rows": 2}, children=[info]
    )


async def test_a_task_with_an_error_may_still_ask_for_a_retry(
    shop: Shop, replayer: Replayer, any_server: RedisServer
) -> None:
    async def view(arrived: Arrived) -> Reply | None:
        assert arrived.task is not None
        if arrived.task.attempt > 1:
            return None
        taskqueue.report("error", "the other side is away")
        taskqueue.progress(1, 2)
        taskqueue.redirect_to("/never")
        return 200, {"X-Task-Retry": "yes"}

    shop.views["/build"] = view
    task_id = await shop.tq.push("/build")
    async with consuming(any_server.url, replayer):
        state = await shop.reached(task_id, "completed")
    assert state.attempt == 2
    assert await said_by(shop, task_id) == Said()


@pytest.mark.accept("TA20")
async def test_a_task_that_reports_nothing_completes_with_an_info(
    shop: Shop, replayer: Replayer, any_server: RedisServer
) -> None:
    task_id = await shop.tq.push("/build")
    async with consuming(any_server.url, replayer):
        state = await shop.reached(task_id, "completed")
    assert (await said_by(shop, task_id)).report is None
    assert instead(state.state, state.reason, state.status) == taskqueue.Report(
        "info", "The task completed and reported nothing."
    )


async def test_progress_is_seen_while_it_runs(shop: Shop, replayer: Replayer, any_server: RedisServer) -> None:
    go_on = asyncio.Event()

    async def view(_arrived: Arrived) -> None:
        taskqueue.progress(1, 3, "reading")
        await go_on.wait()
        taskqueue.progress(3, 3)

    async def seen() -> bool:
        return (await said_by(shop, task_id)).progress == Progress(1, 3, "reading")

    shop.views["/build"] = view
    task_id = await shop.tq.push("/build")
    async with consuming(any_server.url, replayer):
        await until(seen, "the progress of the running task is in the store")
        assert (await shop.reached(task_id, "running")).attempt == 1
        go_on.set()
        await shop.reached(task_id, "completed")
    assert (await said_by(shop, task_id)).progress == Progress(3, 3, "")


def test_what_is_said_as_json() -> None:
    told = Said(report=taskqueue.Report("info", "x"), progress=Progress(1, None, ""), redirect="/x")
    assert told.as_json() == {
        "report": {"type": "info", "message": "x", "data": None, "children": []},
        "progress": {"done": 1, "total": None, "message": ""},
        "redirect": "/x",
        "output": "",
        "files": [],
    }


def test_what_cannot_be_opened_was_not_said() -> None:
    assert said(KEYRING, "default", "id-1", {"report": b"", "progress": b"x", "files": bytes(60)}) == Said()


async def test_files_go_with_their_task(
    any_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQUEUE_STORAGE", str(tmp_path))
    async with open_shop("asgi over http", any_server.url) as (shop, replayer):

        async def view(_arrived: Arrived) -> None:
            taskqueue.storage.save("report.csv", b"a,b", output=True)

        shop.views["/build"] = view
        first, second = await shop.tq.push("/build"), await shop.tq.push("/build")
        async with consuming(any_server.url, replayer):
            await shop.reached(first, "completed")
            await shop.reached(second, "completed")
        storage, sweeper = shop.tq.storage, Sweeper(shop.tq.storage, shop.tq.broker)
        with storage.open(first, "report.csv") as saved:
            assert saved.read() == b"a,b"
        assert await sweeper.sweep() == 0
        any_server.client().hdel("taskqueue:{default}:state", first)
        any_server.client().zrem("taskqueue:{default}:finished", first)
        assert await sweeper.sweep() == 1
        assert (storage.names(first), storage.names(second)) == ([], ["report.csv"])
        at_once = Retention(rules=retention_rules(["completed=0s"]), forgotten=storage.remove)
        async with consuming(any_server.url, replayer, retention=at_once):
            await until(lambda: _none(storage, second), "the file has gone with its task")
        assert await shop.tq.get(second) is None


async def _none(storage: Storage, task_id: str) -> bool:
    return not storage.names(task_id)


async def test_an_answer_that_is_a_report_is_kept_too(shop: Shop, replayer: Replayer, any_server: RedisServer) -> None:
    """Here the consumer reads it, and it is kept although the door had nothing to keep."""
    report = taskqueue.Report("warning", "half of it", {"rows": 2})
    app = web.Application()

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=report.encode(), content_type="application/vnd.taskqueue.report+json")

    app.router.add_route("*", "/{path:.*}", answer)
    aiohttp_door.setup(app, shop.tq)
    async with serving_aiohttp(app) as base, consuming(any_server.url, HttpReplayer(base, KEYRING)):
        task_id = await shop.tq.push("/build")
        await shop.reached(task_id, "completed")
    assert (await said_by(shop, task_id)).report == report
