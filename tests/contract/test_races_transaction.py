"""A consumer that looks as hard as it can sees no task before the row it is about, nor one that was vetoed.

The row is one of an SQLite file that commits with the ``transaction`` package, on another connection than the one that
looks for it. ``make test-races`` runs it longer.
"""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transaction
from pyramid.response import Response

import taskqueue
from taskqueue.middleware.transaction import bind
from taskqueue.portal import in_portal
from tests.contract.test_doors_pyramid import VETO, Site
from tests.doors import task_queue
from tests.races import KEY, RUNS
from tests.resources import Rows, connected, rows
from tests.servers import RedisServer
from tests.waiting import wait_until

# When its rows are committed, and where it stands among the others: zope.sqlalchemy's way, and that of two phases.
pytestmark = [
    pytest.mark.timeout(60 + RUNS),
    pytest.mark.parametrize(("phase", "key"), [("tpc_vote", "~sqlalchemy:1"), ("tpc_finish", "rows")]),
]


class Watcher(threading.Thread):
    """Takes tasks as soon as they are queued, and notes whether it sees the row of each."""

    def __init__(self, server: RedisServer, path: Path) -> None:
        super().__init__()
        self._redis, self._path = server.client(), path
        self._looks, self._stopped = 0, False
        self.seen: list[str] = []
        self.early: list[str] = []

    def run(self) -> None:
        database = connected(self._path)
        while not self._stopped:
            self._looks += 1
            found = self._redis.rpop(KEY)
            if isinstance(found, bytes):
                task_id = found.decode()
                row = database.execute("SELECT task FROM rows WHERE task = ?", (task_id,)).fetchone()
                self.early += [] if row else [task_id]
                self.seen.append(task_id)
        database.close()
        self._redis.close()

    def wait_for_looks(self) -> None:
        """Return when it has looked 20 times more: what could be taken by now, is."""
        before = self._looks
        wait_until(lambda: self._looks > before + 20, "the watcher has looked", every=0.0005)

    def stop(self) -> None:
        """Look a last time, then end."""
        if self.is_alive():
            self.wait_for_looks()
        self._stopped = True
        self.join(20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    assert rows(tmp_path / "rows") == set()
    return tmp_path / "rows"


@pytest.fixture
def watcher(any_server: RedisServer, path: Path) -> Iterator[Watcher]:
    made = Watcher(any_server, path)
    made.start()
    yield made
    made.stop()


def test_in_a_transaction_of_the_thread(
    any_server: RedisServer, watcher: Watcher, path: Path, phase: str, key: str
) -> None:
    tq, ids = task_queue(any_server.url), list[str]()
    bind(tq)
    for number in range(RUNS):
        foreign = transaction.begin()
        task_id = tq.add("/later")
        made = Rows(path, transaction.manager, key=key, commits_in=phase, before=watcher.wait_for_looks)
        made.write(task_id)
        if number % 3 == 2:
            foreign.abort()
        else:
            foreign.commit()
            ids.append(task_id)
    watcher.stop()
    assert (watcher.seen, watcher.early) == (ids, [])
    in_portal(tq, tq.aclose, tq.aclose)


async def test_in_a_request_of_pyramid(
    tq: taskqueue.TaskQueue, watcher: Watcher, path: Path, phase: str, key: str
) -> None:
    site = Site(tq, VETO)

    @site.view("/{status}")
    def order(request: Any) -> Response:
        made = Rows(path, request.tm, key=key, commits_in=phase, before=watcher.wait_for_looks)
        task_id = taskqueue.add("/later")
        made.write(task_id)
        watcher.wait_for_looks()
        return Response(task_id, status=int(request.matchdict["status"]))

    kept = []
    for number in range(RUNS):
        status = 409 if number % 3 == 2 else 200
        response = await site.ask(f"/{status}")
        kept += [response.text] if status == 200 else []
    await asyncio.to_thread(watcher.stop)
    assert (watcher.seen, watcher.early) == (kept, [])
