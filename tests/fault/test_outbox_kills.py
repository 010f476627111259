"""Producer and relay are killed between any two of their steps: what is committed runs, and nothing else does.

The ledger is the application's own table: a row that is committed names a task. KILLS says how often (20), and half as
often for a producer that votes.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
import sqlalchemy as sa

from taskqueue.brokers.redis import RedisBroker
from taskqueue.middleware.sqlalchemy import metadata, outbox
from tests.databases import Database
from tests.house import tree
from tests.orders import ordered, tables
from tests.servers import RedisServer
from tests.stores import in_line
from tests.waiting import wait_until

KILLS: Final = int(os.environ.get("KILLS", "20"))  # noqa: TID251  the tests' own, no setting of the library
# More than the longest of them takes.
STEPS: Final = {"produce": 44, "produce_async": 41, "relay": 22}


class Nursery:
    """Runs one job after the other, in a process of its own each."""

    def __init__(self, process: "subprocess.Popen[str]", job: dict[str, Any]) -> None:
        self._process, self._job = process, job

    def run(self, role: str, dies_at: int = 0) -> bool:
        """Run a producer or a relay; return whether it was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({**self._job, "role": role, "dies_at": dies_at}), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        assert code in (0, -9), f"{role} ended with {code}"
        return code == -9


@contextmanager
def nursery(database: Database, server: RedisServer, *, with_outbox: bool) -> Iterator[Nursery]:
    job = {"database": database.url, "async_database": database.async_url, "redis": server.url, "outbox": with_outbox}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fault.outbox_nursery"],
        cwd=tree.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Nursery(process, job)
    finally:
        process.communicate()


def rows(database: Database) -> int:
    engine = sa.create_engine(database.url)
    try:
        with engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(outbox)) or 0
    finally:
        engine.dispose()


@pytest.mark.timeout(60 + 3 * KILLS)
def test_with_an_outbox_nothing_is_lost_and_nothing_runs_that_was_not_committed(
    any_server: RedisServer, database: Database
) -> None:
    choice = random.Random(KILLS)
    kills = 0
    with tables(database, metadata), nursery(database, any_server, with_outbox=True) as processes:
        while kills < KILLS:
            for role in (choice.choice(["produce", "produce_async"]), "relay"):
                kills += processes.run(role, choice.randint(1, STEPS[role]))
        committed = ordered(database.url)
        wait_until(lambda: not processes.run("relay") and rows(database) == 0, "the outbox is empty")
        queued = in_line(any_server.client())
    assert len(queued) == len(set(queued)), "a task is queued once"
    assert (committed - set(queued), set(queued) - committed) == (set(), set()), "(lost, phantom)"
    assert committed


@pytest.mark.timeout(60 + 3 * KILLS)
def test_with_a_vote_a_producer_that_dies_leaves_its_tasks_in_doubt_at_worst(
    any_server: RedisServer, database: Database
) -> None:
    choice = random.Random(KILLS)
    kills = doubtful = 0
    with tables(database), nursery(database, any_server, with_outbox=False) as processes:
        while 2 * kills < KILLS:
            role = choice.choice(["produce", "produce_async"])
            kills += processes.run(role, choice.randint(1, STEPS[role]))
    client: Any = any_server.client()
    committed = ordered(database.url)
    asyncio.run(_a_minute_passes(any_server))
    queued = in_line(client)
    in_doubt = {one.decode() for one in client.zrange("taskqueue:{default}:failed", 0, -1)}
    doubtful = len(committed & in_doubt)
    stored = {one.decode() for one in client.hkeys("taskqueue:{default}:state")}
    assert len(queued) == len(set(queued))
    assert (committed - set(queued) - in_doubt, set(queued) - committed) == (set(), set()), "(lost, phantom)"
    assert stored == set(queued) | in_doubt
    assert KILLS < 200 or (doubtful > 0 and in_doubt - committed), "it was killed on both sides of the commit"


async def _a_minute_passes(server: RedisServer) -> None:
    broker = RedisBroker(server.url, namespace="taskqueue")
    await broker.script("due", "default", lambda: (-1,), deadline=time.monotonic() + 10)
    await broker.aclose()
