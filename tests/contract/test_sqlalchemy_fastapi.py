"""FastAPI commits its database after it has answered: the answer waits for the vote, and the task for the row."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI, Request
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

import taskqueue
from taskqueue.middleware.asgi import TaskQueueMiddleware
from taskqueue.middleware.sqlalchemy import bind
from tests.databases import Database, sqlite
from tests.doors import Response, fetch, serving_asgi
from tests.orders import Order, ordered, tables
from tests.races import RUNS, Consumer
from tests.servers import RedisServer
from tests.waiting import until

KEY: Final = "taskqueue:{default}"


def sync_begun(engine: Any, tq: taskqueue.TaskQueue) -> Callable[..., Any]:
    """Sessions that begin in a dependency, in a thread that is not the endpoint's."""
    sessions = sessionmaker(engine)
    bind(tq, sessions)

    def begun() -> Iterator[Session]:
        with sessions.begin() as session:
            yield session

    return begun


def sync_used(engine: Any, tq: taskqueue.TaskQueue) -> Callable[..., Any]:
    """Sessions that begin with the endpoint's first statement."""
    sessions = sessionmaker(engine)
    bind(tq, sessions)

    def used() -> Iterator[Session]:
        with sessions() as session:
            yield session
            session.commit()

    return used


def asynchronous(engine: Any, tq: taskqueue.TaskQueue) -> Callable[..., Any]:
    sessions = async_sessionmaker(engine)
    bind(tq, sessions)

    async def begun() -> AsyncIterator[AsyncSession]:
        async with sessions.begin() as session:
            yield session

    return begun


class Site:
    """A FastAPI application with a session per request, in each of three ways."""

    def __init__(self, kind: str, tq: taskqueue.TaskQueue, database: Database, scope: Any) -> None:
        self.app = FastAPI()
        self.before_commit: Callable[[], None] = lambda: None
        make = {"begun": sync_begun, "used": sync_used, "async": asynchronous}[kind]
        self.engine: Any = (create_async_engine if kind == "async" else sa.create_engine)(
            database.async_url if kind == "async" else database.url
        )
        session_of = make(self.engine, tq)
        sync_engine = getattr(self.engine, "sync_engine", self.engine)
        event.listen(sync_engine, "commit", lambda _connection: self.before_commit())

        if kind == "async":

            @self.app.post("/order")
            async def order_async(session: AsyncSession = Depends(session_of, scope=scope)) -> str:  # noqa: B008 - FastAPI's way
                await session.execute(sa.select(1))
                task_id = taskqueue.add("/later", method="GET")
                session.add(Order(task=task_id))
                return task_id

        else:

            @self.app.post("/order")
            def order(session: Session = Depends(session_of, scope=scope)) -> str:  # noqa: B008 - FastAPI's way
                session.execute(sa.select(1))
                task_id = taskqueue.add("/later", method="GET")
                session.add(Order(task=task_id))
                return task_id

        @self.app.post("/fails")
        def fails(session: Any = Depends(session_of)) -> str:  # noqa: B008 - FastAPI's way
            if isinstance(session, Session):
                session.execute(sa.select(1))
            taskqueue.add("/dropped", method="GET")
            raise LookupError

        self.app.add_middleware(TaskQueueMiddleware, tq=tq)

    async def dispose(self) -> None:
        if isinstance(self.engine, sa.Engine):
            self.engine.dispose()
        else:
            await self.engine.dispose()


@asynccontextmanager
async def serving(
    kind: str, tq: taskqueue.TaskQueue, database: Database, scope: Any = None
) -> AsyncIterator[tuple[Site, str]]:
    with tables(database):
        site = Site(kind, tq, database, scope)
        async with serving_asgi(site.app) as base:
            yield site, base
        await site.dispose()


@pytest.mark.parametrize("kind", ["begun", "used", "async"])
async def test_a_request_that_fails_takes_its_task_along(
    any_server: RedisServer, tq: taskqueue.TaskQueue, database: Database, kind: str
) -> None:
    async with serving(kind, tq, database) as (_, base):
        assert (await fetch("POST", f"{base}/fails")).status == 500
        assert any_server.client().keys("*") == []
        response = await fetch("POST", f"{base}/order")
        assert response.status == 200
        assert ordered(database.url) == {response.text.strip('"')}
        assert any_server.client().llen(KEY) == 1


@pytest.mark.accept("CT05")
@pytest.mark.parametrize("kind", ["begun", "used", "async"])
async def test_a_vote_that_fails_after_the_answer_is_told_in_its_place(
    private_server: RedisServer, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = sqlite(tmp_path / "database")
    tq = taskqueue.TaskQueue(private_server.url, secret="0123456789abcdefghijklmnopqrstuvwxyz", commit_deadline=0.5)
    private_server.kill()
    with caplog.at_level(logging.CRITICAL):
        async with serving(kind, tq, database) as (_, base):
            response: Response = await fetch("POST", f"{base}/order")
    assert (response.status, response.headers["Retry-After"]) == (503, "1")
    assert ordered(database.url) == set()
    await tq.aclose()


@pytest.mark.parametrize(("kind", "scope"), [("begun", None), ("used", None), ("async", None), ("async", "function")])
async def test_nobody_sees_a_task_before_the_row_it_is_about(
    any_server: RedisServer, tq: taskqueue.TaskQueue, database: Database, kind: str, scope: Any
) -> None:
    consumer = Consumer(any_server, database)
    async with serving(kind, tq, database, scope) as (site, base):
        site.before_commit = consumer.has_polled
        consumer.start()
        for number in range(RUNS):
            assert (await fetch("POST", f"{base}/order")).status == 200
            await until(lambda number=number: _value(consumer.seen > number), "the task is taken")  # type: ignore[misc]
        consumer.stop()
    assert (consumer.early, consumer.seen) == ([], RUNS)


async def _value(value: bool) -> bool:  # noqa: FBT001
    return value


async def test_a_task_takes_along_what_the_request_says(tq: taskqueue.TaskQueue, database: Database) -> None:
    async with serving("begun", tq, database) as (site, base):
        session_of = sync_begun(site.engine, tq)

        @site.app.post("/copy")
        async def copy(request: Request, session: Session = Depends(session_of)) -> None:  # noqa: B008 - FastAPI's way
            await request.body()
            session.add(Order())
            taskqueue.add("/later", method="POST")

        with taskqueue.capture() as tasks:
            response = await fetch("POST", f"{base}/copy", data=b"the body", headers={"Accept-Language": "fi"})
    assert response.status == 200
    (task,) = tasks
    assert (task.body, dict(task.headers)["accept-language"]) == (b"the body", "fi")
