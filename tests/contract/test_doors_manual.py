"""Deliveries made by hand: a door lets them in only where it was told to, each once, and the queue sees nothing."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

import pytest

import taskqueue
from taskqueue.replay import Delivery, signed_headers
from taskqueue.task import Task
from tests.deliveries import OTHER
from tests.doors import KINDS, Consumer, Reply, View, fetch, serving
from tests.mutations import WireRequest
from tests.tasks import KEYRING, sealed, task
from tests.wire import captured, send

in_every_framework: Final = pytest.mark.parametrize("kind", KINDS)


class Seen:
    """What a view was told, which adds a task of its own each time."""

    def __init__(self) -> None:
        self.tasks: list[taskqueue.CurrentTask | None] = []

    async def handler(self, view: View) -> Reply:
        await view.body()
        self.tasks.append(taskqueue.current_task())
        taskqueue.add("/added", queue="mail", payload=None)
        return Reply(text="done")


def by_hand(base: str, made: Task, *, manual: bool = True) -> WireRequest:
    """Return this task's request as ``taskqueue curl`` signs it."""
    delivery = Delivery(task=made, delivery=0, attempt=3, max_attempts=11, timeout=60)
    headers = signed_headers(delivery, urlsplit(base).netloc, KEYRING.current, manual=manual)
    return WireRequest(made.method, made.target, tuple(headers), made.body)


@pytest.fixture
async def made(tq: taskqueue.TaskQueue) -> Task:
    """A task that waits in the queue."""
    waits = task("/build?year=2026", "POST", body=b"n=1", headers=(("content-type", "text/plain"),), user_id="ada")
    await tq.broker.push("default", [sealed(waits)], deadline=time.monotonic() + 10)
    return waits


@in_every_framework
async def test_where_it_is_allowed_it_runs_once_and_the_task_does_not_change(
    kind: str, tq: taskqueue.TaskQueue, made: Task
) -> None:
    seen = Seen()
    before = await tq.get(made.id)
    async with serving(kind, {"/build": seen.handler}, tq, allow_manual=True) as base:
        request = by_hand(base, made)
        answers = [await send(base, request) for _ in range(2)]
    assert [(answer.status, answer.headers.get("x-task-refused")) for answer in answers] == [
        (200, None),
        (403, "replayed"),
    ]
    (current,) = seen.tasks
    assert current is not None
    assert (current.manual, current.id, current.user_id, current.delivery) == (True, made.id, "ada", 0)
    assert (current.attempt, current.max_attempts) == (3, 11)
    assert await tq.get(made.id) == before
    assert await tq.size("mail") == 1


@in_every_framework
async def test_elsewhere_it_is_refused(kind: str, tq: taskqueue.TaskQueue, made: Task) -> None:
    seen = Seen()
    async with serving(kind, {"/build": seen.handler}, tq) as base:
        answer = await send(base, by_hand(base, made))
    assert (answer.status, answer.headers["x-task-refused"]) == (403, "manual")
    assert "x-task-receipt" not in answer.headers
    assert seen.tasks == []


async def test_a_delivery_of_the_queue_says_that_it_is_none(tq: taskqueue.TaskQueue, made: Task) -> None:
    seen = Seen()
    async with serving("asgi", {"/build": seen.handler}, tq, allow_manual=True) as base:
        await Consumer(tq).replay(base)
    (current,) = seen.tasks
    assert current is not None
    assert (current.manual, current.delivery) == (False, 1)


async def test_a_captured_delivery_of_the_queue_is_begun_as_ever(tq: taskqueue.TaskQueue, made: Task) -> None:
    seen = Seen()
    async with serving("asgi", {"/build": seen.handler}, tq, allow_manual=True) as base:
        request = await captured(tq, base)
        statuses = [(await send(base, request)).status for _ in range(2)]
    state = await tq.get(made.id)
    assert (statuses, state is not None and state.state) == ([200, 403], "running")


def changed(name: str, change: Callable[[str], str]) -> Callable[[WireRequest], WireRequest]:
    def of(request: WireRequest) -> WireRequest:
        pairs = [(sent, change(value) if sent.lower() == name else value) for sent, value in request.headers]
        assert tuple(pairs) != request.headers
        return replace(request, headers=tuple(pairs))

    return of


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda request: replace(request, body=b"n=2"), "signature"),
        (lambda request: replace(request, target="/build?year=2027"), "signature"),
        (changed("x-task-user-id", lambda _: "eve"), "signature"),
        (changed("x-task-delivery", lambda _: "1"), "signature"),
        (changed("signature-input", lambda value: value.replace("-manual", "")), "signature"),
        (changed("signature-input", lambda value: value.replace("-manual", "-manuals")), "signature"),
        (changed("signature", lambda value: value[:10] + ("A" if value[10] != "A" else "B") + value[11:]), "signature"),
        (changed("signature-input", lambda v: v.replace(KEYRING.current.key_id, OTHER.current.key_id)), "key"),
    ],
)
async def test_what_was_altered_is_refused(
    tq: taskqueue.TaskQueue, made: Task, alter: Callable[[WireRequest], WireRequest], reason: str
) -> None:
    seen = Seen()
    async with serving("asgi", {"/build": seen.handler}, tq, allow_manual=True) as base:
        answer = await send(base, alter(by_hand(base, made)))
    assert (answer.status, answer.headers["x-task-refused"], seen.tasks) == (403, reason, [])


async def test_only_who_knows_the_secret_learns_that_it_would_be_by_hand(tq: taskqueue.TaskQueue, made: Task) -> None:
    async with serving("asgi", {}, tq) as base:
        forged = changed("x-task-user-id", lambda _: "eve")(by_hand(base, made))
        assert (await send(base, forged)).headers["x-task-refused"] == "signature"


async def test_a_delivery_of_the_queue_cannot_be_made_one_by_hand(tq: taskqueue.TaskQueue, made: Task) -> None:
    """It would run again and again, past begin."""
    seen = Seen()
    to_manual = changed("signature-input", lambda value: value.replace('tag="taskqueue"', 'tag="taskqueue-manual"'))
    async with serving("asgi", {"/build": seen.handler}, tq, allow_manual=True) as base:
        answer = await send(base, to_manual(by_hand(base, made, manual=False)))
    assert (answer.status, answer.headers["x-task-refused"], seen.tasks) == (403, "signature", [])


async def test_what_is_old_is_refused(tq: taskqueue.TaskQueue, made: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen()
    async with serving("asgi", {"/build": seen.handler}, tq, allow_manual=True) as base:
        with monkeypatch.context() as patched:
            now = time.time()
            patched.setattr("taskqueue.replay.time.time", lambda: now - 62)
            request = by_hand(base, made)
        answer = await send(base, request)
    assert (answer.status, answer.headers["x-task-refused"], seen.tasks) == (403, "skew", [])


async def test_the_tag_alone_is_a_claim(tq: taskqueue.TaskQueue) -> None:
    seen = Seen()
    async with serving("asgi", {"/build": seen.handler}, tq, allow_manual=True) as base:
        headers = {"Signature-Input": 'sig1=("@method");tag="taskqueue-manual"', "Signature": "sig1=:AA==:"}
        answer = await fetch("POST", base + "/build", headers=headers)
    assert (answer.status, seen.tasks) == (403, [])
