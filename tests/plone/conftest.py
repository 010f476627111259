"""One site for all tests: making it takes longer than they do."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plone.instance import Instance, running
from tests.servers import RedisServer, Servers


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


@pytest.fixture
def plone(site: Instance, store: RedisServer) -> Instance:
    """The site, no task waiting and nothing noted."""
    store.client().flushall()
    site.forget()
    return site
