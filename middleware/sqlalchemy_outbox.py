"""The outbox of SQLAlchemy: a table of tasks, written by the application's own transactions, emptied by a relay.

``metadata.create_all(engine)`` makes it. For Alembic name both in ``env.py``, ``target_metadata = [Base.metadata,
metadata]``, or make it one of yours: ``outbox.to_metadata(Base.metadata)``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from anyio import CapacityLimiter, from_thread, to_thread
from sqlalchemy import (
    BigInteger,
    Column,
    Delete,
    Insert,
    Integer,
    LargeBinary,
    MetaData,
    Result,
    Select,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from ..relay import ROWS, Push, portion
from ..task import SealedTask

metadata: Final = MetaData()
outbox: Final = Table(
    "taskqueue_outbox",
    metadata,
    # SQLite counts by itself only in this type.
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String(36), nullable=False),
    Column("queue", String(200), nullable=False),
    Column("record", LargeBinary(2**32 - 1), nullable=False),
    Column("size", Integer, nullable=False),
    Column("due", BigInteger, nullable=False),
    Column("method", String(16), nullable=False),
    Column("path", Text, nullable=False),
    Column("label", String(200), nullable=False),
)
"""Tasks that are committed and not pushed yet: sealed as in the broker, in the order of ``sequence``."""


def written(table: Table, tasks: Sequence[SealedTask]) -> tuple[Insert, list[Mapping[str, object]]]:
    """Return the statement that writes these tasks, and its parameters."""
    return insert(table), [_row(task) for task in tasks]


def _row(task: SealedTask) -> Mapping[str, object]:
    return {
        "id": task.id,
        "queue": task.queue,
        "record": task.record,
        "size": len(task.record),
        "due": task.due,
        "method": task.method,
        "path": task.path,
        "label": task.label,
    }


class Rows:
    """An outbox that synchronous sessions read, in a thread."""

    def __init__(self, sessions: Callable[[], Session], table: Table) -> None:
        self._sessions, self._table = sessions, table
        self._threads = CapacityLimiter(1)

    async def pass_on(self, push: Push, *, without: Collection[str]) -> int:
        """See Outbox."""
        return await to_thread.run_sync(self._pass_on, push, without, limiter=self._threads)

    def _pass_on(self, push: Push, without: Collection[str]) -> int:
        with self._sessions() as session, session.begin():
            sizes = session.execute(_first(self._table, without)).all()
            if sizes:
                tasks = _tasks(session.execute(_chosen(self._table, sizes)))
                session.execute(_pushed(self._table, tasks, from_thread.run(push, [*tasks.values()])))
            return len(sizes)

    async def aclose(self) -> None:
        """See Outbox."""
        with self._sessions() as session:
            await to_thread.run_sync(_dispose, session, self._table)


class RowsAsync:
    """An outbox that asynchronous sessions read."""

    def __init__(self, sessions: Callable[[], AsyncSession], table: Table) -> None:
        self._sessions, self._table = sessions, table

    async def pass_on(self, push: Push, *, without: Collection[str]) -> int:
        """See Outbox."""
        async with self._sessions() as session, session.begin():
            sizes = (await session.execute(_first(self._table, without))).all()
            if sizes:
                tasks = _tasks(await session.execute(_chosen(self._table, sizes)))
                await session.execute(_pushed(self._table, tasks, await push([*tasks.values()])))
            return len(sizes)

    async def aclose(self) -> None:
        """See Outbox."""
        async with self._sessions() as session:
            await session.run_sync(_dispose, self._table)


def _dispose(session: Session, table: Table) -> None:
    session.get_bind(clause=table).engine.dispose()


def _first(table: Table, without: Collection[str]) -> Select[*tuple[Any, ...]]:
    """Select the first rows and their sizes, locked where the database can, without those that are."""
    first = select(table.c.sequence, table.c.size).order_by(table.c.sequence).limit(ROWS)
    return first.where(table.c.queue.not_in(without)).with_for_update(skip_locked=True)


def _chosen(table: Table, sizes: Sequence[Any]) -> Select[*tuple[Any, ...]]:
    """Select those of them for one pass."""
    return select(table).where(table.c.sequence.in_(portion(sizes))).order_by(table.c.sequence)


def _tasks(rows: Result[Any]) -> dict[int, SealedTask]:
    """Return the tasks in these rows, by row."""
    names = ("id", "queue", "record", "due", "method", "path", "label")
    return {row["sequence"]: SealedTask(*(row[name] for name in names)) for row in rows.mappings()}


def _pushed(table: Table, tasks: Mapping[int, SealedTask], ids: Collection[str]) -> Delete:
    """Remove those with these ids."""
    return delete(table).where(table.c.sequence.in_([row for row, task in tasks.items() if task.id in ids]))
