"""A task belongs to the transaction of SQLAlchemy's in which it is added: it is queued with its commit, or never."""

import asyncio
import contextvars
import gc
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import taskqueue
from taskqueue.errors import BrokerUnavailable, ConfigError, NoTransaction, QueueFull
from taskqueue.middleware.sqlalchemy import bind
from tests.databases import Database
from tests.orders import Line, Order, ordered, queue_of, tables
from tests.races import RUNS, Consumer
from tests.servers import RedisServer
from tests.waiting import wait_until


class Shop:
    """An application that orders: its queue, and sessions bound to it."""

    def __init__(self, tq: Any, engine: sa.Engine, redis: Any) -> None:
        self.tq, self.engine, self.redis = tq, engine, redis
        self.sessions = sessionmaker(engine)

    def paths(self) -> list[str]:
        """The paths of the tasks in the queue, in order."""
        ids = [one.decode() for one in reversed(self.redis.lrange("taskqueue:{default}", 0, -1))]
        return [self.tq.get_sync(one).path for one in ids]

    def states(self) -> set[str]:
        """What has become of the tasks that are stored."""
        ids = [one.decode() for one in self.redis.hkeys("taskqueue:{default}:state")]
        return {self.tq.get_sync(one).state for one in ids}

    def orders(self) -> int:
        return len(ordered(self.engine.url.render_as_string(hide_password=False)))

    def order(self, session: Session, path: str = "/later") -> str:
        """Write a row, and add a task."""
        row = Order()
        session.add(row)
        row.task = self.tq.add(path)
        return row.task


@pytest.fixture
def shop(any_server: RedisServer, database: Database) -> Iterator[Shop]:
    with queue_of(any_server.url) as tq, tables(database) as engine:
        made = Shop(tq, engine, any_server.client())
        bind(tq, made.sessions)
        yield made


# ---- commit and rollback


@pytest.mark.accept("CT04")
def test_a_task_is_queued_when_the_database_has_committed(shop: Shop) -> None:
    with shop.sessions.begin() as session:
        task_id = shop.order(session)
        assert shop.states() == set()
    assert shop.paths() == ["/later"]
    assert ordered(str(shop.engine.url)) == {task_id}


def test_every_transaction_of_a_session_has_its_own(shop: Shop) -> None:
    with shop.sessions() as session:
        shop.order(session, "/1")
        session.commit()
        assert shop.paths() == ["/1"]
        shop.order(session, "/dropped")
        session.rollback()
        shop.order(session, "/2")
        session.commit()
        assert shop.paths() == ["/1", "/2"]
        shop.order(session, "/dropped")
    assert (shop.paths(), shop.states(), shop.orders()) == (["/1", "/2"], {"queued"}, 2)


def test_an_error_forgets_everything(shop: Shop) -> None:
    with suppress(LookupError), shop.sessions.begin() as session:
        shop.order(session)
        raise LookupError
    assert (shop.paths(), shop.states(), shop.orders()) == ([], set(), 0)


def test_invalidating_forgets_everything(shop: Shop) -> None:
    session = shop.sessions()
    shop.order(session)
    session.flush()
    session.invalidate()
    assert (shop.states(), shop.orders()) == (set(), 0)


def test_the_commit_of_a_flush_that_fails_forgets_what_was_voted(shop: Shop) -> None:
    with shop.sessions.begin() as session:
        session.add(Order(id=1))
    with shop.sessions() as session:
        shop.order(session)

        @event.listens_for(session, "before_commit")
        def _(_session: Session) -> None:
            assert shop.states() == {"prepared"}
            session.add(Order(id=1))

        with pytest.raises(IntegrityError):
            session.commit()
    assert (shop.states(), shop.orders()) == (set(), 1)


def test_what_a_flush_adds_takes_part(shop: Shop) -> None:
    with shop.sessions() as session:

        @event.listens_for(session, "after_flush")
        def _(_session: Session, _context: Any) -> None:
            shop.tq.add("/of-a-flush")

        session.add(Order())
        session.commit()
    assert shop.paths() == ["/of-a-flush"]


# ---- savepoints


def test_a_savepoint_rolled_back_takes_only_its_own(shop: Shop) -> None:
    with shop.sessions.begin() as session:
        shop.order(session, "/1")
        with suppress(LookupError), session.begin_nested():
            shop.order(session, "/dropped")
            with session.begin_nested():
                shop.order(session, "/dropped-too")
            raise LookupError
        shop.order(session, "/2")
        with session.begin_nested():
            shop.order(session, "/3")
            with suppress(LookupError), session.begin_nested():
                shop.order(session, "/dropped-last")
                raise LookupError
        assert shop.states() == set()
    assert (shop.paths(), shop.orders()) == (["/1", "/2", "/3"], 3)


def test_a_flush_that_fails_in_a_savepoint_takes_only_its_own(shop: Shop) -> None:
    with shop.sessions.begin() as session:
        session.add(Order(id=1))
        shop.tq.add("/1")
        with suppress(IntegrityError), session.begin_nested():
            shop.tq.add("/dropped")
            session.execute(sa.insert(Order).values(id=1, task=""))
        shop.tq.add("/2")
    assert shop.paths() == ["/1", "/2"]


def test_a_commit_releases_the_savepoints_that_are_open(shop: Shop) -> None:
    with shop.sessions() as session:
        shop.order(session, "/1")
        session.begin_nested()
        shop.order(session, "/2")
        session.commit()
    assert shop.paths() == ["/1", "/2"]


def test_savepoints_of_both_kinds_nest(shop: Shop) -> None:
    with shop.sessions.begin() as session:
        shop.order(session, "/1")
        with suppress(LookupError), taskqueue.transaction():
            taskqueue.add("/dropped")
            raise LookupError
        with suppress(LookupError), session.begin_nested():
            with taskqueue.transaction(shop.tq):
                shop.tq.add("/dropped-too")
            raise LookupError
        with taskqueue.transaction(shop.tq):
            taskqueue.add("/2")
            with suppress(LookupError), session.begin_nested():
                taskqueue.add("/dropped-from-a-block-that-goes-on")
                raise LookupError
        with taskqueue.transaction(shop.tq, independent=True):
            taskqueue.add("/at-once")
        assert shop.paths() == ["/at-once"]
    assert shop.paths() == ["/at-once", "/1", "/2"]


def test_nobody_sees_a_task_of_a_savepoint_before_its_row(
    shop: Shop, any_server: RedisServer, database: Database
) -> None:
    consumer = Consumer(any_server, database)
    consumer.start()
    for number in range(RUNS):
        with shop.sessions.begin() as session:
            shop.order(session)
            with suppress(LookupError), session.begin_nested():
                shop.order(session, "/dropped")
                session.flush()
                raise LookupError
            with session.begin_nested():
                shop.order(session)
            consumer.has_polled()
        wait_until(lambda number=number: consumer.seen == 2 * (number + 1), "the tasks are taken")  # type: ignore[misc]
    consumer.stop()
    assert (consumer.early, shop.orders()) == ([], 2 * RUNS)


# ---- whose a task is


def test_a_session_that_has_not_begun_has_no_part_in_it(shop: Shop) -> None:
    with shop.sessions() as session:
        with pytest.raises(NoTransaction):
            shop.tq.add("/nowhere")
        with taskqueue.transaction(shop.tq):
            shop.tq.add("/of-the-block")
            shop.order(session, "/of-the-session")
        assert shop.paths() == ["/of-the-block"]
        session.commit()
    assert shop.paths() == ["/of-the-block", "/of-the-session"]


def test_of_two_sessions_the_one_begun_last_takes_it(shop: Shop) -> None:
    first, second = shop.sessions(), shop.sessions()
    if shop.engine.dialect.name == "sqlite":
        second = sessionmaker(sa.create_engine("sqlite://"))()
        bind(shop.tq, type(second))
    first.execute(sa.select(1))
    shop.tq.add("/first")
    second.execute(sa.select(1))
    shop.tq.add("/second")
    first.rollback()
    second.commit()
    assert shop.paths() == ["/second"]
    first.execute(sa.select(1))
    shop.tq.add("/first-again")
    first.commit()
    assert shop.paths() == ["/second", "/first-again"]
    for session in (first, second):
        session.close()
        session.get_bind().engine.dispose()


def test_threads_do_not_see_each_others(shop: Shop) -> None:
    def elsewhere() -> None:
        with pytest.raises(NoTransaction):
            shop.tq.add("/nowhere")
        with suppress(LookupError), shop.sessions() as session:
            session.execute(sa.select(1))
            shop.tq.add("/dropped")
            raise LookupError

    with shop.sessions.begin() as session:
        shop.order(session)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert shop.paths() == ["/later"]


def test_it_does_not_matter_where_the_commit_happens(shop: Shop) -> None:
    session = shop.sessions()
    shop.order(session)
    contextvars.Context().run(session.commit)
    assert shop.paths() == ["/later"]
    with pytest.raises(NoTransaction):
        shop.tq.add("/nowhere")


@pytest.mark.parametrize("kind", ["class", "sessionmaker", "scoped_session", "subclass"])
def test_what_can_be_bound(any_server: RedisServer, kind: str) -> None:
    own: Any = type("Own", (Session,), {})
    maker: Any = sessionmaker(class_=own)
    target: Any = {"class": own, "sessionmaker": maker, "scoped_session": scoped_session(maker), "subclass": own}[kind]
    session: Any = {"class": own, "sessionmaker": maker, "scoped_session": target, "subclass": type("Sub", (own,), {})}
    with queue_of(any_server.url) as tq:
        bind(tq, target)
        engine = sa.create_engine("sqlite://")
        with session[kind](bind=engine) as begun, taskqueue.capture() as tasks:
            begun.execute(sa.select(1))
            tq.add("/later")
            begun.commit()
        with Session(engine) as other:
            other.execute(sa.select(1))
            with pytest.raises(NoTransaction):
                tq.add("/nowhere")
        engine.dispose()
    assert tasks.paths == ["/later"]


@pytest.mark.parametrize("wrong", [object(), "sessions", int, sa.create_engine("sqlite://")])
def test_what_cannot_be_bound(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="sessions: a Session class, a sessionmaker"):
        bind(taskqueue.TaskQueue(), wrong)


# ---- what can go wrong


@pytest.mark.accept("CT05")
def test_a_vote_that_fails_rolls_the_database_back(private_server: RedisServer, database: Database) -> None:
    with queue_of(private_server.url, commit_deadline=0.5) as tq, tables(database) as engine:
        shop = Shop(tq, engine, private_server.client())
        bind(tq, shop.sessions)
        session = shop.sessions()
        task_id = shop.order(session)
        private_server.kill()
        with pytest.raises(BrokerUnavailable):
            session.commit()
        # Whoever ignores that must not commit without the task.
        with pytest.raises(NoTransaction, match=r"call rollback\(\)"):
            session.commit()
        session.rollback()
        assert shop.orders() == 0
        private_server.restart()
        assert shop.redis.hkeys("taskqueue:{default}:state") == []
        with pytest.raises(BrokerUnavailable, match="add: the broker is down"):
            shop.order(session)
        session.close()
        assert task_id not in ordered(database.url)


def test_a_queue_that_is_full_rolls_the_database_back(any_server: RedisServer, database: Database) -> None:
    with queue_of(any_server.url, max_tasks=2) as tq, tables(database) as engine:
        shop = Shop(tq, engine, any_server.client())
        bind(tq, shop.sessions)
        with shop.sessions.begin() as session:
            shop.order(session, "/1")
        with shop.sessions() as session:
            shop.order(session, "/2")
            shop.order(session, "/3")
            with pytest.raises(QueueFull):
                session.commit()
        assert (shop.paths(), shop.orders()) == (["/1"], 1)


def test_a_session_that_disappears_says_what_it_takes_along(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    def careless() -> str:
        session = shop.sessions()
        session.execute(sa.select(1))
        return str(shop.tq.add("/dropped"))

    task_id = careless()
    gc.collect()
    assert f"1 task(s) are forgotten: {task_id}" in caplog.text
    assert shop.engine.pool.status().endswith("Current Checked out connections: 0"), "its connection is given back"
    with pytest.raises(NoTransaction):
        shop.tq.add("/nowhere")
    shop.engine.dispose()


def lose(connection: sa.Connection) -> None:
    connection.invalidate()
    raise ConnectionError


def end_backend(engine: sa.Engine, pid: int | None) -> None:
    with engine.connect() as other:
        other.execute(sa.text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})


def test_a_commit_whose_answer_is_lost_leaves_the_task_in_doubt(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    for leave in (Session.rollback, Session.close, Session.invalidate):
        session = shop.sessions()
        task_id = shop.order(session)

        if shop.engine.dialect.name == "postgresql":
            own = session.scalar(sa.text("SELECT pg_backend_pid()"))
            event.listen(session.connection(), "commit", lambda _, own=own: end_backend(shop.engine, own))
        else:
            event.listen(session.connection(), "commit", lose)
        with pytest.raises((ConnectionError, OperationalError)):
            session.commit()
        leave(session)
        state = shop.tq.get_sync(task_id)
        assert state is not None
        assert state.state == "prepared", "and a minute later failed: in-doubt"
        assert task_id in caplog.text
        session.close()


def test_a_commit_that_the_database_refuses_is_no_doubt(shop: Shop) -> None:
    with shop.sessions() as session:
        if shop.engine.dialect.name == "sqlite":
            session.execute(sa.text("PRAGMA foreign_keys = ON"))
        session.execute(sa.insert(Line).values(order=404))
        task_id = shop.order(session)
        with pytest.raises(IntegrityError):
            session.commit()
    assert shop.tq.get_sync(task_id) is None


def test_in_two_phases(shop: Shop) -> None:
    if shop.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no two-phase commit")
    sessions = sessionmaker(shop.engine, twophase=True)
    bind(shop.tq, sessions)
    for number, ending in enumerate((Session.rollback, Session.commit)):
        with sessions() as session:
            shop.order(session, f"/{number}")
            session.prepare()
            assert shop.states() == {"prepared"}
            ending(session)
    assert (shop.paths(), shop.states(), shop.orders()) == (["/1"], {"queued"}, 1)


# ---- asynchronous sessions


class Asynchronous:
    """The same, for asynchronous sessions."""

    def __init__(self, tq: taskqueue.TaskQueue, database: Database, redis: Any) -> None:
        self.tq, self.redis = tq, redis
        self.engine = create_async_engine(database.async_url)
        self.sessions = async_sessionmaker(self.engine)

    async def order(self, session: AsyncSession, path: str) -> None:
        await session.execute(sa.insert(Order).values(task=self.tq.add(path)))

    async def paths(self) -> list[str]:
        ids = [one.decode() for one in reversed(self.redis.lrange("taskqueue:{default}", 0, -1))]
        states = [await self.tq.get(one) for one in ids]
        return [state.path for state in states if state is not None]


@pytest.fixture
async def ashop(any_server: RedisServer, tq: taskqueue.TaskQueue, database: Database) -> AsyncIterator[Asynchronous]:
    with tables(database):
        made = Asynchronous(tq, database, any_server.client())
        bind(tq, made.sessions)
        yield made
        await made.engine.dispose()


async def test_an_asynchronous_session_does_all_that_too(ashop: Asynchronous) -> None:
    async with ashop.sessions.begin() as session:
        await ashop.order(session, "/1")
        with suppress(LookupError):
            async with session.begin_nested():
                await ashop.order(session, "/dropped")
                raise LookupError
        async with session.begin_nested():
            await ashop.order(session, "/2")
        assert await ashop.paths() == []
    async with ashop.sessions() as session:
        await session.execute(sa.select(1))
        await ashop.order(session, "/3")
        await session.commit()
        await session.execute(sa.select(1))
        await ashop.order(session, "/dropped-with-close")
    with suppress(LookupError):
        async with ashop.sessions.begin() as session:
            await ashop.order(session, "/dropped-with-the-error")
            raise LookupError
    assert await ashop.paths() == ["/1", "/2", "/3"]


async def test_a_vote_blocks_no_event_loop(ashop: Asynchronous, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocks(*_: Any) -> None:
        raise AssertionError("a synchronous call in an event loop")

    monkeypatch.setattr(ashop.tq, "run_sync", blocks)
    async with ashop.sessions.begin() as session:
        await ashop.order(session, "/1")
    assert await ashop.paths() == ["/1"]


async def test_sessions_side_by_side_keep_their_own(ashop: Asynchronous) -> None:
    turn = asyncio.Barrier(2)

    async def work(path: str, *, fails: bool) -> None:
        async with ashop.sessions.begin() as session:
            await session.execute(sa.select(1))
            await turn.wait()
            ashop.tq.add(path)
            await turn.wait()
            if fails:
                raise LookupError

    await asyncio.gather(work("/dropped", fails=True), work("/kept", fails=False), return_exceptions=True)
    assert await ashop.paths() == ["/kept"]


async def test_a_cancelled_vote_leaves_nothing(ashop: Asynchronous, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[asyncio.Task[None]] = []
    prepare = ashop.tq.broker.prepare

    async def cancelled(*arguments: Any, **options: Any) -> None:
        jobs[0].cancel()
        await prepare(*arguments, **options)

    monkeypatch.setattr(ashop.tq.broker, "prepare", cancelled)

    async def work() -> None:
        async with ashop.sessions() as session:
            await session.execute(sa.select(1))
            await ashop.order(session, "/dropped")
            await session.commit()  # at the end of a begin() it could not be cancelled

    jobs.append(asyncio.create_task(work()))
    with pytest.raises(asyncio.CancelledError):
        await jobs[0]
    assert ashop.redis.hkeys("taskqueue:{default}:state") == []


@pytest.mark.parametrize("kind", ["class", "maker", "scoped"])
async def test_which_asynchronous_sessions_can_be_bound(tq: taskqueue.TaskQueue, kind: str) -> None:
    own: Any = type("Own", (AsyncSession,), {})
    maker = async_sessionmaker(class_=own)
    scoped = async_scoped_session(maker, scopefunc=asyncio.current_task)
    bind(tq, {"class": own, "maker": maker, "scoped": scoped}[kind])
    engine = create_async_engine("sqlite+aiosqlite://")
    async with maker(bind=engine) as session:
        await session.execute(sa.select(1))
        with taskqueue.capture() as tasks:
            tq.add("/later")
            await session.commit()
    async with AsyncSession(engine) as other:
        await other.execute(sa.select(1))
        with pytest.raises(NoTransaction):
            tq.add("/nowhere")
    await engine.dispose()
    assert tasks.paths == ["/later"]


async def test_a_vote_that_fails_rolls_an_asynchronous_session_back(
    private_server: RedisServer, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    tq = taskqueue.TaskQueue(private_server.url, secret="0123456789abcdefghijklmnopqrstuvwxyz", commit_deadline=0.5)
    with tables(database), caplog.at_level(logging.ERROR, "taskqueue"):
        shop = Asynchronous(tq, database, private_server.client())
        bind(tq, shop.sessions)
        session = shop.sessions()
        await session.execute(sa.select(1))
        await shop.order(session, "/dropped")
        private_server.kill()
        with pytest.raises(BrokerUnavailable):
            await session.commit()
        await session.close()
        await shop.engine.dispose()
        assert ordered(database.url) == set()
    await tq.aclose()
