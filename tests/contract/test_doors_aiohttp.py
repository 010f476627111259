"""What only aiohttp has: exceptions that are responses, streams of many ways to read, bodies it unpacks."""

import asyncio
import gzip
import io
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

import taskqueue
from taskqueue.middleware.aiohttp import authenticated_user, setup, task_only
from taskqueue.policy import Answered
from tests.doors import Consumer, fetch, serving_aiohttp, task_queue
from tests.servers import RedisServer
from tests.waiting import until

Read = Callable[[web.Request], Awaitable[object]]


def application(
    tq: taskqueue.TaskQueue, *routes: web.RouteDef, app: web.Application | None = None, **door: object
) -> web.Application:
    app = app or web.Application()
    app.add_routes(routes)
    setup(app, tq, **door)  # type: ignore[arg-type]
    return app


@pytest.mark.parametrize(
    ("error", "queued"),
    [
        (web.HTTPFound("/elsewhere"), 1),
        (web.HTTPSeeOther("/elsewhere"), 1),
        (web.HTTPOk(), 1),
        (web.HTTPNotModified(), 1),
        (web.HTTPBadRequest(), 0),
        (web.HTTPNotFound(), 0),
        (web.HTTPInternalServerError(), 0),
    ],
)
async def test_an_exception_that_is_a_response_counts_by_its_status(
    tq: taskqueue.TaskQueue, error: web.HTTPException, queued: int
) -> None:
    async def handler(_request: web.Request) -> web.Response:
        taskqueue.add("/later")
        raise error

    async with serving_aiohttp(application(tq, web.get("/", handler))) as base:
        assert (await fetch("GET", base + "/")).status == error.status
        assert await tq.size() == queued


async def test_it_is_the_outermost_middleware_whenever_it_is_set_up(tq: taskqueue.TaskQueue) -> None:
    order: list[str] = []

    @web.middleware
    async def committing(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        response = await handler(request)
        taskqueue.add("/from-middleware")
        order.append(f"middleware, {await tq.size()} tasks wait")
        return response

    @web.middleware
    async def page_of_errors(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return web.Response(status=404, text=f"nothing at {request.path}")

    async def handler(_request: web.Request) -> web.Response:
        taskqueue.add("/from-handler")
        return web.Response()

    app = web.Application(middlewares=[committing, page_of_errors])
    app.router.add_get("/", handler)
    app.router.add_get("/tasks/x", handler)
    setup(app, tq, task_only=["/tasks/"])
    async with serving_aiohttp(app) as base:
        assert (await fetch("GET", base + "/")).status == 200
        assert order == ["middleware, 0 tasks wait"]
        assert await tq.size() == 2
        assert (await fetch("GET", base + "/tasks/x")).text == "nothing at /tasks/x"


async def test_handlers_and_methods_for_tasks_alone(tq: taskqueue.TaskQueue) -> None:
    @task_only
    async def build(_request: web.Request) -> web.Response:
        return web.Response(text="built")

    class Report(web.View):
        @task_only
        async def get(self) -> web.Response:
            return web.Response(text="built")

    async def order(request: web.Request) -> web.Response:
        return web.Response(text=taskqueue.add(request.query["path"]))

    routes = web.get("/", order), web.get("/function", build), web.view("/method", Report)
    async with serving_aiohttp(application(tq, *routes)) as base:
        missing = await fetch("GET", base + "/missing")
        consumer = Consumer(tq)
        for path in ("/function", "/method"):
            hidden = await fetch("GET", base + path)
            assert (hidden.status, hidden.body) == (404, missing.body)
            await fetch("GET", base + "/", params={"path": path})
            _, outcome = await consumer.replay(base)
            assert isinstance(outcome, Answered)
            assert (outcome.status, outcome.receipted) == (200, True)


def test_task_only_wants_a_coroutine_function() -> None:
    def plain(_request: web.Request) -> web.Response:
        return web.Response()

    with pytest.raises(taskqueue.ConfigError, match="async def"):
        task_only(plain)  # type: ignore[type-var]


# ---- every way to read a body


LINES = b"".join(b"line %d of the body\n" % number for number in range(20_000))


async def by_read(request: web.Request) -> bytes:
    return await request.read()


async def by_content_read(request: web.Request) -> bytes:
    return await request.content.read()


async def by_small_reads(request: web.Request) -> bytes:
    pieces = []
    while piece := await request.content.read(977):
        pieces.append(piece)
    return b"".join(pieces)


async def by_lines(request: web.Request) -> bytes:
    return b"".join([line async for line in request.content])


async def by_until(request: web.Request) -> bytes:
    return b"".join([await request.content.readuntil(b"y\n") for _ in range(20_000)])


async def exactly(request: web.Request) -> bytes:
    return await request.content.readexactly(len(LINES))


async def by_pieces(request: web.Request) -> bytes:
    return b"".join([piece async for piece in request.content.iter_chunked(5_000)])


async def by_any(request: web.Request) -> bytes:
    return b"".join([piece async for piece in request.content.iter_any()])


async def by_chunks(request: web.Request) -> bytes:
    return b"".join([piece async for piece, _ in request.content.iter_chunks()])


async def without_waiting(request: web.Request) -> bytes:
    pieces = [await request.content.readany()]
    while not request.content.at_eof():
        pieces += [request.content.read_nowait(), await request.content.readany()]
    return b"".join(pieces)


async def by_release(request: web.Request) -> bytes:
    await request.release()
    return LINES


WAYS: list[Read] = [
    by_read,
    by_content_read,
    by_small_reads,
    by_lines,
    by_until,
    exactly,
    by_pieces,
    by_any,
    by_chunks,
    without_waiting,
    by_release,
]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("read", WAYS)
async def test_the_body_is_read_and_copied_in_every_way(
    tq: taskqueue.TaskQueue,
    read: Read,
    chunked: bool,  # noqa: FBT001
) -> None:
    bodies: list[object] = []

    async def handler(request: web.Request) -> web.Response:
        assert request.can_read_body
        bodies.append(await read(request))
        assert request.content.at_eof()
        assert not request.can_read_body
        taskqueue.add("/later", method="POST")
        return web.Response()

    async with serving_aiohttp(application(tq, web.post("/", handler), web.post("/later", handler))) as base:
        assert (await fetch("POST", base + "/", data=pieces() if chunked else io.BytesIO(LINES))).status == 200
        task, outcome = await Consumer(tq).replay(base)
    assert task.body == LINES
    assert isinstance(outcome, Answered)
    assert outcome.status == 200
    assert bodies == [LINES, LINES]


async def pieces() -> AsyncIterator[bytes]:
    for start in range(0, len(LINES), 10_007):
        yield LINES[start : start + 10_007]


async def test_the_ends_of_chunks_are_where_they_were(tq: taskqueue.TaskQueue) -> None:
    sizes: list[int] = []

    async def handler(request: web.Request) -> web.Response:
        size = 0
        async for piece, ends in request.content.iter_chunks():
            size += len(piece)
            if ends:
                sizes.append(size)
                size = 0
        return web.Response()

    async with serving_aiohttp(application(tq, web.post("/", handler))) as base:
        assert (await fetch("POST", base + "/", data=pieces())).status == 200
    expected = [len(LINES[start : start + 10_007]) for start in range(0, len(LINES), 10_007)]
    assert sizes == expected


async def test_nothing_is_read_ahead(tq: taskqueue.TaskQueue) -> None:
    """A client that sends without end is slowed down when the handler reads no more."""
    stop = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while not stop.is_set():
            yield bytes(65_536)

    async def handler(request: web.Request) -> web.Response:
        async def slowed_down() -> bool:
            transport = request.transport
            return isinstance(transport, asyncio.ReadTransport) and not transport.is_reading()

        assert await request.content.readexactly(10) == bytes(10)
        await until(slowed_down, "the server reads no more from the connection")
        stop.set()
        return web.Response()

    async with serving_aiohttp(application(tq, web.post("/", handler))) as base:
        assert (await fetch("POST", base + "/", data=endless())).status == 200


# ---- bodies that aiohttp unpacks


async def test_a_packed_body_is_copied_as_the_handler_sees_it(tq: taskqueue.TaskQueue) -> None:
    bodies: list[bytes] = []

    async def handler(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        taskqueue.add("/later", method="POST")
        return web.Response()

    packed = gzip.compress(LINES)
    headers = {"Content-Encoding": "gzip", "Content-Type": "text/plain"}
    async with serving_aiohttp(application(tq, web.post("/", handler), web.post("/later", handler))) as base:
        assert (await fetch("POST", base + "/", data=packed, headers=headers)).status == 200
        task, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert outcome.status == 200
    assert "content-encoding" not in dict(task.headers)
    assert dict(task.headers)["content-type"] == "text/plain"
    assert task.body == LINES
    assert bodies == [LINES, LINES]


async def test_a_packed_task_needs_a_server_that_leaves_it_packed(tq: taskqueue.TaskQueue) -> None:
    packed = gzip.compress(LINES)
    bodies: list[bytes] = []

    async def order(_request: web.Request) -> web.Response:
        return web.Response(text=taskqueue.add("/build", payload=packed, headers={"Content-Encoding": "gzip"}))

    async def build(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        return web.Response()

    for handler_args, status in (({}, 415), ({"auto_decompress": False}, 200)):
        app = web.Application(handler_args=handler_args)
        app = application(tq, web.get("/", order), web.post("/build", build), app=app)
        async with serving_aiohttp(app) as base:
            await fetch("GET", base + "/")
            _, outcome = await Consumer(tq).replay(base)
        assert isinstance(outcome, Answered)
        # With its receipt: this task fails, and does not keep others waiting.
        assert (outcome.status, outcome.receipted, outcome.refused) == (status, True, None)
        assert (b"auto_decompress" in outcome.content) == (status == 415)
    assert bodies == [packed]


# ---- the rest


async def test_the_connection_is_closed_with_the_application(any_server: RedisServer) -> None:
    queue = task_queue(any_server.url)

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(text=taskqueue.add("/later"))

    with any_server.client() as client:

        def connections() -> set[str]:
            return {one["id"] for one in client.client_list()}

        async def closed() -> bool:  # the server may hear of it a moment later
            return not opened & connections()

        before = connections()
        async with serving_aiohttp(application(queue, web.get("/", handler))) as base:
            await fetch("GET", base + "/")
            opened = connections() - before
            assert len(opened) == 1
        await until(closed, "the connection is closed")


async def test_a_handler_that_returns_no_response_queues_nothing(
    tq: taskqueue.TaskQueue, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(_request: web.Request) -> web.Response:
        taskqueue.add("/later")
        return None  # type: ignore[return-value]

    async with serving_aiohttp(application(tq, web.get("/", handler))) as base:
        assert (await fetch("GET", base + "/")).status == 500
        assert await tq.size() == 0
    assert "Missing return statement on request handler" in caplog.text


@dataclass
class User:
    id: object


@pytest.mark.parametrize(("user", "user_id"), [(None, None), (User(None), None), (User("ada"), "ada"), (User(7), "7")])
def test_the_authenticated_user(user: object, user_id: str | None) -> None:
    request = make_mocked_request("GET", "/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", web.NotAppKeyWarning)
        request["user"] = user
    assert authenticated_user(request) == user_id
