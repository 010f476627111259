"""An application's own table, written in the transaction in which a task is added: each row names its task."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import taskqueue
from taskqueue.portal import in_portal
from tests.databases import Database
from tests.doors import task_queue


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    task: Mapped[str] = mapped_column(default="")


class Line(Base):
    """Names an order that must be there when the transaction commits, not before."""

    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[int] = mapped_column(sa.ForeignKey("orders.id", deferrable=True, initially="DEFERRED"))


def ordered(url: str) -> set[str]:
    """Return the tasks of all rows that are committed, on a connection of its own."""
    engine = sa.create_engine(url)
    try:
        with Session(engine) as session:
            return set(session.scalars(sa.select(Order.task)))
    finally:
        engine.dispose()


@contextmanager
def tables(database: Database, *others: sa.MetaData) -> Iterator[sa.Engine]:
    """Give an engine of a database that has the tables."""
    engine = sa.create_engine(database.url)
    for metadata in (Base.metadata, *others):
        metadata.create_all(engine)
    yield engine
    engine.dispose()


@contextmanager
def queue_of(url: str, **options: Any) -> Iterator[taskqueue.TaskQueue]:
    """Give a TaskQueue for synchronous code."""
    tq = task_queue(url, **options)
    yield tq
    in_portal(tq, tq.aclose, tq.aclose)
