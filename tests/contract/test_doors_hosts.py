"""A task names itself as the request did in which it was added: host and scheme, behind proxies and below prefixes."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import pytest
import quart
from aiohttp import web
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

import taskqueue
from taskqueue.middleware import aiohttp as aiohttp_door
from taskqueue.middleware import quart as quart_door
from taskqueue.middleware.asgi import TaskQueueMiddleware
from taskqueue.middleware.litestar import TaskQueuePlugin
from taskqueue.policy import Answered
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


FRAMEWORKS: Final[dict[str, Callable[..., Serving]]] = {
    "starlette": starlette,
    "fastapi": fastapi,
    "litestar": litestar,
    "quart": quart_,
    "aiohttp": aiohttp,
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
