"""The application that test_asgi_servers serves: it tells which process has answered, and writes who was refused."""

import logging
import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.httpsredirect import HTTPSRedirectMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import taskqueue
from taskqueue.middleware.asgi import TaskQueueMiddleware

logging.basicConfig(format="process %(process)d: %(message)s", level=logging.WARNING)


async def pid(_request: Request) -> Response:
    return PlainTextResponse(str(os.getpid()))


async def order(request: Request) -> Response:
    path = (await request.form())["path"] or request.url_for("build")
    return PlainTextResponse(taskqueue.add(path, method="POST", params={"year": 2026}, user_id="ada"))


async def build(request: Request) -> Response:
    return JSONResponse([str(request.url), request.scope["user"], len(await request.body())])


routes = [Route("/pid", pid), Route("/order", order, methods=["POST"]), Route("/build", build, methods=["POST"])]
app = TaskQueueMiddleware(
    Starlette(routes=routes, middleware=[Middleware(HTTPSRedirectMiddleware)]),
    taskqueue.TaskQueue(),
    load_user=str.upper,
)
