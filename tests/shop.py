"""An application of a few lines with its door, in two frameworks, and the ways in which a consumer can reach it.

What it shall do at a path is a view that a test sets; all other paths note what arrived and answer 200. The views are
the same whether tasks come over HTTP or by a call inside the consumer's process.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from aiohttp import web
from fastapi import FastAPI
from fastapi import Request as FastAPIRequest
from starlette.responses import Response as StarletteResponse

import taskqueue
from taskqueue.broker import connect
from taskqueue.inprocess import AiohttpReplayer, AsgiReplayer
from taskqueue.middleware import aiohttp as aiohttp_door
from taskqueue.middleware.asgi import TaskQueueMiddleware
from taskqueue.policy import Rules
from taskqueue.replay import HttpReplayer, Replayer
from taskqueue.server import TaskQueueServer
from taskqueue.task import TaskState
from tests.doors import METHODS, Response, fetch, serving_aiohttp, serving_asgi
from tests.tasks import KEYRING, SECRET
from tests.waiting import until
from tests.work import consume

WAYS: Final = ("asgi over http", "aiohttp over http", "asgi in process", "aiohttp in process")
# Nobody waits for a second try.
AT_ONCE: Final = Rules(backoff_min=0.01, backoff_max=0.01)


@dataclass(frozen=True)
class Arrived:
    """A request as a view sees it, in any framework; names of headers in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    user: object
    task: taskqueue.CurrentTask | None
    body: Callable[[], Awaitable[bytes]]


Reply = tuple[int, dict[str, str]]
View = Callable[[Arrived], Awaitable[Reply | None]]


@dataclass
class Shop:
    """What the application does and what has happened: ``done`` are effects, in order, as (target, body)."""

    tq: taskqueue.TaskQueue
    views: dict[str, View] = field(default_factory=dict)
    arrived: list[Arrived] = field(default_factory=list)
    done: list[tuple[str, bytes]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    base: str = ""

    async def answer(self, arrived: Arrived) -> Reply:
        """Serve one request: the view's reply, or 200."""
        if arrived.task is not None:
            self.arrived.append(arrived)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            view = self.views.get(arrived.target.partition("?")[0])
            if view is not None:
                return await view(arrived) or (200, {})
            body = await arrived.body()
            if arrived.task is not None:
                self.done.append((arrived.target, body))
            return 200, {}
        finally:
            self.running -= 1

    async def request(self, method: str, target: str, **options: Any) -> Response:
        """Make a request as a browser does."""
        return await fetch(method, self.base + target, **options)

    async def order(self, adds: Callable[[], object], method: str = "GET", **options: Any) -> Response:
        """Make a request whose handler does this; it must succeed."""

        async def view(_arrived: Arrived) -> None:
            adds()

        self.views["/order"] = view
        response = await self.request(method, "/order", **options)
        assert response.status == 200
        return response

    async def finished(self, count: int) -> None:
        """Wait until so many effects have been made."""
        await until(lambda: _value(len(self.done) >= count), f"{count} effects, now {len(self.done)}")

    async def reached(self, task_id: str, state: str) -> TaskState:
        """Wait until a task is in this state; return it."""
        return await reached(self.tq, task_id, state)


async def reached(tq: taskqueue.TaskQueue, task_id: str, state: str) -> TaskState:
    """Wait until a task is in this state; return it."""
    found: list[TaskState | None] = [None]

    async def there() -> bool:
        found[0] = await tq.get(task_id)
        return found[0] is not None and found[0].state == state

    await until(there, f"the task is {state}, now {found[0]}")
    assert found[0] is not None
    return found[0]


async def _value(value: bool) -> bool:  # noqa: FBT001
    return value


def user_in(cookie: str | None) -> str | None:
    """Return who a browser with this Cookie header is."""
    return cookie.partition("user=")[2] or None if cookie else None


def asgi_app(shop: Shop, **door: Any) -> Any:
    """Return the application in FastAPI."""
    app = FastAPI(openapi_url=None)

    async def endpoint(request: FastAPIRequest) -> StarletteResponse:
        query = f"?{request.url.query}" if request.url.query else ""
        arrived = Arrived(
            request.method,
            request.url.path + query,
            dict(request.headers),
            request.scope.get("user"),
            taskqueue.current_task(),
            request.body,
        )
        status, headers = await shop.answer(arrived)
        return StarletteResponse(status_code=status, headers=headers)

    app.api_route("/{path:path}", methods=METHODS)(endpoint)

    def user_id(scope: Any) -> str | None:
        return user_in(dict(scope["headers"]).get(b"cookie", b"").decode())

    return TaskQueueMiddleware(app, shop.tq, user_id=user_id, **door)


def aiohttp_app(shop: Shop, **door: Any) -> web.Application:
    """Return the application in aiohttp."""

    async def endpoint(request: web.Request) -> web.Response:
        arrived = Arrived(
            request.method,
            request.raw_path,
            {name.lower(): value for name, value in request.headers.items()},
            request.get("user"),
            taskqueue.current_task(),
            request.read,
        )
        status, headers = await shop.answer(arrived)
        return web.Response(status=status, headers=headers)

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", endpoint)
    aiohttp_door.setup(app, shop.tq, user_id=lambda request: user_in(request.headers.get("Cookie")), **door)
    return app


@asynccontextmanager
async def open_shop(way: str, url: str, **door: Any) -> AsyncIterator[tuple[Shop, Replayer]]:
    """Serve the application for browsers; give it with the way for a consumer, which may be an instance of its own."""
    tq = taskqueue.TaskQueue(url, secret=SECRET, queues=["default", "mail"])
    shop = Shop(tq)
    kind, in_process = way.split(maxsplit=1)[0], way.endswith("in process")
    makers: dict[str, Callable[..., Any]] = {"asgi": asgi_app, "aiohttp": aiohttp_app}
    make = partial(makers[kind], shop, **door)
    async with serving_asgi(make()) if kind == "asgi" else serving_aiohttp(make()) as shop.base:
        replayer: Replayer = HttpReplayer(shop.base, KEYRING)
        if in_process:
            replayer = AsgiReplayer(make()) if kind == "asgi" else AiohttpReplayer(make(), KEYRING)
        yield shop, replayer
    await tq.aclose()


@asynccontextmanager
async def consuming(url: str, replayer: Replayer, **options: Any) -> AsyncIterator[TaskQueueServer]:
    """Run a consumer, and stop it in good order."""
    options = {"rules": AT_ONCE, "stop_grace": 10.0, **options}
    broker = connect(url, namespace="taskqueue")
    server = TaskQueueServer(broker, replayer, KEYRING, name="one", queues=["default"], **options)
    job = asyncio.create_task(consume(server))
    try:
        yield server
    finally:
        server.stop()
        await job
