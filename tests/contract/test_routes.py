"""Rules kept in the broker: who adds follows them at commit, and everybody knows the queues that they name."""

import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import taskqueue
from taskqueue import routing
from taskqueue.assembly import narrowed
from taskqueue.errors import BrokerUnavailable, ConfigError, UnknownQueue, UsageError
from taskqueue.routes import Route
from taskqueue.seal import unseal
from taskqueue.task import Chosen, Task, TaskState
from taskqueue.transaction import Transaction, bound
from taskqueue.unserved import Unserved
from tests.doors import KINDS, Reply, View, fetch, serving
from tests.servers import free_port
from tests.stores import Inspectable, LocalStore
from tests.tasks import KEYRING, SECRET

SLOW = Route("/reports/*", "slow", "export")


def soon() -> float:
    return time.monotonic() + 10


def queue_at(url: str, **options: Any) -> taskqueue.TaskQueue:
    return taskqueue.TaskQueue(url, secret=SECRET, queues=["default", "mail"], namespace="taskqueue", **options)


@pytest.fixture
async def tq(store: Inspectable) -> AsyncIterator[taskqueue.TaskQueue]:
    tq = queue_at(store.url, commit_deadline=10)
    yield tq
    await tq.aclose()


async def keep(tq: taskqueue.TaskQueue, *rules: Route) -> None:
    for rule in rules:
        await tq.broker.route(rule.path, rule.pack(), deadline=soon())


async def stored(tq: taskqueue.TaskQueue, task_id: str) -> Task:
    """Return a task as the queue that holds it has it."""
    found = await tq.get(task_id)
    assert found is not None
    record = await tq.broker.inspector.record(found.queue, task_id, deadline=soon())
    assert record is not None
    return unseal(KEYRING, queue=found.queue, task_id=task_id, record=record)


async def test_the_broker_keeps_one_rule_for_a_pattern(tq: taskqueue.TaskQueue) -> None:
    broker = tq.broker
    assert await broker.routes(deadline=soon()) == {}
    await keep(tq, SLOW, Route("/v\xe9lo", "mail"), Route(SLOW.path, "other"))
    assert await broker.routes(deadline=soon()) == {
        SLOW.path: Route(SLOW.path, "other").pack(),
        "/v\xe9lo": Route("/v\xe9lo", "mail").pack(),
    }
    await broker.route(SLOW.path, None, deadline=soon())
    await broker.route(SLOW.path, None, deadline=soon())
    assert list(await broker.routes(deadline=soon())) == ["/v\xe9lo"]


@pytest.mark.accept("TA08", "MY16")
async def test_a_rule_in_the_broker_chooses_what_neither_add_nor_the_view_has_chosen(
    tq: taskqueue.TaskQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taskqueue.toml").write_text(
        "[[route]]\npath = '/reports/*'\nqueue = 'filed'\n[[route]]\npath = '/filed'\nqueue = 'filed'\n"
    )
    tq.defaults("/reports/viewed", queue="mail")
    await keep(tq, SLOW, Route("/*", category="other"))
    async with tq.transaction():
        paths = ("/reports/1", "/reports/viewed", "/filed", "/other")
        ids = [tq.add(path) for path in paths] + [tq.add("/reports/2", queue="mail")]
    found = [await stored(tq, task_id) for task_id in ids]
    assert [task.queue for task in found] == ["slow", "mail", "filed", "default", "mail"]

    tasks = await tq.routed(await captured(tq, *paths), deadline=soon())
    assert [(task.route, str(task.chosen)) for task in tasks] == [
        ("/reports/*", "a rule in the broker"),
        ("/reports/viewed", "the view's defaults"),
        ("/filed", "a rule in the file"),
        ("/*", "no rule: the default queue"),
    ]


async def captured(tq: taskqueue.TaskQueue, *paths: str) -> list[Task]:
    with taskqueue.capture() as tasks:
        for path in paths:
            await tq.push(path)
    return tasks


@pytest.mark.accept("TA09")
async def test_a_queue_that_only_a_rule_names_is_one_like_the_others(tq: taskqueue.TaskQueue) -> None:
    await keep(tq, SLOW)
    task_id = await tq.push("/reports/1")
    state = await tq.get(task_id)
    assert state is not None
    assert (state.queue, await tq.size("slow"), await tq.size()) == ("slow", 1, 0)
    # What was read stands: by now the name may be given too.
    await tq.push("/other", queue="slow")
    assert await tq.size("slow") == 2
    assert narrowed(tq, ["slow"], where="--queue") == ["slow"]
    assert narrowed(tq, None, where="--queue") == ("default", "mail", "slow")
    await tq.reset("slow")
    assert await tq.size("slow") == 0
    with pytest.raises(UnknownQueue, match="'slwo' is not one of default, mail, slow"):
        await tq.size("slwo")
    with pytest.raises(UsageError, match="'slwo' is none of the application's queues: default, mail, slow"):
        narrowed(tq, ["slwo"], where="--queue")


async def test_a_rule_never_chooses_the_default_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taskqueue.toml").write_text("[[route]]\npath = '/a'\nqueue = 'alpha'\n")
    tq = taskqueue.TaskQueue("local://", queues=["mail"])
    assert [task.queue for task in await captured(tq, "/a", "/b")] == ["alpha", "mail"]


async def test_what_was_voted_is_in_the_queue_of_the_rule(tq: taskqueue.TaskQueue) -> None:
    await keep(tq, SLOW)
    transaction = Transaction(tq)
    with bound(transaction):
        task_id = tq.add("/reports/1")
    await transaction.vote()
    state = await tq.get(task_id)
    assert state is not None
    assert (state.queue, state.state) == ("slow", "prepared")
    await transaction.finish()
    assert (await stored(tq, task_id)).target == "/reports/1"


class Reading:
    """Counts how often the rules are read."""

    def __init__(self, tq: taskqueue.TaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self._read = 0, tq.broker.routes
        monkeypatch.setattr(tq.broker, "routes", self.routes)

    async def routes(self, *, deadline: float) -> Any:
        self.count += 1
        return await self._read(deadline=deadline)


async def test_they_are_read_again_once_they_are_10_s_old(
    tq: taskqueue.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = Reading(tq, monkeypatch)
    for _ in range(3):
        await tq.push("/reports/1")
    assert reading.count == 1
    await keep(tq, SLOW)
    await tq.push("/reports/1")
    assert (await tq.size(), reading.count) == (4, 1)
    tq._read_at -= routing.MAX_AGE + 1
    await tq.push("/reports/1")
    assert (await tq.size("slow"), reading.count) == (1, 2)


async def test_a_capture_asks_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    tq = queue_at(f"redis://127.0.0.1:{free_port()}/0")
    with taskqueue.capture() as tasks:
        await tq.push("/reports/1")
    assert [(task.queue, task.chosen) for task in tasks] == [("default", Chosen.DEFAULT)]


async def test_without_the_rules_nothing_is_committed() -> None:
    """Neither a wrong queue nor a doubt: nothing was to be changed yet."""
    tq = queue_at(f"redis://127.0.0.1:{free_port()}/0", commit_deadline=0.2)
    transaction = Transaction(tq)
    with bound(transaction):
        tq.add("/reports/1")
    with pytest.raises(BrokerUnavailable):
        await transaction.commit()
    assert transaction.state == "aborted"


async def test_an_outbox_goes_by_what_was_read_last(
    place: Inspectable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tq = queue_at(place.url)
    await keep(tq, SLOW)
    tasks = await captured(tq, "/reports/1")
    assert [task.queue for task in await tq.routed_without(tasks)] == ["slow"]
    tq._read_at -= routing.MAX_AGE + 1

    async def away(*, deadline: float) -> Any:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(tq.broker, "routes", away)
    assert [task.queue for task in await tq.routed_without(tasks)] == ["slow"]
    assert "the rules in the broker count as they were read last: away" in caplog.text
    assert not tq.routes_outdated, "the next one is not kept waiting"
    assert [task.queue for task in tq.routed_without_sync(tasks)] == ["slow"]
    await tq.aclose()


async def test_what_cannot_be_read_is_told_and_counts_for_nothing(
    tq: taskqueue.TaskQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    routing._warn.cache_clear()
    await tq.broker.route("/reports/*", b"?", deadline=soon())
    await keep(tq, Route("/mail", "mail"))
    assert [task.queue for task in await tq.routed(await captured(tq, "/reports/1", "/mail"), deadline=soon())] == [
        "default",
        "mail",
    ]
    assert "a rule of taskqueue route is not followed: /reports/*: the rule kept for it is not readable" in caplog.text

    async def forbidden(*, deadline: float) -> Any:
        raise ConfigError("the URL's user lacks a right")

    tq._read_at = float("-inf")
    monkeypatch.setattr(tq.broker, "routes", forbidden)
    await tq.push("/mail")
    assert await tq.size() == 1
    assert "the rules of taskqueue route are not followed: the URL's user lacks a right" in caplog.text


async def test_a_kind_of_work_is_known_by_path(tq: taskqueue.TaskQueue) -> None:
    tq.defaults("/items/{id}/export", category="export", hidden=True)
    await keep(tq, Route("/items/*", category="update"))
    await tq.all_queues()
    assert [tq.category_of(path) for path in ("/items/1/export", "/items/1", "/a")] == ["export", "update", "unknown"]
    assert [tq.is_hidden(path) for path in ("/items/{id}/export", "/items/1")] == [True, False]


async def test_in_sync_mode_the_queue_of_a_rule_is_served_at_once() -> None:
    tq = taskqueue.TaskQueue(f"{LocalStore().url}?mode=sync", queues=["default"], namespace="taskqueue")
    ended: list[TaskState | None] = []

    async def order(_view: View) -> Reply:
        await keep(tq, SLOW)
        ended.append(await tq.get(await tq.push("/reports/1", payload=None)))
        return Reply()

    async def report(_view: View) -> Reply:
        return Reply()

    async with serving(KINDS[0], {"/order": order, "/reports/1": report}, tq) as base:
        assert (await fetch("POST", f"{base}/order")).status == 200
    assert [(state.queue, state.state) for state in ended if state] == [("slow", "completed")]


async def test_a_consumer_tells_of_a_queue_that_it_does_not_serve(
    tq: taskqueue.TaskQueue, caplog: pytest.LogCaptureFixture
) -> None:
    unserved = Unserved(tq.broker, ["default", "mail"])
    await keep(tq, Route("/mail", "mail"))
    await unserved.look()
    assert caplog.text == ""
    await keep(tq, SLOW)
    await unserved.look()
    await unserved.look()
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "queue slow: route /reports/* leads there since this consumer has started, which does not serve it"
    ]
