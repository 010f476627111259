"""One suite for every way to the application: over HTTP, and in process as ASGI, WSGI and aiohttp."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskqueue.errors import AppFailed, InvalidTask
from taskqueue.inprocess import AiohttpReplayer, AsgiReplayer, WsgiReplayer
from taskqueue.keys import Keyring
from taskqueue.policy import TIMEOUT, Answered, Broken
from taskqueue.replay import Delivery, HttpReplayer, Replayer
from taskqueue.request import HANDOVER, Handover
from taskqueue.target import Limits, target_of
from taskqueue.task import Task

KEYRING = Keyring(["correct horse battery staple, and 9 more"])
KINDS = ("http", "asgi", "wsgi", "aiohttp")


@dataclass
class Seen:
    """What the applications saw, and what holds them up."""

    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    entered: threading.Event = field(default_factory=threading.Event)
    leave: threading.Event = field(default_factory=threading.Event)

    def answer(self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes) -> tuple[int, str]:
        """Note a request; return status and Location."""
        self.requests.append((method, target, {name.lower(): value for name, value in headers}, body))
        path = target.partition("?")[0]
        if path == "/raise":
            raise RuntimeError("the application fails")
        return (302, "/login") if path == "/login" else (500, "") if path == "/500" else (200, "")


def asgi_app(seen: Seen) -> Callable[..., Awaitable[None]]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise ValueError(scope["type"])
        if HANDOVER in scope:
            scope[HANDOVER].admitted = True
        body = b""
        more = True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        target = scope["raw_path"].decode() + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
        headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
        status, location = seen.answer(scope["method"], target, headers, body)
        if target == "/slow":
            await asyncio.Event().wait()
        extra = [(b"location", location.encode())] if location else []
        await send({"type": "http.response.start", "status": status, "headers": extra})
        for _ in range(20 if target == "/long" else 1):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def wsgi_app(seen: Seen) -> Callable[..., Iterable[bytes]]:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        scope = environ["asgi.scope"]
        scope[HANDOVER].admitted = True
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        target = scope["raw_path"].decode() + ("?" + environ["QUERY_STRING"] if environ["QUERY_STRING"] else "")
        headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
        status, location = seen.answer(environ["REQUEST_METHOD"], target, headers, body)
        if target == "/slow":
            seen.entered.set()
            seen.leave.wait(10)
        start_response(f"{status} Whatever", [("Location", location)] if location else [])
        return [b"x" * 65536] * (20 if target == "/long" else 1)

    return app


def aiohttp_app(seen: Seen) -> web.Application:
    async def view(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        status, location = seen.answer(request.method, request.raw_path, request.headers.items(), body)
        if request.path == "/slow":
            await asyncio.Event().wait()
        headers = {"Location": location} if location else {}
        return web.Response(
            status=status, body=b"x" * (65536 * (20 if request.path == "/long" else 1)), headers=headers
        )

    app = web.Application(client_max_size=16 * 1024 * 1024, handler_args={"auto_decompress": False})
    app.router.add_route("*", "/{path:.*}", view)
    return app


@asynccontextmanager
async def replayer_of(kind: str, seen: Seen) -> AsyncIterator[Replayer]:
    if kind == "http":
        runner = web.AppRunner(aiohttp_app(seen), access_log=None, auto_decompress=False, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        try:
            async with HttpReplayer(f"http://127.0.0.1:{port}", KEYRING) as replayer:
                yield replayer
        finally:
            await runner.cleanup()
    elif kind == "asgi":
        async with AsgiReplayer(asgi_app(seen)) as replayer:
            yield replayer
    elif kind == "wsgi":
        async with WsgiReplayer(wsgi_app(seen), threads=2) as replayer:
            yield replayer
    else:
        async with AiohttpReplayer(aiohttp_app(seen), KEYRING) as replayer:
            yield replayer


def delivery(target: str, method: str = "GET", *, body: bytes = b"", timeout: float = 10.0, **fields: Any) -> Delivery:
    task = Task(id="0f8fad5b-d9cb-469f-a165-70867728950e", queue="default", method=method, target=target, body=body)
    return Delivery(task=replace(task, **fields), delivery=3, attempt=2, max_attempts=11, timeout=timeout)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_a_delivery_arrives_as_it_was_recorded(kind: str, seen: Seen) -> None:
    async with replayer_of(kind, seen) as replayer:
        outcome = await replayer.replay(
            delivery(
                "/a%20b?x=%2f&y=1+2",
                "PUT",
                body=b"\x00\xff" * 10,
                host="shop.example.org",
                scheme="https",
                user_id="ada",
                headers=(("cookie", "a=b; c=d"), ("content-type", "application/x-odd"), ("x-own", "1")),
            )
        )
    assert isinstance(outcome, Answered)
    assert outcome.status == 200
    ((method, target, headers, body),) = seen.requests
    assert (method, target, body) == ("PUT", "/a%20b?x=%2f&y=1+2", b"\x00\xff" * 10)
    expected = {
        "host": "shop.example.org",
        "cookie": "a=b; c=d",
        "content-type": "application/x-odd",
        "x-own": "1",
        "x-forwarded-proto": "https",
        "content-length": "20",
        "x-task-id": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "x-task-user-id": "ada",
        "x-task-queue": "default",
        "x-task-attempt": "2",
        "x-task-delivery": "3",
        "x-task-max-attempts": "11",
        "idempotency-key": "0f8fad5b-d9cb-469f-a165-70867728950e",
    }
    assert expected.items() <= headers.items()
    assert headers["user-agent"].startswith("taskqueue/")


async def test_the_answer_decides_not_its_body(kind: str, seen: Seen) -> None:
    async with replayer_of(kind, seen) as replayer:
        answers = [await replayer.replay(delivery(path)) for path in ("/long", "/login", "/500", "/raise")]
    assert [answer.status for answer in answers if isinstance(answer, Answered)] == [200, 302, 500, 500]
    assert isinstance(answers[1], Answered)
    assert answers[1].location == "/login"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
async def test_every_method_arrives_once_without_a_body(kind: str, seen: Seen, method: str) -> None:
    async with replayer_of(kind, seen) as replayer:
        outcome = await replayer.replay(delivery("/empty", method))
    assert isinstance(outcome, Answered)
    assert [(seen_method, body) for seen_method, _, _, body in seen.requests] == [(method, b"")]
    if method in ("POST", "PUT", "PATCH"):
        assert seen.requests[0][2]["content-length"] == "0"


@pytest.mark.parametrize("kind", ["http", "asgi", "aiohttp"])
async def test_past_its_deadline_a_replay_is_cut_off(kind: str, seen: Seen) -> None:
    async with replayer_of(kind, seen) as replayer:
        assert await replayer.replay(delivery("/slow", timeout=0.05)) == Broken(TIMEOUT)


async def test_of_an_answer_that_is_no_success_headers_and_beginning_are_kept(kind: str, seen: Seen) -> None:
    async with replayer_of(kind, seen) as replayer:
        for target, status, size in (("/500", 500, 16 * 1024), ("/login", 302, 16 * 1024), ("/", 200, 0)):
            outcome = await replayer.replay(delivery(target))
            assert isinstance(outcome, Answered)
            assert (outcome.status, outcome.content) == (status, b"x" * size)
            headers = {name.lower(): value for name, value in outcome.headers}
            assert headers.get("location") == ("/login" if status == 302 else None)


async def test_so_much_of_it_as_the_delivery_says_and_its_size(kind: str, seen: Seen) -> None:
    async with replayer_of(kind, seen) as replayer:
        for target, keep, most, size in (
            ("/500", False, 60_000, 60_000),
            ("/500", False, 10**6, 65_536),
            ("/", False, 9, 0),
        ):
            outcome = await replayer.replay(replace(delivery(target), keep=keep, most=most))
            assert isinstance(outcome, Answered)
            assert (outcome.content, outcome.size) == (b"x" * size, 65_536)
        outcome = await replayer.replay(replace(delivery("/long"), keep=True, most=10**6))
        assert isinstance(outcome, Answered)
        assert (len(outcome.content), outcome.size) == (10**6, 20 * 65_536)


async def test_a_thread_past_its_deadline_keeps_its_slot_until_it_ends(seen: Seen) -> None:
    async with replayer_of("wsgi", seen) as replayer:
        job = asyncio.ensure_future(replayer.replay(delivery("/slow", timeout=0.05)))
        assert await asyncio.to_thread(seen.entered.wait, 10)
        done, _ = await asyncio.wait([job], timeout=0.2)
        assert not done
        seen.leave.set()
        assert await job == Broken(TIMEOUT)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    url=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30).map(lambda text: "/" + text),
    params=st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers() | st.booleans(), max_size=3),
    body=st.binary(max_size=200),
)
def test_what_arrives_is_what_was_added_or_add_refused_it(
    kind: str, url: str, params: dict[str, object], body: bytes
) -> None:
    try:
        target = target_of(url, params, Limits())
    except InvalidTask:
        return
    seen = Seen()

    async def replayed() -> None:
        async with replayer_of(kind, seen) as replayer:
            await replayer.replay(delivery(target, "POST", body=body))

    asyncio.run(replayed())
    assert [(found, content) for _, found, _, content in seen.requests] == [(target, body)]


async def test_an_application_that_has_not_seen_who_runs_gives_no_receipt(seen: Seen) -> None:
    async def doorless(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    async with AsgiReplayer(doorless) as replayer:
        outcome = await replayer.replay(delivery("/"))
    assert outcome == Answered(status=200, receipted=False)


async def test_the_lifespan_runs_around_all_replays_and_its_state_is_seen() -> None:
    events: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            assert (await receive())["type"] == "lifespan.startup"
            scope["state"]["pool"] = "ready"
            events.append("startup")
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            events.append("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
            return
        events.append(scope["state"]["pool"])
        await send({"type": "http.response.start", "status": 204, "headers": []})

    async with AsgiReplayer(app) as replayer:
        await replayer.replay(delivery("/"))
    assert events == ["startup", "ready", "shutdown"]


async def test_a_failed_startup_says_why() -> None:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(AppFailed, match="no database"):
        async with AsgiReplayer(app):
            pass


@pytest.mark.parametrize("moment", ["startup", "shutdown"])
async def test_a_lifespan_that_is_broken_off_ends_with_its_application(moment: str) -> None:
    reached, ends = asyncio.Event(), list[str]()

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        try:
            while (message := await receive())["type"] != f"lifespan.{moment}":
                await send({"type": f"{message['type']}.complete"})
            reached.set()
            await asyncio.Event().wait()
        finally:
            ends.append(moment)

    async def replaying() -> None:
        async with AsgiReplayer(app):
            pass

    job = asyncio.create_task(replaying())
    await reached.wait()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    await asyncio.sleep(0)
    assert ends == [moment]


async def test_the_proof_is_an_object_that_no_header_can_be() -> None:
    handovers: list[object] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            handovers.append(scope[HANDOVER])
            await send({"type": "http.response.start", "status": 204, "headers": []})

    async with AsgiReplayer(app) as replayer:
        await replayer.replay(delivery("/x?y", user_id="ada"))
    (handover,) = handovers
    assert isinstance(handover, Handover)
    assert (handover.proof.user_id, handover.proof.delivery, handover.proof.target) == ("ada", 3, "/x?y")
