"""Django projects behind their door: one set of settings for all tests, and views that run the suite's handlers."""

import asyncio
import atexit
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.db import connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import path

import taskqueue
from taskqueue.exchange import App, Receive, Scope, Send
from taskqueue.inprocess import AsgiReplayer, WsgiReplayer
from taskqueue.policy import Outcome
from taskqueue.replay import Delivery, Replay
from tests import doors_wsgi
from tests.doors import Handlers, Reply, View, lifespan, serving_asgi

DOOR: Final = "taskqueue.middleware.django.TaskQueueMiddleware"
FOLDER: Final = Path(tempfile.mkdtemp(prefix="tq-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

settings.configure(
    SECRET_KEY="of-the-tests",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "taskqueue.middleware.django",
        "taskqueue.middleware.django.outbox",
    ],
    MIDDLEWARE=[DOOR],
    ROOT_URLCONF=(),
    DATABASES={
        name: {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / f"{name}.sqlite3", "OPTIONS": {"timeout": 20}}
        for name in ("default", "other")
    },
    DATA_UPLOAD_MAX_MEMORY_SIZE=64 * 1024 * 1024,
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    LOGGING_CONFIG=None,
    LOGIN_URL="/login/",
    USE_TZ=True,
    TASKQUEUE={},
)
django.setup()

from django.test.utils import override_settings  # noqa: E402

from taskqueue.middleware.django import queue  # noqa: E402
from taskqueue.middleware.django.outbox import rows  # noqa: E402

# The one of these settings is of no test, and a consumer would ask whose queue it is.
queue._made.clear()


class Urls:
    """A URLconf."""

    def __init__(self, *patterns: Any) -> None:
        self.urlpatterns = list(patterns)


@contextmanager
def project(tq: taskqueue.TaskQueue, *patterns: Any, middleware: Any = (DOOR,), **changed: Any) -> Iterator[None]:
    """Make it a project with these URLs and this TaskQueue; ``changed`` are settings, in lower case those of the door.

    The TaskQueue becomes the project's own, as if it had been made of the settings.
    """
    of_door = {name.upper(): changed.pop(name) for name in list(changed) if name.islower()}
    values = {"TASKQUEUE": of_door, "ROOT_URLCONF": Urls(*patterns), "MIDDLEWARE": list(middleware), **changed}
    with override_settings(**values):
        tq.__class__ = queue.TaskQueue
        aliases = of_door.get("OUTBOX", [])
        vars(tq).update(using=of_door.get("USING", "default"), has_outbox=frozenset(aliases))
        tq.outboxes.extend(rows.Rows(alias) for alias in aliases)
        queue._made.append(tq)  # type: ignore[arg-type]
        try:
            yield
        finally:
            queue._made.clear()


@contextmanager
def database() -> Iterator[None]:
    """Give the test the tables of users and sessions in both databases, and leave them empty."""
    for alias in ("default", "other"):
        if not (FOLDER / f"{alias}.sqlite3").exists():
            call_command("migrate", verbosity=0, database=alias)
    try:
        yield
    finally:
        for alias in ("default", "other"):
            call_command("flush", verbosity=0, database=alias, interactive=False)
        connections.close_all()


class DjangoView(View):
    def __init__(self, request: HttpRequest) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        super().__init__(request.method or "", headers, request.META["QUERY_STRING"])
        self._request = request

    @property
    def user(self) -> object | None:
        return getattr(self._request, "user", None)

    async def body(self) -> bytes:
        return await asyncio.to_thread(lambda: self._request.body)

    async def form(self) -> None:
        assert await asyncio.to_thread(lambda: len(self._request.POST) + len(self._request.FILES)) > 0

    async def piece(self) -> bytes:
        return await asyncio.to_thread(self._request.read, 1000)


def response(reply: Reply, stream: Any) -> HttpResponseBase:
    if stream is not None:
        return StreamingHttpResponse(stream, status=reply.status, headers=reply.headers)
    headers = {"Content-Type": "text/plain", **reply.headers}
    made = HttpResponse(reply.text, status=reply.status, headers=headers)
    if reply.location is not None:
        made["Location"] = reply.location
    return made


def patterns(kind: str, handlers: Handlers) -> list[Any]:
    """Return the URLs of these handlers, as asynchronous or as synchronous views."""
    loop = asyncio.get_running_loop()

    async def view_async(request: HttpRequest) -> HttpResponseBase:
        reply = await handlers[request.path](DjangoView(request))
        return response(reply, reply.stream and reply.stream())

    def view(request: HttpRequest) -> HttpResponseBase:
        reply = doors_wsgi.run(loop, doors_wsgi._awaited(handlers[request.path](DjangoView(request))))
        return response(reply, reply.stream and doors_wsgi.pieces(loop, reply.stream))

    return [path(name.removeprefix("/"), view_async if kind == "django-asgi" else view) for name in handlers]


def application(kind: str) -> Any:
    """Return the project as an application of this kind."""
    return get_wsgi_application() if kind == "django-wsgi" else _with_lifespan(get_asgi_application())


def _with_lifespan(app: Any) -> App:
    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # which Django has none of
            await lifespan(receive, send)
        else:
            await app(scope, receive, send)

    return both


@asynccontextmanager
async def serving(kind: str, handlers: Handlers, tq: taskqueue.TaskQueue, **door: Any) -> AsyncIterator[str]:
    """Run these handlers in a project behind its door; yields the base address."""
    with project(tq, *patterns(kind, handlers), **_for_django(door)):
        async with served(kind, tq) as base:
            yield base


def served(kind: str, tq: taskqueue.TaskQueue, **options: Any) -> AbstractAsyncContextManager[str]:
    """Serve the project; yields the base address."""
    if kind == "django-wsgi":
        return doors_wsgi.serving(application(kind), tq)
    return serving_asgi(application(kind), **options)


class Project:
    """A project called in process, its settings in force as long as that may happen."""

    def __init__(self, kind: str, handlers: Handlers, tq: taskqueue.TaskQueue, **door: Any) -> None:
        self._stack = AsyncExitStack()
        self._stack.enter_context(project(tq, *patterns(kind, handlers), **_for_django(door)))
        app = application(kind)
        self._replayer: Any = WsgiReplayer(app, threads=2) if kind == "django-wsgi" else AsgiReplayer(app)
        self.address: str = self._replayer.address

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._replayer)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def prepare(self, delivery: Delivery) -> Replay:
        replay: Replay = self._replayer.prepare(delivery)
        return replay

    async def replay(self, delivery: Delivery) -> Outcome:
        return await self.prepare(delivery)()


def _for_django(door: dict[str, Any]) -> dict[str, Any]:
    # Where the suite names none, none is wanted: no more than the other frameworks has this one a database of users.
    return {"load_user": None, **door}
