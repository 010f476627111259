"""What the suites of the doors share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import taskqueue
import tests.doors_django  # noqa: F401 - Django's models are only to be had where the settings are made
from tests.doors import task_queue
from tests.servers import RedisServer


@pytest.fixture
async def tq(any_server: RedisServer, tmp_path: Path) -> AsyncIterator[taskqueue.TaskQueue]:
    limits = taskqueue.Limits(body=4 * 1024 * 1024)
    queue = task_queue(any_server.url, limits=limits, storage=str(tmp_path / "files"))
    yield queue
    await queue.aclose()
