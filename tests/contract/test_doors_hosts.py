"""A task names itself as the request did in which it was added: host and scheme, behind proxies and below prefixes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import application_uri

import flask
import pytest
import quart
from aiohttp import web
from django.http import HttpRequest, HttpResponse
from django.urls import path, reverse
from fastapi import FastAPI
from litestar import Litestar, get
from litestar import Request as LitestarRequest
from litestar.config.allowed_hosts import AllowedHostsConfig
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.httpsredirect import HTTPSRedirectMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

import taskqueue
from taskqueue.middleware import aiohttp as aiohttp_door
from taskqueue.middleware import quart as quart_door
from taskqueue.middleware.asgi import TaskQueueMiddleware
from taskqueue.middleware.flask import TaskQueue as FlaskTaskQueue
from taskqueue.middleware.litestar import TaskQueuePlugin
from taskqueue.middleware.wsgi import TaskQueueMiddleware as WsgiMiddleware
from taskqueue.policy import Answered
from tests import doors_django, doors_wsgi
from tests.doors import Consumer, fetch, serving_aiohttp, serving_asgi

# What the application's own reverse proxy sends.
PROXIED: Final = {"Host": "shop.example.org", "X-Forwarded-Proto": "https"}
Serving = AbstractAsyncContextManager[str]

# ---- in each framework: `/` adds /build by the name it has for it, and both note how they name that view


def starlette(tq: taskqueue.TaskQueue, seen: list[str], **options: Any) -> Serving:
    async def order(request: Request) -> Response:
        seen.append(str(request.url_for("build")))
        return PlainTextResponse(taskqueue.add(request.url_for("build"), params={"year": 2026}))

    async def build(request: Request) -> Response:
        seen.append(str(request.url.replace(query="")))
        return PlainTextResponse("built")

    app = Starlette(
        routes=[Route("/", order), Route("/build", build)],
        middleware=[
            Middleware(HTTPSRedirectMiddleware),
            Middleware(TrustedHostMiddleware, allowed_hosts=["*.example.org"]),
        ],
    )
    return serving_asgi(TaskQueueMiddleware(app, tq), **options)


def fastapi(tq: taskqueue.TaskQueue, seen: list[str], **options: Any) -> Serving:
    app = FastAPI()

    @app.get("/")
    async def order(request: Request) -> str:
        seen.append(str(request.url_for("build")))
        return taskqueue.add(app.url_path_for("build"), params={"year": 2026})

    @app.get("/build")
    async def build(request: Request) -> None:
        seen.append(str(request.url.replace(query="")))

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["shop.example.org"])
    app.add_middleware(HTTPSRedirectMiddleware)
    app.add_middleware(TaskQueueMiddleware, tq=tq)
    return serving_asgi(app, **options)


def litestar(tq: taskqueue.TaskQueue, seen: list[str], **options: Any) -> Serving:
    @get("/")
    async def order(request: LitestarRequest[Any, Any, Any]) -> str:
        seen.append(str(request.url_for("build")))
        return taskqueue.add(request.app.route_reverse("build"), params={"year": 2026})

    @get("/build", name="build")
    async def build(request: LitestarRequest[Any, Any, Any]) -> None:
        seen.append(str(request.url.with_replacements(query="")))

    app: Any = Litestar(
        [order, build],
        plugins=[TaskQueuePlugin(tq)],
        allowed_hosts=AllowedHostsConfig(allowed_hosts=["shop.example.org", "shop.example.org:8443"]),
        openapi_config=None,
        logging_config=None,
    )
    return serving_asgi(app, **options)


def quart_(tq: taskqueue.TaskQueue, seen: list[str], **options: Any) -> Serving:
    app = quart.Quart("tests", static_folder=None)

    @app.get("/")
    async def order() -> str:
        seen.append(quart.url_for("build", _external=True))
        return taskqueue.add(quart.url_for("build"), params={"year": 2026})

    @app.get("/build")
    async def build() -> str:
        seen.append(quart.request.base_url)
        return "built"

    quart_door.setup(app, tq)
    asgi: Any = app
    return serving_asgi(asgi, **options)


def aiohttp(tq: taskqueue.TaskQueue, seen: list[str], **_options: Any) -> Serving:
    @web.middleware
    async def behind_proxy(request: web.Request, handler: Callable[..., Awaitable[Any]]) -> Any:
        """Do what aiohttp's manual recommends for an application behind a proxy."""
        response: Any = await handler(request.clone(scheme=request.headers.get("X-Forwarded-Proto", "http")))
        return response

    async def order(request: web.Request) -> web.Response:
        build = request.app.router["build"].url_for()
        seen.append(str(request.url.join(build)))
        return web.Response(text=taskqueue.add(build, params={"year": 2026}))

    async def build(request: web.Request) -> web.Response:
        seen.append(str(request.url.with_query(None)))
        return web.Response()

    app = web.Application(middlewares=[behind_proxy])
    app.add_routes([web.get("/", order), web.get("/build", build, name="build")])
    aiohttp_door.setup(app, tq)
    return serving_aiohttp(app)


def flask_(tq: taskqueue.TaskQueue, seen: list[str], **_options: Any) -> Serving:
    app = flask.Flask("tests", static_folder=None)

    @app.get("/")
    def order() -> str:
        seen.append(flask.url_for("build", _external=True))
        return taskqueue.add(flask.url_for("build"), params={"year": 2026})

    @app.get("/build")
    def build() -> str:
        seen.append(flask.request.base_url)
        return "built"

    @app.before_request
    def to_https() -> Any:
        return None if flask.request.is_secure else flask.redirect(flask.request.url.replace("http:", "https:"))

    app.wsgi_app = ProxyFix(app.wsgi_app, x_host=0)  # type: ignore[method-assign]  # as Flask's manual says
    FlaskTaskQueue(app, tq)
    return doors_wsgi.serving(app, tq)


def bare_wsgi(tq: taskqueue.TaskQueue, seen: list[str], **_options: Any) -> Serving:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        base = f"{environ['wsgi.url_scheme']}://{environ['HTTP_HOST']}"
        seen.append(f"{base}/build")
        if environ["PATH_INFO"] == "/":
            taskqueue.add("/build", params={"year": 2026})
        start_response("200 OK", [])
        return []

    door = WsgiMiddleware(app, tq)

    def server(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Believe the proxy, as gunicorn does."""
        return door({**environ, "wsgi.url_scheme": environ.get("HTTP_X_FORWARDED_PROTO", "http")}, start_response)

    return doors_wsgi.serving(server, tq)


@asynccontextmanager
async def django(kind: str, tq: taskqueue.TaskQueue, seen: list[str], **_options: Any) -> AsyncIterator[str]:
    def order(request: HttpRequest) -> HttpResponse:
        seen.append(request.build_absolute_uri(reverse("build")))
        return HttpResponse(taskqueue.add(reverse("build"), params={"year": 2026}))

    def build(request: HttpRequest) -> HttpResponse:
        seen.append(request.build_absolute_uri(request.path))
        return HttpResponse()

    changed = {
        "ALLOWED_HOSTS": [".example.org"],
        "SECURE_SSL_REDIRECT": True,
        "SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https"),
        "middleware": [doors_django.DOOR, "django.middleware.security.SecurityMiddleware"],
    }
    views = [path("", order), path("build", build, name="build")]
    with doors_django.project(tq, *views, load_user=None, **changed):
        async with doors_django.served(kind, tq) as base:
            yield base


FRAMEWORKS: Final[dict[str, Callable[..., Serving]]] = {
    "starlette": starlette,
    "fastapi": fastapi,
    "litestar": litestar,
    "quart": quart_,
    "aiohttp": aiohttp,
    "flask": flask_,
    "wsgi": bare_wsgi,
    "django-wsgi": partial(django, "django-wsgi"),
    "django-asgi": partial(django, "django-asgi"),
}


@pytest.mark.accept("CT19")
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("headers", [PROXIED, {"Host": "shop.example.org:8443", "X-Forwarded-Proto": "https"}])
async def test_an_absolute_url_made_in_a_task_is_the_public_one(
    tq: taskqueue.TaskQueue, framework: str, headers: dict[str, str]
) -> None:
    seen: list[str] = []
    async with FRAMEWORKS[framework](tq, seen, proxy_headers=True, forwarded_allow_ips="127.0.0.1") as base:
        response = await fetch("GET", base + "/", headers=headers)
        assert response.status == 200, response.text
        task, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted, outcome.location) == (200, True, None)
    assert seen == [f"https://{headers['Host']}/build"] * 2
    assert (task.target, task.host) == ("/build?year=2026", headers["Host"])


@pytest.mark.accept("CT19")
async def test_a_server_that_trusts_no_proxy_believes_a_delivery(tq: taskqueue.TaskQueue) -> None:
    seen: list[str] = []
    async with starlette(tq, seen, proxy_headers=False) as base:
        plain = await fetch("GET", base + "/build", headers=PROXIED)
        assert (plain.status, plain.headers["Location"]) == (307, "https://shop.example.org/build")
        await tq.push("/build", headers=PROXIED)
        _, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, seen) == (200, ["https://shop.example.org/build"])


@pytest.mark.accept("CT19")
@pytest.mark.parametrize("kind", ["wsgi", "aiohttp"])
async def test_where_nobody_asks_for_a_scheme_a_task_still_has_its_own(tq: taskqueue.TaskQueue, kind: str) -> None:
    """Neither knows of proxies by itself: what is public is told by ``public_url``, or by the task."""
    seen: list[str] = []

    async def note(request: web.Request) -> web.Response:
        seen.append(f"{request.url.with_query(None)} {request.secure}")
        return web.Response()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(f"{application_uri(environ)}build {environ['wsgi.url_scheme'] == 'https'}")
        start_response("200 OK", [])
        return []

    application = web.Application()
    application.add_routes([web.get("/build", note)])
    aiohttp_door.setup(application, tq)
    serving = doors_wsgi.serving(WsgiMiddleware(app, tq), tq) if kind == "wsgi" else serving_aiohttp(application)
    async with serving as base:
        await tq.push("/build", headers=PROXIED)
        _, outcome = await Consumer(tq).replay(base)
        await fetch("GET", base + "/build", headers=PROXIED)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted) == (200, True)
    assert seen == ["https://shop.example.org/build True", "http://shop.example.org/build False"]


@pytest.mark.parametrize("proto", ["https,http", "ftp", ""])
async def test_a_scheme_that_is_none_is_not_taken_over(tq: taskqueue.TaskQueue, proto: str) -> None:
    seen: list[str] = []
    async with quart_(tq, seen, proxy_headers=False) as base:
        await tq.push("/build", headers={"Host": "shop.example.org", "X-Forwarded-Proto": proto})
        await Consumer(tq).replay(base)
    assert seen == ["http://shop.example.org/build"]


@pytest.mark.parametrize("wraps", [False, True])
async def test_below_a_prefix_that_the_proxy_takes_off(tq: taskqueue.TaskQueue, wraps: bool) -> None:  # noqa: FBT001
    """The public path is /shop/..., the application's server sees what follows, and knows of the prefix."""
    seen: list[str] = []

    async def order(request: Request) -> Response:
        seen.append(str(request.url_for("build")))
        return PlainTextResponse(taskqueue.add("/inner/build"))

    async def build(request: Request) -> Response:
        seen.append(str(request.url))
        return PlainTextResponse("built")

    app: Any = Starlette(routes=[Mount("/inner", routes=[Route("/", order), Route("/build", build)])])
    app = TaskQueueMiddleware(app, tq)
    app = ProxyHeadersMiddleware(app, trusted_hosts="127.0.0.1") if wraps else app
    async with serving_asgi(app, root_path="/shop", proxy_headers=not wraps) as base:
        assert (await fetch("GET", base + "/inner/", headers=PROXIED)).status == 200
        _, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted) == (200, True)
    assert seen == ["https://shop.example.org/shop/inner/build"] * 2
