"""What systemd hears of a consumer, on a real datagram socket."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from taskqueue.notify import Notices, to_systemd
from taskqueue.signs import Signs
from tests.waiting import until


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        yield receiver


def heard(receiver: socket.socket) -> list[str]:
    """Return what has come since, a message a string."""
    messages = []
    while True:
        try:
            messages.append(receiver.recv(1000).decode())
        except BlockingIOError:
            return messages


@asynccontextmanager
async def telling(receiver: socket.socket, signs: Signs, watchdog: float | None = None) -> AsyncIterator[None]:
    notices = Notices(to_systemd(receiver.getsockname()), signs, watchdog=watchdog)
    job = asyncio.create_task(notices.watch())
    yield
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)


async def hears(receiver: socket.socket, words: str) -> list[str]:
    """Wait for these words; return all that came until then."""
    messages: list[str] = []

    async def there() -> bool:
        messages.extend(heard(receiver))
        return any(words in message for message in messages)

    await until(there, f"systemd hears {words}, not only {messages}")
    return messages


async def test_ready_comes_with_the_first_answer_of_the_broker_and_only_once(systemd: socket.socket) -> None:
    signs = Signs()
    async with telling(systemd, signs):
        assert await hears(systemd, "STATUS") == ["STATUS=starting: 0 running, 0 done"]
        signs.progressed(1.0)
        assert await hears(systemd, "READY=1") == ["READY=1\nSTATUS=consuming: 0 running, 0 done"]
        signs.pause(paused=True)
        assert await hears(systemd, "STATUS") == ["STATUS=paused: 0 running, 0 done"]
        signs.pause(paused=False)
        signs.stop("it was told to")
        assert await hears(systemd, "STOPPING=1") == ["STOPPING=1\nSTATUS=stopping: 0 running, 0 done"]
    assert heard(systemd) == []


async def test_an_end_without_a_stop_is_told_too(systemd: socket.socket) -> None:
    async with telling(systemd, Signs()):
        await hears(systemd, "STATUS")
    assert heard(systemd) == ["STOPPING=1"]


async def test_a_loop_that_is_blocked_feeds_no_watchdog(systemd: socket.socket) -> None:
    async with telling(systemd, Signs(), watchdog=0.04):
        await hears(systemd, "WATCHDOG=1")
        heard(systemd)
        time.sleep(0.3)  # noqa: ASYNC251, TID251  the view that blocks, here for several periods
        assert heard(systemd) == []
        await hears(systemd, "WATCHDOG=1")


async def test_an_abstract_address_is_known(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0taskqueue-test-{time.time_ns()}")
        to_systemd(f"@{receiver.getsockname()[1:].decode()}")("READY=1")
        assert receiver.recv(100) == b"READY=1"
    to_systemd("/nowhere/at/all")("READY=1")
    assert "systemd was not told" in caplog.text
