"""What a client is told when its tasks could not be stored, in every framework: never of a success that is none."""

import asyncio
import logging
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp
import pytest

import taskqueue
from taskqueue.policy import Answered
from tests.doors import DJANGO_KINDS, KINDS, Consumer, Handler, Reply, View, adding, fetch, serving, task_queue
from tests.servers import RedisServer
from tests.waiting import until

pytestmark = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
async def tq(private_server: RedisServer) -> AsyncIterator[taskqueue.TaskQueue]:  # instead of the shared server's
    """A TaskQueue whose server may be frozen, connected."""
    queue = task_queue(private_server.url, commit_deadline=0.4)
    await queue.size()
    yield queue
    await queue.aclose()


async def nothing_ever_runs(server: RedisServer, tq: taskqueue.TaskQueue) -> None:
    """Let the server go on, and see that what it still had to read has queued nothing."""
    server.resume()
    client = server.client(socket_timeout=20)
    # Its answer comes after all that was sent before.
    await asyncio.to_thread(client.ping)
    await until(lambda: _none_waits(tq), "the server answers")
    assert await tq.size() == 0
    assert not client.exists("taskqueue:{default}:scheduled", "taskqueue:{default}:prepared")


async def _none_waits(tq: taskqueue.TaskQueue) -> bool:
    try:
        await tq.size()
    except taskqueue.BrokerUnavailable:
        return False
    return True


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_frozen_broker_makes_it_a_503_and_nothing_runs_later(
    kind: str, private_server: RedisServer, tq: taskqueue.TaskQueue, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    handlers = {"/": adding("/later", "/after", reply=Reply(text="done", headers={"X-Secret": "1"}))}
    async with serving(kind, handlers, tq) as base:
        private_server.pause()
        response = await fetch(method, base + "/", timeout=aiohttp.ClientTimeout(total=10))
        await nothing_ever_runs(private_server, tq)
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert "done" not in response.text
        assert "X-Secret" not in response.headers
        # Sent and unanswered is uncertain for the client; the server then found it too late.
        assert "none will run" in response.text or "not known" in response.text
        assert "2 task(s)" in caplog.text
        assert (await fetch(method, base + "/")).status == 200
        assert await tq.size() == 2


async def test_a_broker_that_is_gone_makes_it_a_503(
    kind: str, private_server: RedisServer, tq: taskqueue.TaskQueue
) -> None:
    async with serving(kind, {"/": adding("/later"), "/none": adding()}, tq) as base:
        private_server.kill()
        response = await fetch("GET", base + "/")
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert response.text == "The tasks of this request could not be queued: none will run.\n"
        assert (await fetch("GET", base + "/none")).status == 200  # who adds nothing needs no broker
        private_server.start()
        assert await tq.size() == 0


async def test_a_delivery_whose_tasks_cannot_be_stored_is_a_503_with_receipt(
    kind: str, private_server: RedisServer, tq: taskqueue.TaskQueue
) -> None:
    async def build(_view: View) -> Reply:
        taskqueue.add("/next")
        private_server.kill()
        return Reply(text="done")

    async with serving(kind, {"/": adding("/build"), "/build": build}, tq) as base:
        await fetch("GET", base + "/")
        _, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted, outcome.retry_after) == (503, True, "1")


# ---- streams


async def pieces() -> AsyncIterator[bytes]:
    for number in range(3):
        yield b"piece %d\n" % number


async def test_a_stream_is_sent_while_it_is_made(kind: str, tq: taskqueue.TaskQueue) -> None:
    seen = asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        yield b"first\n"
        await seen.wait()
        yield b"last\n"

    handlers = {"/": adding("/later", reply=Reply(stream=waiting))}
    async with (
        serving(kind, handlers, tq) as base,
        aiohttp.ClientSession() as session,
        session.get(base + "/") as response,
    ):
        assert await response.content.readline() == b"first\n"
        assert await tq.size() == (1 if kind in DJANGO_KINDS else 0)  # Django has left the view before
        seen.set()
        assert await response.content.read() == b"last\n"
        assert await tq.size() == 1


async def test_a_stream_whose_tasks_cannot_be_stored_is_broken_off(
    kind: str, private_server: RedisServer, tq: taskqueue.TaskQueue, caplog: pytest.LogCaptureFixture
) -> None:
    if kind in DJANGO_KINDS:
        pytest.skip("they are stored before the stream begins")
    ids: list[str] = []

    async def broken() -> AsyncIterator[bytes]:
        async for piece in pieces():
            yield piece
        private_server.kill()

    async def handler(_view: View) -> Reply:
        ids.append(taskqueue.add("/later"))
        return Reply(stream=broken)

    async with serving(kind, {"/": handler}, tq) as base:
        with pytest.raises(aiohttp.ClientPayloadError):
            await fetch("GET", base + "/")
    assert f"1 task(s) will not run: {ids[0]}" in caplog.text.replace("\n", " ") or ids[0] in caplog.text


async def test_tasks_added_in_a_stream_are_stored_before_its_end(
    kind: str, private_server: RedisServer, tq: taskqueue.TaskQueue
) -> None:
    kills = False

    async def adds() -> AsyncIterator[bytes]:
        yield b"piece"
        taskqueue.add("/from-stream")
        if kills:
            private_server.kill()

    async with serving(kind, {"/": adding(reply=Reply(stream=adds))}, tq) as base:
        assert (await fetch("GET", base + "/")).body == b"piece"
        assert await tq.size() == 1
        kills = True
        with pytest.raises(aiohttp.ClientPayloadError):
            await fetch("GET", base + "/")


# ---- clients that go away


async def drains(_view: View) -> Reply:
    taskqueue.add("/later", method="POST")
    return Reply()


async def reads(view: View) -> Reply:
    taskqueue.add("/later", method="POST")
    await view.body()
    return Reply()


@pytest.mark.parametrize("handler", [drains, reads])
async def test_a_client_that_breaks_off_in_its_body_queues_nothing(
    kind: str, tq: taskqueue.TaskQueue, handler: Handler
) -> None:
    if kind == "django-asgi":
        pytest.skip("no handler is called before Django has the whole body")
    left = asyncio.Event()

    async def noting(view: View) -> Reply:
        try:
            return await handler(view)
        finally:
            left.set()

    async with serving(kind, {"/": noting, "/other": adding("/other")}, tq) as base:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(base).port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(50_000))
        await writer.drain()
        if handler is drains:
            await left.wait()
        writer.close()
        await writer.wait_closed()
        await left.wait()
        del reader
        await fetch("GET", base + "/other")
        assert [task.path for task in await Consumer(tq).tasks()] == ["/other"]


async def test_a_client_that_does_not_send_its_body_is_told_408(
    kind: str, tq: taskqueue.TaskQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "django-asgi":
        pytest.skip("no handler is called before Django has the whole body")
    monkeypatch.setattr("taskqueue.tee.DRAIN_SECONDS", 0.1)
    caplog.set_level(logging.ERROR)
    async with serving(kind, {"/": adding("/later", method="POST")}, tq) as base:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(base).port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        assert line.startswith(b"HTTP/1.1 408 ")
        assert await tq.size() == 0
