"""A consumer that polls as hard as it can: it would see a task that is there before what it is about.

RUNS says how often each race is run (10).
"""

import os
import threading
from typing import Final

import sqlalchemy as sa

from tests.databases import Database
from tests.orders import Order
from tests.servers import RedisServer
from tests.waiting import wait_until

RUNS: Final = int(os.environ.get("RUNS", "10"))  # noqa: TID251  the tests' own, no setting of the library
KEY: Final = "taskqueue:{default}"


class Consumer(threading.Thread):
    """Polls as hard as it can for a task; notes whether it then sees the row that names it."""

    def __init__(self, server: RedisServer, database: Database) -> None:
        super().__init__(daemon=True)
        self.polls = 0
        self.stopped = False
        self.early: list[str] = []
        self.seen = 0
        self._redis, self._database = server.client(), database

    def has_polled(self) -> None:
        """Wait until it has looked often enough to have seen what there is to see."""
        before = self.polls
        wait_until(lambda: self.polls > before + 20, "the consumer has polled", every=0.0005)

    def stop(self) -> None:
        """End it."""
        self.stopped = True
        self.join(20)

    def run(self) -> None:
        engine = sa.create_engine(self._database.url)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not self.stopped:
                self.polls += 1
                found = self._redis.rpop(KEY)
                if isinstance(found, bytes):
                    rows = connection.execute(sa.select(Order.id).where(Order.task == found.decode())).all()
                    self.early += [] if rows else [found.decode()]
                    self.seen += 1
        engine.dispose()
