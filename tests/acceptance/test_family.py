"""Tasks that belong together, from end to end: children, what follows from an end, and an end that somebody forces."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

import taskqueue
from taskqueue.acting import Actor
from taskqueue.admin import Admin
from taskqueue.errors import InvalidTask
from taskqueue.events import Events
from taskqueue.hooks import Event
from taskqueue.replay import Replayer
from taskqueue.signs import EndedTask, Ending
from tests.servers import RedisServer
from tests.shop import Arrived, Reply, Shop, consuming, open_shop, reached
from tests.waiting import until

WAYS = ("asgi over http", "aiohttp in process")


@pytest.fixture(params=WAYS)
async def opened(request: pytest.FixtureRequest, any_server: RedisServer) -> AsyncIterator[tuple[Shop, Replayer]]:
    async with open_shop(request.param, any_server.url) as both:
        yield both


def family(shop: Shop, **children: int) -> dict[str, str]:
    """Let ``/parent`` add these children, each of which answers with its status; return where their ids will be."""
    ids: dict[str, str] = {}

    async def parent(_: Arrived) -> None:
        ids.update({name: taskqueue.add(f"/{name}", child=True) for name in children})

    def answering(status: int) -> Any:
        async def child(_: Arrived) -> Reply:
            return status, {}

        return child

    shop.views["/parent"] = parent
    for name, status in children.items():
        shop.views[f"/{name}"] = answering(status)
    return ids


@pytest.mark.accept("TA26")
async def test_a_parent_ends_after_its_last_child(shop: Shop, replayer: Replayer, any_server: RedisServer) -> None:
    released = asyncio.Event()
    ids = family(shop, one=200, two=200)

    async def slow(_: Arrived) -> None:
        await released.wait()

    shop.views["/two"] = slow
    parent = await shop.tq.push("/parent")
    async with consuming(any_server.url, replayer, concurrent_limit=5):
        waiting = await shop.reached(parent, "waiting")
        await shop.reached(ids["one"], "completed")
        assert waiting.parent == ""
        child = await shop.reached(ids["two"], "running")
        assert child.parent == parent
        released.set()
        await shop.reached(parent, "completed")


@pytest.mark.accept("TA26")
async def test_any_failed_child_fails_its_parent(shop: Shop, replayer: Replayer, any_server: RedisServer) -> None:
    ids = family(shop, fine=200, bad=404)
    parent = await shop.tq.push("/parent", method="POST", on_failure="/failed", on_success="/succeeded")
    async with consuming(any_server.url, replayer):
        failed = await shop.reached(parent, "failed")
        assert failed.reason == "children"
        await shop.reached(ids["bad"], "failed")
        await shop.finished(1)
    ((target, body),) = shop.done
    assert target == "/failed"
    assert json.loads(body) == {
        "task": parent,
        "queue": "default",
        "method": "POST",
        "path": "/parent",
        "label": "",
        "state": "failed",
        "status": 200,
        "reason": "children",
    }


@pytest.mark.accept("TA27")
async def test_a_master_keeps_its_own_status(shop: Shop, replayer: Replayer, any_server: RedisServer) -> None:
    ids = family(shop, bad=404)
    parent = await shop.tq.push("/parent", master_status=True)
    async with consuming(any_server.url, replayer):
        await shop.reached(parent, "completed")
        await shop.reached(ids["bad"], "failed")
        assert (await shop.reached(parent, "completed")).spoilt == 1


async def test_a_child_is_in_its_parents_queue(shop: Shop, replayer: Replayer, any_server: RedisServer) -> None:
    told: list[str] = []

    async def parent(_: Arrived) -> None:
        with pytest.raises(InvalidTask) as raised:
            taskqueue.add("/x", queue="mail", child=True)
        told.append(str(raised.value))

    shop.views["/parent"] = parent
    await shop.tq.push("/parent")
    with pytest.raises(InvalidTask, match="only a running task can have one"):
        await shop.tq.push("/x", child=True)
    async with consuming(any_server.url, replayer):
        await until(lambda: _value(bool(told)), "the parent ran")
    assert told == ["child: its queue must be its parent's, 'default', not 'mail'; leave queue= out"]


async def _value(value: bool) -> bool:  # noqa: FBT001  a condition
    return value


async def test_what_follows_is_a_task_of_the_same_user(shop: Shop, replayer: Replayer, any_server: RedisServer) -> None:
    ids: list[str] = []
    await shop.order(
        lambda: ids.append(
            taskqueue.add("/work", label="w", on_success="/done?n=1", on_failure="/failed", payload=None, method="POST")
        ),
        headers={"Cookie": "user=ada"},
    )
    async with consuming(any_server.url, replayer):
        await shop.finished(2)
    first, second = shop.arrived
    assert (first.target, second.target, second.method) == ("/work", "/done?n=1", "POST")
    assert second.task is not None
    assert second.task.user_id == "ada"
    assert second.headers["content-type"] == "application/json"
    body = json.loads(shop.done[1][1])
    assert (body["task"], body["state"], body["status"], body["label"]) == (ids[0], "completed", 200, "w")
    assert second.task.id != ids[0]


async def test_a_failure_is_followed_once_and_only_when_it_is_final(
    shop: Shop, replayer: Replayer, any_server: RedisServer
) -> None:
    async def breaks(_: Arrived) -> Reply:
        return 500, {}

    shop.views["/work"] = breaks
    task_id = await shop.tq.push("/work", retry_max_count=2, on_failure="/failed")
    async with consuming(any_server.url, replayer):
        await shop.reached(task_id, "failed")
        await shop.finished(1)
        await until(lambda: _empty(shop), "nothing waits")
    assert [target for target, _ in shop.done] == ["/failed"]
    assert json.loads(shop.done[0][1])["reason"] == "exhausted"


async def _empty(shop: Shop) -> bool:
    return await shop.tq.size() == 0


@pytest.mark.accept("TA22")
async def test_a_forced_end_reaches_a_running_task_and_is_not_overwritten(
    shop: Shop, replayer: Replayer, any_server: RedisServer
) -> None:
    over = asyncio.Event()  # over HTTP the application may go on with what nobody waits for any more

    async def long(_: Arrived) -> None:
        await over.wait()

    shop.views["/long"] = long
    task_id = await shop.tq.push("/long")
    events: list[Event] = []
    async with consuming(any_server.url, replayer):
        running = await shop.reached(task_id, "running")
        actor = Actor(Admin(shop.tq.broker, ["default"]), "ada@desk", on_event=events.append)
        refused = await actor.withdraw([running], "cancelled", force=False)
        assert (refused.done, refused.refused) == ([], {task_id: "running"})
        tally = await actor.withdraw([running], "cancelled", force=True)
        assert (tally.done, tally.marked) == ([], [task_id])
        await shop.reached(task_id, "cancelled")
        after = await shop.tq.push("/after")
        await shop.reached(after, "completed")
    over.set()
    assert [(event.what, event.id, event.actor, event.forced) for event in events] == [
        ("cancelled", task_id, "ada@desk", True)
    ]
    log = await shop.tq.broker.inspector.log("default", task_id, deadline=1e12)
    assert [(act.what, act.actor) for act in log.acts] == [("marked", "ada@desk")]
    assert [(end.verdict, end.consumer) for end in log.ended] == [("cancelled", "one")]


@pytest.mark.accept("TA25")
async def test_listeners_hear_what_is_done_to_a_task_and_whether_it_was_forced(any_server: RedisServer) -> None:
    tq = taskqueue.TaskQueue(any_server.url, secret="x" * 24 + "0123456789abcdef")
    task_id = await tq.push("/work", label="nightly", delay=3600)
    task = await reached(tq, task_id, "scheduled")
    heard: list[Event] = []
    actor = Actor(Admin(tq.broker, ["default"]), "ada@desk", on_event=heard.append)
    assert (await actor.withdraw([task], "cancelled", force=False)).done == [task_id]
    assert (await actor.withdraw([task], "archived", force=True)).done == [task_id]
    assert [(event.what, event.forced, event.path, event.label) for event in heard] == [
        ("cancelled", False, "/work", "nightly"),
        ("archived", True, "/work", "nightly"),
    ]
    await tq.aclose()


async def test_listeners_hear_of_those_tasks_only_to_which_something_was_done(any_server: RedisServer) -> None:
    tq = taskqueue.TaskQueue(any_server.url, secret="x" * 24 + "0123456789abcdef")
    ids = [await tq.push("/work", delay=3600), await tq.push("/work", delay=3600)]
    first, second = [await reached(tq, task_id, "scheduled") for task_id in ids]
    heard: list[Event] = []
    actor = Actor(Admin(tq.broker, ["default"]), "ada@desk", on_event=heard.append)
    await actor.withdraw([first], "cancelled", force=False)
    cancelled = await reached(tq, first.id, "cancelled")
    assert await actor.hasten([cancelled, second]) == 1
    queued = await reached(tq, second.id, "queued")
    assert await actor.restart([queued]) == 0
    assert await actor.retry([cancelled, queued], None) == 1
    assert [(event.what, event.id) for event in heard] == [
        ("cancelled", first.id),
        ("hastened", second.id),
        ("retried", first.id),
    ]
    await tq.aclose()


async def test_a_listener_hears_every_end_in_order_also_at_a_stop(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[tuple[str, str, str]] = []

    async def listener(event: Event) -> None:
        await asyncio.sleep(0)
        heard.append((event.id, event.what, event.actor))
        if event.id == "b":
            raise ValueError("the listener is down")

    events = Events(listener, consumer="one")
    job = asyncio.create_task(events.watch())
    for name, kind in (("a", "complete"), ("b", "retry"), ("c", "fail"), ("d", "release")):
        task = EndedTask(name, "GET", "/x", "", "", 200, 1)
        events.ended(Ending("default", kind, "", first=True, waited=None, ran=None, task=task))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert [(name, what) for name, what, _ in heard] == [
        ("a", "completed"),
        ("b", "retry"),
        ("c", "failed"),
        ("d", "released"),
    ]
    assert "on_event raised for task b (retry)" in caplog.text


async def test_a_stop_does_not_wait_for_a_listener_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("taskqueue.events.PATIENCE", 0.0)
    heard: list[str] = []
    events = Events(lambda event: heard.append(event.id), consumer="one")
    for name in ("a", "b", "c"):
        task = EndedTask(name, "GET", "/x", "", "", 200, 1)
        events.ended(Ending("default", "complete", "", first=True, waited=None, ran=None, task=task))
    job = asyncio.create_task(events.watch())
    await asyncio.sleep(0)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert heard == ["a"]
    assert "on_event: 2 event(s) were left out" in caplog.text
