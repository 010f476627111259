"""In Django a task belongs to the block entered last: ``atomic()``, the request, or a transaction of ours."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path

import taskqueue
from taskqueue.middleware import django as door
from taskqueue.portal import in_portal
from taskqueue.transaction import Entry
from tests.doors import task_queue
from tests.doors_django import database, project
from tests.races import RUNS
from tests.servers import RedisServer
from tests.waiting import wait_until

KEY = "taskqueue:{default}"

Function = Callable[[HttpRequest], HttpResponse | None]


class Site:
    """A project with one view, which does what the test says, and its queue."""

    def __init__(self, server: RedisServer, **settings: Any) -> None:
        self.tq: Any = task_queue(server.url)
        self.redis = server.client()
        self.function: Function = lambda _request: None
        self._stack = ExitStack()
        self._stack.callback(in_portal, self.tq, self.tq.aclose, self.tq.aclose)
        self._stack.enter_context(database())
        self._stack.enter_context(project(self.tq, path("", self._view), **settings))

    def _view(self, request: HttpRequest) -> HttpResponse:
        return self.function(request) or HttpResponse("done")

    def get(self, function: Function) -> int:
        """Ask the view, return the status."""
        self.function = function
        status: int = Client(raise_request_exception=False).get("/").status_code
        return status

    @property
    def waiting(self) -> list[str]:
        """The paths of the tasks in the queue, in order."""
        found = self.redis.lrange(KEY, 0, -1)
        assert isinstance(found, list)
        ids = [one.decode() if isinstance(one, bytes) else one for one in reversed(found)]
        return [self.tq.get_sync(one).path for one in ids]

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def site(any_server: RedisServer) -> Iterator[Site]:
    made = Site(any_server)
    yield made
    made.close()


# ---- in a block of the database's


@pytest.mark.parametrize("status", [200, 400, 500])
def test_what_the_database_has_committed_is_promised_whatever_the_response(site: Site, status: int) -> None:
    def view(_request: HttpRequest) -> HttpResponse:
        with transaction.atomic():
            taskqueue.add("/later")
            User.objects.create(username="ada")
            assert site.waiting == []
        assert site.waiting == ["/later"]
        taskqueue.add("/of-the-request")
        return HttpResponse(status=status)

    assert site.get(view) == status
    assert site.waiting == (["/later", "/of-the-request"] if status == 200 else ["/later"])


def test_what_the_database_has_committed_is_promised_if_the_view_then_raises(site: Site) -> None:
    def view(_request: HttpRequest) -> None:
        with transaction.atomic():
            taskqueue.add("/later")
        taskqueue.add("/of-the-request")
        raise RuntimeError("on purpose")

    assert site.get(view) == 500
    assert site.waiting == ["/later"]


def test_what_the_database_has_rolled_back_is_forgotten_though_the_request_succeeds(site: Site) -> None:
    def view(_request: HttpRequest) -> None:
        with suppress(LookupError), transaction.atomic():
            taskqueue.add("/dropped")
            raise LookupError
        taskqueue.add("/kept")

    assert site.get(view) == 200
    assert site.waiting == ["/kept"]


def test_a_nested_block_rolled_back_takes_only_its_own(site: Site) -> None:
    def view(_request: HttpRequest) -> None:
        with transaction.atomic():
            taskqueue.add("/1")
            with suppress(LookupError), transaction.atomic():
                taskqueue.add("/dropped")
                with transaction.atomic():
                    taskqueue.add("/dropped-too")
                raise LookupError
            taskqueue.add("/2")
            with transaction.atomic():
                taskqueue.add("/3")
            with suppress(LookupError), transaction.atomic():
                taskqueue.add("/dropped-last")
                raise LookupError

    assert site.get(view) == 200
    assert site.waiting == ["/1", "/2", "/3"]


@pytest.mark.parametrize("rolls_back", [False, True])
def test_the_tasks_of_one_transaction_are_stored_in_one_go_and_in_order(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    rolls_back: bool,  # noqa: FBT001
) -> None:
    batches: list[int] = []
    deliver_sync = site.tq.deliver_sync

    def counting(entries: Sequence[Entry], request: Any) -> None:
        batches.append(len(entries))
        deliver_sync(entries, request)

    monkeypatch.setattr(site.tq, "deliver_sync", counting)

    def view(_request: HttpRequest) -> None:
        with transaction.atomic():
            taskqueue.add("/1")
            with transaction.atomic():
                taskqueue.add("/2")
            if rolls_back:
                with suppress(LookupError), transaction.atomic():
                    taskqueue.add("/dropped")
                    raise LookupError
            taskqueue.add("/3")
            taskqueue.add("/4")

    assert site.get(view) == 200
    assert site.waiting == ["/1", "/2", "/3", "/4"]
    # A rollback makes Django keep the callbacks in another list: those before it are then stored one by one.
    assert batches == ([1, 1, 2] if rolls_back else [4])


def test_atomic_requests(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", value=True)

    def returns(_request: HttpRequest) -> HttpResponse:
        taskqueue.add("/returned")
        assert site.waiting == []
        return HttpResponse(status=500)  # which Django commits

    def raises(_request: HttpRequest) -> None:
        taskqueue.add("/raised")
        raise RuntimeError("on purpose")

    assert [site.get(returns), site.get(raises)] == [500, 500]
    assert site.waiting == ["/returned"]


def test_only_the_database_that_is_named_counts(any_server: RedisServer) -> None:
    site = Site(any_server, using="other")

    def view(_request: HttpRequest) -> HttpResponse:
        with transaction.atomic():
            taskqueue.add("/of-the-request")
            door.add("/of-default", using="default")
        with transaction.atomic(using="other"):
            taskqueue.add("/of-other")
            door.add("/of-the-request-too", using="default")
        with pytest.raises(taskqueue.InvalidTask, match="using: 'third' is no database alias; one of default, other"):
            door.add("/nowhere", using="third")
        return HttpResponse(status=400)

    assert site.get(view) == 400
    assert site.waiting == ["/of-default", "/of-other"]
    site.close()


def test_outside_a_request_a_block_is_enough(site: Site) -> None:
    with transaction.atomic():
        ids = [taskqueue.add("/a"), door.add("/b", json={"n": 1})]
        assert site.waiting == []
    assert [site.tq.get_sync(one).path for one in ids] == ["/a", "/b"]
    with suppress(LookupError), transaction.atomic():
        taskqueue.add("/dropped")
        raise LookupError
    assert site.waiting == ["/a", "/b"]
    for add in (taskqueue.add, door.add):
        with pytest.raises(taskqueue.NoTransaction, match="push_sync"):
            add("/nowhere")


# ---- in a block, and in transactions of ours


def test_a_savepoint_of_ours_in_a_block_joins_the_block(site: Site) -> None:
    with suppress(LookupError), transaction.atomic():
        with taskqueue.transaction():
            taskqueue.add("/dropped-with-the-block")
        raise LookupError
    with transaction.atomic():
        taskqueue.add("/1")
        with suppress(LookupError), taskqueue.transaction():
            taskqueue.add("/dropped")
            raise LookupError
        with taskqueue.transaction():
            taskqueue.add("/2")
            taskqueue.add("/3")
        taskqueue.add("/4")
        assert site.waiting == []
    assert site.waiting == ["/1", "/2", "/3", "/4"]


def test_a_block_in_a_transaction_of_ours_decides_for_itself(site: Site) -> None:
    with suppress(LookupError), taskqueue.transaction(site.tq):
        taskqueue.add("/dropped")
        with transaction.atomic():
            taskqueue.add("/kept")
        raise LookupError
    assert site.waiting == ["/kept"]


def test_what_is_pushed_waits_for_no_block(site: Site) -> None:
    with suppress(LookupError), transaction.atomic():
        site.tq.push_sync("/at-once")
        with taskqueue.transaction(independent=True):
            taskqueue.add("/independent")
        assert site.waiting == ["/at-once", "/independent"]
        raise LookupError
    assert site.waiting == ["/at-once", "/independent"]


def test_the_block_that_a_test_case_puts_around_everything_changes_nothing(site: Site) -> None:
    def view(_request: HttpRequest) -> None:
        taskqueue.add("/of-the-request")
        with transaction.atomic():
            taskqueue.add("/of-the-block")

    with taskqueue.capture() as tasks, transaction.atomic():
        assert site.get(view) == 200
        assert tasks.paths == ["/of-the-request"]
        # As captureOnCommitCallbacks(execute=True) does it.
        for _, callback, _ in list(connection.run_on_commit):
            callback()
        assert tasks.paths == ["/of-the-request", "/of-the-block"]


def test_a_transaction_has_its_limit_in_a_block_too(any_server: RedisServer) -> None:
    site = Site(any_server)
    site.tq.limits = taskqueue.Limits(transaction=100_000)
    with transaction.atomic():
        taskqueue.add("/1", payload=bytes(60_000))
        with pytest.raises(taskqueue.InvalidTask, match="over the limit of 100000"):
            taskqueue.add("/2", payload=bytes(60_000))
        with suppress(LookupError), transaction.atomic():
            taskqueue.add("/dropped", payload=bytes(30_000))
            raise LookupError
        taskqueue.add("/3", payload=bytes(30_000))
    assert site.waiting == ["/1", "/3"]
    site.close()


# ---- what can go wrong


def test_a_push_that_fails_after_the_commit_is_logged_with_its_ids_and_raised(
    private_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(private_server)
    ids: list[str] = []

    def add_in_block() -> None:
        with transaction.atomic():
            User.objects.create(username="ada")
            ids.extend(taskqueue.add(f"/{number}") for number in range(3))
            private_server.kill()

    with caplog.at_level(logging.ERROR, "taskqueue"):
        with pytest.raises(taskqueue.BrokerUnavailable):
            add_in_block()
        assert User.objects.count() == 1
    (record,) = [record for record in caplog.records if record.name == "taskqueue.door"]
    assert record.getMessage().startswith("the database has committed, but 3 task(s) will not run: ")
    assert vars(record)["task_ids"] == ids
    site.close()


class Consumer(threading.Thread):
    """Polls as hard as it can for a task; notes whether it then sees the row that the task is about."""

    def __init__(self, site: Site, name: str) -> None:
        super().__init__()
        self.polls = 0
        self.saw_row = False
        self._site, self._row = site, name

    def run(self) -> None:
        while not self._site.redis.llen(KEY):
            self.polls += 1
        self.saw_row = User.objects.filter(username=self._row).exists()
        connections.close_all()


@pytest.mark.parametrize("number", range(RUNS))
def test_nobody_sees_a_task_before_the_row_it_is_about(site: Site, number: int) -> None:
    consumer = Consumer(site, f"user{number}")

    def view(_request: HttpRequest) -> None:
        with transaction.atomic():
            with transaction.atomic():
                taskqueue.add("/later")
            User.objects.create(username=f"user{number}")
            before = consumer.polls
            wait_until(lambda: consumer.polls > before + 20, "the consumer has polled")

    consumer.start()
    assert site.get(view) == 200
    consumer.join(20)
    assert consumer.saw_row


# ---- the body, in a block


@pytest.mark.parametrize("reads_before", [False, True])
def test_in_a_block_the_body_is_copied_at_once_and_the_view_still_gets_it(site: Site, reads_before: bool) -> None:  # noqa: FBT001
    content = bytes(range(256)) * 1000
    got: list[bytes] = []

    def view(request: HttpRequest) -> None:
        if reads_before:
            assert len(request.FILES) == 1
        with transaction.atomic():
            taskqueue.add("/later", method="POST")
        got.append(request.FILES["file"].read())

    site.function = view
    with taskqueue.capture() as tasks:
        response = Client().post("/", {"file": SimpleUploadedFile("x.bin", content), "year": "2026"})
    assert response.status_code == 200
    assert got == [content]
    (task,) = tasks
    assert content in task.body
    assert dict(task.headers)["content-type"].startswith("multipart/form-data; boundary=")


async def test_under_asgi_a_synchronous_view_has_its_block_too(any_server: RedisServer) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        with suppress(LookupError), transaction.atomic():
            taskqueue.add("/dropped", method="POST")
            raise LookupError
        with transaction.atomic():
            taskqueue.add("/kept", method="POST")
        taskqueue.add("/of-the-request")
        return HttpResponse(request.body, status=400)

    tq = task_queue(any_server.url)
    with project(tq, path("", view)), taskqueue.capture() as tasks:
        response = await AsyncClient().post("/", b"the body", content_type="text/plain")
    assert (response.status_code, response.content) == (400, b"the body")
    assert tasks.paths == ["/kept"]
    assert tasks[0].body == b"the body"
    await tq.aclose()
