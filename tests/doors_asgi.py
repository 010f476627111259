"""Litestar and Quart applications, and the doors that are theirs."""

from typing import Any

import quart
from litestar import Litestar
from litestar import Request as LitestarRequest
from litestar import Response as LitestarResponse
from litestar.enums import HttpMethod
from litestar.exceptions import NotFoundException
from litestar.handlers import route
from litestar.logging import LoggingConfig
from litestar.response import Redirect, Stream
from multidict import CIMultiDict

import taskqueue
from taskqueue.exchange import App
from taskqueue.middleware import quart as quart_door
from taskqueue.middleware.litestar import TaskQueuePlugin
from tests.doors import METHODS, Handlers, Reply, View

# ---- Litestar


class LitestarView(View):
    def __init__(self, request: LitestarRequest[Any, Any, Any]) -> None:
        super().__init__(request.method, request.headers, request.url.query)
        self._request = request

    @property
    def user(self) -> object | None:
        found: object | None = self._request.scope.get("user")
        return found

    async def body(self) -> bytes:
        return await self._request.body()

    async def form(self) -> None:
        assert len(await self._request.form()) > 0

    async def piece(self) -> bytes:
        return await anext(self._request.stream())


def litestar_response(reply: Reply) -> LitestarResponse[Any]:
    status: Any = reply.status
    if reply.location is not None:
        return Redirect(reply.location, status_code=status, headers=reply.headers)
    if reply.status == 404:
        raise NotFoundException
    if reply.stream is not None:
        return Stream(reply.stream(), status_code=status, headers=reply.headers)
    text = None if reply.status == 204 else reply.text
    return LitestarResponse(text, status_code=status, headers=reply.headers, media_type="text/plain")


def litestar_app(handlers: Handlers, **options: Any) -> App:
    @route(list(handlers), http_method=[HttpMethod(method) for method in METHODS])
    async def endpoint(request: LitestarRequest[Any, Any, Any]) -> LitestarResponse[Any]:
        return litestar_response(await handlers[request.url.path](LitestarView(request)))

    app: Any = Litestar(
        [endpoint],
        openapi_config=None,
        # By itself it logs no error of a handler, and what it logs no other logger.
        logging_config=LoggingConfig(
            log_exceptions="always", configure_root_logger=False, loggers={"litestar": {"propagate": True}}
        ),
        **options,
    )
    return app  # type: ignore[no-any-return]


# ---- Quart


class QuartView(View):
    def __init__(self) -> None:
        request = quart.request
        super().__init__(request.method, CIMultiDict(request.headers.items()), request.query_string.decode())

    @property
    def user(self) -> object | None:
        return quart.request.scope.get("user")

    async def body(self) -> bytes:
        found = await quart.request.get_data()
        assert isinstance(found, bytes)
        return found

    async def form(self) -> None:
        assert await quart.request.form or await quart.request.files

    async def piece(self) -> bytes:
        return await anext(aiter(quart.request.body))


async def quart_response(reply: Reply) -> Any:
    if reply.location is not None:
        response: Any = quart.redirect(reply.location, reply.status)
        response.headers.update(reply.headers)
        return response
    if reply.status == 404:
        quart.abort(404)
    if reply.stream is not None:
        return quart.Response(quart.stream_with_context(reply.stream)(), reply.status, reply.headers)
    return quart.Response(reply.text, reply.status, reply.headers)


def quart_app(handlers: Handlers) -> Any:
    app = quart.Quart("tests", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = 64 * 1024 * 1024

    async def endpoint() -> Any:
        return await quart_response(await handlers[quart.request.path](QuartView()))

    for path in handlers:
        app.add_url_rule(path, path, endpoint, methods=METHODS)
    return app


def behind_door(kind: str, handlers: Handlers, tq: taskqueue.TaskQueue, **door: Any) -> App:
    """Return these handlers in this framework behind its door, mounted as its users do."""
    if kind == "litestar":
        return litestar_app(handlers, plugins=[TaskQueuePlugin(tq, **door)])
    app: App = quart_app(handlers)
    quart_door.setup(app, tq, **door)  # type: ignore[arg-type]
    return app


def bare(kind: str, handlers: Handlers) -> App:
    """Return these handlers in this framework without a door."""
    app: App = litestar_app(handlers) if kind == "litestar" else quart_app(handlers)
    return app
