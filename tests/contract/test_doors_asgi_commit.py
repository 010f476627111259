"""When an ASGI application's tasks are stored, and what of its response is held back until then."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Annotated

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import taskqueue
from taskqueue.exchange import Message, Receive, Scope, Send
from taskqueue.middleware.asgi import TaskQueueMiddleware
from tests.doors import Consumer, adding, fetch, lifespan, serving_asgi, starlette_app, task_queue
from tests.servers import RedisServer
from tests.waiting import until


async def waits(tq: taskqueue.TaskQueue, count: int) -> None:
    """Return once this many tasks wait."""

    async def enough() -> bool:
        return await tq.size() == count

    await until(enough, f"{count} tasks wait")


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


@pytest.mark.parametrize("body", [b"", b"x" * 100_000])
async def test_an_application_may_wait_for_the_end_of_its_response(tq: taskqueue.TaskQueue, body: bytes) -> None:
    """Some return only when the server says that the client is gone: when all is sent. Here all is held until then."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        taskqueue.add("/later", method="POST")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with asyncio.TaskGroup() as group:
            whole = asyncio.Event()
            group.create_task(ends(receive, whole))
            await whole.wait()
            await send({"type": "http.response.body", "body": b"answer"})
        assert (await receive())["type"] == "http.disconnect"

    async def ends(receive: Receive, whole: asyncio.Event) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            if not message["more_body"]:
                whole.set()

    async with serving_asgi(TaskQueueMiddleware(app, tq)) as base:
        assert (await fetch("POST", base + "/", data=body)).text == "answer"
        (task,) = await Consumer(tq).tasks()
    assert task.body == body


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


async def test_commit_at_response_replaces_the_response_if_it_fails(
    private_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    queue = task_queue(private_server.url, commit_deadline=0.3)
    await queue.size()
    app = TaskQueueMiddleware(starlette_app({"/": adding("/later")}), queue, commit_at="response")
    async with serving_asgi(app) as base:
        private_server.kill()
        response = await fetch("GET", base + "/")
    assert response.status == 503
    assert response.text.endswith("none will run.\n")
    assert [record.name for record in caplog.records] == ["taskqueue.door"]


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
