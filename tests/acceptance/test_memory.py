"""What a consumer keeps while tasks run: one copy of each body, and nothing of the responses.

Counted in bytes that Python has allocated, which is exact; ``make memory`` reports what the process takes.
"""

import asyncio
import functools
import gc
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self

import pytest

from taskqueue import TaskQueue
from taskqueue.inprocess import AsgiReplayer
from taskqueue.middleware.asgi import TaskQueueMiddleware
from taskqueue.policy import Answered, Outcome
from taskqueue.replay import Delivery, HttpReplayer, Replay, Replayer
from tests.servers import RedisServer
from tests.shop import consuming
from tests.tasks import KEYRING, SECRET, task
from tests.waiting import until

MIB: Final = 1024 * 1024
BODY: Final = MIB
BODIES: Final = 8
BESIDE: Final = 64 * 1024  # for each task in flight, beside its body
RESPONSE: Final = 64 * MIB
PIECE: Final = bytes(64 * 1024)


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def held() -> int:
    """Return how many bytes are allocated now, and begin a new peak."""
    gc.collect()
    tracemalloc.reset_peak()
    return tracemalloc.get_traced_memory()[0]


def peak() -> int:
    return tracemalloc.get_traced_memory()[1]


class Holding:
    """A replayer that keeps each delivery until it is let go."""

    address = "nowhere"

    def __init__(self) -> None:
        self.deliveries = 0
        self.gate = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def prepare(self, delivery: Delivery) -> Replay:
        return functools.partial(self.replay, delivery)

    async def replay(self, delivery: Delivery) -> Outcome:
        self.deliveries += 1
        await self.gate.wait()
        assert delivery.task.body
        return Answered(status=200, receipted=True)


async def _value(value: bool) -> bool:  # noqa: FBT001
    return value


@pytest.mark.usefixtures("traced")
async def test_while_tasks_run_the_consumer_keeps_their_bodies_and_no_more(any_server: RedisServer) -> None:
    tq = TaskQueue(any_server.url, secret=SECRET)
    replayer = Holding()
    async with aclosing(tq), consuming(tq.url, replayer, concurrent_limit=BODIES):
        await tq.push("/warm", payload=b"x")
        replayer.gate.set()
        await until(lambda: _value(replayer.deliveries == 1), "one has run")
        replayer.gate.clear()
        before = held()
        async with tq.transaction():
            for _ in range(BODIES):
                tq.add("/", payload=bytes(BODY))
        await until(lambda: _value(replayer.deliveries == BODIES + 1), "all run")
        # The last round trip may still have its reply in hand.
        await until(lambda: _value(held() - before <= BODIES * (BODY + BESIDE)), "only bodies are kept")
        assert held() - before >= BODIES * BODY
        replayer.gate.set()


def delivery(body: bytes) -> Delivery:
    return Delivery(task=task("/", "POST", body=body), delivery=1, attempt=1, max_attempts=1, timeout=60.0)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(serve: Serve) -> AsyncIterator[str]:
    """Serve each connection by hand, so that nothing is kept on this side; yield the address."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def read_all(reader: asyncio.StreamReader, size: int) -> None:
    """Read a request with a body of this size."""
    await reader.readuntil(b"\r\n\r\n")
    while size:
        size -= len(await reader.read(65536))


@pytest.mark.usefixtures("traced")
async def test_over_http_a_body_is_sent_without_a_copy() -> None:
    body = bytes(8 * MIB)
    most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        await read_all(reader, len(body))
        most = peak()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with raw_server(serve) as url, HttpReplayer(url, KEYRING) as replayer:
        before = held()
        outcome = await replayer.replay(delivery(body))
    assert isinstance(outcome, Answered)
    assert most - before < MIB


@pytest.mark.usefixtures("traced")
async def test_over_http_nothing_of_a_response_is_kept() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_all(reader, 1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % RESPONSE)
        for _ in range(RESPONSE // len(PIECE)):
            writer.write(PIECE)
            await writer.drain()
        writer.close()

    async with raw_server(serve) as url, HttpReplayer(url, KEYRING) as replayer:
        await check_response(replayer)


async def streaming(scope: Any, _receive: Any, send: Any) -> None:
    """An application that answers with a long stream."""
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(RESPONSE // len(PIECE)):
        await send({"type": "http.response.body", "body": bytes(len(PIECE)), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.usefixtures("traced")
async def test_in_process_nothing_of_a_response_is_kept() -> None:
    async with AsgiReplayer(streaming) as replayer:
        await check_response(replayer)


async def check_response(replayer: Replayer) -> None:
    before = held()
    outcome = await replayer.replay(delivery(b"x"))
    assert isinstance(outcome, Answered)
    assert outcome.status == 200
    assert peak() - before < 2 * MIB


@pytest.mark.usefixtures("traced")
async def test_in_process_the_door_hands_on_the_body_without_a_copy() -> None:
    body = bytes(8 * MIB)
    bodies: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            bodies.append((await receive())["body"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    tq = TaskQueue("redis://127.0.0.1:1/0", secret=SECRET)
    async with AsgiReplayer(TaskQueueMiddleware(app, tq, replay_guard="process")) as replayer:
        before = held()
        await replayer.replay(delivery(body))
    assert bodies[0] is body
    assert peak() - before < MIB
