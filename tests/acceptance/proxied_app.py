"""The application that test_nginx asks: whatever the path, it tells what it sees of the request."""

import json
from collections.abc import Iterable
from hashlib import sha256
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import request_uri

from aiohttp import web
from starlette.requests import Request
from starlette.responses import JSONResponse

import taskqueue
from taskqueue.exchange import App, Receive, Scope, Send
from taskqueue.middleware import aiohttp as aiohttp_door
from taskqueue.middleware.asgi import TaskQueueMiddleware as AsgiMiddleware
from taskqueue.middleware.wsgi import USER, TaskQueueMiddleware
from tests.doors import lifespan


def seen(url: str, user: object, body: bytes) -> list[Any]:
    """Return what the application tells."""
    return [url, user, sha256(body).hexdigest()]


def wsgi_views(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    answer = json.dumps(seen(request_uri(environ), environ.get(USER), body)).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


async def asgi_views(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    request = Request(scope, receive)
    answer = JSONResponse(seen(str(request.url), scope.get("user"), await request.body()))
    await answer(scope, receive, send)


async def aiohttp_view(request: web.Request) -> web.Response:
    return web.json_response(seen(str(request.url), request.get("user"), await request.read()))


def asgi_app(tq: taskqueue.TaskQueue) -> App:
    """Return the application in ASGI."""
    return AsgiMiddleware(asgi_views, tq, load_user=str.upper)


def aiohttp_app(tq: taskqueue.TaskQueue) -> web.Application:
    """Return the application in aiohttp."""
    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", aiohttp_view)
    aiohttp_door.setup(app, tq, load_user=str.upper)
    return app


wsgi_app = TaskQueueMiddleware(wsgi_views, taskqueue.TaskQueue(), load_user=str.upper)
