"""Replaying inside the consumer's own process: the application is called, nothing goes over a network.

The proof of a delivery is then no signature but a Handover in the scope, which no request from outside can carry; the
door notes on it what a receipt would say. A WSGI application is called through a2wsgi, in a thread; an aiohttp
application is served on a private unix socket, because it cannot be called without a connection.
"""

import asyncio
import functools
import logging
import math
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import unquote

from .content import Content
from .errors import AppFailed, ConfigError
from .keys import Keyring
from .policy import TIMEOUT, Answered, Broken, Outcome
from .replay import Delivery, HttpReplayer, Replay, request_headers
from .request import HANDOVER, Handover
from .signature import Proof
from .timeouts import Timeouts

if TYPE_CHECKING:
    from a2wsgi.wsgi_typing import WSGIApp
    from aiohttp import web

log = logging.getLogger("taskqueue.server")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
AsgiApp = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

HOST: Final = "localhost"
# Seconds. An application that hangs in its shutdown must not keep the consumer.
LIFESPAN_END: Final = 10.0

consumed: Final[ContextVar[bool]] = ContextVar("taskqueue_consumed", default=False)
"""Whether it is a consumer that starts the application here, which then needs none of its own."""


class AsgiReplayer:
    """Calls an ASGI application (ASGI 3.0), its lifespan included."""

    address: str = "the application in this process (ASGI)"

    def __init__(
        self,
        app: AsgiApp,
        *,
        started: bool = False,
        state: Mapping[str, Any] | None = None,
        cancellable: bool = True,
    ) -> None:
        """Take the application; one that somebody else has ``started`` is neither started nor stopped again.

        ``state``: what it has then put into that of its lifespan. ``cancellable`` false: a replay past its deadline is
        waited for, then a time-out.
        """
        self._app, self._started, self._cancellable = app, started, cancellable
        self._timeouts = Timeouts()
        self._lifespan = Lifespan(app)
        self._state = self._lifespan.state if state is None else state

    async def __aenter__(self) -> Self:
        """Run the application's startup; raises AppFailed if that fails."""
        if not self._started:
            await self._lifespan.startup()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Run the application's shutdown."""
        await self._lifespan.shutdown()

    def prepare(self, delivery: Delivery) -> Replay:
        """See Replayer."""
        return functools.partial(self.replay, delivery)

    async def replay(self, delivery: Delivery) -> Outcome:
        """See Replayer."""
        handover = Handover(_proof(delivery))
        call = _Call(self._app, self._scope(delivery, handover), delivery)
        started = time.monotonic()
        raised = False
        limit = self._timeouts.after(delivery.timeout if self._cancellable else math.inf)
        try:
            with limit:
                await call.run()
        except Exception:
            raised = True
            if not limit.expired:
                # A server would log it, and here is none.
                log.exception("task %s: the application raised", delivery.task.id)
        # A thread cannot be stopped: as long as it works its slot is taken, and only then it is a time-out.
        if limit.expired or (not self._cancellable and time.monotonic() - started > delivery.timeout):
            return Broken(TIMEOUT)
        return Answered(
            status=500 if raised else call.status,
            # Nothing but the application could answer here. Without a door it has not seen who the task runs as.
            receipted=handover.admitted,
            logged_in=handover.logged_in,
            location=call.headers.get("location"),
            retry_after=call.headers.get("retry-after"),
            task_retry=call.headers.get("x-task-retry"),
            refused=call.headers.get("x-task-refused"),
            headers=tuple(call.headers.items()) if call.shown else (),
            content=call.content.shown,
            size=call.content.size,
            reported=handover.reported,
            report=None if raised else call.content.report(delivery.task.id),
        )

    def _scope(self, delivery: Delivery, handover: Handover) -> Scope:
        task = delivery.task
        host, headers = request_headers(delivery, HOST, now=time.time())
        if task.body or task.method in ("POST", "PUT", "PATCH"):
            headers.append(("content-length", str(len(task.body))))
        path, _, query = task.target.partition("?")
        raw = [(_raw_name(name), text.encode()) for name, text in headers]
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": task.method,
            "scheme": task.scheme or "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", host.encode()), *raw],
            "client": ("127.0.0.1", 0),
            "server": (HOST, 80),
            "state": dict(self._state),
            HANDOVER: handover,
        }


# The same few come again and again; a task's own are in lower case, and no longer than a record lets them be.
@functools.lru_cache(maxsize=256)
def _raw_name(name: str) -> bytes:
    return name.lower().encode()


def _proof(delivery: Delivery) -> Proof:
    task = delivery.task
    return Proof(
        task_id=task.id,
        queue=task.queue,
        user_id=task.user_id,
        attempt=delivery.attempt,
        delivery=delivery.delivery,
        max_attempts=delivery.max_attempts,
        enqueued_at=task.created,
        deadline=round((time.time() + delivery.timeout) * 1000),
        key_id="",
        nonce="",
        target=task.target,
        content_digest=None,
        parent=task.parent or None,
    )


class _Call:
    """One call of the application: gives it the body, keeps of the response what decides."""

    def __init__(self, app: AsgiApp, scope: Scope, delivery: Delivery) -> None:
        self._app, self._scope, self._body = app, scope, delivery.task.body
        self._keep, self._most = delivery.keep, delivery.most
        self._sent = False
        self.status = 500
        self.headers: dict[str, str] = {}
        self.content = self._content()

    @property
    def shown(self) -> bool:
        """Whether people want to see what it has answered."""
        return self.status >= 300 or self._keep

    def _content(self) -> Content:
        return Content(self.headers, shown=self._most if self.shown else 0)

    async def run(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        # The consumer never goes away while the application works; whoever asks is cancelled when it has answered.
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {
                name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message.get("headers", ())
            }
            self.content = self._content()
        else:
            self.content.take(message.get("body", b""))


class Lifespan:
    """Runs the startup and shutdown of an ASGI application in one task of its own (ASGI lifespan 2.0)."""

    def __init__(self, app: AsgiApp) -> None:
        """Take the application; one that knows no lifespan is fine."""
        self._app = app
        self.state: dict[str, Any] = {}
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        self._job: asyncio.Task[None] | None = None
        self._known = False

    async def startup(self) -> None:
        """Return when the application is ready; raises AppFailed with its message if it is not."""
        self._job = asyncio.create_task(self._run())
        await self._to_app.put({"type": "lifespan.startup"})
        try:
            answer = await self._from_app.get()
        except asyncio.CancelledError:
            self._job.cancel()
            raise
        self._known = answer["type"] == "lifespan.startup.complete"
        if answer["type"] == "lifespan.startup.failed":
            # Some give a whole traceback as the message; its last line says what it was.
            message = str(answer.get("message") or "").strip().rpartition("\n")[2]
            raise AppFailed(f"app: its startup failed: {message or 'it does not say why'}") from await self._end()

    async def shutdown(self) -> None:
        """Let the application shut down, for at most 10 s."""
        if self._job is None:
            return
        await self._to_app.put({"type": "lifespan.shutdown"})
        failure = await self._end()
        if self._known and failure is not None:
            log.error("app: its shutdown failed", exc_info=failure)

    async def _end(self) -> Exception | None:
        """Give the application its time to end; return what it raised."""
        if self._job is None:
            return None
        try:
            await asyncio.wait([self._job], timeout=LIFESPAN_END)
        finally:
            self._job.cancel()
        (failure,) = await asyncio.gather(self._job, return_exceptions=True)
        return failure if isinstance(failure, Exception) else None

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        consumed.set(True)  # in this task alone
        try:
            await self._app(scope, self._to_app.get, self._from_app.put)
        finally:
            # An application that knows no lifespan returns or raises at once, and that is an answer too.
            await self._from_app.put({"type": "ended"})


class WsgiReplayer(AsgiReplayer):
    """Calls a WSGI application (PEP 3333), each replay in a thread."""

    address: str = "the application in this process (WSGI)"

    def __init__(self, app: "WSGIApp", *, threads: int) -> None:
        """Take the application and how many threads may call it; raises ConfigError if a2wsgi is not installed."""
        try:
            from a2wsgi import WSGIMiddleware  # noqa: PLC0415 - an extra
        except ImportError:
            raise ConfigError(
                "app: a WSGI application is called through a2wsgi; pip install 'http-taskqueue[wsgi]'"
            ) from None
        called: Any = WSGIMiddleware(app, workers=threads)  # its own types of scope and message
        super().__init__(called, cancellable=False)
        self._threads: Executor = called.executor

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let the threads end that have nothing to do; one that works cannot be stopped, and is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await super().__aexit__(kind, error, traceback)


class AiohttpReplayer:
    """Serves an aiohttp application on a unix socket that only this user can reach, and replays over it."""

    address: str = "the application in this process (aiohttp)"

    def __init__(self, app: "web.Application", keyring: Keyring, *, started: bool = False) -> None:
        """Take the application; one that somebody else has ``started`` is neither started nor stopped again."""
        self._app, self._keyring, self._started = app, keyring, started
        self._stack = AsyncExitStack()
        self._http: HttpReplayer | None = None

    async def __aenter__(self) -> Self:
        """Start the application; raises AppFailed if that fails."""
        from aiohttp import web  # noqa: PLC0415 - only who has such an application pays for it

        async with AsyncExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="taskqueue-"))
            socket = str(Path(folder) / "app.sock")
            # A replay past its deadline hangs up, and then the handler must end too, as it does in ASGI.
            options: dict[str, Any] = {"access_log": None, "handler_cancellation": True}
            runner: web.BaseRunner = (
                web.ServerRunner(self._app._make_handler(**options), shutdown_timeout=LIFESPAN_END)
                if self._started
                else web.AppRunner(self._app, shutdown_timeout=LIFESPAN_END, **options)
            )
            stack.push_async_callback(runner.cleanup)
            outside = consumed.set(True)
            try:
                await runner.setup()
            except Exception as error:
                raise AppFailed(f"app: its startup failed: {type(error).__name__}: {error}") from error
            finally:
                consumed.reset(outside)
            await web.UnixSite(runner, socket).start()
            self._http = await stack.enter_async_context(
                HttpReplayer(f"http://{HOST}", self._keyring, unix_socket=socket)
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the application."""
        await self._stack.aclose()

    def prepare(self, delivery: Delivery) -> Replay:
        """See Replayer."""
        if self._http is None:
            raise RuntimeError("AiohttpReplayer: use it as a context manager")
        return self._http.prepare(delivery)

    async def replay(self, delivery: Delivery) -> Outcome:
        """See Replayer."""
        return await self.prepare(delivery)()
