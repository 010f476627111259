"""Mode ``sync`` of a local store: behind every door, a commit returns when its tasks have been replayed."""

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from aiohttp import web
from django.db import transaction as database
from django.http import HttpRequest, HttpResponse
from django.urls import path
from fastapi import FastAPI
from transaction import TransactionManager

import taskqueue
from taskqueue import syncmode
from taskqueue.assembly import server_for
from taskqueue.brokers.local_store import here
from taskqueue.errors import CommitUncertain, ConfigError
from taskqueue.hooks import FailedTask
from taskqueue.inprocess import AsgiReplayer
from taskqueue.middleware import aiohttp as aiohttp_door
from taskqueue.middleware import transaction as package
from taskqueue.middleware import wsgi
from taskqueue.middleware.asgi import TaskQueueMiddleware
from taskqueue.settings import load
from taskqueue.task import TaskState
from taskqueue.transaction import bound
from tests import doors_django
from tests.doors import (
    DJANGO_KINDS,
    KINDS,
    Handlers,
    Reply,
    View,
    adding,
    bare_app,
    fetch,
    serving,
    serving_aiohttp,
    serving_asgi,
)
from tests.stores import NAMESPACE, LocalStore

pytestmark = pytest.mark.accept("TA01")

of_request: Final[contextvars.ContextVar[str]] = contextvars.ContextVar("of_request", default="")


@pytest.fixture
def store() -> LocalStore:
    return LocalStore()


@pytest.fixture
def tq(store: LocalStore) -> taskqueue.TaskQueue:
    return taskqueue.TaskQueue(f"{store.url}?mode=sync", queues=["default", "mail"], public_url="https://example.org")


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
            for target in ("/report", "/missing", "/fails"):
                task_id = await tq.push(target, payload=None)
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


@pytest.fixture
def tables() -> Iterator[None]:
    with doors_django.database():
        yield


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in DJANGO_KINDS])
async def test_of_two_applications_of_one_queue_each_replays_its_own(kind: str, tq: taskqueue.TaskQueue) -> None:
    one, two = Ledger(), Ledger()
    order = adding("/report", payload=None)
    async with (
        serving(kind, {"/order": order, "/report": one.view("report")}, tq) as base,
        serving(kind, {"/order": order, "/report": two.view("report")}, tq) as other,
    ):
        for address in (base, other, base):
            assert (await fetch("POST", f"{address}/order")).status == 200
    assert (len(one.ran), len(two.ran)) == (2, 1)


@pytest.mark.usefixtures("tables")
async def test_a_django_project_that_is_called_in_both_ways(tq: taskqueue.TaskQueue) -> None:
    home = asyncio.get_running_loop()
    ran: list[bool] = []

    def order(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(told(tq.get_sync(tq.push_sync("/report"))))

    async def report(_request: HttpRequest) -> HttpResponse:
        ran.append(asyncio.get_running_loop() is home)
        return HttpResponse()

    with doors_django.project(tq, path("order", order), path("report", report), load_user=None):
        for kind in ("django-asgi", "django-wsgi", "django-asgi"):
            async with doors_django.served(kind, tq) as base:
                assert (await fetch("GET", f"{base}/order")).text == "completed 200 1"
    assert ran == [True, False, True]


class TestThreads:
    """A synchronous view waits in its thread, where nothing of it may be in the way of its tasks."""

    async def test_a_view_in_the_pool_of_an_asynchronous_application(self, tq: taskqueue.TaskQueue) -> None:
        app, home = FastAPI(openapi_url=None), asyncio.get_running_loop()
        ran: list[bool] = []

        @app.post("/order")
        def order() -> list[str]:
            of_request.set("of the request")
            ids = [tq.push_sync(name, method="POST", payload=None) for name in ("/plain", "/awaited")]
            return [told(tq.get_sync(task_id)) for task_id in ids]

        @app.post("/plain")
        def plain() -> None:
            ran.append(of_request.get() == "")

        @app.post("/awaited")
        async def awaited() -> None:
            ran.append(asyncio.get_running_loop() is home)

        app.add_middleware(TaskQueueMiddleware, tq=tq)
        async with serving_asgi(app) as base:
            response = await fetch("POST", f"{base}/order")
            assert response.text == '["completed 200 1","completed 200 1"]'
            # From outside a request, too, and from another loop.
            elsewhere = await asyncio.to_thread(tq.push_sync, "/plain", "POST")
            assert told(await tq.get(elsewhere)) == "completed 200 1"
        assert ran == [True] * 3

    @pytest.mark.usefixtures("tables")
    @pytest.mark.parametrize("kind", DJANGO_KINDS)
    async def test_django_with_its_database(self, kind: str, tq: taskqueue.TaskQueue) -> None:
        ran: list[str] = []

        def order(request: HttpRequest) -> HttpResponse:
            with database.atomic():
                committed = taskqueue.add("/chained", method="POST", payload=None)
                assert tq.get_sync(committed) is None
            pushed = tq.push_sync("/report", method="POST", payload=None)
            assert request.path == "/order"
            return HttpResponse(", ".join(told(tq.get_sync(task_id)) for task_id in (committed, pushed)))

        def chained(_request: HttpRequest) -> HttpResponse:
            ran.append("chained")
            with database.atomic():
                taskqueue.add("/chained", method="POST", payload=None)
            return HttpResponse()

        def report(_request: HttpRequest) -> HttpResponse:
            ran.append("report")
            return HttpResponse()

        urls = [path(view.__name__, view) for view in (order, chained, report)]
        with doors_django.project(tq, *urls, load_user=None):
            async with doors_django.served(kind, tq) as base:
                response = await fetch("POST", f"{base}/order")
        assert response.text == "completed 200 1, completed 200 1"
        # The one that was added too deep waited for the next commit, and began another row.
        assert ran[: syncmode.DEEPEST] == ["chained"] * syncmode.DEEPEST
        assert "report" in ran

    def test_wsgi_without_a_server(self, tq: taskqueue.TaskQueue) -> None:
        ran: list[str] = []

        def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            ran.append(environ["PATH_INFO"])
            start_response("200 OK", [])
            return []

        wsgi.TaskQueueMiddleware(app, tq)
        assert told(tq.get_sync(tq.push_sync("/report"))) == "completed 200 1"
        manager = TransactionManager()
        package.bind(tq, manager)
        with manager:
            ids = [tq.add("/with-the-database"), tq.add("/mail", queue="mail")]
            assert ran == ["/report"]
        assert ran == ["/report", "/with-the-database", "/mail"]
        assert [told(tq.get_sync(task_id)) for task_id in ids] == ["completed 200 1"] * 2
        refused = manager.begin()
        refused_id = tq.add("/refused")
        refused.join(Refusing())
        with pytest.raises(ZeroDivisionError):
            manager.commit()
        manager.abort()
        assert tq.get_sync(refused_id) is None
        assert len(ran) == 3


class Refusing:
    """A resource that comes last, and cannot commit."""

    transaction_manager = None

    def sortKey(self) -> str:  # noqa: N802 - see IDataManager
        return "~~~"

    def commit(self, _foreign: Any) -> None:
        raise ZeroDivisionError

    def abort(self, _foreign: Any) -> None:
        pass

    tpc_begin = tpc_abort = abort


@asynccontextmanager
async def application(handlers: Handlers, tq: taskqueue.TaskQueue) -> AsyncIterator[str]:
    async with serving_asgi(TaskQueueMiddleware(bare_app(handlers), tq)) as base:
        yield base


def fall_due(store: LocalStore, *ids: str) -> None:
    store.backdate("scheduled", dict.fromkeys(ids, 0))
    (found,) = (queue for queue in here.find(store._name, NAMESPACE).queues() if queue.name == "default")
    found.states.update((task_id, replace(found.states[task_id], due=0)) for task_id in ids)


class TestWhatIsDue:
    async def test_a_delayed_task_and_a_retry_wait_for_a_commit_after_their_time(
        self, tq: taskqueue.TaskQueue, store: LocalStore
    ) -> None:
        ledger = Ledger()
        handlers = {"/fails": ledger.view("fails", reply=Reply(503)), "/report": ledger.view("report")}
        async with application(handlers, tq):
            fails = await tq.push("/fails")
            later = await tq.push("/report?later", delay=60)
            assert (told(await tq.get(fails)), told(await tq.get(later))) == ("scheduled 503 1", "scheduled 0 0")
            fall_due(store, fails, later)
            await tq.push("/report?now", queue="mail")
            assert ledger.ran == ["fails 1", "reportnow 1"], "another queue's commit leaves them alone"
            await tq.push("/report?now")
            assert sorted(ledger.ran[2:]) == ["fails 2", "reportlater 1", "reportnow 1"]

    async def test_each_of_many_commits_at_once_waits_for_its_own(self, tq: taskqueue.TaskQueue) -> None:
        async def report(_view: View) -> Reply:
            for _ in range(5):
                await asyncio.sleep(0)  # so that others commit meanwhile
            return Reply()

        async def pushed() -> str:
            return told(await tq.get(await tq.push("/report")))

        async with application({"/report": report}, tq):
            assert await asyncio.gather(*(pushed() for _ in range(10))) == ["completed 200 1"] * 10
        assert syncmode._held == {}

    async def test_a_commit_that_is_cancelled_says_that_its_tasks_may_run(self, tq: taskqueue.TaskQueue) -> None:
        began, may_end = asyncio.Event(), asyncio.Event()

        async def report(_view: View) -> Reply:
            began.set()
            await may_end.wait()
            return Reply()

        async with application({"/report": report}, tq):
            job = asyncio.create_task(tq.push("/report"))
            await began.wait()
            job.cancel()
            may_end.set()
            with pytest.raises(CommitUncertain) as caught:
                await job
            assert told(await tq.get(caught.value.ids[0])) == "completed 200 1"

    async def test_who_is_to_be_told_of_failed_tasks_is(
        self, tq: taskqueue.TaskQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TASKQUEUE_ON_FAILED", f"{__name__}:note_failed")
        noted.clear()
        async with application({}, tq):
            task_id = await tq.push("/missing")
        assert [(failed.id, failed.reason) for failed in noted] == [(task_id, "not-found")]

    async def test_what_no_door_admits_stays_in_the_queue(self, tq: taskqueue.TaskQueue) -> None:
        async def maintenance(_scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        door = TaskQueueMiddleware(bare_app({}), tq)
        door.started(maintenance, None)
        async with tq.transaction():
            first, second = tq.add("/a"), tq.add("/b")
        assert [told(await tq.get(task_id)) for task_id in (first, second)] == ["queued 200 0", "queued 0 0"]
        assert syncmode._held == {}


noted: Final[list[FailedTask]] = []


def note_failed(failed: FailedTask) -> None:
    noted.append(failed)


class TestRefusals:
    async def test_without_an_application_nothing_is_stored(self, tq: taskqueue.TaskQueue) -> None:
        with pytest.raises(ConfigError, match=r"mode=sync replays .* none runs here; mount the door .* local:// with"):
            await tq.push("/report")
        voted = tq.begin()
        with bound(voted):
            tq.add("/report")
        with pytest.raises(ConfigError, match="none runs here"):
            await voted.vote()
        assert await tq.size() == 0

    async def test_nor_while_it_starts_or_when_it_has_ended(self, tq: taskqueue.TaskQueue) -> None:
        async def pushes(_app: web.Application) -> None:
            with pytest.raises(ConfigError, match="none runs here"):
                await tq.push("/report")

        app = web.Application()
        aiohttp_door.setup(app, tq)
        app.on_startup.append(pushes)
        async with serving_aiohttp(app):
            assert told(await tq.get(await tq.push("/report"))) == "failed 404 1"

    def test_nor_when_its_event_loop_has_ended(self, tq: taskqueue.TaskQueue) -> None:
        async def serve() -> None:
            async with application({}, tq):
                await tq.push("/report")

        asyncio.run(serve())
        with pytest.raises(ConfigError, match="none runs here"):
            tq.push_sync("/report")

    async def test_code_that_blocks_the_event_loop_is_told_that_its_tasks_wait(
        self, tq: taskqueue.TaskQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        manager = TransactionManager()
        package.bind(tq, manager)
        async with application({}, tq):
            with manager:
                task_id = tq.add("/report")
            assert told(await tq.get(task_id)) == "queued 0 0"
        assert "the event loop of the application itself waits for this commit" in caplog.text

    async def test_a_consumer_beside_it(self, tq: taskqueue.TaskQueue) -> None:
        with pytest.raises(ConfigError, match=r"replay its tasks itself, .* remove \?mode=sync, or the consumer"):
            server_for(load(), tq, AsgiReplayer(bare_app({})), name="beside", queues=tq.queues)
