"""The copy of a body: what is in it at each moment, and what is said when it cannot be had."""

import asyncio
import io
from collections.abc import Iterator, Sequence

import pytest

from taskqueue import tee
from taskqueue.errors import BodyUnavailable, InvalidTask
from taskqueue.tee import SPOOL_BYTES, Copy, InputTee, Tee, Whole

opened: list[Copy] = []


@pytest.fixture(autouse=True)
def _close_all() -> Iterator[None]:
    yield
    while opened:
        opened.pop().close()


class Client:
    """A client that still has these pieces to send; None: it breaks off. After the last one it says nothing more."""

    def __init__(self, pieces: Sequence[bytes | None], *, ends: bool = True, limit: int = 100) -> None:
        self.pieces, self.ends = list(pieces), ends
        self.tee = Tee(self.pull, declared=None, limit=limit)
        opened.append(self.tee)

    async def pull(self) -> None:
        if not self.pieces:
            await asyncio.Event().wait()
        piece = self.pieces.pop(0)
        if piece is None:
            self.tee.break_off()
            return
        self.tee.copy(piece)
        if not self.pieces and self.ends:
            self.tee.end()


async def test_a_body_that_was_read_is_given_as_often_as_asked() -> None:
    client = Client([b"ab", b"", b"cd"])
    for _ in range(3):
        await client.pull()
    assert [await client.tee.finish(100), await client.tee.finish(100)] == [b"abcd", b"abcd"]


async def test_an_empty_body_is_empty() -> None:
    client = Client([b""])
    await client.pull()
    assert await client.tee.finish(100) == b""


async def test_the_rest_is_read_only_once_the_handler_was_left() -> None:
    client = Client([b"ab", b"cd"])
    await client.pull()
    with pytest.raises(InvalidTask, match="read it first, or give payload="):
        await client.tee.finish(100)
    assert client.pieces == [b"cd"]
    client.tee.release()
    assert await client.tee.finish(100) == b"abcd"


async def test_the_limit_is_the_last_size_allowed() -> None:
    client = Client([b"x" * 100], limit=100)
    client.tee.release()
    assert len(await client.tee.finish(100)) == 100
    client = Client([b"x" * 100, b"y"], limit=100)
    client.tee.release()
    with pytest.raises(BodyUnavailable, match="over the limit of 100 bytes") as caught:
        await client.tee.finish(100)
    assert caught.value.status == 413


async def test_no_more_is_read_of_a_body_that_is_too_large() -> None:
    client = Client([b"x" * 101, b"y"], limit=100)
    await client.pull()
    client.tee.release()
    with pytest.raises(BodyUnavailable):
        await client.tee.finish(100)
    assert client.pieces == [b"y"]


async def test_a_lower_limit_counts() -> None:
    client = Client([b"x" * 51], limit=100)
    client.tee.release()
    with pytest.raises(BodyUnavailable, match="over the limit of 50 bytes"):
        await client.tee.finish(50)


@pytest.mark.parametrize("read", [0, 1])
async def test_a_client_that_breaks_off_is_told_400(read: int) -> None:
    client = Client([b"ab", None])
    for _ in range(read):
        await client.pull()
    client.tee.release()
    with pytest.raises(BodyUnavailable, match="broke off") as caught:
        await client.tee.finish(100)
    assert caught.value.status == 400


async def test_to_leave_after_the_body_was_sent_is_no_break() -> None:
    client = Client([b"ab"])
    await client.pull()
    client.tee.break_off()
    assert await client.tee.finish(100) == b"ab"


async def test_a_client_that_sends_nothing_more_is_told_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tee, "DRAIN_SECONDS", 0.01)
    client = Client([b"ab"], ends=False)
    client.tee.release()
    with pytest.raises(BodyUnavailable, match="did not come within") as caught:
        await client.tee.finish(100)
    assert caught.value.status == 408


async def test_a_large_body_is_on_disk() -> None:
    client = Client([b"x" * SPOOL_BYTES, b"y"], limit=2 * SPOOL_BYTES)
    await client.pull()
    assert client.tee._file is not None
    assert not client.tee._file._rolled  # type: ignore[attr-defined]
    await client.pull()
    assert client.tee._file._rolled  # type: ignore[attr-defined]
    assert await client.tee.finish(2 * SPOOL_BYTES) == b"x" * SPOOL_BYTES + b"y"
    client.tee.close()
    client.tee.close()


async def test_a_body_over_the_limit_keeps_no_copy() -> None:
    client = Client([b"x" * 60, b"y" * 60, b"z"], limit=100)
    for _ in range(3):
        await client.pull()
    assert client.tee._file is None
    with pytest.raises(BodyUnavailable):
        await client.tee.finish(100)


async def test_the_body_of_a_delivery_is_whole() -> None:
    assert (Whole(b"abc").declared, await Whole(b"abc").finish(3)) == (3, b"abc")
    with pytest.raises(BodyUnavailable, match="3 bytes, over the limit of 2"):
        await Whole(b"abc").finish(2)


# ---- the one that a thread reads


class Wire:
    """A connection and the server's input from it: these pieces come; None: nothing comes any more; then the end."""

    def __init__(self, *pieces: bytes | None, fails: bool = False) -> None:
        self.pieces, self.fails = list(pieces), fails
        self.timeout: float | None = 60.0
        self.timeouts: list[float | None] = []

    def read(self, size: int = -1, /) -> bytes:
        if not self.pieces:
            if self.fails:
                raise OSError("reset")
            return b""
        piece = self.pieces.pop(0)
        if piece is None:
            raise TimeoutError
        assert size < 0 or len(piece) <= size
        return piece

    readline = read

    def readlines(self, hint: int = -1, /) -> list[bytes]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[bytes]:
        raise NotImplementedError

    def gettimeout(self) -> float | None:
        return self.timeout

    def settimeout(self, value: float | None, /) -> None:
        self.timeout = value
        self.timeouts.append(value)


def input_tee(wire: Wire, declared: int | None, limit: int = 100) -> InputTee:
    made = InputTee(wire, declared=declared, limit=limit, connection=wire)
    opened.append(made)
    return made


@pytest.mark.parametrize("declared", [5, None])
async def test_a_thread_reads_what_was_left_and_waits_for_a_limited_time(declared: int | None) -> None:
    wire = Wire(b"ab", b"cde")
    copy = input_tee(wire, declared)
    assert copy.read(2) == b"ab"
    with pytest.raises(InvalidTask, match="read it first, or give payload="):
        await copy.finish(100)
    copy.drain()
    assert await copy.finish(100) == b"abcde"
    assert wire.timeout == 60.0
    assert all(value is not None and 0 < value <= tee.DRAIN_SECONDS for value in wire.timeouts[:-1])
    copy.drain()
    assert copy.read() == copy.readline() == b""


async def test_a_thread_does_not_wait_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(b"ab", None)
    with pytest.raises(BodyUnavailable, match="did not come within") as caught:
        input_tee(wire, 5).drain()
    assert (caught.value.status, wire.timeout) == (408, 60.0)
    monkeypatch.setattr(tee, "DRAIN_SECONDS", 0.0)
    wire = Wire(b"ab")
    with pytest.raises(BodyUnavailable, match="did not come within"):
        input_tee(wire, 5).drain()
    assert wire.pieces == [b"ab"]


@pytest.mark.parametrize("wire", [Wire(b"ab"), Wire(b"ab", fails=True)])
async def test_a_client_that_breaks_off_is_told_400_in_a_thread_too(wire: Wire) -> None:
    copy = input_tee(wire, 5)
    copy.drain()
    with pytest.raises(BodyUnavailable, match="broke off") as caught:
        await copy.finish(100)
    assert caught.value.status == 400


async def test_what_the_input_raises_the_application_gets() -> None:
    copy = input_tee(Wire(fails=True), 5)
    with pytest.raises(OSError, match="reset"):
        copy.read(1)
    with pytest.raises(BodyUnavailable, match="broke off"):
        await copy.finish(100)


async def test_a_thread_stops_at_the_limit() -> None:
    wire = Wire(b"x" * 60, b"y" * 60, b"z")
    copy = input_tee(wire, None)
    copy.drain()
    assert wire.pieces == [b"z"]
    with pytest.raises(BodyUnavailable, match="over the limit of 100 bytes"):
        await copy.finish(100)


async def test_a_declared_nothing_is_whole_at_once() -> None:
    assert await input_tee(Wire(b"next request"), 0).finish(100) == b""


def seekable(body: bytes, declared: int | None, limit: int = 100) -> InputTee:
    source = io.BytesIO(b"head" + body)
    source.seek(4)
    made = InputTee(source, declared=declared, limit=limit, connection=None)
    opened.append(made)
    return made


@pytest.mark.parametrize("declared", [6, None])
async def test_what_can_be_read_again_is_copied_once(declared: int | None) -> None:
    copy = seekable(b"abcdef", declared)
    assert (copy.seekable(), copy.tell(), copy.read(4), copy.tell()) == (True, 0, b"abcd", 4)
    assert (copy.seek(2), copy.read(), copy.tell(), copy.read()) == (2, b"cdef", 6, b"")
    assert (copy.seek(-3, io.SEEK_CUR), copy.readline()) == (3, b"def")
    assert await copy.finish(100) == b"abcdef"


async def test_a_place_that_was_not_reached_is_read_up_to() -> None:
    copy = seekable(b"abcdef", 6)
    assert (copy.seek(4), copy.read(1)) == (4, b"e")
    assert (copy.seek(-1, io.SEEK_END), copy.read(), copy.seek(0), copy.seek(99)) == (5, b"f", 0, 6)
    assert await copy.finish(100) == b"abcdef"


async def test_what_a_vote_has_fetched_is_read_from_where_the_application_was() -> None:
    copy = seekable(b"abcdef", 6)
    assert copy.read(2) == b"ab"
    copy.fetch()
    assert await copy.finish(100) == b"abcdef"
    assert (copy.tell(), copy.read(), copy.seek(0), copy.read()) == (2, b"cdef", 0, b"abcdef")


def test_a_body_over_the_limit_can_be_read_again_all_the_same() -> None:
    copy = seekable(b"x" * 30, 30, limit=10)
    assert (copy.read(), copy.seek(0), copy.read()) == (b"x" * 30, 0, b"x" * 30)
    with pytest.raises(BodyUnavailable, match="over the limit of 10 bytes"):
        copy.content(100)


def test_what_comes_from_a_connection_is_read_once() -> None:
    copy = input_tee(Wire(b"ab"), 2)
    assert not copy.seekable()
    for attempt in (copy.tell, lambda: copy.seek(0)):
        with pytest.raises(io.UnsupportedOperation, match="cannot be read again"):
            attempt()
