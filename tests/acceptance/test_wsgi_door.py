"""A consumer and a WSGI application with its door in one process: three threads, one background loop."""

import threading
from collections.abc import AsyncIterator, Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

import taskqueue
from taskqueue.loading import Application, replayer_for
from taskqueue.middleware.wsgi import TaskQueueMiddleware
from tests.doors import task_queue
from tests.invariants import assert_invariants
from tests.servers import RedisServer
from tests.shop import consuming, reached
from tests.tasks import KEYRING


@pytest.fixture
async def tq(any_server: RedisServer) -> AsyncIterator[taskqueue.TaskQueue]:
    queue = task_queue(any_server.url)
    yield queue
    await queue.aclose()
    assert_invariants(any_server.client())


async def test_tasks_run_as_their_users_beside_each_other_and_add_more(tq: taskqueue.TaskQueue) -> None:
    meet, added, seen = threading.Barrier(3), list[str](), list[object]()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/first":
            meet.wait(20)  # three at a time
            added.append(taskqueue.add("/second", method="POST"))
        else:
            task = taskqueue.current_task()
            assert task is not None
            seen.append((environ["taskqueue.user"], task.user, environ["REMOTE_USER"], environ["wsgi.input"].read()))
        start_response("200 OK", [])
        return [b"done"]

    door = TaskQueueMiddleware(app, tq, load_user=str.upper)
    replayer = replayer_for(Application("main:app", "wsgi", door), KEYRING, concurrent_limit=3)
    async with tq.transaction():
        first = [tq.add("/first", payload=b"%d" % number, user_id=f"user{number}") for number in range(6)]
    async with consuming(tq.url, replayer, concurrent_limit=3):
        for task_id in first:
            await reached(tq, task_id, "completed")
        for task_id in added:
            await reached(tq, task_id, "completed")
    assert sorted(map(str, seen)) == [str((f"USER{n}", f"USER{n}", f"user{n}", b"%d" % n)) for n in range(6)]
