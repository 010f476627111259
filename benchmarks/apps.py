"""Applications that are called in the consumer's process. They check the work, and count where others can read it.

``bare`` has no door. The others have ours: ``with_door`` around the same bare application, ``starlette`` and
``fastapi`` around one route of the framework that reads the body.
"""

import functools
from typing import Any, Final

from benchmarks import work
from benchmarks.counter import Counter
from taskqueue import TaskQueue
from taskqueue.middleware.asgi import TaskQueueMiddleware


@functools.cache
def counter() -> Counter:
    """Return the counter of this process."""
    return Counter(work.count_file())


TQ: Final = TaskQueue()  # also where no door has it: the consumer asks it where the queues are
EXPECTED: Final = {(name.lower().encode(), value.encode()) for name, value in work.HEADERS.items()}


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, answer 204."""
    if scope["type"] != "http":
        raise ValueError
    message = await receive()
    counter().count(right=message["body"] == work.BODY and set(scope["headers"]) >= EXPECTED)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _with_starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def view(request: Request) -> Response:
        counter().count(right=await request.body() == work.BODY and set(request.headers.raw) >= EXPECTED)
        return Response(status_code=204)

    return Starlette(routes=[Route(work.PATH, view, methods=["POST"])])


def _with_fastapi() -> Any:
    from fastapi import FastAPI, Request, Response

    async def view(request: Request) -> Response:
        counter().count(right=await request.body() == work.BODY and set(request.headers.raw) >= EXPECTED)
        return Response(status_code=204)

    app = FastAPI()
    app.post(work.PATH, status_code=204)(view)
    return app


def __getattr__(name: str) -> Any:
    """Return an application, made when it is first asked for: the others are not even imported."""
    if name == "bare":
        return plain
    inner = {"with_door": lambda: plain, "starlette": _with_starlette, "fastapi": _with_fastapi}.get(name)
    if inner is None:
        raise AttributeError(name)
    return TaskQueueMiddleware(inner(), TQ)
