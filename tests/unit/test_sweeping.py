"""Sweeping the files of tasks that nobody remembers: what may go wrong in between."""

import asyncio
import logging
from pathlib import Path

import pytest

from taskqueue.errors import ConfigError
from taskqueue.storage import Storage
from taskqueue.sweeping import Sweeper
from taskqueue.task import TaskState
from tests.tasks import KEYRING
from tests.waiting import until


class Store:
    """As much of a broker as a sweeper asks; it answers once it is ``free``, and knows no task."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.asked = error, 0
        self.free = asyncio.Event()

    async def get(self, _queue: str, _task_id: str, *, deadline: float) -> TaskState | None:
        self.asked += 1
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return None


def storage_with(tmp_path: Path, tasks: int) -> Storage:
    storage = Storage(tmp_path / "files", KEYRING, namespace="taskqueue")
    for number in range(tasks):
        storage.save("default", f"id-{number}", "x", b"")
    return storage


async def test_what_the_store_refuses_does_not_end_the_consumer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refusing = Store(ConfigError("redis refused a command"))
    refusing.free.set()

    async def told() -> bool:
        return "the storage was not swept: redis refused a command" in caplog.text

    with caplog.at_level(logging.WARNING, "taskqueue.server"):
        job = asyncio.create_task(Sweeper(storage_with(tmp_path, 1), refusing).watch())  # type: ignore[arg-type]
        await until(told, "it was told")
    assert not job.done()
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)


async def test_a_stop_ends_a_sweep_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskqueue.storage._SWEPT_AT_ONCE", 1)
    store = Store()

    async def asked() -> bool:
        return store.asked == 1

    job = asyncio.create_task(Sweeper(storage_with(tmp_path, 3), store).watch())  # type: ignore[arg-type]
    await until(asked, "the first task was asked for")
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    store.free.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert store.asked == 1
