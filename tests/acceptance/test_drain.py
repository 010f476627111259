"""Captured tasks run against the application itself: no Redis, no secret, no consumer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import pytest
from aiohttp import web
from fastapi import FastAPI, HTTPException, Request
from fastapi.testclient import TestClient

import taskqueue
from taskqueue.middleware import aiohttp as aiohttp_door
from taskqueue.middleware.asgi import TaskQueueMiddleware
from taskqueue.producer import drains
from taskqueue.request import HANDOVER
from taskqueue.testing import Tasks
from tests.doors import ASGI_APPS, Handlers, Reply, View, aiohttp_app, behind_asgi_door
from tests.doors_wsgi import behind_door as behind_wsgi_door


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A machine on which nobody has named a broker or a secret."""
    monkeypatch.chdir(tmp_path)


CUT_OFF: Final = [*ASGI_APPS, "aiohttp"]  # past their time; a thread is not
KINDS: Final = [*CUT_OFF, "wsgi", "flask"]


def make(kind: str, handlers: Handlers, tq: taskqueue.TaskQueue, **door: Any) -> Any:
    """Return an application of this kind behind its door."""
    if kind in ASGI_APPS:
        return behind_asgi_door(kind, handlers, tq, **door)
    if kind != "aiohttp":
        return behind_wsgi_door(kind, handlers, tq, **door)
    app = aiohttp_app(handlers)
    aiohttp_door.setup(app, tq, **door)
    return app


async def captured(tq: taskqueue.TaskQueue, *paths: str, **options: Any) -> Tasks:
    """Return tasks as a request would have left them."""
    with taskqueue.capture() as tasks:
        async with tq.transaction():
            for path in paths:
                tq.add(path, **options)
    return tasks


class Ledger:
    """An application that notes what it does: a chain of two tasks, a failing one, one that fails once."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str, str | None]] = []
        self.users: list[object] = []

    def handlers(self) -> Handlers:
        return {
            "/first": self.first,
            "/second": self.note,
            "/third": self.note,
            "/fail": self.fail,
            "/raise": self.fails,
            "/once": self.once,
            "/endless": self.endless,
        }

    async def note(self, view: View) -> Reply:
        task = taskqueue.current_task()
        assert task is not None
        self.done.append((view.headers["x-task-id"], view.method, task.user_id))
        self.users.append(view.user)
        return Reply()

    async def first(self, view: View) -> Reply:
        taskqueue.add("/second", payload=None)
        return await self.note(view)

    async def endless(self, _view: View) -> Reply:
        taskqueue.add("/endless", payload=None)
        return Reply()

    async def fail(self, _view: View) -> Reply:
        return Reply(status=422)

    async def fails(self, _view: View) -> Reply:
        raise RuntimeError("the report has no pages")

    async def once(self, _view: View) -> Reply:
        task = taskqueue.current_task()
        assert task is not None
        return Reply(status=503 if task.attempt == 1 else 200, text=f"{task.attempt} of {task.max_attempts}")


@pytest.fixture
def tq() -> taskqueue.TaskQueue:
    return taskqueue.TaskQueue()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture(params=KINDS)
async def app(request: pytest.FixtureRequest, ledger: Ledger, tq: taskqueue.TaskQueue) -> Any:
    return make(request.param, ledger.handlers(), tq)


async def test_all_run_in_order_and_what_they_add_after_them(app: Any, tq: taskqueue.TaskQueue, ledger: Ledger) -> None:
    tasks = await captured(tq, "/first", "/third", user_id="ada", delay=3600)
    first, third = tasks
    done = await tasks.drain(app)
    assert tasks == []
    assert [one.task.path for one in done] == ["/first", "/third", "/second"]
    assert [(one.status, one.completed, one.attempts, one.remark) for one in done] == [(200, True, 1, "")] * 3
    assert ledger.done[:2] == [(first.id, "GET", "ada"), (third.id, "GET", "ada")]
    assert ledger.done[2] == (done[2].task.id, "GET", "ada")
    assert drains == [], "no door believes that key any more"


async def test_inside_the_capture_too(app: Any, tq: taskqueue.TaskQueue, ledger: Ledger) -> None:
    with taskqueue.capture() as tasks:
        await tq.push("/first")
        await tasks.drain(app)
        assert tasks == []
        await tq.push("/third")
    assert tasks.paths == ["/third"]
    assert len(ledger.done) == 2


async def test_the_user_is_logged_in(tq: taskqueue.TaskQueue, ledger: Ledger) -> None:
    for kind in KINDS:
        app = make(kind, ledger.handlers(), tq, load_user=str.upper)
        await (await captured(tq, "/third", user_id="ada")).drain(app)
    assert ledger.users == ["ADA"] * len(KINDS)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/fail", "GET /fail did not complete: fail client: answered 422"),
        ("/raise", "GET /raise did not complete: fail exhausted: answered 500"),
        ("/nowhere", "GET /nowhere did not complete: fail not-found: answered 404"),
    ],
)
async def test_the_first_that_does_not_complete_ends_it(
    path: str, told: str, app: Any, tq: taskqueue.TaskQueue, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = await captured(tq, "/third", path, "/second")
    with pytest.raises(AssertionError) as caught:
        await tasks.drain(app)
    assert str(caught.value) == told
    assert tasks.paths == ["/second"]
    assert len(ledger.done) == 1
    if path == "/raise":
        assert "the report has no pages" in caplog.text


async def test_unchecked_the_others_run_on(app: Any, tq: taskqueue.TaskQueue) -> None:
    done = await (await captured(tq, "/fail", "/third")).drain(app, check=False)
    assert [(one.status, one.completed, one.verdict.reason) for one in done] == [
        (422, False, "client"),
        (200, True, ""),
    ]


async def test_retries_are_made_at_once_if_asked_for(app: Any, tq: taskqueue.TaskQueue) -> None:
    with pytest.raises(AssertionError, match="fail exhausted: answered 503"):
        await (await captured(tq, "/once")).drain(app)
    (done,) = await (await captured(tq, "/once")).drain(app, retries=3)
    assert (done.completed, done.attempts) == (True, 2)
    with pytest.raises(AssertionError, match="fail exhausted: answered 503"):
        await (await captured(tq, "/once", retry_max_count=0)).drain(app, retries=3)


async def test_a_chain_without_end_is_named(app: Any, tq: taskqueue.TaskQueue) -> None:
    tasks = await captured(tq, "/endless")
    with pytest.raises(AssertionError, match="5 tasks have run, and there are more: GET /endless"):
        await tasks.drain(app, limit=5)


async def test_a_task_has_its_time(tq: taskqueue.TaskQueue) -> None:
    async def hang(_view: View) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    for kind in CUT_OFF:
        with pytest.raises(AssertionError, match="fail exhausted: timeout"):
            await (await captured(tq, "/hang", timeout=0.1)).drain(make(kind, {"/hang": hang}, tq))


async def test_an_application_without_its_door_is_told_so(tq: taskqueue.TaskQueue) -> None:
    async def fine(_view: View) -> Reply:
        return Reply()

    for kind in CUT_OFF:
        bare = aiohttp_app({"/": fine}) if kind == "aiohttp" else ASGI_APPS[kind]({"/": fine})
        with pytest.raises(AssertionError, match=r"answered 200 without receipt.* does the door stand outermost"):
            await (await captured(tq, "/")).drain(bare)


async def test_what_is_no_application_is_refused(tq: taskqueue.TaskQueue) -> None:
    with pytest.raises(TypeError, match="drain: str is not an ASGI, WSGI or aiohttp application"):
        await (await captured(tq, "/")).drain("main:app")


# As users write it.


def test_a_fastapi_test_without_a_loop(tq: taskqueue.TaskQueue) -> None:
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, str]]:
        events.append("start")
        yield {"pool": "ready"}
        events.append("stop")

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(TaskQueueMiddleware, tq=tq)

    @app.post("/reports")
    def order() -> str:
        return taskqueue.add("/reports/build", json={"year": 2026}, user_id="ada")

    @app.post("/reports/build")
    async def build(request: Request) -> None:
        if await request.json() != {"year": 2026} or request.headers["x-task-user-id"] != "ada":
            raise HTTPException(422)
        events.append(request.state.pool)

    with TestClient(app) as client, taskqueue.capture() as tasks:
        client.post("/reports")
    (done,) = asyncio.run(tasks.drain(app))
    assert done.status == 200
    assert events == ["start", "stop", "start", "ready", "stop"]
    assert tq.__dict__.keys().isdisjoint({"broker", "keyring"})


async def test_an_application_that_the_test_has_started_goes_on(tq: taskqueue.TaskQueue) -> None:
    events: list[str] = []
    app = web.Application()

    async def view(_request: web.Request) -> web.Response:
        events.append("view")
        return web.Response()

    async def started(_app: web.Application) -> AsyncIterator[None]:
        events.append("start")
        yield
        events.append("stop")

    app.cleanup_ctx.append(started)
    app.router.add_get("/view", view)
    aiohttp_door.setup(app, tq)
    runner = web.AppRunner(app)
    await runner.setup()
    await (await captured(tq, "/view")).drain(app, lifespan=False)
    await (await captured(tq, "/view")).drain(app, lifespan=False)
    assert events == ["start", "view", "view"]
    await runner.cleanup()
    assert events[-1] == "stop"


async def test_an_asgi_application_that_the_test_has_started_is_not_started_again(tq: taskqueue.TaskQueue) -> None:
    kinds: list[str] = []

    async def inner(scope: Any, _receive: Any, send: Any) -> None:
        kinds.append(scope["type"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    await (await captured(tq, "/")).drain(TaskQueueMiddleware(inner, tq), lifespan=False)
    assert kinds == ["http"]


def wsgi(environ: Any, start_response: Callable[..., Any]) -> Iterator[bytes]:
    environ["asgi.scope"][HANDOVER].admitted = True  # as a door does
    start_response("204 No Content", [])
    yield b""


async def test_a_wsgi_application_is_called_in_a_thread(tq: taskqueue.TaskQueue) -> None:
    (done,) = await (await captured(tq, "/")).drain(wsgi)
    assert done.status == 204


KEYED: Final = "this application has a secret of its own, 32 bytes"


async def test_an_own_secret_is_not_used(ledger: Ledger) -> None:
    tq = taskqueue.TaskQueue("redis://127.0.0.1:1/0", secret=KEYED)
    for kind in KINDS:
        await (await captured(tq, "/third")).drain(make(kind, ledger.handlers(), tq))
    assert len(ledger.done) == len(KINDS)
    assert "keyring" not in tq.__dict__
