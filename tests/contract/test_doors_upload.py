"""What a door makes of a large upload, and of one that is packed: a file beside it, and no second meaning."""

import asyncio
import gzip
import io
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse

import taskqueue
from taskqueue.exchange import App, Message, Receive, Scope, Send
from taskqueue.middleware.asgi import TaskQueueMiddleware
from taskqueue.middleware.wsgi import TaskQueueMiddleware as WsgiMiddleware
from tests.doors import Consumer, fetch, lifespan, serving_asgi, task_queue

PIECE: Final = bytes(64 * 1024)
PIECES: Final = 512
ALLOWED: Final = 1024 * 1024


def asgi(tq: taskqueue.TaskQueue, status: int, **claim: str) -> None:
    """Upload through the ASGI door."""
    left = PIECES

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": PIECE, "more_body": left > 0}

    async def send(message: Message) -> None:
        assert message.get("status", status) == status

    length = str(PIECES * len(PIECE)).encode()
    headers = [(b"content-length", length), *((name.encode(), value.encode()) for name, value in claim.items())]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "scheme": "http", "headers": headers}
    asyncio.run(TaskQueueMiddleware(app, tq)(scope, receive, send))
    assert left == 0


class Source(io.RawIOBase):
    """The piece again and again."""

    left = PIECES

    def read(self, size: int = -1, /) -> bytes:
        self.left -= 1
        return PIECE if self.left >= 0 else b""


def wsgi(tq: taskqueue.TaskQueue, status: int, **claim: str) -> None:
    """Upload through the WSGI door."""
    source = Source()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        while environ["wsgi.input"].read(len(PIECE)):
            pass
        start_response("200 OK", [])
        return []

    def start_response(line: str, *_rest: Any) -> Callable[[bytes], object]:
        assert line.startswith(f"{status} ")
        return print

    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "SCRIPT_NAME": "", "wsgi.url_scheme": "http"}
    environ |= {"CONTENT_LENGTH": str(PIECES * len(PIECE)), "HTTP_HOST": "a", "QUERY_STRING": ""}
    environ |= {f"HTTP_{name.upper()}": value for name, value in claim.items()}
    for _ in WsgiMiddleware(app, tq)({**environ, "wsgi.input": source}, start_response):
        pass
    assert source.left <= 0


@pytest.mark.parametrize("upload", [asgi, wsgi])
@pytest.mark.parametrize(
    ("limit", "status", "claim"),
    [(1024 * 1024, 200, {}), (64 * 1024 * 1024, 200, {}), (64 * 1024 * 1024, 403, {"x_task_id": "1"})],
    ids=["over the limit", "on disk", "claims to be a delivery"],
)
def test_an_upload_takes_no_memory(upload: Callable[..., None], limit: int, status: int, claim: dict[str, str]) -> None:
    tq = task_queue("redis://127.0.0.1:1/0", limits=taskqueue.Limits(body=limit))
    upload(tq, status, **claim)  # what is imported and kept for ever is there now
    tracemalloc.start()
    try:
        upload(tq, status, **claim)
        assert tracemalloc.get_traced_memory()[1] < ALLOWED
    finally:
        tracemalloc.stop()


def unpacking(app: App) -> App:
    """Unpack request bodies, as middlewares for it do: the application sees plain bytes, and no header."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        async def unpacked() -> Message:
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message["body"], message["more_body"]
            return {"type": "http.request", "body": gzip.decompress(body), "more_body": False}

        if scope["type"] == "http" and (b"content-encoding", b"gzip") in scope["headers"]:
            headers = [pair for pair in scope["headers"] if pair[0] not in (b"content-encoding", b"content-length")]
            await app({**scope, "headers": headers}, unpacked, send)
        else:
            await app(scope, receive, send)

    return middleware


def noting(seen: list[bytes]) -> App:
    """Return an application that notes each body, and adds a task with it in a request that is none itself."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        seen.append(await Request(scope, receive).body())
        if taskqueue.current_task() is None:
            taskqueue.add("/", method="POST")
        await PlainTextResponse("seen")(scope, receive, send)

    return app


PACKED: Final = gzip.compress(b"the report")


async def test_a_body_that_is_unpacked_inside_travels_as_it_came(tq: taskqueue.TaskQueue) -> None:
    seen: list[bytes] = []
    async with serving_asgi(TaskQueueMiddleware(unpacking(noting(seen)), tq)) as base:
        assert (await fetch("POST", base + "/", data=PACKED, headers={"Content-Encoding": "gzip"})).status == 200
        task, _ = await Consumer(tq).replay(base)
    assert seen == [b"the report"] * 2
    assert (task.body, dict(task.headers)["content-encoding"]) == (PACKED, "gzip")


async def test_a_body_that_is_unpacked_outside_travels_without_content_encoding(tq: taskqueue.TaskQueue) -> None:
    seen: list[bytes] = []

    async def pieces() -> AsyncIterator[bytes]:
        yield PACKED

    async with serving_asgi(unpacking(TaskQueueMiddleware(noting(seen), tq))) as base:
        assert (await fetch("POST", base + "/", data=pieces(), headers={"Content-Encoding": "gzip"})).status == 200
        task, _ = await Consumer(tq).replay(base)
    assert seen == [b"the report"] * 2
    assert task.body == b"the report"
    assert "content-encoding" not in dict(task.headers)
