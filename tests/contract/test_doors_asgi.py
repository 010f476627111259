"""What only ASGI has: mount points, middlewares and users of other frameworks, other protocols."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

import taskqueue
from taskqueue.exchange import Message, Receive, Scope, Send
from taskqueue.middleware.asgi import TaskQueueMiddleware, authenticated_user, task_only
from taskqueue.policy import Answered
from tests.doors import (
    ASGI_KINDS,
    Consumer,
    Handlers,
    Reply,
    View,
    adding,
    behind_asgi_door,
    fetch,
    serving,
    serving_asgi,
    starlette_app,
    task_queue,
)
from tests.servers import RedisServer

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


# ---- servers that run no lifespan


@pytest.mark.parametrize("kind", ASGI_KINDS)
async def test_the_door_is_shut_where_a_server_runs_no_lifespan(kind: str, tq: taskqueue.TaskQueue) -> None:
    came: list[object] = []

    async def build(_view: View) -> Reply:
        came.append(taskqueue.current_task())
        return Reply(200, "built")

    handlers: Handlers = {"/": adding("/tasks/build"), "/tasks/build": build, "/open": build}
    app = behind_asgi_door(kind, handlers, tq, task_only=["/tasks/"])
    async with serving_asgi(app, lifespan="off") as base:
        assert (await fetch("GET", base + "/tasks/build")).status == 404
        assert (await fetch("GET", base + "/tasks/build")).status == 404
        assert (await fetch("GET", base + "/open", headers={"X-Task-Id": "1"})).status == 403
        assert came == []
        assert (await fetch("GET", base + "/")).status == 200
        _, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted, len(came)) == (200, True, 1)


async def test_the_first_request_without_lifespan_goes_through_the_door_of_litestar(tq: taskqueue.TaskQueue) -> None:
    asked: list[tuple[str, dict[str, str], int]]
    asked = [("/tasks/build", {}, 404), ("/", {"X-Task-Id": "1"}, 403), ("/", {}, 200)]
    for path, headers, status in asked:
        app = behind_asgi_door("litestar", {"/": adding("/x"), "/tasks/build": adding("/y")}, tq, task_only=["/tasks"])
        async with serving_asgi(app, lifespan="off") as base:
            assert (await fetch("GET", base + path, headers=headers)).status == status
    assert await tq.size() == 1


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
    queue, before = task_queue(any_server.url), clients(any_server)
    async with serving("starlette", {"/": adding("/later")}, queue) as base:
        await fetch("GET", base + "/")
        assert clients(any_server) == before + 1
    assert clients(any_server) == before


def clients(server: RedisServer) -> int:
    """Return how many connections of other processes, or of the library, the server has."""
    with server.client() as client:
        return len([found for found in client.client_list() if found["id"] != str(client.client_id())])


# ---- whose task


class Backend(AuthenticationBackend):
    """What an application writes that has AuthenticationMiddleware: a delivery's user is logged in already."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        task = taskqueue.current_task()
        if task is not None and isinstance(task.user, BaseUser):
            return AuthCredentials(["authenticated"]), task.user
        return (AuthCredentials(["authenticated"]), Member(conn.cookies["user"])) if "user" in conn.cookies else None


class Member(BaseUser):
    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def identity(self) -> str:
        return self.name


async def test_the_user_of_an_authentication_middleware_is_the_users_task(tq: taskqueue.TaskQueue) -> None:
    seen: list[str] = []

    async def order(_request: Request) -> Response:
        return PlainTextResponse(taskqueue.add("/build"))

    async def build(request: Request) -> Response:
        seen.append(request.user.identity)
        return PlainTextResponse("built")

    app = Starlette(
        routes=[Route("/", order), Route("/build", build)],
        middleware=[Middleware(AuthenticationMiddleware, backend=Backend())],
    )
    async with serving_asgi(TaskQueueMiddleware(app, tq, load_user=Member)) as base:
        await fetch("GET", base + "/", headers={"Cookie": "user=ada"})
        task, outcome = await Consumer(tq).replay(base)
    assert (task.user_id, seen) == ("ada", ["ada"])
    assert isinstance(outcome, Answered)
    assert outcome.logged_in


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
