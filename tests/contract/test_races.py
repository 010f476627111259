"""A consumer that polls as hard as it can sees no task too early, in any framework. ``make test-races`` runs it longer.

Too early is before the response is decided; never is after an exception or an abort.
"""

import asyncio
import threading
from collections.abc import Iterator
from typing import Final

import pytest

import taskqueue
from tests.doors import KINDS, Handler, Reply, View, fetch, serving
from tests.races import KEY, RUNS
from tests.servers import RedisServer

POLLS: Final = 5


class Poller(threading.Thread):
    """Looks for a task without pause, as a consumer would; notes one that it sees while none may be there."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.polls = 0
        self.may_see = False
        self.seen_too_early = 0
        self.waiting = 0
        self._redis = server.client()
        self._looked = threading.Condition()
        self._stopped = False

    def run(self) -> None:
        while not self._stopped:
            self.waiting = int(self._redis.llen(KEY))
            self.seen_too_early += self.waiting > 0 and not self.may_see
            with self._looked:
                self.polls += 1
                self._looked.notify_all()
        self._redis.close()

    async def looks_again(self) -> None:
        """Wait until it has looked a few times more."""
        await asyncio.to_thread(self._wait, self.polls + POLLS)

    def _wait(self, polls: int) -> None:
        with self._looked:
            assert self._looked.wait_for(lambda: self.polls > polls, 20)

    def stop(self) -> None:
        self._stopped = True
        self.join(20)


@pytest.fixture
def poller(any_server: RedisServer) -> Iterator[Poller]:
    made = Poller(any_server)
    made.start()
    yield made
    made.stop()


def adding(poller: Poller, ends: str) -> Handler:
    """Return a handler that adds tasks, gives the consumer time to see them, and ends in this way."""

    async def handler(_view: View) -> Reply:
        for number in range(3):
            taskqueue.add("/later", params={"n": number})
        await poller.looks_again()
        if ends == "raises":
            raise RuntimeError("on purpose")
        poller.may_see = ends == "succeeds"
        return Reply(400 if ends == "aborts" else 200)

    return handler


@pytest.mark.timeout(60 + RUNS)
@pytest.mark.accept("CT02", "CT03")
@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_sees_a_task_before_the_response_is_decided(
    kind: str, tq: taskqueue.TaskQueue, poller: Poller
) -> None:
    handlers = {f"/{ends}": adding(poller, ends) for ends in ("succeeds", "raises", "aborts")}
    async with serving(kind, handlers, tq) as base:
        for _ in range(RUNS):
            for path, status, stored in (("/raises", 500, 0), ("/succeeds", 200, 3), ("/aborts", 400, 0)):
                assert (await fetch("GET", base + path)).status == status
                await poller.looks_again()
                assert poller.waiting == stored
                await tq.reset()
                await poller.looks_again()
                poller.may_see = False
    assert poller.seen_too_early == 0
