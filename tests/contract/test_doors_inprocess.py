"""A consumer in the application's own process and the door: each is what the other takes it for."""

from typing import Any

import pytest

import taskqueue
from taskqueue.inprocess import AiohttpReplayer, AsgiReplayer, WsgiReplayer
from taskqueue.middleware import aiohttp as aiohttp_door
from taskqueue.policy import Answered, Outcome
from taskqueue.replay import Delivery, Replayer
from taskqueue.reporting import MEDIA_TYPE
from tests.doors import (
    DJANGO_KINDS,
    KINDS,
    WSGI_KINDS,
    Consumer,
    Handlers,
    Reply,
    View,
    aiohttp_app,
    behind_asgi_door,
    delivery_of,
)
from tests.doors_django import Project
from tests.doors_wsgi import behind_door
from tests.tasks import KEYRING

pytestmark = pytest.mark.parametrize("kind", KINDS)


def in_process(kind: str, handlers: Handlers, tq: taskqueue.TaskQueue) -> Replayer:
    """Return a replayer for these handlers in this framework behind its door."""
    if kind == "aiohttp":
        app = aiohttp_app(handlers)
        aiohttp_door.setup(app, tq, load_user=str.upper)
        return AiohttpReplayer(app, KEYRING)
    if kind in DJANGO_KINDS:
        return Project(kind, handlers, tq, load_user=str.upper)
    if kind in WSGI_KINDS:
        called: Any = behind_door(kind, handlers, tq, load_user=str.upper)
        return WsgiReplayer(called, threads=2)
    return AsgiReplayer(behind_asgi_door(kind, handlers, tq, load_user=str.upper))


async def deliveries(tq: taskqueue.TaskQueue, target: str) -> Delivery:
    """Queue a task and return its delivery."""
    await tq.push(target, method="POST", payload=b"body", user_id="ada")
    ((reservation, task),) = await Consumer(tq).reserve()
    return delivery_of(reservation, task)


async def replayed(replayer: Replayer, *made: Delivery) -> list[Outcome]:
    """Return what comes of these deliveries."""
    async with replayer:
        return [await replayer.replay(delivery) for delivery in made]


async def test_a_task_runs_once_as_its_user_and_adds_another(kind: str, tq: taskqueue.TaskQueue) -> None:
    seen: list[object] = []

    async def build(view: View) -> Reply:
        seen.append((view.user, await view.body()))
        taskqueue.add("/next", method="POST")
        return Reply()

    delivery = await deliveries(tq, "/build")
    first, again = await replayed(in_process(kind, {"/build": build}, tq), delivery, delivery)
    assert isinstance(first, Answered)
    assert isinstance(again, Answered)
    assert (first.status, first.receipted, first.logged_in) == (200, True, True)
    assert (again.status, again.receipted, again.refused) == (403, False, "replayed")
    assert seen == [("ADA", b"body")]
    (task,) = (task for task in await Consumer(tq).tasks() if task.id != delivery.task.id)
    assert (task.path, task.body, task.user_id) == ("/next", b"body", "ada")


async def test_a_task_that_fails_is_a_500_with_receipt(kind: str, tq: taskqueue.TaskQueue) -> None:
    async def build(_view: View) -> Reply:
        taskqueue.add("/next")
        raise RuntimeError("on purpose")

    delivery = await deliveries(tq, "/build")
    (outcome,) = await replayed(in_process(kind, {"/build": build}, tq), delivery)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted) == (500, True)
    assert await tq.size() == 0


async def test_what_a_task_reports_is_told_by_the_handover(kind: str, tq: taskqueue.TaskQueue) -> None:
    answer = taskqueue.Report("info", "in the answer")

    async def build(_view: View) -> Reply:
        taskqueue.report("warning", "in the view")
        return Reply(text=answer.encode().decode(), headers={"Content-Type": MEDIA_TYPE})

    delivery = await deliveries(tq, "/build")
    (outcome,) = await replayed(in_process(kind, {"/build": build}, tq), delivery)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted, outcome.reported, outcome.report) == (200, True, "warning", answer)
