"""Who comes in through a door as a delivery, and as whom, in every framework: only what is proved, and only once."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from yarl import URL

import taskqueue
from taskqueue.policy import Answered
from taskqueue.replay import Delivery, HttpReplayer
from tests.deliveries import OTHER, signed
from tests.doors import KINDS, WSGI_KINDS, Consumer, Reply, View, adding, fetch, serving, task_queue
from tests.doors_wsgi import as_served
from tests.mutations import meaning, mutations
from tests.servers import RedisServer
from tests.tasks import KEYRING, task
from tests.waiting import until
from tests.wire import captured, send

pytestmark = pytest.mark.parametrize("kind", KINDS)


@dataclass
class User:
    id: str
    is_authenticated = True


USERS = {"ada": User("ada"), "Grete Müller": User("Grete Müller")}


async def load_user(user_id: str) -> User | None:
    await asyncio.sleep(0)
    return USERS.get(user_id)


@dataclass
class Seen:
    """What a task's view saw: the user, and what the queue says of the task."""

    users: list[object | None]
    tasks: list[taskqueue.CurrentTask | None]

    async def handler(self, view: View) -> Reply:
        await view.body()
        self.users.append(view.user)
        self.tasks.append(taskqueue.current_task())
        return Reply()


@pytest.fixture
def seen() -> Seen:
    return Seen([], [])


# ---- a genuine delivery


@pytest.mark.accept("CT01")
@pytest.mark.accept("CT16")
@pytest.mark.accept("CT17")
@pytest.mark.parametrize("user_id", ["ada", "Grete Müller"])
async def test_a_task_runs_as_the_user_who_added_it(
    kind: str, tq: taskqueue.TaskQueue, seen: Seen, user_id: str
) -> None:
    handlers = {"/": adding("/build"), "/build": seen.handler}
    door: dict[str, Any] = {"load_user": load_user, "user_id": lambda _request: user_id}
    async with serving(kind, handlers, tq, **door) as base:
        response = await fetch("GET", base + "/", headers={"Cookie": "session=1", "Authorization": "Bearer x"})
        task, outcome = await Consumer(tq).replay(base)
    assert task.user_id == user_id
    assert not {"cookie", "authorization"} & {name for name, _ in task.headers}
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted, outcome.logged_in) == (200, True, True)
    assert seen.users == [USERS[user_id]]
    (current,) = seen.tasks
    assert current is not None
    assert (current.id, current.queue, current.user_id, current.user) == (task.id, "default", user_id, USERS[user_id])
    assert (current.id, current.attempt, current.max_attempts) == (response.text, 1, 11)
    assert current.enqueued_at == task.created


async def test_outside_a_delivery_there_is_no_current_task(kind: str, tq: taskqueue.TaskQueue, seen: Seen) -> None:
    async with serving(kind, {"/": seen.handler}, tq, load_user=load_user) as base:
        assert (await fetch("GET", base + "/")).status == 200
    assert (seen.users, seen.tasks) == ([None], [None])


async def test_a_user_who_is_gone_fails_the_task(kind: str, tq: taskqueue.TaskQueue, seen: Seen) -> None:
    handlers = {"/": adding("/build", user_id="mallory"), "/build": seen.handler}
    async with serving(kind, handlers, tq, load_user=USERS.get) as base:
        await fetch("GET", base + "/")
        _, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.refused, outcome.receipted) == (403, "user-gone", True)
    assert seen.tasks == []


@pytest.mark.accept("TA21")
async def test_an_anonymous_task_loads_nobody(kind: str, tq: taskqueue.TaskQueue, seen: Seen) -> None:
    async def never(user_id: str) -> None:
        raise AssertionError(user_id)

    async with serving(kind, {"/": adding("/build"), "/build": seen.handler}, tq, load_user=never) as base:
        await fetch("GET", base + "/")
        _, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted, outcome.logged_in) == (200, True, False)


async def test_a_user_that_cannot_be_loaded_is_an_error_with_receipt(
    kind: str, tq: taskqueue.TaskQueue, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_user_id: str) -> None:
        raise OSError("the database is away")

    handlers = {"/": adding("/build", user_id="ada"), "/build": seen.handler}
    async with serving(kind, handlers, tq, load_user=broken) as base:
        await fetch("GET", base + "/")
        task, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted) == (500, True)
    assert seen.tasks == []
    assert f"task {task.id}: load_user failed" in caplog.text
    assert "the database is away" in caplog.text


async def test_a_task_of_a_task_has_the_same_user(kind: str, tq: taskqueue.TaskQueue) -> None:
    async def handler(_view: View) -> Reply:
        taskqueue.add("/next")
        return Reply()

    handlers = {"/": adding("/build", user_id="ada"), "/build": handler}
    async with serving(kind, handlers, tq) as base:
        await fetch("GET", base + "/")
        consumer = Consumer(tq)
        await consumer.replay(base)
        (task,) = await consumer.tasks()
    assert (task.path, task.user_id) == ("/next", "ada")


@pytest.mark.parametrize("status", [200, 204, 302, 404, 500])
async def test_every_response_to_a_delivery_has_a_receipt(kind: str, tq: taskqueue.TaskQueue, status: int) -> None:
    reply = Reply(status, headers={"X-Task-Receipt": "forged", "X-Task-Refused": "replayed", "X-Other": "kept"})
    if status == 302:
        reply.location = "/elsewhere"
    async with serving(kind, {"/": adding("/build"), "/build": adding("/next", reply=reply)}, tq) as base:
        await fetch("GET", base + "/")
        consumer = Consumer(tq)
        _, outcome = await consumer.replay(base)
        assert isinstance(outcome, Answered)
        assert (outcome.status, outcome.receipted, outcome.refused) == (status, True, None)
        plain = await fetch("GET", base + "/build")
    assert plain.status == status
    assert not {"x-task-receipt", "x-task-refused"} & {name.lower() for name in plain.headers}
    assert ("X-Other" in plain.headers) == (status != 404 or kind not in ("starlette", "fastapi", "litestar", "quart"))


async def test_a_stream_to_a_delivery_has_a_receipt(kind: str, tq: taskqueue.TaskQueue) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"piece"

    handlers = {"/": adding("/build"), "/build": adding(reply=Reply(stream=pieces))}
    async with serving(kind, handlers, tq) as base:
        await fetch("GET", base + "/")
        _, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted) == (200, True)


async def test_a_delivery_whose_view_fails_is_answered_with_a_receipt(
    kind: str, tq: taskqueue.TaskQueue, caplog: pytest.LogCaptureFixture
) -> None:
    async def build(_view: View) -> Reply:
        taskqueue.add("/dropped")
        raise RuntimeError("on purpose")

    async with serving(kind, {"/": adding("/build"), "/build": build}, tq) as base:
        await fetch("GET", base + "/")
        consumer = Consumer(tq)
        _, outcome = await consumer.replay(base)
        assert await consumer.tasks() == []
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted) == (500, True)
    assert "on purpose" in caplog.text  # the server's log, or the door's, has the traceback


# ---- once


@pytest.mark.accept("TA15")
async def test_a_delivery_starts_once(kind: str, tq: taskqueue.TaskQueue, seen: Seen) -> None:
    async with serving(kind, {"/": adding("/build"), "/build": seen.handler}, tq) as base:
        await fetch("GET", base + "/")
        request = await captured(tq, base)
        first = await send(base, request)
        again = await send(base, request)
    assert [first.status, again.status] == [200, 403]
    assert again.headers["x-task-refused"] == "replayed"
    assert "x-task-receipt" not in again.headers
    assert len(seen.tasks) == 1


async def test_this_process_alone_can_guard_against_replays(kind: str, tq: taskqueue.TaskQueue, seen: Seen) -> None:
    handlers = {"/": adding("/build"), "/build": seen.handler}
    async with serving(kind, handlers, tq, replay_guard="process") as base:
        await fetch("GET", base + "/")
        request = await captured(tq, base)
        statuses = [(await send(base, request)).status for _ in range(3)]
    assert statuses == [200, 403, 403]
    assert len(seen.tasks) == 1


async def test_a_consumer_that_was_taken_over_starts_nothing(kind: str, tq: taskqueue.TaskQueue, seen: Seen) -> None:
    async with serving(kind, {"/": adding("/build"), "/build": seen.handler}, tq) as base:
        await fetch("GET", base + "/")
        request = await captured(tq, base)
        ((taken_over, _),) = await Consumer(tq).reserve()
        assert taken_over.delivery == 2
        response = await send(base, request)
    assert (response.status, response.headers["x-task-refused"]) == (403, "replayed")
    assert seen.tasks == []


# ---- what is not proved


@pytest.mark.accept("CT16")
@pytest.mark.parametrize(
    "headers",
    [
        {"X-Task-User-Id": "ada"},
        {"x-task-id": "1", "x-task-user-id": "ada"},
        {"x_task_user_id": "ada"},
        {"X_TASK_ID": "1"},
        {"X-Task-": "x"},
        {"Signature-Input": 'tq=();tag="taskqueue"', "Signature": "tq=:AAAA:"},
    ],
)
async def test_what_claims_to_be_a_delivery_must_be_proved(
    kind: str, tq: taskqueue.TaskQueue, seen: Seen, caplog: pytest.LogCaptureFixture, headers: dict[str, str]
) -> None:
    caplog.set_level(logging.INFO, "taskqueue")
    if kind in WSGI_KINDS and any("_" in name for name in headers):
        pytest.skip("this server drops such names; test_doors_wsgi has one that does not")
    async with serving(kind, {"/": seen.handler}, tq, load_user=load_user) as base:
        response = await fetch("POST", base + "/?token=s3cret", headers=headers, data=b"body")
    assert response.status == 403
    assert response.headers["X-Task-Refused"] == "signature"
    assert seen.tasks == []
    (record,) = [record for record in caplog.records if record.name == "taskqueue.door"]
    assert record.getMessage().startswith("refused (signature): POST /: ")
    assert "ada" not in record.getMessage()
    assert "s3cret" not in record.getMessage()


async def test_a_signature_of_the_applications_own_passes(kind: str, tq: taskqueue.TaskQueue, seen: Seen) -> None:
    headers = {"Signature-Input": 'sig1=("@method");keyid="x"', "Signature": "sig1=:AAAA:"}
    async with serving(kind, {"/": seen.handler}, tq) as base:
        assert (await fetch("GET", base + "/", headers=headers)).status == 200
    assert seen.tasks == [None]


async def test_altered_deliveries_are_never_let_in(kind: str, tq: taskqueue.TaskQueue, seen: Seen) -> None:
    add = adding("/build?year=2026", method="POST", payload=b"year=2026", user_id="ada")
    async with serving(kind, {"/": add, "/build": seen.handler}, tq, load_user=load_user) as base:
        await fetch("GET", base + "/", headers={"Cookie": "a=1", "Content-Type": "text/plain"})
        request = await captured(tq, base)
        for what, altered in islice(mutations(request, random.Random(7)), 300):
            if kind in WSGI_KINDS and meaning(as_served(altered)) == meaning(request):
                continue  # What was altered does not get as far as the door.
            response = await send(base, altered)
            # Status 0 and 400 are the server's, which does not take it for HTTP.
            assert response.status in (0, 400, 403), what
            assert "x-task-receipt" not in response.headers, what
        assert seen.tasks == []
        assert (await send(base, request)).status == 200
    assert len(seen.tasks) == 1


async def test_other_keys_and_old_deliveries_are_refused(kind: str, tq: taskqueue.TaskQueue, seen: Seen) -> None:
    now = int(time.time())
    async with serving(kind, {"/build": seen.handler}, tq) as base:
        for options, reason in (({"keys": OTHER.current}, "key"), ({"created": now - 62}, "skew")):
            made = {"keys": KEYRING.current, "created": now, **options}
            request = signed(target="/build", authority=urlsplit(base).netloc, **made)  # type: ignore[arg-type]
            response = await send(base, request)
            assert (response.status, response.headers["x-task-refused"]) == (403, reason)
    assert seen.tasks == []


def delivery_with(size: int) -> Delivery:
    """Return a delivery with a body of so many bytes."""
    return Delivery(task=task("/build", "POST", body=bytes(size)), delivery=1, attempt=1, max_attempts=11, timeout=20.0)


async def test_a_delivery_above_the_limit_fails(kind: str, tq: taskqueue.TaskQueue, seen: Seen) -> None:
    async with serving(kind, {"/build": seen.handler}, tq) as base, HttpReplayer(base, KEYRING) as replayer:
        for size in (tq.limits.body + 1, 2 * tq.limits.body):
            outcome = await replayer.replay(delivery_with(size))
            assert isinstance(outcome, Answered)
            assert (outcome.status, outcome.receipted) == (413, True)
            assert b"over the limit of 4194304 bytes" in outcome.content
    assert seen.tasks == []


@pytest.mark.parametrize("size", [0, 70_000, 3_000_000])
async def test_a_consumer_with_another_secret_is_told_whatever_it_sends(
    kind: str, tq: taskqueue.TaskQueue, seen: Seen, size: int
) -> None:
    """A body that nobody wants must not break off the connection with the answer still on it."""
    async with serving(kind, {"/build": seen.handler}, tq) as base, HttpReplayer(base, OTHER) as replayer:
        for _ in range(5):
            outcome = await replayer.replay(delivery_with(size))
            assert isinstance(outcome, Answered)
            assert (outcome.status, outcome.refused, outcome.receipted) == (403, "key", False)
    assert seen.tasks == []


async def test_who_proves_nothing_is_refused_before_the_body_has_come(
    kind: str, tq: taskqueue.TaskQueue, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "django-asgi":
        pytest.skip("Django puts the body into a file before it asks anybody")

    async def refused() -> bool:
        return "refused (signature): POST /" in caplog.text

    async with serving(kind, {"/": seen.handler}, tq) as base:
        async with beginning(base, "POST / HTTP/1.1\r\nHost: a\r\nX-Task-Id: 1\r\n"):
            await until(refused, "the door has refused it")
        assert (await fetch("GET", base + "/")).status == 200
    assert seen.tasks == [None]


@asynccontextmanager
async def beginning(base: str, head: str) -> AsyncIterator[None]:
    """Send this head and half a body, and then break off."""
    _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(base).port)
    writer.write(f"{head}Content-Length: 9\r\n\r\nhalf".encode())
    await writer.drain()
    yield
    writer.close()
    await writer.wait_closed()


async def test_without_a_broker_no_delivery_starts(kind: str, private_server: RedisServer, seen: Seen) -> None:
    tq = task_queue(private_server.url, commit_deadline=0.3)
    async with serving(kind, {"/": adding("/build"), "/build": seen.handler}, tq) as base:
        await fetch("GET", base + "/")
        request = await captured(tq, base)
        private_server.pause()
        response = await send(base, request)
        private_server.resume()
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert "x-task-receipt" not in response.headers
    assert seen.tasks == []


async def test_a_delivery_broken_off_is_nobodys(
    kind: str, tq: taskqueue.TaskQueue, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(kind, {"/": seen.handler}, tq) as base:
        request = signed(
            target="/",
            authority=urlsplit(base).netloc,
            keys=KEYRING.current,
            created=int(time.time()),
            body=b"123456789",
        )
        fields = "".join(f"{name}: {value}\r\n" for name, value in request.headers)
        async with beginning(base, f"POST / HTTP/1.1\r\n{fields}"):
            pass
        assert (await fetch("GET", base + "/")).status == 200
    assert seen.tasks == [None]
    assert [record for record in caplog.records if record.name != "django.request"] == []  # which tells of each 400


# ---- views for tasks alone


@pytest.mark.accept("CT18")
async def test_a_path_for_tasks_is_not_there_for_others(kind: str, tq: taskqueue.TaskQueue, seen: Seen) -> None:
    handlers = {"/": adding("/tasks/build"), "/tasks/build": seen.handler, "/tasksheet": seen.handler}
    async with serving(kind, handlers, tq, task_only=["/tasks/"]) as base:
        missing = await fetch("GET", base + "/missing")
        for path in ("/tasks/build", "/tasks/missing", "/tasks", "/tasks/", "/tasks%2Fbuild", "/%74asks/build"):
            hidden = await fetch("GET", base + path)
            assert (hidden.status, hidden.body) == (404, missing.body), path
            assert set(hidden.headers) == set(missing.headers), path
        assert (await fetch("POST", base + "/tasks/build", data=b"x")).status == 404
        assert (await fetch("GET", base + "/tasksheet")).status == 200
        assert seen.tasks == [None]
        await fetch("GET", base + "/")
        _, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted) == (200, True)
    assert len(seen.tasks) == 2


SPELLINGS: Final = (
    *("//tasks/build", "///tasks/build", "/%2ftasks/build", "/tasks//build", "/./tasks/build", "/%2e/tasks/build"),
    *("/tasks/./build", "/x/../tasks/build", "/tasks/../tasks/build", "//x/..//tasks/build", "//tasks/x/../build"),
    *("/x/%2e%2e/tasks/build", "/%2e%2e/tasks/build", "/@@tasks/build", "/tasks/build/", "//tasks/build//"),
)


async def test_a_path_for_tasks_is_not_there_in_any_spelling(kind: str, tq: taskqueue.TaskQueue, seen: Seen) -> None:
    async with serving(kind, {"/tasks/build": seen.handler}, tq, task_only=["/tasks/"]) as base:
        for path in SPELLINGS:
            assert (await fetch("GET", URL(base + path, encoded=True))).status >= 300, path
    assert seen.tasks == []
