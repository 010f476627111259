"""What only WSGI has: write(), iterables that are closed, a decoded path, header names that fall together, threads."""

import asyncio
import io
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context, copy_context
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import quote, unquote_to_bytes
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

import taskqueue
from taskqueue.errors import ConfigError
from taskqueue.middleware.wsgi import TaskQueueMiddleware, task_only
from tests.doors import Consumer, fetch
from tests.mutations import WireRequest
from tests.servers import RedisServer
from tests.tasks import SECRET
from tests.wire import captured, send


class Call:
    """What a server hears from an application, and does with it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.status, self.headers = "", dict[str, str]()

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Callable[[bytes], object]:
        self.events.append(f"start {status[:3]}")
        self.status, self.headers = status, dict(headers)
        if exc_info is not None and len(self.events) > 1:
            raise exc_info[1].with_traceback(exc_info[2])
        return lambda piece: self.events.append(f"write {piece!r}")

    def take(self, result: Iterable[bytes]) -> None:
        """Use an iterable up and close it, as every server does."""
        try:
            for piece in result:
                self.events.append(f"send {piece!r}")
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()


def environ(target: str = "/", method: str = "GET", body: bytes = b"", **more: Any) -> WSGIEnvironment:
    """Return what a server makes of a request."""
    path, _, query = target.partition("?")
    made = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "HTTP_HOST": "shop.example",
        "SERVER_NAME": "shop.example",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if body:
        made["CONTENT_LENGTH"] = str(len(body))
    return made | more


async def called(app: WSGIApplication, request: WSGIEnvironment) -> Call:
    """Return what a server hears that serves one request in a thread."""
    call = Call()
    await asyncio.to_thread(lambda: call.take(app(request, call.start)))
    return call


def adds(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    taskqueue.add("/later")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]


def fail() -> None:
    """Raise what applications handle themselves."""
    raise LookupError("late")


def failure() -> Any:
    """Return what an error page is started with."""
    try:
        fail()
    except LookupError:
        return sys.exc_info()


# ---- the protocol


async def test_the_door_is_a_good_server_and_a_good_application(tq: taskqueue.TaskQueue) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        taskqueue.add("/later", method="POST")
        source = environ["wsgi.input"]
        assert [source.readline(), source.read(3), *source] == [b"one\n", b"two", b"\n", b"three"]
        assert source.read(10) == b""
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([b"a", b"b"])

    door = validator(TaskQueueMiddleware(validator(app), tq))
    call = await called(door, environ("/", "POST", b"one\ntwo\nthree"))
    assert call.events == ["start 200", "send b'a'", "send b'b'"]
    (task,) = await Consumer(tq).tasks()
    assert task.body == b"one\ntwo\nthree"


async def test_the_server_gets_a_list_as_it_is(tq: taskqueue.TaskQueue) -> None:
    call = Call()
    result = await asyncio.to_thread(TaskQueueMiddleware(adds, tq), environ(), call.start)
    assert (result, call.events) == ([b"done"], ["start 200"])
    assert await tq.size() == 1


async def test_the_server_gets_a_file_as_it_is(tq: taskqueue.TaskQueue) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        taskqueue.add("/later")
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"file"))  # type: ignore[no-any-return]

    request = environ() | {"wsgi.file_wrapper": FileWrapper}
    result = await asyncio.to_thread(TaskQueueMiddleware(app, tq), request, Call().start)
    assert isinstance(result, FileWrapper)
    assert await tq.size() == 1


@pytest.mark.parametrize(
    ("length", "events"),
    [
        # The last bytes that are declared stay until the tasks are stored.
        ([("Content-Length", "6")], ["start 200", "write b'one'", "0 tasks", "close", "send b'two'"]),
        ([], ["start 200", "write b'one'", "0 tasks", "send b'two'", "close"]),
    ],
)
async def test_what_is_written_leaves_at_once_but_the_end(
    tq: taskqueue.TaskQueue, length: list[tuple[str, str]], events: list[str]
) -> None:
    call = Call()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        taskqueue.add("/later")
        write = start_response("200 OK", length)
        write(b"one")
        call.events.append(f"{tq.size_sync()} tasks")
        return Closing(call.events, [b"two"])

    await asyncio.to_thread(lambda: call.take(TaskQueueMiddleware(app, tq)(environ(), call.start)))
    assert call.events == events
    assert await tq.size() == 2


class Closing:
    """An iterable that notes when it is closed."""

    def __init__(self, events: list[str], pieces: Iterable[bytes]) -> None:
        self._events, self._pieces = events, pieces

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def close(self) -> None:
        taskqueue.add("/closed")
        self._events.append("close")


async def test_a_whole_answer_written_waits_for_the_commit(tq: taskqueue.TaskQueue) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        taskqueue.add("/later")
        start_response("200 OK", [("Content-Length", "3")])(b"all")
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError):
        await called(TaskQueueMiddleware(app, tq), environ())
    assert await tq.size() == 0


async def test_a_generator_is_closed_before_the_commit(tq: taskqueue.TaskQueue) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "1")])
        taskqueue.add("/first")
        try:
            yield b"x"
        finally:
            taskqueue.add("/last")

    call = await called(TaskQueueMiddleware(app, tq), environ())
    assert call.events == ["start 200", "send b'x'"]
    assert [task.path for task in await Consumer(tq).tasks()] == ["/first", "/last"]


async def test_a_server_that_stops_early_closes_and_the_tasks_are_stored(tq: taskqueue.TaskQueue) -> None:
    closed: list[str] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        taskqueue.add("/later")
        return Closing(closed, [b"a", b"b"])

    def serve() -> None:
        result: Any = TaskQueueMiddleware(app, tq)(environ(), Call().start)
        assert next(result) == b"a"
        result.close()
        result.close()

    await asyncio.to_thread(serve)
    assert closed == ["close"]
    assert [task.path for task in await Consumer(tq).tasks()] == ["/later", "/closed"]


async def test_what_cannot_be_stored_after_the_client_has_gone_is_logged(
    tq: taskqueue.TaskQueue, private_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    gone = taskqueue.TaskQueue(private_server.url, secret=SECRET, commit_deadline=0.2)
    private_server.kill()
    ids: list[str] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"a"
        ids.append(taskqueue.add("/later"))
        yield b"b"

    def serve() -> None:
        result: Any = TaskQueueMiddleware(app, gone)(environ(), Call().start)
        assert [next(result), next(result)] == [b"a", b"b"]
        result.close()

    await asyncio.to_thread(serve)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert ids[0] in record.getMessage()


async def test_an_exception_in_the_stream_or_its_close_aborts(tq: taskqueue.TaskQueue) -> None:
    def fails(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        taskqueue.add("/later")
        yield b"a"
        raise LookupError

    class Failing(Closing):
        def close(self) -> None:
            super().close()
            raise LookupError

    def closes_badly(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Failing([], [b"a"])

    for app in (fails, closes_badly):
        with pytest.raises(LookupError):
            await called(TaskQueueMiddleware(app, tq), environ())
    assert await tq.size() == 0


async def test_what_outlives_a_request_that_failed_cannot_add(tq: taskqueue.TaskQueue) -> None:
    contexts: list[Context] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        contexts.append(copy_context())
        raise LookupError

    with pytest.raises(LookupError):
        await called(TaskQueueMiddleware(app, tq), environ())
    with pytest.raises(taskqueue.NoTransaction, match="has ended"):
        contexts[0].run(taskqueue.add, "/late")


async def test_an_error_page_takes_the_place_of_what_was_begun(tq: taskqueue.TaskQueue) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("X-Page", "fine")])
        taskqueue.add("/later")
        start_response("500 Oh", [("X-Page", "error")], failure())
        return [b"sorry"]

    call = await called(TaskQueueMiddleware(app, tq), environ())
    assert (call.events, call.headers) == (["start 500", "send b'sorry'"], {"X-Page": "error"})
    assert await tq.size() == 0


async def test_too_late_for_an_error_page_the_server_raises(tq: taskqueue.TaskQueue) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        taskqueue.add("/later")
        yield b"a"
        start_response("500 Oh", [], failure())
        yield b"sorry"

    with pytest.raises(LookupError, match="late"):
        await called(TaskQueueMiddleware(app, tq), environ())
    assert await tq.size() == 0


async def test_an_application_may_not_start_twice(tq: taskqueue.TaskQueue) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        start_response("200 OK", [])
        return []

    with pytest.raises(AssertionError, match="twice"):
        await called(TaskQueueMiddleware(app, tq), environ())


# ---- threads


async def test_threads_that_serve_many_requests_keep_them_apart(tq: taskqueue.TaskQueue) -> None:
    meet = threading.Barrier(10)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        number = environ["QUERY_STRING"]
        taskqueue.add("/first", params={"n": number})
        meet.wait(20)
        with taskqueue.transaction():
            start_response("500 No" if int(number) % 5 == 0 else "200 OK", [])
            yield b"half"
            meet.wait(20)
            taskqueue.add("/second", params={"n": number})
            yield b"whole"

    door = TaskQueueMiddleware(app, tq)

    def serve(number: int) -> None:
        with pytest.raises(taskqueue.NoTransaction):
            taskqueue.add("/before")
        call = Call()
        call.take(door(environ(f"/?{number}"), call.start))
        with pytest.raises(taskqueue.NoTransaction):
            taskqueue.add("/after")

    with ThreadPoolExecutor(10) as threads:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(threads, serve, number) for number in range(50)))
    targets = {task.target for task in await Consumer(tq).tasks()}
    assert targets == {f"/{which}?n={n}" for n in range(50) if n % 5 for which in ("first", "second")}


async def test_a_savepoint_goes_on_from_piece_to_piece(tq: taskqueue.TaskQueue) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            with taskqueue.transaction():
                yield b"a"
                taskqueue.add("/dropped")
                yield b"b"
                fail()
        except LookupError:
            taskqueue.add("/kept")
        yield b"c"

    await called(TaskQueueMiddleware(app, tq), environ())
    assert [task.path for task in await Consumer(tq).tasks()] == ["/kept"]


# ---- what a delivery is proved by


class Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        pass


@contextmanager
def wsgiref(app: WSGIApplication) -> Iterator[str]:
    """Run an application on the server that hands all header names on, and knows no request line."""
    server = make_server("127.0.0.1", 0, app, Threaded, Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def seen() -> list[WSGIEnvironment]:
    return []


@pytest.fixture
def noting(seen: list[WSGIEnvironment]) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ)
        start_response("200 OK", [])
        return [b""]

    return app


@pytest.fixture
def delivered(tq: taskqueue.TaskQueue, noting: WSGIApplication) -> Callable[..., Any]:
    """Give a way to deliver a request to a mount point, changed on its way into the environ."""

    async def deliver(target: str, change: Callable[[WSGIEnvironment], None] = lambda _: None) -> int:
        await tq.push(target, user_id="ada")
        request = await captured(tq, "http://shop.example")
        made = environ(request.target, request.method)
        made |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers}
        change(made)
        call = await called(TaskQueueMiddleware(noting, tq, load_user=str.upper), made)
        return int(call.status[:3])

    return deliver


PATHS = ["/", "/a%20b", "/ž", "/%FF", "/a;b=c,d/(e)!$&'*+=:@~", "/100%25", "/a?x=%2F&y=ž", "/%E6%97%A5/"]


def mounted(made: WSGIEnvironment) -> None:
    made["SCRIPT_NAME"], made["PATH_INFO"] = "/s h\xc3\xb6p", made["PATH_INFO"]


def with_mount_on_the_line(made: WSGIEnvironment) -> None:
    made["SCRIPT_NAME"], made["PATH_INFO"] = "/a", made["PATH_INFO"].removeprefix("/a")


def with_request_line(name: str, target: str) -> Callable[[WSGIEnvironment], None]:
    def change(made: WSGIEnvironment) -> None:
        made[name] = target

    return change


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("change", [lambda _: None, mounted, with_mount_on_the_line])
async def test_a_decoded_path_is_proved_with_and_without_the_mount_point(
    delivered: Callable[..., Any], path: str, change: Callable[[WSGIEnvironment], None]
) -> None:
    assert await delivered(quote(path, safe="/%?=&;,()!$'*+:@~"), change) == 200


@pytest.mark.parametrize("name", ["RAW_URI", "REQUEST_URI"])
@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("/a-b?c=d", 200),
        ("/a%2Db?c=d", 403),  # the same path, but not the bytes that were signed
        ("/other?c=d", 200),  # a middleware has given the application another path: that one is proved
    ],
)
async def test_the_request_line_counts_where_the_server_tells_it(
    delivered: Callable[..., Any], name: str, line: str, status: int
) -> None:
    assert await delivered("/a-b?c=d", with_request_line(name, line)) == status


async def test_a_request_line_does_not_prove_another_path(delivered: Callable[..., Any]) -> None:
    def elsewhere(made: WSGIEnvironment) -> None:
        made["RAW_URI"], made["PATH_INFO"] = "/harmless", "/admin"

    assert await delivered("/harmless", elsewhere) == 403


@pytest.mark.accept("CT16")
@pytest.mark.parametrize("name", ["x_task_user_id", "X_TASK_ID", "X-TASK_USER-ID"])
async def test_names_that_fall_together_are_refused(
    tq: taskqueue.TaskQueue, noting: WSGIApplication, seen: list[WSGIEnvironment], name: str
) -> None:
    with wsgiref(TaskQueueMiddleware(noting, tq, load_user=str.upper)) as base:
        assert (await fetch("GET", base + "/", headers={name: "mallory"})).status == 403
        await tq.push("/build", user_id="ada")
        request = await captured(tq, base)
        for at in (0, len(request.headers)):
            headers = (*request.headers[:at], (name, "mallory"), *request.headers[at:])
            altered = WireRequest(request.method, request.target, headers, request.body)
            assert (await send(base, altered)).status == 403
        assert seen == []
        assert (await send(base, request)).status == 200


async def test_two_headers_never_make_one_user(
    tq: taskqueue.TaskQueue, noting: WSGIApplication, seen: list[WSGIEnvironment]
) -> None:
    with wsgiref(TaskQueueMiddleware(noting, tq, load_user=str.upper)) as base:
        await tq.push("/build", user_id="uid=ada,ou=people")
        request = await captured(tq, base)
        (sent,) = [value for name, value in request.headers if name == "X-Task-User-Id"]
        assert sent == "uid=ada%2Cou=people"
        others = [pair for pair in request.headers if pair[0] != "X-Task-User-Id"]
        halves = [("X-Task-User-Id", "uid=ada"), ("X-Task-User-Id", "ou=people")]
        split = WireRequest(request.method, request.target, (*others, *halves), request.body)
        assert (await send(base, split)).status == 403
        assert (await send(base, request)).status == 200
    (made,) = seen
    assert (made["taskqueue.user"], made["REMOTE_USER"]) == ("UID=ADA,OU=PEOPLE", "uid=ada,ou=people")


# ---- the body


async def test_a_body_in_chunks_is_copied_as_it_was_read(tq: taskqueue.TaskQueue) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        lines = environ["wsgi.input"].readlines(3)
        assert lines == [b"one\n"]
        taskqueue.add("/later", method="POST")
        start_response("200 OK", [])
        return []

    request = environ("/", "POST") | {"wsgi.input": io.BytesIO(b"one\ntwo\n"), "wsgi.input_terminated": True}
    request["HTTP_TRANSFER_ENCODING"] = "chunked"
    await called(TaskQueueMiddleware(app, tq), request)
    (task,) = await Consumer(tq).tasks()
    assert task.body == b"one\ntwo\n"


async def test_nothing_is_read_past_the_declared_end(tq: taskqueue.TaskQueue) -> None:
    class Endless(io.RawIOBase):
        """The connection itself, on which a next request may follow."""

        def read(self, size: int = -1, /) -> bytes:
            assert 0 <= size <= 5, "this would wait for ever"
            return b"x" * size

        def readline(self, size: int | None = -1, /) -> bytes:
            return self.read(-1 if size is None else size)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        taskqueue.add("/later", method="POST")
        source = environ["wsgi.input"]
        assert [source.readline(), source.read(), source.read(7), source.readlines()] == [b"xxxxx", b"", b"", []]
        start_response("200 OK", [])
        return []

    request = environ("/", "POST") | {"wsgi.input": Endless(), "CONTENT_LENGTH": "5"}
    await called(TaskQueueMiddleware(app, tq), request)
    (task,) = await Consumer(tq).tasks()
    assert task.body == b"xxxxx"


# ---- users and what is hidden


@pytest.mark.parametrize(("remote", "user"), [("ada", "ada"), ("Grete M\xc3\xbcller", "Grete Müller"), ("", None)])
async def test_the_servers_user_is_who_adds(tq: taskqueue.TaskQueue, remote: str, user: str | None) -> None:
    await called(TaskQueueMiddleware(adds, tq), environ(REMOTE_USER=remote))
    (task,) = await Consumer(tq).tasks()
    assert task.user_id == user


async def test_an_application_for_tasks_is_hidden(tq: taskqueue.TaskQueue, noting: WSGIApplication) -> None:
    call = await called(TaskQueueMiddleware(task_only(noting), tq), environ())
    assert call.status == "404 Not Found"
    with pytest.raises(ConfigError, match="takes environ and start_response"):
        task_only(TaskQueueMiddleware)  # type: ignore[arg-type]


async def test_a_mounted_path_is_hidden(tq: taskqueue.TaskQueue, noting: WSGIApplication) -> None:
    door = TaskQueueMiddleware(noting, tq, task_only=["/tasks", "/shop/jobs"])
    hidden = [environ("/tasks/x", SCRIPT_NAME="/shop"), environ("/jobs", SCRIPT_NAME="/shop")]
    assert [(await called(door, request)).status[:3] for request in hidden] == ["404", "404"]
    assert (await called(door, environ("/jobs", SCRIPT_NAME="/other"))).status[:3] == "200"


async def test_an_application_that_fails_at_a_missing_path_hides_too(
    tq: taskqueue.TaskQueue, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise LookupError(environ["PATH_INFO"])

    call = await called(TaskQueueMiddleware(app, tq, task_only=["/tasks"]), environ("/tasks"))
    assert call.status == "404 Not Found"
    assert "does not have" in caplog.text
