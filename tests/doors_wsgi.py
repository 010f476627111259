"""Synchronous applications behind the WSGI door, on a server with a thread for each request.

The handlers of ``tests.doors`` are coroutines; here they run in the test's event loop, with the context of the thread
that waits for them, as a synchronous view's own code would have it.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from socketserver import ThreadingMixIn
from typing import Any, TypeVar
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import flask
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPNotFound
from pyramid.request import Request
from pyramid.response import Response
from werkzeug.serving import WSGIRequestHandler, make_server

import taskqueue
from taskqueue.middleware.flask import TaskQueue as FlaskTaskQueue
from taskqueue.middleware.wsgi import USER, TaskQueueMiddleware
from taskqueue.portal import in_portal
from tests.doors import METHODS, Handlers, Reply, View
from tests.mutations import WireRequest

Value = TypeVar("Value")


def run(loop: asyncio.AbstractEventLoop, job: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine in a loop of another thread, in a copy of this thread's context."""
    return asyncio.run_coroutine_threadsafe(job, loop).result()


async def _awaited(job: Awaitable[Value]) -> Value:
    return await job


def pieces(loop: asyncio.AbstractEventLoop, stream: Callable[[], AsyncIterator[bytes]]) -> Iterator[bytes]:
    """Give the pieces of an asynchronous stream."""
    made = stream()
    while piece := run(loop, _awaited(anext(made, b""))):
        yield piece


class WsgiView(View):
    def __init__(self, environ: WSGIEnvironment) -> None:
        headers = {key[5:].replace("_", "-").lower(): value for key, value in environ.items() if key[:5] == "HTTP_"}
        for key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if key in environ:
                headers[key.replace("_", "-").lower()] = environ[key]
        super().__init__(environ["REQUEST_METHOD"], headers, environ["QUERY_STRING"])
        self._environ = environ

    @property
    def user(self) -> object | None:
        found: object | None = self._environ.get(USER)
        return found

    async def body(self) -> bytes:
        chunked = "HTTP_TRANSFER_ENCODING" in self._environ
        return await self._read(-1 if chunked else int(self._environ.get("CONTENT_LENGTH") or 0))

    async def form(self) -> None:
        assert await self.body()

    async def piece(self) -> bytes:
        return await self._read(1000)

    async def _read(self, size: int) -> bytes:
        found: bytes = await asyncio.to_thread(self._environ["wsgi.input"].read, size)
        return found


def wsgi_app(handlers: Handlers) -> WSGIApplication:
    loop = asyncio.get_running_loop()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        handler = handlers.get(environ["PATH_INFO"])
        reply = run(loop, _awaited(handler(WsgiView(environ)))) if handler else Reply(404, "Not Found")
        headers = list({"Content-Type": "text/plain", **reply.headers}.items())
        if reply.location is not None:
            headers.append(("Location", reply.location))
        if reply.stream is None:
            headers.append(("Content-Length", str(len(reply.text))))
        start_response(f"{reply.status} Whatever", headers)
        return pieces(loop, reply.stream) if reply.stream is not None else [reply.text.encode()]

    return app


class FlaskView(View):
    def __init__(self, request: flask.Request) -> None:
        headers = {name.lower(): value for name, value in request.headers}
        super().__init__(request.method, headers, request.query_string.decode())
        self._request = request

    @property
    def user(self) -> object | None:
        found: object | None = self._request.environ.get(USER)
        return found

    async def body(self) -> bytes:
        return await asyncio.to_thread(self._request.get_data)

    async def form(self) -> None:
        assert await asyncio.to_thread(lambda: len(self._request.form) + len(self._request.files)) > 0

    async def piece(self) -> bytes:
        return await asyncio.to_thread(self._request.stream.read, 1000)


def flask_app(handlers: Handlers) -> flask.Flask:
    loop = asyncio.get_running_loop()
    app = flask.Flask("tests")

    def endpoint() -> flask.Response:
        request = flask.request._get_current_object()  # type: ignore[attr-defined]
        reply = run(loop, _awaited(handlers[request.path](FlaskView(request))))
        body = reply.text if reply.stream is None else flask.stream_with_context(pieces(loop, reply.stream))
        response = flask.Response(body, reply.status, reply.headers)
        if reply.location is not None:
            response.location = reply.location
        response.autocorrect_location_header = False
        return response

    for path in handlers:
        app.add_url_rule(path, path, endpoint, methods=METHODS, provide_automatic_options=False)
    return app


class PyramidView(View):
    def __init__(self, request: Any) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        super().__init__(request.method, headers, request.query_string)
        self._request = request

    @property
    def user(self) -> object | None:
        found: object | None = self._request.environ.get(USER)
        return found

    async def body(self) -> bytes:
        return await asyncio.to_thread(lambda: self._request.body)

    async def form(self) -> None:
        assert await asyncio.to_thread(lambda: len(self._request.POST)) > 0

    async def piece(self) -> bytes:
        return await asyncio.to_thread(self._request.environ["wsgi.input"].read, 1000)


class InMemory(Request):  # type: ignore[misc]
    request_body_tempfile_limit = 2**30  # WebOb leaves files to the garbage collector


class _AsGiven(Response):  # type: ignore[misc]
    def _abs_headerlist(self, _environ: WSGIEnvironment) -> list[tuple[str, str]]:
        return list(self.headerlist)  # WebOb would make a Location absolute


def pyramid_config(handlers: Handlers, **settings: Any) -> Configurator:
    loop = asyncio.get_running_loop()

    def endpoint(request: Any) -> Response:
        reply = run(loop, _awaited(handlers[request.path](PyramidView(request))))
        if reply.status == 404:
            raise HTTPNotFound(headers=reply.headers)
        content = {"app_iter": pieces(loop, reply.stream)} if reply.stream is not None else {"text": reply.text}
        response = _AsGiven(status=reply.status, content_type="text/plain", charset="utf-8", **content)
        response.headers.update(reply.headers)
        if reply.location is not None:
            response.location = reply.location
        return response

    def missing(error: Any, _request: Any) -> Response:
        error.detail = None  # where Pyramid names the path
        return error

    config = Configurator(settings=settings, request_factory=InMemory)
    config.add_notfound_view(missing)
    for path in handlers:
        config.add_route(path, path)
        config.add_view(endpoint, route_name=path)
    return config


def pyramid_app(handlers: Handlers, tq: taskqueue.TaskQueue, **door: Any) -> WSGIApplication:
    config = pyramid_config(handlers)
    config.include("taskqueue.middleware.pyramid")
    config.set_taskqueue(tq, **door)
    app: WSGIApplication = config.make_wsgi_app()
    return app


def behind_door(kind: str, handlers: Handlers, tq: taskqueue.TaskQueue, **door: Any) -> WSGIApplication:
    """Return these handlers in this framework behind its door."""
    if kind == "wsgi":
        return TaskQueueMiddleware(wsgi_app(handlers), tq, **door)
    if kind == "pyramid":
        return pyramid_app(handlers, tq, **door)
    app = flask_app(handlers)
    FlaskTaskQueue(app, tq, **door)
    return app


def as_served(request: WireRequest) -> WireRequest:
    """Return what this server makes of a request: names with _ are dropped, the last Content-Type counts if not empty.

    WSGI cannot tell an empty one from none.
    """
    types = [pair for pair in request.headers if pair[0].lower() == "content-type"][-1:]
    kept = [pair for pair in request.headers if "_" not in pair[0] and pair[0].lower() != "content-type"]
    return replace(request, headers=(*kept, *(pair for pair in types if pair[1])))


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


@asynccontextmanager
async def serving(app: WSGIApplication, tq: taskqueue.TaskQueue) -> AsyncIterator[str]:
    """Run a WSGI application, each request in a thread; yield its base address."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    assert isinstance(server, ThreadingMixIn)
    server.daemon_threads = False  # so that closing waits for what a request still has to log
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        # Not on this loop: the thread waits for its requests, and those for clients that this loop has yet to close.
        await asyncio.to_thread(server.shutdown)
        await asyncio.to_thread(thread.join)
        server.server_close()
        await asyncio.to_thread(in_portal, tq, tq.aclose, tq.aclose)
