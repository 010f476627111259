"""One site for all tests: making it takes longer than they do."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import taskqueue
from tests.plone.instance import Instance, running
from tests.servers import RedisServer, Servers
from tests.tasks import SECRET


@pytest.fixture(scope="session")
def store(servers: Servers) -> Iterator[RedisServer]:
    """The store of the site, which a test may end and start again."""
    with RedisServer(servers.binaries["valkey9"]) as server:
        yield server


@pytest.fixture(scope="session")
def site(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """The site, served by its web server."""
    with running(Path(tmp_path_factory.mktemp("instance")), store.url) as made:
        yield made


@pytest.fixture(scope="session")
def tq(store: RedisServer) -> Iterator[taskqueue.TaskQueue]:
    """The queues of the site, as the test itself sees them."""
    queue = taskqueue.TaskQueue(store.url, secret=SECRET, queues=["default", "mail"])
    yield queue
    queue.run_sync(queue.aclose)


@pytest.fixture
def plone(site: Instance, tq: taskqueue.TaskQueue) -> Instance:
    """The site, no task waiting and nothing noted."""
    for queue in tq.queues:
        tq.reset_sync(queue)
    site.forget()
    return site


@pytest.fixture(scope="module", params=["over http", "in process"])
def consumer(request: pytest.FixtureRequest, site: Instance) -> Iterator[None]:
    """What replays its tasks, in each way in turn, as long as a module's tests run."""
    with site.consumer(request.param, "--concurrent-limit=2"):
        yield


@pytest.fixture
def consumed(consumer: None, plone: Instance) -> Instance:
    """The site, its tasks replayed."""
    return plone
