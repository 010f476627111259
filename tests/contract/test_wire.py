"""The client of the replays against targets that misbehave, in both event loops: judged by what a plain socket sees."""

import asyncio
import contextlib
import socket
import ssl
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskqueue import httpclient
from taskqueue.httpclient import HttpClient
from taskqueue.policy import BROKEN, DNS, REFUSED, TIMEOUT, TLS, Broken, NotSent
from taskqueue.wire import PIECE_BYTES, Connection, Received, request_head
from tests.certificate import self_signed
from tests.servers import free_port
from tests.sockets import Conversations, talking
from tests.waiting import until

OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BIG: Final = 20 << 20
Run: TypeAlias = Callable[[Coroutine[Any, Any, None]], None]
Handler: TypeAlias = Callable[["Line"], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    factory = pytest.importorskip("uvloop").new_event_loop if request.param == "uvloop" else None

    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main)

    return run


class Line:
    """The target's end of one connection."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number, self.reader, self.writer = number, reader, writer

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.002)  # or they would arrive as one

    async def gone(self) -> bool:
        """Wait until the client has closed the connection; return whether nothing came before that."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read() == b""
        return True


def target(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AbstractAsyncContextManager[Conversations]:
    """A socket that does what ``handler`` does on each connection, and closes it then."""
    return talking(lambda *connection: handler(Line(*connection)), tls=tls)


@asynccontextmanager
async def client_of(port: int, host: str = "127.0.0.1", **options: Any) -> AsyncIterator[HttpClient]:
    client = HttpClient(host, port, **{"connect_timeout": 5.0, **options})
    try:
        yield client
    finally:
        await client.close()


def head(method: str = "GET", **headers: str) -> bytes:
    made = request_head(
        method, "/", [("Host", "x"), *((name.replace("_", "-"), text) for name, text in headers.items())]
    )
    assert made is not None
    return made


async def get(client: HttpClient, method: str = "GET", *, within: float = 10.0) -> Received | NotSent | Broken:
    return await client.request(head(method), b"", method=method, timeout=within, everything=True)


async def has(things: list[Any], number: int) -> bool:
    return len(things) == number


async def closed(client: HttpClient) -> None:
    """Wait until all connections are."""

    async def condition() -> bool:
        return not client._connections

    await until(condition, "no connection is open")


def always(*pieces: bytes) -> Handler:
    """Answer each request with these bytes, each piece by itself."""

    async def handler(line: Line) -> None:
        while True:
            await line.head()
            await line.say(*pieces)

    return handler


def once(*pieces: bytes) -> Handler:
    """Answer one request with these bytes, and close."""

    async def handler(line: Line) -> None:
        await line.head()
        await line.say(*pieces)

    return handler


def shown(received: object) -> tuple[int, bytes]:
    assert isinstance(received, Received), received
    return received.status, received.content.shown


CHUNKED: Final = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    b"1\r\no\r\n1;ext=1\r\nk\r\n0\r\nX-Sum: 1\r\n\r\n"
)


class TestWholeResponses:
    @pytest.mark.parametrize("raw", [OK, CHUNKED, b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, b"\r\n" + OK])
    @pytest.mark.parametrize("bit", [1, 7, 1000])
    def test_in_pieces_of_any_size_and_the_connection_is_kept(self, run: Run, raw: bytes, bit: int) -> None:
        async def main() -> None:
            async with target(always(*(raw[at : at + bit] for at in range(0, len(raw), bit)))) as there:
                async with client_of(there.port) as client:
                    for _ in range(2):
                        assert shown(await get(client)) == (200, b"ok")
                assert there.connections == 1

        run(main())

    @pytest.mark.parametrize(
        ("method", "raw", "status"),
        [
            ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", 200),
            ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200),
            ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
            ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", 304),
            ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
            ("GET", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", 200),
        ],
    )
    def test_without_content_and_the_connection_is_kept(self, run: Run, method: str, raw: bytes, status: int) -> None:
        async def main() -> None:
            async with target(always(raw)) as there:
                async with client_of(there.port) as client:
                    for _ in range(3):
                        assert shown(await get(client, method)) == (status, b"")
                assert there.connections == 1

        run(main())

    @pytest.mark.parametrize(
        "raw",
        [
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ],
    )
    def test_the_target_wants_the_connection_closed(self, run: Run, raw: bytes) -> None:
        async def main() -> None:
            ended: list[bool] = []

            async def handler(line: Line) -> None:
                await line.head()
                await line.say(raw)
                ended.append(await line.gone())

            async with target(handler) as there, client_of(there.port) as client:
                for _ in range(2):
                    assert shown(await get(client)) == (200, b"ok")
                    assert not client._idle
                assert there.connections == 2
                await until(lambda: has(ended, 2), "the target has seen the end")

        run(main())

    def test_ended_by_the_end_of_the_connection(self, run: Run) -> None:
        async def main() -> None:
            async with target(once(b"HTTP/1.1 200 OK\r\n\r\no", b"k")) as there, client_of(there.port) as client:
                for _ in range(2):
                    assert shown(await get(client)) == (200, b"ok")
                assert there.connections == 2

        run(main())

    def test_what_is_dropped_takes_no_memory(self, run: Run) -> None:
        async def main() -> None:
            size, piece = 64 << 20, b"x" * PIECE_BYTES

            async def handler(line: Line) -> None:
                await line.head()
                line.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                for _ in range(size // len(piece)):
                    line.writer.write(piece)
                    await line.writer.drain()
                await line.gone()

            async with target(handler) as there, client_of(there.port) as client:
                tracemalloc.start()
                try:
                    received = await client.request(head(), b"", method="GET", timeout=50)
                    assert shown(received) == (200, b"")
                    assert tracemalloc.get_traced_memory()[1] < 4 << 20
                finally:
                    tracemalloc.stop()

        run(main())


class TestSurplus:
    @pytest.mark.parametrize("surplus", [OK, b"HTTP/1.1 200", b"H", OK[:-1], CHUNKED[:70]])
    def test_behind_a_response_and_the_connection_is_not_used_again(self, run: Run, surplus: bytes) -> None:
        async def main() -> None:
            async with target(always(OK + surplus)) as there, client_of(there.port) as client:
                for _ in range(3):
                    assert shown(await get(client)) == (200, b"ok")
                assert there.connections == 3

        run(main())

    @pytest.mark.parametrize("surplus", [OK, b"H", b"\r\n", b"\x00"])
    def test_that_comes_later_is_no_answer_to_the_next_request(
        self, run: Run, surplus: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(httpclient, "KEEP_ALIVE", 60.0)

        async def main() -> None:
            more = asyncio.Event()

            async def handler(line: Line) -> None:
                await line.head()
                if line.number == 1:
                    await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
                    await more.wait()
                    await line.say(surplus)
                else:
                    await line.say(OK)
                await line.gone()

            async with target(handler) as there, client_of(there.port) as client:
                assert shown(await get(client)) == (200, b"first")
                assert len(client._idle) == 1
                more.set()
                await closed(client)
                assert shown(await get(client)) == (200, b"ok")
                assert there.connections == 2

        run(main())


class TestNoResponse:
    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"HTT",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
            CHUNKED[:-2],
            CHUNKED[:-20],
            b"\x15\x03\x01\x00\x02\x02\x16",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 9000 + b"\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X-Many: 1\r\n" * 200 + b"Content-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 " + b"x" * 9000 + b"\r\nContent-Length: 0\r\n\r\n",
        ],
    )
    def test_is_broken_and_one_request_was_sent(self, run: Run, raw: bytes) -> None:
        async def main() -> None:
            async with target(once(raw)) as there, client_of(there.port) as client:
                assert await get(client) == Broken(BROKEN)
                assert there.connections == 1
                assert not client._idle

        run(main())

    @pytest.mark.parametrize(
        "raw",
        [
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK,
            b"HTTP/1.1 099 Too Early\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 099 Too Early\r\n\r\n",
        ],
    )
    def test_but_another_protocol_and_the_connection_is_closed(self, run: Run, raw: bytes) -> None:
        async def main() -> None:
            async with target(always(raw)) as there, client_of(there.port) as client:
                assert await get(client) == Broken(BROKEN)
                assert not client._idle

        run(main())

    def test_on_a_kept_connection_is_broken_and_not_sent_again(self, run: Run) -> None:
        async def main() -> None:
            async def handler(line: Line) -> None:
                await line.head()
                await line.say(OK)
                await line.head()

            async with target(handler) as there, client_of(there.port) as client:
                assert shown(await get(client)) == (200, b"ok")
                assert await get(client) == Broken(BROKEN)
                assert there.connections == 1
                assert shown(await get(client)) == (200, b"ok")
                assert there.connections == 2

        run(main())

    def test_by_its_own_deadline_whoever_else_waits(self, run: Run) -> None:
        async def main() -> None:
            async def handler(line: Line) -> None:
                await line.head()
                await line.gone()
                ended.append(line.number)

            async def late(within: float) -> float:
                started = time.monotonic()
                assert await get(client, within=within) == Broken(TIMEOUT)
                return time.monotonic() - started - within

            ended: list[int] = []
            async with target(handler) as there, client_of(there.port) as client:
                wanted = [0.5, 0.1, 0.3, 0.1, 0.2]
                delays = await asyncio.gather(*map(late, wanted))
                assert all(-0.01 < delay < 0.3 for delay in delays), delays
                await until(lambda: has(ended, len(wanted)), "the target has seen the end")

        run(main())

    def test_because_the_client_closes(self, run: Run) -> None:
        async def main() -> None:
            async def handler(line: Line) -> None:
                await line.head()
                asked.set()
                await line.gone()

            asked = asyncio.Event()
            async with target(handler) as there, client_of(there.port) as client:
                running = asyncio.create_task(get(client))
                await asked.wait()
                await client.close()
                assert await running == Broken(BROKEN)

        run(main())

    def test_because_the_caller_is_cancelled(self, run: Run) -> None:
        async def main() -> None:
            async def handler(line: Line) -> None:
                await line.head()
                asked.set()
                gone.set_result(await line.gone())

            asked, gone = asyncio.Event(), asyncio.get_running_loop().create_future()
            async with target(handler) as there, client_of(there.port) as client:
                running = asyncio.create_task(get(client))
                await asked.wait()
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
                async with asyncio.timeout(5):
                    assert await gone
                assert not client._idle

        run(main())


class TestLargeBody:
    def test_an_early_response_is_heard_and_the_sending_stops(self, run: Run) -> None:
        async def main() -> None:
            async def handler(line: Line) -> None:
                await line.head()
                if line.number > 1:
                    await line.say(OK)
                    return
                await line.reader.readexactly(100_000)
                await line.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nmuch")
                with contextlib.suppress(ConnectionError):
                    while piece := await line.reader.read(1 << 20):
                        rest.append(len(piece))
                ended.set()

            rest: list[int] = []
            ended = asyncio.Event()
            async with target(handler) as there, client_of(there.port) as client:
                made = head("POST", Content_Length=str(BIG))
                received = await client.request(made, bytes(BIG), method="POST", timeout=20)
                assert shown(received) == (413, b"much")
                await ended.wait()
                assert sum(rest) < BIG - 200_000
                assert shown(await get(client)) == (200, b"ok")
                assert there.connections == 2

        run(main())

    def test_an_early_response_of_a_target_that_closes_at_once(self, run: Run) -> None:
        async def main() -> None:
            async def handler(line: Line) -> None:
                await line.head()
                await line.say(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmuch")

            async with target(handler) as there, client_of(there.port) as client:
                made = head("POST", Content_Length=str(BIG))
                # The reset of the connection may be heard first.
                outcome = await client.request(made, bytes(BIG), method="POST", timeout=20)
                assert outcome == Broken(BROKEN) or shown(outcome) == (413, b"much")
                assert not client._idle

        run(main())

    def test_goes_to_a_slow_reader_bit_by_bit(self, run: Run) -> None:
        async def main() -> None:
            body = bytes(range(256)) * (BIG // 256)

            async def handler(line: Line) -> None:
                await line.head()
                arrived = bytearray()
                while len(arrived) < len(body):
                    arrived += await line.reader.read(1 << 17)
                    (connection,) = client._connections
                    waiting.append(connection._transport.get_write_buffer_size())
                    await asyncio.sleep(0)
                equal.append(arrived == body)
                await line.say(OK)
                await line.gone()

            waiting: list[int] = []
            equal: list[bool] = []
            async with target(handler) as there, client_of(there.port) as client:
                made = head("POST", Content_Length=str(len(body)))
                assert shown(await client.request(made, body, method="POST", timeout=20, everything=True)) == (
                    200,
                    b"ok",
                )
                assert equal == [True]
                assert max(waiting) <= 4 * PIECE_BYTES
                assert len(client._idle) == 1

        run(main())

    def test_past_its_time_in_the_midst_of_it(self, run: Run) -> None:
        async def main() -> None:
            async def handler(line: Line) -> None:
                await line.head()
                await asyncio.Event().wait()

            async with target(handler) as there, client_of(there.port) as client:
                made = head("POST", Content_Length=str(BIG))
                assert await client.request(made, bytes(BIG), method="POST", timeout=0.1) == Broken(TIMEOUT)

        run(main())


class TestIdle:
    def test_is_closed_after_a_while(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(httpclient, "KEEP_ALIVE", 0.1)

        async def main() -> None:
            async def handler(line: Line) -> None:
                await line.head()
                await line.say(OK)
                left.append(time.monotonic())
                await line.gone()
                left.append(time.monotonic())

            left: list[float] = []
            async with target(handler) as there, client_of(there.port) as client:
                assert shown(await get(client)) == (200, b"ok")
                await until(lambda: has(left, 2), "the target has seen the end")
                assert 0.05 < left[1] - left[0] < 1
                assert not client._connections
                assert not client._idle

        run(main())

    def test_that_was_used_last_is_used_next(self, run: Run) -> None:
        async def main() -> None:
            async def handler(line: Line) -> None:
                while True:
                    await line.head()
                    await asyncio.sleep(0.02 * line.number)
                    number = str(line.number).encode()
                    await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(number), number))

            async with target(handler) as there, client_of(there.port) as client:
                await asyncio.gather(*(get(client) for _ in range(3)))
                assert [shown(await get(client)) for _ in range(3)] == [(200, b"3")] * 3

        run(main())

    def test_that_was_closed_is_not_used(self, run: Run) -> None:
        async def main() -> None:
            async with target(once(OK)) as there, client_of(there.port) as client:
                for number in range(1, 4):
                    assert shown(await get(client)) == (200, b"ok")
                    await closed(client)
                    assert there.connections == number

        run(main())


class Transport(asyncio.Transport):
    """One that goes nowhere."""

    aborted = False
    waiting = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def is_closing(self) -> bool:
        return self.aborted

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def abort(self) -> None:
        self.aborted = True


class TestMoments:
    """What may come between two events, each told apart."""

    async def _running(
        self, body: bytes = b""
    ) -> tuple[HttpClient, Connection, Transport, "asyncio.Future[Received | Broken]"]:
        client, transport = HttpClient("x", 80, connect_timeout=1), Transport()
        connection = Connection(client)
        connection.connection_made(transport)
        if body:
            connection.pause_writing()
        deadline = client.loop.time() + 9
        answer = connection.request(head(), body, method="GET", everything=False, deadline=deadline)
        return client, connection, transport, answer

    async def test_a_response_after_a_cancellation_does_not_free_the_connection(self) -> None:
        client, connection, transport, answer = await self._running()
        answer.cancel()
        connection.data_received(OK)
        assert transport.aborted
        assert not client._idle

    async def test_a_response_before_it_does(self) -> None:
        client, connection, transport, answer = await self._running()
        connection.data_received(OK)
        assert list(client._idle) == [connection]
        assert not answer.cancel()
        assert not transport.aborted

    async def test_a_deadline_after_it_changes_nothing(self) -> None:
        _, connection, transport, answer = await self._running()
        answer.cancel()
        connection.expire()
        assert transport.aborted

    async def test_a_response_before_the_whole_request_is_on_its_way(self) -> None:
        client, connection, transport, answer = await self._running()
        transport.waiting = 1
        connection.data_received(OK)
        assert shown(answer.result())[0] == 200
        assert transport.aborted
        assert not client._idle

    async def test_a_response_before_the_last_piece_is_sent(self) -> None:
        client, connection, transport, answer = await self._running(bytes(PIECE_BYTES + 1))
        connection.data_received(OK)
        assert shown(answer.result())[0] == 200
        assert transport.aborted
        assert not client._idle
        connection.resume_writing()  # as a transport may that is being closed

    @pytest.mark.parametrize("late", [False, True])
    async def test_an_idle_connection_that_nobody_has_had_time_to_close(self, *, late: bool) -> None:
        client, connection, transport, _ = await self._running()
        connection.data_received(OK)
        now = client.loop.time()
        transport.aborted = not late
        assert client._take(now + (httpclient.KEEP_ALIVE + 0.1 if late else 0)) is None


PARTS: Final = (
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 204 x\r\n", b"HTTP/1.1 100 c\r\n", b"HTTP/1.1 304\r\n", b"HTTP/2 200 \r\n"),
    *(b"Content-Length: 2\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    *(b"Content-Encoding: gzip\r\n", b"Upgrade: x\r\nConnection: upgrade\r\n", b"Sec-WebSocket-Key1: 1\r\n"),
    *(
        b" folded\r\n",
        b"\xff\xfe: \xff\r\n",
        b"\r\n",
        b"\n",
        b"ok",
        b"2\r\nok\r\n",
        b"0\r\n\r\n",
        b"ffffffffffffffffff\r\n",
    ),
)


class TestAnything:
    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(st.sampled_from(PARTS) | st.binary(max_size=4), max_size=10),
        st.lists(st.integers(1, 30), min_size=1),
        st.sampled_from(["GET", "HEAD"]),
    )
    def test_that_comes_is_a_response_or_broken(self, parts: list[bytes], cuts: list[int], method: str) -> None:
        async def main() -> None:
            client, transport = HttpClient("x", 80, connect_timeout=1), Transport()
            connection = Connection(client)
            connection.connection_made(transport)
            deadline = client.loop.time() + 9
            answer = connection.request(head(), b"", method=method, everything=True, deadline=deadline)
            left, turn = b"".join(parts), 0
            while left and not answer.done():
                size = cuts[turn % len(cuts)]
                connection.data_received(left[:size])
                left, turn = left[size:], turn + 1
            whole = answer.done()
            if not whole:
                connection.eof_received()
                connection.connection_lost(None)
            outcome = answer.result()
            assert outcome == Broken(BROKEN) or isinstance(outcome, Received)
            assert (connection in client._idle) != transport.aborted
            assert not (connection in client._idle and (not whole or outcome == Broken(BROKEN)))
            client._connections.clear()
            await client.close()

        asyncio.run(main())


class TestConnecting:
    def test_nobody_listens(self, run: Run, tmp_path: Path) -> None:
        async def main() -> None:
            async with client_of(free_port()) as client:
                assert await get(client) == NotSent(REFUSED)
            async with client_of(80, unix_socket=str(tmp_path / "none")) as client:
                assert await get(client) == NotSent(REFUSED)

        run(main())

    @pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 64 + ".example"])
    def test_a_name_that_is_not_found(self, run: Run, host: str) -> None:
        async def main() -> None:
            async with client_of(80, host) as client:
                assert await get(client) == NotSent(DNS)

        run(main())

    def test_takes_too_long(self, run: Run) -> None:
        async def main() -> None:
            async def handler(line: Line) -> None:
                await line.gone()

            async with target(handler) as there:
                async with client_of(there.port, tls=True, connect_timeout=0.1) as client:
                    assert await get(client) == NotSent(REFUSED)
                async with client_of(there.port, tls=True, connect_timeout=5) as client:
                    assert await get(client, within=0.1) == Broken(TIMEOUT)

        run(main())

    async def test_the_next_address_is_tried_and_all_of_them_get_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[object] = []

        async with target(once(OK)) as one, target(once(OK)) as two:
            ports = [free_port(), one.port, two.port]

            def resolve(host: object, *_arguments: object, **_options: object) -> Any:
                asked.append(host)
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]

            monkeypatch.setattr(socket, "getaddrinfo", resolve)
            async with client_of(80, "many.example") as client:
                for _ in range(6):
                    assert shown(await get(client)) == (200, b"ok")
                    await closed(client)
            # Of three the first, whose turn is it then gives it to the second.
            assert (one.connections, two.connections) == (4, 2)
            assert asked == ["many.example"]

    def test_over_tls(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        server = self_signed(tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate"))

        async def main() -> None:
            body = bytes(range(256)) * 4096

            async def handler(line: Line) -> None:
                while True:
                    await line.head()
                    assert await line.reader.readexactly(len(body)) == body
                    await line.say(OK)

            async with target(handler, tls=server) as there:
                async with client_of(there.port, "localhost", tls=True) as client:
                    for _ in range(2):
                        made = head("POST", Content_Length=str(len(body)))
                        received = await client.request(made, body, method="POST", timeout=10, everything=True)
                        assert shown(received) == (200, b"ok")
                    assert there.connections == 1
                async with client_of(there.port, "127.0.0.1", tls=True) as client:
                    assert await get(client) == NotSent(TLS), "the certificate names another host"
                monkeypatch.delenv("SSL_CERT_FILE")
                async with client_of(there.port, "localhost", tls=True) as client:
                    assert await get(client) == NotSent(TLS), "nobody trusts who signed it"

        run(main())

    @pytest.mark.parametrize("tls", [False, True])
    def test_is_given_up_in_the_turn_in_which_it_succeeds(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, tls: bool
    ) -> None:
        server = self_signed(tmp_path) if tls else None
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate"))

        async def main() -> None:
            gone = asyncio.get_running_loop().create_future()

            async def handler(line: Line) -> None:
                gone.set_result(await line.gone())

            def made(connection: Connection, transport: asyncio.BaseTransport) -> None:
                connection_made(connection, transport)
                running.cancel()

            connection_made = Connection.connection_made
            monkeypatch.setattr(Connection, "connection_made", made)
            async with target(handler, tls=server) as there:
                client = HttpClient("localhost" if tls else "127.0.0.1", there.port, tls=tls, connect_timeout=5)
                running = asyncio.create_task(get(client))
                with pytest.raises(asyncio.CancelledError):
                    await running
                async with asyncio.timeout(5):
                    await client.close()
                    assert await gone

        run(main())

    def test_to_who_does_not_speak_tls(self, run: Run) -> None:
        async def main() -> None:
            async def handler(line: Line) -> None:
                await line.reader.read(1)
                await line.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            async with target(handler) as there, client_of(there.port, tls=True) as client:
                assert await get(client) == NotSent(TLS)

        run(main())


class TestHead:
    def test_as_bytes(self) -> None:
        made = request_head("POST", "/a?b", [("Host", "x:1"), ("x-a", "é\t"), ("x-a", "")])
        assert made == "POST /a?b HTTP/1.1\r\nHost: x:1\r\nx-a: é\t\r\nx-a: \r\n\r\n".encode()

    @pytest.mark.parametrize("bad", ["\r", "\n", "\r\n", "\0", "\x01", "\x0b", "\x1f", "\x7f", "\ud800", "\r\nx: y"])
    def test_what_cannot_be_sent_is_refused_wherever_it_stands(self, bad: str) -> None:
        assert request_head("GET", "/", [("x", f"a{bad}b")]) is None
        assert request_head("GET", "/", [("x", bad)]) is None
        assert request_head("GET", "/", [(f"x{bad}", "a")]) is None
        assert request_head("GET", f"/{bad}", [("x", "a")]) is None
        assert request_head(f"GET{bad}", "/", [("x", "a")]) is None

    def test_a_target_ends_at_white_space(self) -> None:
        assert request_head("GET", "/a HTTP/1.1", []) is None
        assert request_head("GET", "/a\tb", []) is None
