"""Producers and relays that kill themselves at a given step: python -m tests.fault.outbox_nursery.

Reads one job a line (JSON), runs it in a child, and answers with how many steps it came, and whether it was killed.
Children are forked, because most of a process's life would else be its imports.
"""

import asyncio
import itertools
import json
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

import taskqueue
from taskqueue.middleware.sqlalchemy import bind
from taskqueue.relay import Outbox, Push, Relay
from taskqueue.task import SealedTask
from tests.doors import task_queue
from tests.orders import Order

TRANSACTIONS = 3
TASKS = 2


class Steps:
    """Counts the steps that are noted, and dies at the one that is chosen."""

    def __init__(self, dies_at: int) -> None:
        self._count, self._dies_at = itertools.count(1), dies_at

    def __call__(self, *_: Any, **__: Any) -> None:
        if next(self._count) == self._dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def of_engine(self, engine: sa.Engine) -> None:
        """Note each statement, before and after, and each commit."""
        for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
            event.listen(engine, name, self)

    def around(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Note a call, before and after."""

        async def noted(*arguments: Any, **options: Any) -> Any:
            self()
            result = await call(*arguments, **options)
            self()
            return result

        return noted

    def of_broker(self, broker: Any) -> None:
        """Note each call that stores or queues tasks."""
        for name in ("prepare", "promote", "push"):
            setattr(broker, name, self.around(getattr(broker, name)))


def queue_of(job: dict[str, Any], steps: Steps) -> taskqueue.TaskQueue:
    tq = task_queue(job["redis"], commit_deadline=10)
    steps.of_broker(tq.broker)
    return tq


def produce(job: dict[str, Any], steps: Steps) -> None:
    """Commit transactions, each with rows that name their tasks."""
    tq = queue_of(job, steps)
    engine = sa.create_engine(job["database"])
    steps.of_engine(engine)
    sessions = sessionmaker(engine)
    event.listen(sessions, "after_commit", steps)  # before ours
    bind(tq, sessions, outbox=job["outbox"])
    for number in range(TRANSACTIONS):
        with sessions() as session:
            session.execute(sa.select(1))
            for _ in range(TASKS):
                session.add(Order(task=tq.add(f"/{number}")))
            steps()
            session.commit()
            steps()


async def produce_async(job: dict[str, Any], steps: Steps) -> None:
    """Do the same in an event loop."""
    tq = queue_of(job, steps)
    engine = create_async_engine(job["async_database"])
    steps.of_engine(engine.sync_engine)
    sessions = async_sessionmaker(engine)
    bind(tq, sessions, outbox=job["outbox"])
    for number in range(TRANSACTIONS):
        async with sessions() as session:
            await session.execute(sa.select(1))
            for _ in range(TASKS):
                session.add(Order(task=tq.add(f"/{number}")))
            steps()
            await session.commit()
            steps()
    await engine.dispose()
    await tq.aclose()


class Ending:
    """An outbox whose relay is stopped when nothing waits any more."""

    def __init__(self, outbox: Outbox, steps: Steps) -> None:
        self._outbox, self._steps = outbox, steps
        self.relay: Relay

    async def pass_on(self, push: Push, *, without: Collection[str]) -> int:
        async def noted(tasks: Sequence[SealedTask]) -> Collection[str]:
            self._steps()
            confirmed = await push(tasks)
            self._steps()
            return confirmed

        found = await self._outbox.pass_on(noted, without=without)
        self._steps()
        if not found:
            self.relay.stop()
        return found

    async def aclose(self) -> None:
        await self._outbox.aclose()


async def relay(job: dict[str, Any], steps: Steps) -> None:
    """Push what waits."""
    tq = queue_of(job, steps)
    engine = sa.create_engine(job["database"])
    steps.of_engine(engine)
    bind(tq, sessionmaker(engine, class_=type("OfRelay", (Session,), {})), outbox=True)
    ending = Ending(tq.outboxes[0], steps)
    ending.relay = Relay(ending, tq.broker)
    await ending.relay.run()
    await tq.aclose()


def child(job: dict[str, Any]) -> None:
    steps = Steps(job["dies_at"])
    random.seed()
    match job["role"]:
        case "produce":
            produce(job, steps)
        case "produce_async":
            asyncio.run(produce_async(job, steps))
        case "relay":
            asyncio.run(relay(job, steps))


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child(json.loads(line))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
