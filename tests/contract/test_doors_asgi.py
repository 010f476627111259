"""What only ASGI has: frameworks that commit after the response, background tasks, mount points, other protocols."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

import taskqueue
from taskqueue.exchange import Message, Receive, Scope, Send
from taskqueue.middleware.asgi import TaskQueueMiddleware, authenticated_user, task_only
from taskqueue.policy import Answered
from tests.doors import Consumer, View, adding, fetch, serving, serving_asgi, starlette_app, task_queue
from tests.servers import RedisServer
from tests.waiting import until


async def waits(tq: taskqueue.TaskQueue, count: int) -> None:
    """Return once this many tasks wait."""

    async def enough() -> bool:
        return await tq.size() == count

    await until(enough, f"{count} tasks wait")


# ---- when it commits


async def test_a_database_committed_after_the_response_is_committed_before_the_task(tq: taskqueue.TaskQueue) -> None:
    events: list[str] = []
    app = FastAPI()

    async def session() -> AsyncIterator[None]:
        yield
        events.append(f"database commits, {await tq.size()} tasks wait")

    @app.post("/orders")
    async def order(_session: Annotated[None, Depends(session)]) -> str:
        taskqueue.add("/later")
        events.append("handler returns")
        return "ordered"

    async def spying(scope: Scope, receive: Receive, send: Send) -> None:
        async def spy(message: Message) -> None:
            if scope["type"] == "http":
                events.append(f"application sends {message['type']}")
            await send(message)

        await app(scope, receive, spy)

    async def outside(scope: Scope, receive: Receive, send: Send) -> None:
        async def spy(message: Message) -> None:
            if message["type"] == "http.response.start":
                events.append(f"client is told, {await tq.size()} tasks wait")
            await send(message)

        await TaskQueueMiddleware(spying, tq)(scope, receive, spy)

    async with serving_asgi(outside) as base:
        response = await fetch("POST", base + "/orders")
    assert (response.status, response.text) == (200, '"ordered"')
    assert events == [
        "handler returns",
        "application sends http.response.start",
        "application sends http.response.body",
        "database commits, 0 tasks wait",
        "client is told, 1 tasks wait",
    ]


async def test_a_database_that_fails_after_the_response_drops_the_tasks(tq: taskqueue.TaskQueue) -> None:
    app = FastAPI()

    async def session() -> AsyncIterator[None]:
        yield
        raise OSError("the database is away")

    @app.post("/orders")
    async def order(_session: Annotated[None, Depends(session)]) -> str:
        taskqueue.add("/later")
        return "ordered"

    async with serving_asgi(TaskQueueMiddleware(app, tq)) as base:
        assert (await fetch("POST", base + "/orders")).status == 500
        assert await tq.size() == 0


async def test_a_savepoint_that_ends_after_the_response_is_part_of_the_commit(
    tq: taskqueue.TaskQueue, private_server: RedisServer
) -> None:
    queue = task_queue(private_server.url, commit_deadline=0.3)
    app = FastAPI()
    kills = False

    async def session() -> AsyncIterator[None]:
        async with taskqueue.transaction():
            yield
        if kills:
            private_server.kill()

    @app.post("/orders")
    async def order(_session: Annotated[None, Depends(session)]) -> str:
        return taskqueue.add("/later")

    async with serving_asgi(TaskQueueMiddleware(app, queue)) as base:
        assert (await fetch("POST", base + "/orders")).status == 200
        assert await queue.size() == 1
        kills = True
        assert (await fetch("POST", base + "/orders")).status == 503


async def test_background_tasks_add_until_they_end(tq: taskqueue.TaskQueue) -> None:
    app = FastAPI()

    async def late() -> None:
        await asyncio.sleep(0)
        taskqueue.add("/from-async")

    def late_in_thread() -> None:
        taskqueue.add("/from-thread")

    @app.post("/{first}")
    def order(first: str, background: BackgroundTasks) -> str:
        if first == "adds":
            taskqueue.add("/first")
        background.add_task(late)
        background.add_task(late_in_thread)
        return "ordered"

    async with serving_asgi(TaskQueueMiddleware(app, tq)) as base:
        assert (await fetch("POST", base + "/adds")).status == 200
        assert await tq.size() == 3
        assert (await fetch("POST", base + "/adds-not")).status == 200
        await waits(tq, 5)
    paths = [task.path for task in await Consumer(tq).tasks()]
    assert paths == ["/first", "/from-async", "/from-thread", "/from-async", "/from-thread"]


async def test_tasks_added_after_the_response_and_lost_are_logged_by_id(
    private_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    queue = task_queue(private_server.url, commit_deadline=0.3)
    ids: list[str] = []

    async def late() -> None:
        ids.append(taskqueue.add("/late"))
        private_server.kill()

    async def endpoint(_request: Request) -> Response:
        return PlainTextResponse("done", background=BackgroundTask(late))

    async def logged() -> bool:
        return "will not run" in caplog.text

    app = Starlette(routes=[Route("/", endpoint)])
    async with serving_asgi(TaskQueueMiddleware(app, queue)) as base:
        response = await fetch("GET", base + "/")
        assert (response.status, response.text) == (200, "done")
        await until(logged, "the loss is logged")
    (record,) = [record for record in caplog.records if record.name == "taskqueue.door"]
    assert record.levelno == logging.ERROR
    assert ids[0] in record.getMessage()


async def test_commit_at_response_stores_before_the_response_starts(tq: taskqueue.TaskQueue) -> None:
    sizes: list[int] = []
    caught: list[type[Exception]] = []

    async def late() -> None:
        sizes.append(await tq.size())
        try:
            taskqueue.add("/too-late")
        except taskqueue.NoTransaction as error:
            caught.append(type(error))

    async def endpoint(request: Request) -> Response:
        taskqueue.add("/later", method="POST")
        return PlainTextResponse("done", int(request.query_params["status"]), background=BackgroundTask(late))

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    async with serving_asgi(TaskQueueMiddleware(app, tq, commit_at="response")) as base:
        assert (await fetch("POST", base + "/?status=200", data=b"unread")).status == 200
        await waits(tq, 1)
        assert (await fetch("POST", base + "/?status=409", data=b"unread")).status == 409
    assert [task.body for task in await Consumer(tq).tasks()] == [b"unread"]
    assert sizes == [1, 1]
    assert caught == [taskqueue.NoTransaction] * 2


async def test_commit_at_response_replaces_the_response_if_it_fails(private_server: RedisServer) -> None:
    queue = task_queue(private_server.url, commit_deadline=0.3)
    await queue.size()
    app = TaskQueueMiddleware(starlette_app({"/": adding("/later")}), queue, commit_at="response")
    async with serving_asgi(app) as base:
        private_server.kill()
        response = await fetch("GET", base + "/")
    assert response.status == 503
    assert response.text.endswith("none will run.\n")


async def test_a_body_whose_length_is_declared_is_held_whole_however_it_is_sent(
    private_server: RedisServer,
) -> None:
    queue = task_queue(private_server.url, commit_deadline=0.3)
    await queue.size()

    class Passing(BaseHTTPMiddleware):  # sends one message as a stream of two
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            return await call_next(request)

    async def endpoint(_request: Request) -> Response:
        taskqueue.add("/later")
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", endpoint)], middleware=[Middleware(Passing)])
    async with serving_asgi(TaskQueueMiddleware(app, queue)) as base:
        assert (await fetch("GET", base + "/")).text == "done"
        assert await queue.size() == 1
        private_server.kill()
        assert (await fetch("GET", base + "/")).status == 503


async def test_a_response_without_tasks_is_not_held(tq: taskqueue.TaskQueue) -> None:
    told = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
            await send({"type": "http.response.body", "body": b"done"})
            await told.wait()
        else:
            await starlette_app({})(scope, receive, send)

    async with serving_asgi(TaskQueueMiddleware(app, tq)) as base:
        assert (await fetch("GET", base + "/")).text == "done"
        told.set()


async def test_whoever_waits_for_the_client_to_leave_is_not_kept(tq: taskqueue.TaskQueue) -> None:
    ends: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await starlette_app({})(scope, receive, send)
            return
        taskqueue.add("/later")
        assert (await receive())["type"] == "http.request"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})
        ends.append(await receive())

    async with serving_asgi(TaskQueueMiddleware(app, tq)) as base:
        assert (await fetch("GET", base + "/")).text == "done"
    assert ends == [{"type": "http.disconnect"}]


# ---- where it stands


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
async def test_it_can_be_added_as_a_middleware(tq: taskqueue.TaskQueue, framework: Callable[[], Any]) -> None:
    app = framework()

    async def order(_request: Request) -> Response:
        taskqueue.add("/build")
        return PlainTextResponse("ordered")

    async def build(_request: Request) -> Response:
        raise RuntimeError("on purpose")

    app.add_route("/", order)
    app.add_route("/build", build)
    app.add_middleware(TaskQueueMiddleware, tq=tq)
    async with serving_asgi(app) as base:
        assert (await fetch("GET", base + "/")).text == "ordered"
        _, outcome = await Consumer(tq).replay(base)
        plain = await fetch("GET", base + "/build")
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted, plain.status) == (500, True, 500)


@pytest.mark.parametrize("target", ["/v%C3%A9lo/a%20b?x=%41&y=", "/v%C3%A9lo/a%20b"])
@pytest.mark.parametrize("root_path", ["", "/mounted"])
async def test_the_signature_holds_below_a_mount_point(tq: taskqueue.TaskQueue, root_path: str, target: str) -> None:
    seen: list[str] = []

    async def build(request: Request) -> Response:
        seen.append(request.path_params["name"])
        return PlainTextResponse(taskqueue.add(target) if "add" in request.query_params else "built")

    app = Starlette(routes=[Mount("/", routes=[Route("/vélo/{name}", build)])])
    async with serving_asgi(TaskQueueMiddleware(app, tq), root_path=root_path) as base:
        assert (await fetch("GET", base + "/v%C3%A9lo/first?add")).status == 200
        _, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted) == (200, True)
    assert seen == ["first", "a b"]


async def test_a_server_that_gives_no_raw_path_is_served(tq: taskqueue.TaskQueue) -> None:
    async def build(_request: Request) -> Response:
        return PlainTextResponse("built")

    async def order(_request: Request) -> Response:
        return PlainTextResponse(taskqueue.add("/%C3%A9:~b/%25?x=%41"))

    door = TaskQueueMiddleware(Starlette(routes=[Route("/", order), Route("/é:~b/%", build)]), tq)

    async def without_raw_path(scope: Scope, receive: Receive, send: Send) -> None:
        scope.pop("raw_path", None)
        await door(scope, receive, send)

    async with serving_asgi(without_raw_path) as base:
        await fetch("GET", base + "/")
        _, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted) == (200, True)


# ---- for tasks alone


async def test_task_only_endpoints(tq: taskqueue.TaskQueue) -> None:
    app = FastAPI()

    @app.get("/")
    async def order(path: str) -> str:
        return taskqueue.add(path, params={"year": 2026})

    @app.get("/async")
    @task_only
    async def build(year: int) -> int:
        return year

    @app.get("/sync")
    @task_only
    def build_in_thread(year: int) -> int:
        return year

    @task_only
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("built")(scope, receive, send)

    app.mount("/bare", bare)
    async with serving_asgi(TaskQueueMiddleware(app, tq)) as base:
        missing = await fetch("GET", base + "/missing")
        for path in ("/async", "/sync"):
            hidden = await fetch("GET", f"{base}{path}?year=2026")
            assert (hidden.status, hidden.body) == (404, missing.body)
        assert (await fetch("GET", f"{base}/bare/x")).status == 404
        consumer = Consumer(tq)
        for path in ("/async", "/sync", "/bare/x"):
            await fetch("GET", base + "/", params={"path": path})
            _, outcome = await consumer.replay(base)
            assert isinstance(outcome, Answered)
            assert (outcome.status, outcome.receipted) == (200, True), path


def test_task_only_refuses_classes() -> None:
    with pytest.raises(taskqueue.ConfigError, match="decorate its methods"):
        task_only(View)


async def test_where_the_application_answers_everything_a_hidden_path_is_plainly_missing(
    tq: taskqueue.TaskQueue,
) -> None:
    async def everything(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await PlainTextResponse("index.html")(scope, receive, send)
        else:
            await starlette_app({})(scope, receive, send)

    async with serving_asgi(TaskQueueMiddleware(everything, tq, task_only=["/tasks"])) as base:
        assert (await fetch("GET", base + "/anything")).text == "index.html"
        hidden = await fetch("GET", base + "/tasks/x")
    assert (hidden.status, hidden.text) == (404, "Not Found")


# ---- other protocols


@pytest.mark.parametrize(
    ("path", "headers", "passes"),
    [
        ("/", [], True),
        ("/", [(b"x-task-user-id", b"ada")], False),
        ("/tasks/x", [], False),
    ],
)
async def test_no_websocket_is_a_delivery(
    tq: taskqueue.TaskQueue,
    path: str,
    headers: list[tuple[bytes, bytes]],
    passes: bool,  # noqa: FBT001
) -> None:
    sent: list[Message] = []
    called: list[Scope] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        called.append(scope)

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": path, "query_string": b"", "headers": headers}
    await TaskQueueMiddleware(app, tq, task_only=["/tasks/"])(scope, receive, send)
    assert (called, sent) == (([scope], []) if passes else ([], [{"type": "websocket.close"}]))


async def test_the_connection_is_closed_with_the_application(any_server: RedisServer) -> None:
    queue = task_queue(any_server.url)
    async with serving("starlette", {"/": adding("/later")}, queue) as base:
        await fetch("GET", base + "/")
        assert clients(any_server) == 1
    assert clients(any_server) == 0


def clients(server: RedisServer) -> int:
    """Return how many connections of other processes, or of the library, the server has."""
    with server.client() as client:
        return len([found for found in client.client_list() if found["id"] != str(client.client_id())])


# ---- whose task


class User:
    def __init__(self, **fields: object) -> None:
        self.__dict__.update(fields)


class Nameless(User):
    @property
    def identity(self) -> str:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("scope", "user_id"),
    [
        ({}, None),
        ({"user": User(is_authenticated=False, identity="ada")}, None),
        ({"user": User(is_authenticated=True, identity="ada")}, "ada"),
        ({"user": User(is_authenticated=True, identity=7)}, "7"),
        ({"user": User(is_authenticated=True, id=7)}, "7"),
        ({"user": Nameless(is_authenticated=True, id=8)}, "8"),
        ({"user": Nameless(is_authenticated=True)}, None),
        ({"user": User(identity="ada")}, None),
    ],
)
def test_the_authenticated_user(scope: Scope, user_id: str | None) -> None:
    assert authenticated_user(scope) == user_id
