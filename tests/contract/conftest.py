"""What the suites of the doors share."""

from collections.abc import AsyncIterator

import pytest

import taskqueue
import tests.doors_django  # noqa: F401 - Django's models are only to be had where the settings are made
from tests.conftest import KINDS, clean
from tests.doors import task_queue
from tests.servers import RedisServer, Servers
from tests.stores import Inspectable, LocalStore, RedisStore


@pytest.fixture
async def tq(any_server: RedisServer) -> AsyncIterator[taskqueue.TaskQueue]:
    queue = task_queue(any_server.url, limits=taskqueue.Limits(body=4 * 1024 * 1024))
    yield queue
    await queue.aclose()


@pytest.fixture(params=[*KINDS, pytest.param("local", marks=pytest.mark.accept("CT35"))])
def store(request: pytest.FixtureRequest) -> Inspectable:
    """Each store that a broker can be tried on in turn, without data: every kind of server, and this process."""
    if request.param == "local":
        return LocalStore()
    servers: Servers = request.getfixturevalue("servers")
    return RedisStore(clean(servers, request.param))
