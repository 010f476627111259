"""Applications behind a door, on real servers in the test's own event loop: one set of handlers, every framework.

A handler is written once against a View and returns a Reply; each framework's adapter does with them what its users
would write. What a request has queued is read back from the broker, opened, and replayed as taskqueue-server does it.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import aiohttp
import uvicorn
from aiohttp import web
from fastapi import FastAPI
from fastapi import Request as FastAPIRequest
from starlette import responses
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from yarl import URL

import taskqueue
from taskqueue.broker import Lease
from taskqueue.exchange import App, Receive, Scope, Send
from taskqueue.middleware import aiohttp as aiohttp_door
from taskqueue.middleware.asgi import TaskQueueMiddleware
from taskqueue.policy import Outcome
from taskqueue.replay import Delivery, HttpReplayer
from taskqueue.seal import unseal
from taskqueue.task import Reservation, Task
from tests.tasks import KEYRING, SECRET
from tests.waiting import until

METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


class View:
    """What a handler sees of its request in any framework."""

    def __init__(self, method: str, headers: Mapping[str, str], query: str) -> None:
        self.method, self.headers, self.query = method, headers, query

    @property
    def user(self) -> object | None:
        """Who the door has logged in."""
        raise NotImplementedError

    async def body(self) -> bytes:
        """Read the whole body."""
        raise NotImplementedError

    async def form(self) -> None:
        """Parse the body as a form, which uses it up."""
        raise NotImplementedError

    async def piece(self) -> bytes:
        """Read the first piece of the body."""
        raise NotImplementedError


@dataclass
class Reply:
    """A response: a text, or a stream of pieces; with a location it is a redirect."""

    status: int = 200
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    stream: Callable[[], AsyncIterator[bytes]] | None = None
    location: str | None = None


Handler = Callable[[View], Awaitable[Reply]]
Handlers = Mapping[str, Handler]


# ---- Starlette and FastAPI


class StarletteView(View):
    def __init__(self, request: Request) -> None:
        super().__init__(request.method, request.headers, request.url.query)
        self._request = request

    @property
    def user(self) -> object | None:
        return self._request.scope.get("user")

    async def body(self) -> bytes:
        return await self._request.body()

    async def form(self) -> None:
        async with self._request.form() as form:
            assert len(form) > 0

    async def piece(self) -> bytes:
        return await anext(self._request.stream())


async def starlette_endpoint(handlers: Handlers, request: Request) -> responses.Response:
    handler = handlers.get(request.url.path)
    if handler is None:
        raise HTTPException(404)
    reply = await handler(StarletteView(request))
    if reply.location is not None:
        return responses.RedirectResponse(reply.location, reply.status, reply.headers)
    if reply.status == 404:
        raise HTTPException(404)
    if reply.stream is not None:
        return responses.StreamingResponse(reply.stream(), reply.status, reply.headers)
    return responses.PlainTextResponse(reply.text, reply.status, reply.headers)


def starlette_app(handlers: Handlers) -> App:
    return Starlette(routes=[Route(path, partial(starlette_endpoint, handlers), methods=METHODS) for path in handlers])


def fastapi_app(handlers: Handlers) -> App:
    app = FastAPI(openapi_url=None)
    for path in handlers:

        async def endpoint(request: FastAPIRequest) -> responses.Response:
            return await starlette_endpoint(handlers, request)

        app.api_route(path, methods=METHODS)(endpoint)
    return app


# ---- a bare ASGI application


class BareView(View):
    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        super().__init__(scope["method"], headers, scope["query_string"].decode())
        self._scope, self._receive = scope, receive

    @property
    def user(self) -> object | None:
        return self._scope.get("user")

    async def body(self) -> bytes:
        pieces, more = [], True
        while more:
            message = await self._receive()
            assert message["type"] == "http.request"
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
        return b"".join(pieces)

    async def form(self) -> None:
        assert await self.body()

    async def piece(self) -> bytes:
        return bytes((await self._receive()).get("body", b""))


def bare_app(handlers: Handlers) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        handler = handlers.get(scope["path"])
        reply = await handler(BareView(scope, receive)) if handler else Reply(404, "Not Found")
        headers = dict(reply.headers)
        if reply.location is not None:
            headers["location"] = reply.location
        if reply.stream is None:
            headers["content-length"] = str(len(reply.text))
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": raw})
        if reply.stream is not None:
            async for piece in reply.stream():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": reply.text.encode()})

    return app


async def lifespan(receive: Receive, send: Send) -> None:
    """Start and stop without doing anything."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


# ---- aiohttp


class AiohttpView(View):
    def __init__(self, request: web.Request) -> None:
        super().__init__(request.method, request.headers, request.raw_path.partition("?")[2])
        self._request = request

    @property
    def user(self) -> object | None:
        found: object | None = self._request.get("user")
        return found

    async def body(self) -> bytes:
        return await self._request.read()

    async def form(self) -> None:
        assert len(await self._request.post()) > 0

    async def piece(self) -> bytes:
        return await self._request.content.readany()


async def aiohttp_endpoint(handlers: Handlers, request: web.Request) -> web.StreamResponse:
    reply = await handlers[request.path](AiohttpView(request))
    if reply.location is not None:
        raise web.HTTPFound(reply.location, headers=reply.headers)
    if reply.status == 404:
        raise web.HTTPNotFound(headers=reply.headers)
    if reply.stream is None:
        return web.Response(status=reply.status, text=reply.text, headers=reply.headers)
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    await response.prepare(request)
    async for piece in reply.stream():
        await response.write(piece)
    return response


def aiohttp_app(handlers: Handlers) -> web.Application:
    app = web.Application(client_max_size=64 * 1024 * 1024)
    for path in handlers:
        app.router.add_route("*", path, partial(aiohttp_endpoint, handlers))
    return app


# ---- servers


@asynccontextmanager
async def serving_asgi(app: App, **options: Any) -> AsyncIterator[str]:
    """Run an ASGI application on uvicorn; yield its base address."""
    settings: dict[str, Any] = {"lifespan": "on", "ws": "none", "log_config": None, "access_log": False, **options}
    config = uvicorn.Config(app, **settings)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # Its own serve() looks ten times a second whether to stop, which hundreds of tests would wait for.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.startup([listener])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.servers[0].close()
            state = server.server_state
            for connection in list(state.connections):
                connection.shutdown()
            await until(lambda: _value(not state.tasks and not state.connections), "every request has ended")
            await server.lifespan.shutdown()


async def _value(value: bool) -> bool:  # noqa: FBT001
    return value


@asynccontextmanager
async def serving_aiohttp(app: web.Application, **options: Any) -> AsyncIterator[str]:
    """Run an aiohttp application; yield its base address."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, **options)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


ASGI_APPS: Final[dict[str, Callable[[Handlers], App]]] = {
    "starlette": starlette_app,
    "fastapi": fastapi_app,
    "asgi": bare_app,
}
ASGI_KINDS: Final = [*ASGI_APPS, "litestar", "quart"]  # the last two have ways of their own to mount the door
DJANGO_KINDS: Final = ["django-asgi", "django-wsgi"]
WSGI_KINDS: Final = ["wsgi", "flask", "pyramid", "django-wsgi"]
KINDS: Final = [*ASGI_KINDS, "aiohttp", "django-asgi", *WSGI_KINDS]


def asgi_app(kind: str, handlers: Handlers) -> App:
    """Return these handlers in this framework, without a door."""
    if kind in ASGI_APPS:
        return ASGI_APPS[kind](handlers)
    from tests import doors_asgi

    return doors_asgi.bare(kind, handlers)


def behind_asgi_door(kind: str, handlers: Handlers, tq: taskqueue.TaskQueue, **door: Any) -> App:
    """Return these handlers in this framework behind its door, mounted as its users do."""
    if kind in ASGI_APPS:
        return TaskQueueMiddleware(ASGI_APPS[kind](handlers), tq, **door)
    from tests import doors_asgi

    return doors_asgi.behind_door(kind, handlers, tq, **door)


def serving(kind: str, handlers: Handlers, tq: taskqueue.TaskQueue, **door: Any) -> AbstractAsyncContextManager[str]:
    """Run these handlers in this framework behind its door; yields the base address."""
    if kind == "aiohttp":
        app = aiohttp_app(handlers)
        aiohttp_door.setup(app, tq, **door)
        return serving_aiohttp(app)
    if kind in DJANGO_KINDS:
        from tests import doors_django

        return doors_django.serving(kind, handlers, tq, **door)
    if kind in WSGI_KINDS:
        from tests import doors_wsgi

        return doors_wsgi.serving(doors_wsgi.behind_door(kind, handlers, tq, **door), tq)
    return serving_asgi(behind_asgi_door(kind, handlers, tq, **door))


@dataclass(frozen=True)
class Response:
    """What a client was answered, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


async def fetch(method: str, url: str | URL, **options: Any) -> Response:
    """Make one request as a browser without cookies would, and follow no redirect; options as for aiohttp."""
    plain = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)
    async with plain as session, session.request(method, url, allow_redirects=False, **options) as response:
        return Response(response.status, response.headers, await response.read())


# ---- what was queued


class Consumer:
    """Takes tasks out of the queue ``default``, opens them, and replays them over HTTP."""

    def __init__(self, tq: taskqueue.TaskQueue) -> None:
        self.tq = tq
        self._lease: Lease | None = None
        self._turn = 0

    async def reserve(self, want: int = 100) -> list[tuple[Reservation, Task]]:
        """Return the tasks waiting, at most that many, opened."""
        broker, deadline = self.tq.broker, asyncio.get_running_loop().time() + 10
        if self._lease is None:
            self._lease, _ = await broker.claim("default", "tests", dead=None, begins=True, deadline=deadline)
        self._turn += 1
        exchange = await broker.exchange(
            self._lease, [], token=f"turn{self._turn}", want=want, room=64 * 1024 * 1024, deadline=deadline
        )
        return [
            (found, unseal(KEYRING, queue="default", task_id=found.id, record=found.record))
            for found in exchange.reservations
        ]

    async def tasks(self) -> list[Task]:
        """Return the tasks waiting, opened."""
        return [task for _, task in await self.reserve()]

    async def replay(self, base: str) -> tuple[Task, Outcome]:
        """Reserve one task and replay it against this address."""
        ((reservation, task),) = await self.reserve(1)
        delivery = delivery_of(reservation, task)
        async with HttpReplayer(base, KEYRING) as replayer:
            return task, await replayer.replay(delivery)


def delivery_of(reservation: Reservation, task: Task) -> Delivery:
    """Return the delivery that a consumer would make of a reservation."""
    return Delivery(
        task=task, delivery=reservation.delivery, attempt=reservation.attempt, max_attempts=11, timeout=20.0
    )


def task_queue(url: str, **options: Any) -> taskqueue.TaskQueue:
    """Return the TaskQueue of a test's application."""
    return taskqueue.TaskQueue(url, secret=SECRET, queues=["default", "mail"], **options)


def adding(*targets: str, reply: Reply | None = None, **options: Any) -> Handler:
    """Return a handler that adds tasks and replies, by default with their ids."""

    async def handler(_view: View) -> Reply:
        ids = [taskqueue.add(target, **options) for target in targets]
        return reply or Reply(text=" ".join(ids))

    return handler
