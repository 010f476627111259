"""What becomes of the body of the request that adds a task, in every framework: it travels byte for byte."""

import io
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import taskqueue
from taskqueue.policy import Answered
from tests.doors import DJANGO_KINDS, KINDS, Consumer, Reply, View, adding, fetch, serving

in_every_framework = pytest.mark.parametrize("kind", KINDS)


@in_every_framework
@pytest.mark.accept("CT10")
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_form_parsed_before_is_copied_byte_for_byte(kind: str, tq: taskqueue.TaskQueue, chunked: bool) -> None:  # noqa: FBT001
    if chunked and kind in DJANGO_KINDS:
        pytest.skip("Django parses no form without a Content-Length")
    body = multipart(random.Random(1).randbytes(2 * 1024 * 1024))
    received: list[bytes] = []

    async def order(view: View) -> Reply:
        await view.form()
        taskqueue.add("/build", method="POST")
        return Reply()

    async def build(view: View) -> Reply:
        assert view.headers["content-type"] == CONTENT_TYPE
        received.append(await view.body())
        return Reply()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 60_000):
            yield body[start : start + 60_000]

    async with serving(kind, {"/": order, "/build": build}, tq) as base:
        data = pieces() if chunked else io.BytesIO(body)
        assert (await fetch("POST", base + "/", data=data, headers={"Content-Type": CONTENT_TYPE})).status == 200
        task, outcome = await Consumer(tq).replay(base)
    assert task.body == body
    assert received == [body]
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted) == (200, True)


CONTENT_TYPE = "multipart/form-data; boundary=frontier"


def multipart(content: bytes) -> bytes:
    head = b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="x.bin"\r\n'
    rest = b'\r\n--frontier\r\nContent-Disposition: form-data; name="year"\r\n\r\n2026\r\n--frontier--\r\n'
    return head + b"Content-Type: application/octet-stream\r\n\r\n" + content + rest


async def reads_nothing(_view: View) -> None: ...


async def reads_a_piece(view: View) -> None:
    assert await view.piece()


async def reads_all(view: View) -> None:
    assert await view.body()


@in_every_framework
@pytest.mark.parametrize("read", [reads_nothing, reads_a_piece, reads_all])
@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
async def test_what_the_handler_left_unread_is_fetched_at_commit(
    kind: str, tq: taskqueue.TaskQueue, read: Callable[[View], Awaitable[None]], size: int
) -> None:
    body = random.Random(size).randbytes(size)

    async def handler(view: View) -> Reply:
        taskqueue.add("/one", method="PUT")
        await read(view)
        taskqueue.add("/two", method="POST")
        return Reply()

    async with serving(kind, {"/": handler}, tq) as base:
        assert (await fetch("POST", base + "/", data=io.BytesIO(body))).status == 200
    tasks = await Consumer(tq).tasks()
    assert [task.path for task in tasks] == ["/one", "/two"]
    assert [task.body == body for task in tasks] == [True, True]


@in_every_framework
@pytest.mark.accept("CT11")
async def test_a_payload_of_ones_own_replaces_the_body(kind: str, tq: taskqueue.TaskQueue) -> None:
    received: list[tuple[str, bytes, str | None]] = []

    async def order(view: View) -> Reply:
        await view.body()
        taskqueue.add("/none", method="POST", payload=None)
        taskqueue.add("/own", payload=b"\0own\xff")
        taskqueue.add("/json", json={"a": 1})
        return Reply()

    async def build(view: View) -> Reply:
        received.append((view.method, await view.body(), view.headers.get("content-length")))
        return Reply()

    handlers = {"/": order, "/none": build, "/own": build, "/json": build}
    async with serving(kind, handlers, tq) as base:
        assert (await fetch("POST", base + "/", data=b"the client's")).status == 200
        consumer = Consumer(tq)
        for _ in range(3):
            _, outcome = await consumer.replay(base)
            assert isinstance(outcome, Answered)
            assert outcome.status == 200
    assert received == [("POST", b"", "0"), ("POST", b"\0own\xff", "5"), ("POST", b'{"a":1}', "7")]


@in_every_framework
@pytest.mark.accept("CT12")
async def test_a_get_request_can_queue_a_post(kind: str, tq: taskqueue.TaskQueue) -> None:
    received: list[tuple[str, bytes]] = []

    async def build(view: View) -> Reply:
        received.append((view.method, await view.body()))
        return Reply()

    handlers = {"/": adding("/build", method="POST"), "/build": build}
    async with serving(kind, handlers, tq) as base:
        assert (await fetch("GET", base + "/")).status == 200
        _, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert outcome.status == 200
    assert received == [("POST", b"")]


@in_every_framework
async def test_a_body_declared_too_large_is_refused_in_add(kind: str, tq: taskqueue.TaskQueue) -> None:
    caught: list[int] = []

    async def handler(_view: View) -> Reply:
        taskqueue.add("/small", payload=None)
        with pytest.raises(taskqueue.BodyUnavailable) as error:
            taskqueue.add("/large", method="POST")
        caught.append(error.value.status)
        return Reply()

    async with serving(kind, {"/": handler}, tq) as base:
        assert (await fetch("POST", base + "/", data=io.BytesIO(bytes(4 * 1024 * 1024 + 1)))).status == 200
    assert caught == [413]
    assert [task.path for task in await Consumer(tq).tasks()] == ["/small"]


@in_every_framework
async def test_a_body_found_too_large_at_commit_aborts_with_413(kind: str, tq: taskqueue.TaskQueue) -> None:
    if kind == "django-wsgi":
        pytest.skip("Django reads no body without a Content-Length")

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(70):
            yield bytes(65_536)

    handlers = {"/unread": adding("/later", "/other", method="POST"), "/read": reading}
    async with serving(kind, handlers, tq) as base:
        for path in ("/unread", "/read"):
            response = await fetch("POST", base + path, data=endless())
            assert response.status == 413
            assert "over the limit of 4194304" in response.text
        assert await tq.size() == 0


async def reading(view: View) -> Reply:
    await view.body()
    taskqueue.add("/later", method="POST")
    return Reply()


@in_every_framework
async def test_a_task_of_a_task_copies_its_body(kind: str, tq: taskqueue.TaskQueue) -> None:
    async def parse(view: View) -> Reply:
        await view.body()
        taskqueue.add("/second" if view.headers.get("x-task-id") else "/first", method="POST")
        return Reply()

    async with serving(kind, {"/": parse, "/first": parse}, tq) as base:
        assert (await fetch("POST", base + "/", data=b"on and on")).status == 200
        consumer = Consumer(tq)
        await consumer.replay(base)
        (task,) = await consumer.tasks()
    assert (task.path, task.body) == ("/second", b"on and on")


@in_every_framework
async def test_push_inside_a_handler_asks_for_the_body_to_be_read(kind: str, tq: taskqueue.TaskQueue) -> None:
    async def handler(view: View) -> Reply:
        if kind not in ("quart", "django-asgi"):  # which read it by themselves
            with pytest.raises(taskqueue.InvalidTask, match="has not read the current request's body to its end"):
                await tq.push("/at-once", method="POST")
        await view.body()
        await tq.push("/at-once", method="POST")
        return Reply()

    async with serving(kind, {"/": handler}, tq) as base:
        assert (await fetch("POST", base + "/", data=b"x" * 100_000)).status == 200
    (task,) = await Consumer(tq).tasks()
    assert task.body == b"x" * 100_000


@pytest.mark.parametrize(
    "kind", ["asgi", "aiohttp", "django-asgi", "django-wsgi"]
)  # Starlette answers 500 itself before the door sees the error
async def test_a_body_too_large_that_nobody_handles_is_a_413(kind: str, tq: taskqueue.TaskQueue) -> None:
    async with serving(kind, {"/": adding("/small", "/large", method="POST")}, tq) as base:
        response = await fetch("POST", base + "/", data=io.BytesIO(bytes(4 * 1024 * 1024 + 1)))
        assert response.status == 413
        assert "limits.body" in response.text
        assert await tq.size() == 0


@pytest.mark.parametrize("kind", ["asgi", "aiohttp", "wsgi", "flask", "django-asgi", "django-wsgi"])  # as above
async def test_an_add_refused_because_the_broker_is_down_is_a_503(
    kind: str, tq: taskqueue.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(kind, {"/": adding("/a")}, tq) as base:
        monkeypatch.setattr(type(tq.broker), "trouble", "it is said to be down")
        response = await fetch("POST", base + "/")
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        monkeypatch.undo()
        assert await tq.size() == 0
