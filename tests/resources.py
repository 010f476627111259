"""A resource of the ``transaction`` package's transactions: rows of an SQLite file that name their tasks."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

PHASES: Final = ("tpc_begin", "commit", "tpc_vote", "tpc_finish")


class Failed(Exception):
    """A resource failed, on purpose."""


class Rows:
    """A data manager that commits its rows in one of the phases, and fails in one if told so."""

    def __init__(
        self,
        path: Path,
        manager: Any,
        *,
        key: str = "rows",
        commits_in: str = "tpc_finish",
        fails_in: str = "",
        before: Callable[[], object] = lambda: None,
    ) -> None:
        """Join the transaction of a manager; ``before`` is called before the rows are committed."""
        self.transaction_manager = manager
        self._key, self._commits_in, self._fails_in, self._before = key, commits_in, fails_in, before
        self._database = connected(path)
        self._database.execute("BEGIN IMMEDIATE")
        manager.get().join(self)

    def write(self, task_id: str) -> None:
        """Add a row."""
        self._database.execute("INSERT INTO rows VALUES (?)", (task_id,))

    def _enter(self, phase: str) -> None:
        if phase == self._fails_in:
            raise Failed(phase)
        if phase == self._commits_in:
            self._before()
            self._database.execute("COMMIT")
            self._database.close()

    def tpc_begin(self, _foreign: Any) -> None:
        self._enter("tpc_begin")

    def commit(self, _foreign: Any) -> None:
        self._enter("commit")

    def tpc_vote(self, _foreign: Any) -> None:
        self._enter("tpc_vote")

    def tpc_finish(self, _foreign: Any) -> None:
        self._enter("tpc_finish")

    def abort(self, _foreign: Any) -> None:
        self._database.close()

    tpc_abort = abort

    def sortKey(self) -> str:  # noqa: N802 - see IDataManager
        return self._key

    def savepoint(self) -> "Rows":
        return self

    def rollback(self) -> None:
        """Keep everything: no test asks for more."""


def connected(path: Path) -> sqlite3.Connection:
    """Return a connection to the file, which has its table."""
    database = sqlite3.connect(path, isolation_level=None, timeout=20, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE IF NOT EXISTS rows (task TEXT)")
    return database


def rows(path: Path) -> set[str]:
    """Return what is committed, as another connection sees it."""
    database = connected(path)
    try:
        return {task for (task,) in database.execute("SELECT task FROM rows")}
    finally:
        database.close()
