"""Tasks that are rows of the application's own database: promised by its commit, pushed by a relay, once."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

import taskqueue
from taskqueue.commit import PUSH_BYTES, PUSH_TASKS
from taskqueue.middleware.sqlalchemy import bind, metadata, outbox
from taskqueue.relay import BYTES, ROWS, Outbox, Push, Relay, from_now, portion
from taskqueue.task import SealedTask, Settlement, Verdict
from tests.databases import Database
from tests.doors import task_queue
from tests.orders import Order, tables
from tests.servers import RedisServer
from tests.stores import in_line
from tests.waiting import until


class Shop:
    """An application that orders into an outbox; its sessions are synchronous, what pushes need not be."""

    def __init__(self, tq: taskqueue.TaskQueue, engine: sa.Engine, redis: Any) -> None:
        self.tq, self.engine, self.redis = tq, engine, redis
        self.sessions = sessionmaker(engine)
        bind(tq, self.sessions, outbox=True)

    def order(self, session: Session, *paths: str, **options: Any) -> list[str]:
        ids = []
        for path in paths:
            session.add(row := Order())
            row.task = self.tq.add(path, **options)
            ids.append(row.task)
        return ids

    def ordered(self, *paths: str, **options: Any) -> list[str]:
        """Commit tasks with these paths; return their ids."""
        with self.sessions.begin() as session:
            session.execute(sa.select(1))
            return self.order(session, *paths, **options)

    def rows(self) -> list[str]:
        """The paths of the rows that wait."""
        with self.engine.connect() as connection:
            return list(connection.scalars(sa.select(outbox.c.path).order_by(outbox.c.sequence)))

    @property
    def outbox(self) -> Outbox:
        return self.tq.outboxes[0]


@pytest.fixture
async def shop(any_server: RedisServer, database: Database) -> AsyncIterator[Shop]:
    tq = task_queue(any_server.url)
    with tables(database, metadata) as engine:
        yield Shop(tq, engine, any_server.client())
    await tq.aclose()


@asynccontextmanager
async def relaying(*boxes: Outbox, tq: taskqueue.TaskQueue) -> AsyncIterator[None]:
    """Relay from each of these, and stop in good order."""
    relays = [Relay(box, tq.broker, poll_max=0.05) for box in boxes]
    jobs = [asyncio.create_task(relay.run()) for relay in relays]
    try:
        yield
    finally:
        for relay in relays:
            relay.stop()
        await asyncio.gather(*jobs)


async def relayed(shop: Shop, *boxes: Outbox) -> None:
    """Relay until nothing waits any more."""
    async with relaying(*(boxes or (shop.outbox,)), tq=shop.tq):
        await until(lambda: _value(shop.rows() == []), "the outbox is empty")


async def _value(value: bool) -> bool:  # noqa: FBT001
    return value


class Broken:
    """An outbox that pushes and then cannot remove: a relay that was killed in between looks the same."""

    def __init__(self, box: Outbox) -> None:
        self._box = box
        self.pushed = asyncio.Event()

    async def pass_on(self, push: Push, *, without: Collection[str]) -> int:
        async def push_and_break(tasks: Sequence[SealedTask]) -> Collection[str]:
            await push(tasks)
            self.pushed.set()
            raise ConnectionError("on purpose")

        return await self._box.pass_on(push_and_break, without=without)

    async def aclose(self) -> None:
        await self._box.aclose()


# ---- what is written


def test_the_commit_writes_rows_and_asks_no_broker(database: Database) -> None:
    tq = task_queue("redis://127.0.0.1:1/0")
    with tables(database, metadata) as engine:
        shop = Shop(tq, engine, None)
        with shop.sessions.begin() as session:
            shop.order(session, "/1")
            with suppress(LookupError), session.begin_nested():
                shop.order(session, "/dropped")
                raise LookupError
            with taskqueue.transaction(tq):
                shop.order(session, "/2")
            assert shop.rows() == []
        with suppress(LookupError), shop.sessions.begin() as session:
            shop.order(session, "/dropped")
            raise LookupError
        assert shop.rows() == ["/1", "/2"]


async def test_asynchronous_sessions_write_and_read_it_too(
    any_server: RedisServer, tq: taskqueue.TaskQueue, database: Database
) -> None:
    engine = create_async_engine(database.async_url)
    sessions = async_sessionmaker(engine)
    bind(tq, sessions, outbox=True)
    with tables(database, metadata):
        async with sessions.begin() as session:
            await session.execute(sa.select(1))
            ids = [tq.add("/1"), tq.add("/2")]
        client = any_server.client()
        assert client.keys("*") == []
        async with relaying(*tq.outboxes, tq=tq):
            await until(lambda: _value(len(in_line(client)) == 2), "both are pushed")
        assert in_line(client) == ids
        async with sessions() as session:
            assert (await session.execute(sa.select(outbox))).all() == []
    await engine.dispose()


async def test_a_task_arrives_as_if_it_had_been_pushed_at_once(shop: Shop) -> None:
    (task_id,) = shop.ordered("/later", params={"year": 2026}, label="a report", queue="mail")
    await relayed(shop)
    state = await shop.tq.get(task_id)
    assert state is not None
    assert (state.state, state.queue, state.method, state.path, state.label) == (
        *("queued", "mail", "GET", "/later", "a report"),
    )


async def test_a_delay_counts_from_the_commit(shop: Shop) -> None:
    before = time.time_ns() // 1_000_000
    (task_id,) = shop.ordered("/later", delay=3600)
    with shop.engine.connect() as connection:
        due = connection.scalar(sa.select(outbox.c.due))
    assert due is not None
    assert before <= due - 3_600_000 <= time.time_ns() // 1_000_000
    await relayed(shop)
    state = await shop.tq.get(task_id)
    assert state is not None
    assert (state.state, state.due) == ("scheduled", due)


def test_a_capture_gets_what_is_committed(shop: Shop) -> None:
    with taskqueue.capture() as tasks:
        shop.ordered("/later")
    assert (tasks.paths, shop.rows()) == (["/later"], [])


def test_a_table_of_ones_own(any_server: RedisServer, tmp_path: Any) -> None:
    tq = task_queue(any_server.url)
    own = sa.MetaData()
    table = outbox.to_metadata(own, name="shop_outbox")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/database")
    own.create_all(engine)
    sessions = sessionmaker(engine)
    bind(tq, sessions, outbox=table)
    with sessions.begin() as session:
        session.execute(sa.select(1))
        tq.add("/later")
    with engine.connect() as connection:
        assert list(connection.scalars(sa.select(table.c.path))) == ["/later"]
    engine.dispose()


# ---- how it is pushed


async def test_in_order_and_in_pushes_of_a_fair_size(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    push = shop.tq.broker.push

    async def noted(queue: str, tasks: Sequence[SealedTask], **options: Any) -> None:
        sizes.append((len(tasks), sum(len(task.record) for task in tasks)))
        await push(queue, tasks, **options)

    monkeypatch.setattr(shop.tq.broker, "push", noted)
    ids = shop.ordered(*(f"/{number}" for number in range(450)))
    ids += shop.ordered(*(f"/large/{number}" for number in range(5)), payload=bytes(400_000))
    await relayed(shop)
    assert in_line(shop.redis) == ids
    assert all(count <= PUSH_TASKS and (weight <= PUSH_BYTES or count == 1) for count, weight in sizes)
    assert len(sizes) <= 8


async def test_a_relay_that_dies_after_its_push_only_repeats_it(shop: Shop) -> None:
    ids = shop.ordered("/1", "/2")
    broken = Broken(shop.outbox)
    async with relaying(broken, tq=shop.tq):
        await broken.pushed.wait()
    assert shop.rows() == ["/1", "/2"]
    assert in_line(shop.redis) == ids
    await relayed(shop)
    assert in_line(shop.redis) == ids


async def test_a_task_that_has_completed_meanwhile_does_not_run_again(shop: Shop) -> None:
    (task_id,) = shop.ordered("/1")
    broken = Broken(shop.outbox)
    async with relaying(broken, tq=shop.tq):
        await broken.pushed.wait()
    deadline = time.monotonic() + 10
    lease, _ = await shop.tq.broker.claim("default", "one", begins=False, deadline=deadline)
    call = shop.tq.broker.exchange
    taken = await call(lease, (), token="a", want=1, room=2**20, deadline=deadline)
    done = Settlement(task_id, taken.reservations[0].delivery, Verdict("complete"))
    await call(lease, (done,), token="b", want=0, room=0, deadline=deadline)
    await relayed(shop)
    state = await shop.tq.get(task_id)
    assert state is not None
    assert (state.state, in_line(shop.redis)) == ("completed", [])


async def test_several_relays_share_it_or_repeat_each_other_harmlessly(shop: Shop) -> None:
    ids = shop.ordered(*(f"/{number}" for number in range(ROWS + 50)))
    inside, outside = asyncio.Event(), asyncio.Event()
    first: list[str] = []

    async def slow(tasks: Sequence[SealedTask]) -> Collection[str]:
        first.extend(task.id for task in tasks)
        inside.set()
        await outside.wait()
        await shop.tq.broker.push("default", tasks, deadline=time.monotonic() + 10)
        return first

    other = sessionmaker(shop.engine)
    bind(shop.tq, other, outbox=True)
    holding = asyncio.create_task(shop.outbox.pass_on(slow, without=()))
    await inside.wait()
    seen: list[str] = []

    async def look(tasks: Sequence[SealedTask]) -> Collection[str]:
        seen.extend(task.id for task in tasks)
        await shop.tq.broker.push("default", tasks, deadline=time.monotonic() + 10)
        return ()

    await shop.tq.outboxes[1].pass_on(look, without=())
    if shop.engine.dialect.name == "postgresql":
        assert (first, seen) == (ids[:ROWS], ids[ROWS:])
    else:
        assert first == seen == ids[:ROWS]
    outside.set()
    await holding
    await relayed(shop, *shop.tq.outboxes)
    assert sorted(in_line(shop.redis)) == sorted(ids)


async def test_a_full_queue_takes_what_fits_and_keeps_nobody_waiting(
    any_server: RedisServer, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    tq = task_queue(any_server.url, max_tasks=3)
    with tables(database, metadata) as engine:
        shop = Shop(tq, engine, any_server.client())
        ids = shop.ordered(*(f"/{number}" for number in range(ROWS + 10)))
        (mail,) = shop.ordered("/mail", queue="mail")
        async with relaying(shop.outbox, tq=tq):
            await until(lambda: _value(in_line(shop.redis, "mail") == [mail]), "the other queue's is pushed")
            await until(lambda: _value(in_line(shop.redis) == ids[:3]), "what fits is pushed")
            await tq.reset("default")
            await until(lambda: _value(in_line(shop.redis) == ids[3:6]), "what fits then is pushed")
        assert "queue default: full; its tasks wait in the outbox" in caplog.text
        assert len(shop.rows()) == len(ids) - 6
    await tq.aclose()


async def test_a_queue_that_is_refused_keeps_no_other_waiting(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.redis.set("taskqueue:{default}:state", "of somebody else")
    shop.ordered("/stuck")
    (mail,) = shop.ordered("/mail", queue="mail")
    async with relaying(shop.outbox, tq=shop.tq):
        await until(lambda: _value(in_line(shop.redis, "mail") == [mail]), "the other queue's is pushed")
    assert "queue default: refused; its tasks wait in the outbox: namespace: a key in redis belongs to" in caplog.text
    assert shop.rows() == ["/stuck"]


async def test_what_is_away_is_waited_for(
    private_server: RedisServer, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskqueue.relay.CALL_DEADLINE", 0.3)
    tq = task_queue(private_server.url)
    with tables(database, metadata) as engine:
        shop = Shop(tq, engine, None)
        private_server.kill()
        metadata.drop_all(engine)
        async with relaying(shop.outbox, tq=tq):
            await until(lambda: _value("the outbox cannot be read" in caplog.text), "the missing table is told")
            metadata.create_all(engine)
            (task_id,) = shop.ordered("/later")
            await until(lambda: _value("queue default: not to be had" in caplog.text), "the missing broker is told")
            private_server.restart()
            client = private_server.client()
            await until(lambda: _value(in_line(client) == [task_id]), "the task is pushed")
    await tq.aclose()


# ---- pure


@pytest.mark.parametrize(
    ("sizes", "rows"),
    [([], []), ([BYTES + 1, 1], [0]), ([BYTES, 1], [0]), ([BYTES - 1, 1, 1], [0, 1]), ([1] * 5, [0, 1, 2, 3, 4])],
)
def test_a_pass_has_its_limit_in_bytes(sizes: list[int], rows: list[int]) -> None:
    assert portion(enumerate(sizes)) == rows


@pytest.mark.parametrize(("due", "absolute"), [(0, 0), (-500, 10_500), (20_000, 20_000)])
def test_a_delay_becomes_a_time(due: int, absolute: int) -> None:
    task = SealedTask("1", "default", b"", due, "GET", "/", "")
    assert from_now(task, now=10_000).due == absolute


async def test_a_relay_that_rests_ends_when_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskqueue.relay.POLL_MIN", 3600)
    calls: list[str] = []
    looked = asyncio.Event()

    class Empty:
        async def pass_on(self, push: Push, *, without: Collection[str]) -> int:
            calls.append("pass")
            looked.set()
            return 0

        async def aclose(self) -> None:
            calls.append("close")

    relay = Relay(Empty(), task_queue("redis://127.0.0.1:1/0").broker, poll_max=3600)
    job = asyncio.create_task(relay.run())
    await looked.wait()
    relay.stop()
    await asyncio.wait_for(job, 20)
    assert calls == ["pass", "close"]
