"""A command and a store for it, what a consumer works with, and an application with a way to it."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from taskqueue import TaskQueue
from taskqueue.brokers.redis import RedisBroker
from taskqueue.cli import app, run
from taskqueue.replay import Replayer
from tests.invariants import assert_invariants
from tests.servers import RedisServer
from tests.shop import Shop
from tests.target import Target, listening
from tests.work import Doing, Ran, Work, queue_at


@pytest.fixture
def taskqueue(
    any_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Run the command with a store, without a secret and without anybody at the keyboard."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TASKQUEUE_")]:  # noqa: TID251
        monkeypatch.delenv(name)
    monkeypatch.setenv("TASKQUEUE_URL", any_server.url)

    def command(*arguments: str) -> Ran:
        code = run(app, arguments)
        out, err = capsys.readouterr()
        return Ran(code, str(out), str(err))

    return command


@pytest.fixture
def store(any_server: RedisServer) -> "Doing":
    """Carry out something on the store, in an event loop of its own."""

    def work(steps: Callable[["Work"], Awaitable[None]]) -> None:
        async def all_of_it() -> None:
            broker = RedisBroker(any_server.url, namespace="taskqueue")
            try:
                await steps(Work(broker))
            finally:
                await broker.aclose()

        asyncio.run(all_of_it())

    return work


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    """An application without a door, that answers as told."""
    async with listening() as target:
        yield target


@pytest.fixture
async def tq(any_server: RedisServer) -> AsyncIterator[TaskQueue]:
    """The queues of the store; what is in it when the test has ended must be sound."""
    tq = queue_at(any_server)
    yield tq
    await tq.aclose()
    assert_invariants(any_server.client())


@pytest.fixture
def shop(opened: tuple[Shop, Replayer]) -> Shop:
    """The application that a module's ``opened`` gives."""
    return opened[0]


@pytest.fixture
def replayer(opened: tuple[Shop, Replayer]) -> Replayer:
    """The way to it."""
    return opened[1]
