"""A consumer beside the application, behind every door that knows when its application starts and stops."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import quart
from aiohttp import web
from fastapi import FastAPI
from fastapi import Request as FastAPIRequest
from litestar import Litestar, get
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import taskqueue
from taskqueue import assembly, webconsumer
from taskqueue.broker import connect
from taskqueue.consume import Consuming
from taskqueue.errors import ConfigError
from taskqueue.exchange import App, Message, Receive, Scope, Send
from taskqueue.inprocess import AiohttpReplayer, AsgiReplayer
from taskqueue.middleware import aiohttp as aiohttp_door
from taskqueue.middleware import quart as quart_door
from taskqueue.middleware.asgi import TaskQueueMiddleware
from taskqueue.middleware.litestar import TaskQueuePlugin
from taskqueue.server import TaskQueueServer
from tests.doors import task_queue
from tests.servers import RedisServer
from tests.shop import reached
from tests.tasks import KEYRING
from tests.waiting import until
from tests.work import consume as consume_alone

KINDS: Final = ["starlette", "fastapi", "asgi", "litestar", "quart", "aiohttp"]


class Story:
    """What an application does when it starts, stops and has a task: it notes all of it, and a task waits at the gate.

    It starts slowly: a consumer that does not wait for it would have its first task meanwhile.
    """

    def __init__(self, tq: taskqueue.TaskQueue) -> None:
        self.tq = tq
        self.events: list[str] = []
        self.gate = asyncio.Event()

    async def start(self) -> None:
        await self.while_others_work()
        self.events.append(f"started, {await self.tq.size()} wait")

    async def stop(self) -> None:
        self.events.append("stopped")

    async def task(self) -> str:
        self.events.append("task begins")
        await self.gate.wait()
        self.events.append("task ends")
        return "done"

    async def while_others_work(self) -> None:
        for _ in range(100):
            await self.tq.size()

    async def happened(self, event: str) -> None:
        async def there() -> bool:
            return event in self.events

        await until(there, f"{event}, not only {self.events}")


def starlette(story: Story, tq: taskqueue.TaskQueue, consume: Consuming) -> App:
    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await story.start()
        yield
        await story.stop()

    async def task(_request: Request) -> PlainTextResponse:
        return PlainTextResponse(await story.task())

    return TaskQueueMiddleware(Starlette(routes=[Route("/task", task)], lifespan=lifespan), tq, consume=consume)


def fastapi(story: Story, tq: taskqueue.TaskQueue, consume: Consuming) -> App:
    """Mount the door inside, as FastAPI's users do: its application, its state and its lifespan's reach a task too."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        app.state.mine = "mine"
        await story.start()
        yield {"ours": "ours"}
        await story.stop()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.add_middleware(TaskQueueMiddleware, tq=tq, consume=consume)

    @app.get("/task")
    async def task(request: FastAPIRequest) -> str:
        assert (request.app.state.mine, request.state.ours) == ("mine", "ours")
        return await story.task()

    return app


def asgi(story: Story, tq: taskqueue.TaskQueue, consume: Consuming) -> App:
    return TaskQueueMiddleware(bare(story), tq, consume=consume)


def bare(story: Story) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await story.start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await story.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await story.task()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


def litestar(story: Story, tq: taskqueue.TaskQueue, consume: Consuming) -> App:
    @get("/task")
    async def task() -> str:
        return await story.task()

    app: Any = Litestar(
        [task],
        plugins=[TaskQueuePlugin(tq, consume=consume)],
        on_startup=[story.start],
        on_shutdown=[story.stop],
        openapi_config=None,
    )
    return app  # type: ignore[no-any-return]


def quart_(story: Story, tq: taskqueue.TaskQueue, consume: Consuming) -> App:
    app = quart.Quart("tests", static_folder=None)
    quart_door.setup(app, tq, consume=consume)
    app.before_serving(story.start)
    app.after_serving(story.stop)
    app.add_url_rule("/task", "task", story.task)
    return app  # type: ignore[return-value]


def aiohttp(story: Story, tq: taskqueue.TaskQueue, consume: Consuming) -> web.Application:
    """Set the door up first, although it is to be the last to start and the first to stop."""
    app = web.Application()
    aiohttp_door.setup(app, tq, consume=consume)

    async def beside(_app: web.Application) -> AsyncIterator[None]:
        yield
        await story.stop()

    async def start(_app: web.Application) -> None:
        await story.start()

    async def task(_request: web.Request) -> web.Response:
        return web.Response(text=await story.task())

    app.cleanup_ctx.append(beside)
    app.on_startup.append(start)
    app.router.add_get("/task", task)
    return app


MAKERS: Final[dict[str, Callable[[Story, taskqueue.TaskQueue, Consuming], Any]]] = {
    "starlette": starlette,
    "fastapi": fastapi,
    "asgi": asgi,
    "litestar": litestar,
    "quart": quart_,
    "aiohttp": aiohttp,
}


class Failed(Exception):
    """An application has not started."""


class AsgiServer:
    """The lifespan of an ASGI application as a server runs it; no request ever comes from outside."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()

    async def start(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self.job = asyncio.create_task(self._life(scope))
        await self._to_app.put({"type": "lifespan.startup"})
        answer = await self._answers.get()
        if answer["type"] == "lifespan.startup.failed":
            self.job.cancel()  # Some wait for more, which no server says.
            await asyncio.gather(self.job, return_exceptions=True)
            raise Failed(answer["message"])

    async def _life(self, scope: Scope) -> None:
        await self._app(scope, self._to_app.get, self._answers.put)

    async def stop(self) -> None:
        await self._to_app.put({"type": "lifespan.shutdown"})
        assert (await self._answers.get())["type"] == "lifespan.shutdown.complete"
        await self.job


class AiohttpServer:
    """An aiohttp application as a server runs it, without a port."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> None:
        try:
            await self._runner.setup()
        except Exception as error:
            await self._runner.cleanup()
            raise Failed(str(error)) from error

    async def stop(self) -> None:
        await self._runner.cleanup()


def server(app: Any) -> AsgiServer | AiohttpServer:
    return AiohttpServer(app) if isinstance(app, web.Application) else AsgiServer(app)


@pytest.fixture
async def own(any_server: RedisServer) -> AsyncIterator[taskqueue.TaskQueue]:
    """A TaskQueue of the application alone: its door closes it."""
    queue = task_queue(any_server.url)
    yield queue
    await queue.aclose()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webconsumer, "PAUSE", 0.01)


def consumers(any_server: RedisServer) -> set[str]:
    found: Any = any_server.client().smembers("taskqueue:{default}:consumers")
    return {name.decode() for name in found}


@pytest.mark.parametrize("kind", KINDS)
async def test_it_works_from_the_end_of_the_startup_to_the_beginning_of_the_shutdown(
    kind: str, tq: taskqueue.TaskQueue, own: taskqueue.TaskQueue, any_server: RedisServer
) -> None:
    story = Story(tq)
    running = server(MAKERS[kind](story, own, True))
    task_id = await tq.push("/task")
    await running.start()
    await story.happened("task begins")
    assert consumers(any_server) == {webconsumer.own_name().removesuffix("-2")}
    stopping = asyncio.create_task(running.stop())
    await story.while_others_work()
    later = await tq.push("/task")
    assert story.events == ["started, 1 wait", "task begins"], "a task under way is waited for"
    story.gate.set()
    await stopping
    assert story.events == ["started, 1 wait", "task begins", "task ends", "stopped"]
    assert (await reached(tq, task_id, "completed")).delivery == 1
    assert (await reached(tq, later, "queued")).delivery == 0
    assert consumers(any_server) == set()


@pytest.mark.parametrize("kind", KINDS)
async def test_no_consumer_runs_in_a_test_that_captures_nor_beside_one_that_calls_the_application(
    kind: str, tq: taskqueue.TaskQueue, own: taskqueue.TaskQueue, any_server: RedisServer
) -> None:
    story = Story(tq)
    app = MAKERS[kind](story, own, True)
    with taskqueue.capture():
        running = server(app)
        await running.start()
        await story.while_others_work()
        assert consumers(any_server) == set()
        await running.stop()
    app = MAKERS[kind](story, own, True)
    replayer = AiohttpReplayer(app, KEYRING) if kind == "aiohttp" else AsgiReplayer(app)
    async with replayer:
        await story.while_others_work()
        assert consumers(any_server) == set()
    assert story.events == ["started, 0 wait", "stopped"] * 2
    assert any_server.client().keys() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("consume", "told"),
    [
        (taskqueue.Consume(queues=["bulk"]), "consume: queues: 'bulk' is none of the application's queues: default, m"),
        ("two words", "name: 'two words' is no consumer name"),
        (7, "consume: 7 must be True, a name such as 'instance1', or a taskqueue.Consume"),
    ],
)
async def test_wrong_configuration_fails_the_start(
    kind: str, consume: Any, told: str, tq: taskqueue.TaskQueue, own: taskqueue.TaskQueue
) -> None:
    story = Story(tq)
    with pytest.raises(Failed, match=told):
        await server(MAKERS[kind](story, own, consume)).start()
    assert set(story.events) <= {"stopped"}, "the application itself had not begun to start"


async def test_a_missing_secret_and_a_misspelt_setting_fail_the_start(
    tq: taskqueue.TaskQueue, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = taskqueue.TaskQueue(any_server.url)
    with pytest.raises(Failed, match="secret"):
        await server(starlette(Story(tq), without, True)).start()
    await without.aclose()
    monkeypatch.setenv("TASKQUEUE_CONCURENT_LIMIT", "2")
    with pytest.raises(Failed, match="did you mean TASKQUEUE_CONCURRENT_LIMIT"):
        await server(starlette(Story(tq), task_queue(any_server.url), True)).start()


async def test_unnamed_consumers_in_one_process_have_names_of_their_own(
    tq: taskqueue.TaskQueue, any_server: RedisServer
) -> None:
    applications = [server(asgi(Story(tq), task_queue(any_server.url), True)) for _ in range(2)]
    for one in applications:
        await one.start()

    async def two_names() -> bool:
        return len(consumers(any_server)) == 2

    await until(two_names, "both consume")
    for one in applications:
        await one.stop()
    assert webconsumer._names == consumers(any_server) == set()


async def test_two_of_one_name_are_refused_in_one_process(tq: taskqueue.TaskQueue, any_server: RedisServer) -> None:
    first, second = (server(asgi(Story(tq), task_queue(any_server.url), "one")) for _ in range(2))
    await first.start()
    with pytest.raises(Failed, match="consume: a consumer named one is in this process already"):
        await second.start()
    await first.stop()
    await second.start()
    await second.stop()


@pytest.mark.usefixtures("impatient")
async def test_one_whose_name_was_taken_over_comes_back(
    tq: taskqueue.TaskQueue, own: taskqueue.TaskQueue, any_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Within one process the later owner of a name is always believed to be the rightful one."""
    story = Story(tq)
    story.gate.set()
    running = server(asgi(story, own, taskqueue.Consume(name="one", queues=["default"])))
    await running.start()
    await reached(tq, await tq.push("/task"), "completed")
    broker = connect(any_server.url, namespace="taskqueue")
    other = TaskQueueServer(broker, AsgiReplayer(nothing), KEYRING, name="one", queues=["default"])
    claimed = asyncio.create_task(consume_alone(other))

    async def fenced() -> bool:
        return "the consumer of this web process has ended" in caplog.text

    await until(fenced, "it is fenced")
    other.stop()
    await asyncio.gather(claimed, return_exceptions=True)
    await reached(tq, await tq.push("/task"), "completed")
    await running.stop()
    assert story.events.count("task ends") == 2


@pytest.mark.usefixtures("impatient")
async def test_a_broker_that_is_away_takes_nothing_down_and_is_told_once(
    private_server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQUEUE_WAIT_BROKER", "0")
    tq, own = task_queue(private_server.url), task_queue(private_server.url)
    story = Story(tq)
    story.gate.set()
    caplog.set_level(logging.DEBUG, "taskqueue.server")
    private_server.client().config_set("requirepass", "right")
    monkeypatch.setattr(Story, "while_others_work", nothing)
    monkeypatch.setattr(tq, "size", nothing)
    running = server(asgi(story, own, True))
    await running.start()

    async def tried() -> bool:
        return len(told(caplog)) > 3

    await until(tried, "it tries again and again")
    private_server.client(password="right").config_set("requirepass", "")
    await reached(tq, await tq.push("/task"), "completed")
    await running.stop()
    await tq.aclose()
    assert [one.levelno for one in told(caplog)][:4] == [logging.ERROR, *[logging.DEBUG] * 3]


@pytest.mark.usefixtures("impatient")
async def test_one_that_cannot_be_made_anew_is_tried_again(
    tq: taskqueue.TaskQueue,
    own: taskqueue.TaskQueue,
    any_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    story = Story(tq)
    story.gate.set()
    running = server(asgi(story, own, taskqueue.Consume(name="one", queues=["default"])))
    await running.start()
    await reached(tq, await tq.push("/task"), "completed")
    made = assembly.server_for

    def failing(*_arguments: Any, **_options: Any) -> Any:
        monkeypatch.setattr(webconsumer, "server_for", made)
        raise ConfigError("not now")

    monkeypatch.setattr(webconsumer, "server_for", failing)
    await own.broker.claim("default", "one", begins=True, deadline=time.monotonic() + 10)
    await reached(tq, await tq.push("/task"), "completed")
    await running.stop()
    assert "not now" in told(caplog)[-1].message


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [one for one in caplog.records if "has ended, and tries again every" in one.message]


async def nothing(*_arguments: Any) -> None: ...


async def test_it_runs_beside_an_application_that_knows_no_lifespan(
    tq: taskqueue.TaskQueue, own: taskqueue.TaskQueue
) -> None:
    story = Story(tq)
    story.gate.set()
    inner = bare(story)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise ValueError
        await inner(scope, receive, send)

    running = server(TaskQueueMiddleware(app, own, consume=True))
    await running.start()
    await reached(tq, await tq.push("/task"), "completed")
    await running.stop()


async def test_an_application_that_fails_to_start_has_no_consumer(
    tq: taskqueue.TaskQueue, own: taskqueue.TaskQueue, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_story: Story) -> None:
        raise OSError("no database")

    monkeypatch.setattr(Story, "start", fails)
    for kind in KINDS:
        if kind != "asgi":
            with pytest.raises(Failed, match="no database"):
                await server(MAKERS[kind](Story(tq), own, "one")).start()
            assert webconsumer._names == set()
    assert any_server.client().keys() == []


async def test_a_server_without_lifespan_is_told_of_once(
    tq: taskqueue.TaskQueue, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "GET", "scheme": "http", "path": "/", "query_string": b"", "headers": []}
    story = Story(tq)
    story.gate.set()
    door = asgi(story, tq, True)
    with taskqueue.capture():
        await door(scope, nothing, send)  # type: ignore[arg-type]
    assert "lifespan" not in caplog.text
    for _ in range(2):
        await door(scope, nothing, send)  # type: ignore[arg-type]
    assert caplog.text.count("no consumer runs, because this server runs no lifespan") == 1
    assert [message["status"] for message in sent if "status" in message] == [200] * 3


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_measured_are_the_requests_of_users(
    kind: str, tq: taskqueue.TaskQueue, own: taskqueue.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taskqueue.gauge import Gauge
    from tests.doors import fetch, serving_aiohttp, serving_asgi

    took: list[float] = []
    monkeypatch.setattr(Gauge, "took", lambda _gauge, seconds: took.append(seconds))
    story = Story(tq)
    story.gate.set()
    app = MAKERS[kind](story, own, taskqueue.Consume(adaptive=True))
    async with serving_aiohttp(app) if kind == "aiohttp" else serving_asgi(app) as base:
        await reached(tq, await tq.push("/task"), "completed")
        assert took == []
        assert (await fetch("GET", f"{base}/task")).status == 200
        assert len(took) == 1
        assert took[0] > 0


async def test_a_websocket_passes_untouched(tq: taskqueue.TaskQueue) -> None:
    called: list[tuple[object, ...]] = []

    async def app(*arguments: object) -> None:
        called.append(arguments)

    scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": []}
    await TaskQueueMiddleware(app, tq, consume=True)(scope, nothing, nothing)  # type: ignore[arg-type]
    assert called == [(scope, nothing, nothing)]


async def test_a_lifespan_that_is_broken_off_leaves_nothing_behind(
    tq: taskqueue.TaskQueue, own: taskqueue.TaskQueue
) -> None:
    story = Story(tq)
    running = AsgiServer(asgi(story, own, "one"))
    task_id = await tq.push("/task")
    await running.start()
    await story.happened("task begins")
    running.job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running.job
    assert webconsumer._names == set()
    again = AsgiServer(asgi(story, task_queue(tq.url), "one"))
    story.gate.set()
    await again.start()
    assert (await reached(tq, task_id, "completed")).delivery == 2
    await again.stop()


async def test_one_that_fails_as_it_is_broken_off_does_not_begin_anew(
    tq: taskqueue.TaskQueue, own: taskqueue.TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def run(_server: TaskQueueServer) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("this hides the cancellation")

    monkeypatch.setattr(TaskQueueServer, "run", run)
    running = AsgiServer(asgi(Story(tq), own, "one"))
    await running.start()
    await begun.wait()
    running.job.cancel()
    ended, _ = await asyncio.wait([running.job], timeout=5)
    assert ended == {running.job}
    assert webconsumer._names == set()
