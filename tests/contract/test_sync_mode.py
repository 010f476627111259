"""Mode ``sync`` of a local store: behind every door, a commit returns when its tasks have been replayed."""

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Any, Final

import fastapi
import pytest
from transaction import TransactionManager

import taskqueue
from taskqueue import syncmode
from taskqueue.errors import ConfigError
from taskqueue.middleware import transaction as package
from taskqueue.middleware.asgi import TaskQueueMiddleware
from taskqueue.task import TaskState
from tests.doors import KINDS, Handlers, Reply, View, fetch, serving, serving_asgi
from tests.stores import LocalStore

pytestmark = pytest.mark.accept("TA01")

of_request: Final[contextvars.ContextVar[str]] = contextvars.ContextVar("of_request", default="")


@pytest.fixture
def tq() -> taskqueue.TaskQueue:
    return sync_queue()


def sync_queue(**options: Any) -> taskqueue.TaskQueue:
    url = f"{LocalStore().url}?mode=sync"
    return taskqueue.TaskQueue(url, queues=["default", "mail"], public_url="https://example.org", **options)


def told(state: TaskState | None) -> str:
    """Return how a task has ended so far."""
    assert state is not None
    return f"{state.state} {state.status} {state.attempt}"


class Ledger:
    """Handlers that write down what ran, and as what."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def view(self, name: str, *, reply: Reply | None = None) -> Callable[[View], Any]:
        async def handler(view: View) -> Reply:
            task = taskqueue.current_task()
            assert task is not None
            self.ran.append(f"{name}{view.query} {task.attempt} {of_request.get()}".rstrip())
            return reply or Reply()

        return handler


@pytest.mark.parametrize("kind", KINDS)
class TestEveryDoor:
    async def test_the_report_is_readable_right_after_the_push(self, kind: str, tq: taskqueue.TaskQueue) -> None:
        ledger = Ledger()

        async def order(_view: View) -> Reply:
            of_request.set("of the request")
            outcomes = []
            for path in ("/report", "/missing", "/fails"):
                task_id = await tq.push(path, payload=None)
                outcomes.append(told(await tq.get(task_id)))
            return Reply(text=", ".join(outcomes))

        handlers = {
            "/order": order,
            "/report": ledger.view("report"),
            "/missing": ledger.view("missing", reply=Reply(404)),
            "/fails": ledger.view("fails", reply=Reply(503, headers={"Retry-After": "60"})),
        }
        async with serving(kind, handlers, tq) as base:
            response = await fetch("POST", f"{base}/order")
        assert response.text == "completed 200 1, failed 404 1, scheduled 503 1"
        assert ledger.ran == ["report 1", "missing 1", "fails 1"]

    async def test_a_request_is_answered_when_its_tasks_and_theirs_have_run(
        self, kind: str, tq: taskqueue.TaskQueue
    ) -> None:
        ledger, ids = Ledger(), list[str]()

        async def order(_view: View) -> Reply:
            ids.extend(taskqueue.add(f"/build?{number}", payload=None) for number in range(3))
            assert ledger.ran == []
            return Reply()

        async def build(view: View) -> Reply:
            await ledger.view("build")(view)
            taskqueue.add(f"/mail?{view.query}", payload=None)
            return Reply()

        async with serving(kind, {"/order": order, "/build": build, "/mail": ledger.view("mail")}, tq) as base:
            assert (await fetch("POST", f"{base}/order")).status == 200
            assert ledger.ran == [f"{name}{number} 1" for number in range(3) for name in ("build", "mail")]
            assert [told(await tq.get(task_id)) for task_id in ids] == ["completed 200 1"] * 3

    async def test_a_task_that_adds_itself_comes_to_an_end(
        self, kind: str, tq: taskqueue.TaskQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(syncmode, "DEEPEST", 3)
        ledger = Ledger()

        async def again(view: View) -> Reply:
            if taskqueue.current_task() is not None:
                await ledger.view("again")(view)
            taskqueue.add("/again", payload=None)
            return Reply()

        async with serving(kind, {"/again": again}, tq) as base:
            assert (await fetch("POST", f"{base}/again")).status == 200
            assert ledger.ran == ["again 1"] * 3
            assert await tq.size() == 1
        (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "1 task(s) are not replayed now" in error.getMessage()
        assert "added 3 deep" in error.getMessage()
