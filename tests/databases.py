"""Databases for the tests: SQLite always, and a PostgreSQL of the test run's own where its binaries stand on PATH."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psycopg

from tests.waiting import wait_until

# PostgreSQL does not run as the superuser of the machine; then this one owns its data.
OTHER_USER: Final = "nobody"
# Whoever holds the other end of its standard input is gone: end the server, remove its directory.
_UNDERTAKER: Final = 'read _; kill -QUIT "$0"; rm -rf "$1"'


def find_postgres() -> bool:
    """Return whether this machine can run a PostgreSQL."""
    return bool(shutil.which("postgres") and shutil.which("initdb"))


@dataclass(frozen=True)
class Database:
    """An empty database, and where it is for SQLAlchemy's synchronous and asynchronous engines."""

    kind: str
    url: str
    async_url: str


def sqlite(path: Path) -> Database:
    """Return a database in this file."""
    return Database("sqlite", f"sqlite:///{path}", f"sqlite+aiosqlite:///{path}")


class Postgres:
    """A server process that listens on a unix socket in a directory of its own, which goes with it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tq-"))
        self._user = OTHER_USER if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self._process: subprocess.Popen[bytes] | None = None
        self._undertaker: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Make the data and start the process; return the server itself once it answers."""
        data = self.directory / "data"
        user = self._user if os.getuid() == 0 else None
        if user is not None:
            shutil.chown(self.directory, user)
        common = {"cwd": self.directory, "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "user": user}
        subprocess.run(
            ["initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync"],
            stdout=subprocess.PIPE,
            check=True,
            **common,  # type: ignore[call-overload]
        )
        options = ["-F", "-h", "", "-k", self.directory, "-c", "max_prepared_transactions=10"]
        with (self.directory / "log").open("ab") as log:
            process = self._process = subprocess.Popen(
                ["postgres", "-D", data, *options],
                stdout=log,
                start_new_session=True,
                **common,  # type: ignore[call-overload]
            )
        self._undertaker = subprocess.Popen(
            ["/bin/sh", "-c", _UNDERTAKER, str(process.pid), str(self.directory)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        wait_until(self._answers, "PostgreSQL answers")
        return self

    def database(self) -> Database:
        """Return the one database there is, emptied."""
        with psycopg.connect(host=str(self.directory), user="postgres", autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        url = f"postgresql+psycopg://postgres@/postgres?host={self.directory}"
        return Database("postgresql", url, url)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "log").read_text()
        try:
            psycopg.connect(host=str(self.directory), user="postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def close(self) -> None:
        """End the process, remove the directory."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(20)
        if self._undertaker is not None:
            self._undertaker.kill()
            self._undertaker.communicate()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
