"""A consumer beside the application, in the event loop of the web process.

It lives as long as the application: it begins when that has started, and lets its tasks end before that stops. What
ends a ``taskqueue-server`` ends here only one try: it is logged, and after a pause the consumer begins anew, because
nobody would start it again, and the application has better things to do than to die of it.
"""

import asyncio
import logging
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from . import settings
from .assembly import narrowed, server_for
from .consume import Consume, Consuming, wanted
from .errors import ConfigError, Fenced, TaskQueueError
from .gauge import Gauge
from .inprocess import AiohttpReplayer, AsgiApp, AsgiReplayer, consumed
from .producer import TaskQueue, captures
from .replay import Replayer
from .server import TaskQueueServer

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger("taskqueue.server")

# Seconds.
PAUSE: Final = 10.0
LOOK: Final = 0.01

_names: Final[set[str]] = set()
"""The consumers of this process. A second one of a name would be taken for a successor, and the first be fenced."""


class WebConsumer:
    """A consumer beside one application: as a context manager it has its name, from ``start`` to ``stop`` it works."""

    def __init__(self, tq: TaskQueue, consume: Consume, replayer: Callable[[], Replayer]) -> None:
        """Take what is asked of it and what makes the way to the application; raises ConfigError."""
        chosen = replace(settings.load(), **consume.chosen)
        self._wanted = consume.queues
        self._queues = narrowed(tq, self._wanted, where="consume: queues")
        self._tq, self._chosen, self._replayer = tq, chosen, replayer
        self.gauge: Final = Gauge(chosen.concurrent_limit) if consume.adaptive else None
        """Who is to be told how long requests take, if that counts."""
        self._name = own_name() if consume.name is None else consume.name
        self._server = self._made()
        self._stopping = asyncio.Event()
        self._job: asyncio.Task[None] | None = None

    def _made(self) -> TaskQueueServer:
        return server_for(
            self._chosen,
            self._tq,
            self._replayer(),
            name=self._name,
            queues=self._queues,
            limit=self.gauge.limit if self.gauge else None,
        )

    async def __aenter__(self) -> Self:
        """Take the name; raises ConfigError if another consumer in this process has it."""
        if self._name in _names:
            raise ConfigError(f"consume: a consumer named {self._name} is in this process already; name one otherwise")
        _names.add(self._name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the name up; a consumer that nobody has stopped is broken off, and its tasks are taken over later."""
        try:
            if self._job is not None:
                self._stopping.set()  # What an application does when it is cancelled must not hide that this was.
                self._job.cancel()
                await asyncio.gather(self._job, return_exceptions=True)
        finally:
            _names.discard(self._name)

    def start(self, ready: Callable[[], bool] = lambda: True) -> None:
        """Begin to consume, as soon as the application is ``ready``."""
        if self._job is None:
            self._job = asyncio.create_task(self._run(ready))

    async def stop(self) -> None:
        """Let the tasks under way end within the grace time, give back the others. May be called twice."""
        self._stopping.set()
        self._server.stop()
        if self._job is not None:
            await asyncio.gather(self._job)

    async def _run(self, ready: Callable[[], bool]) -> None:
        while not ready():
            # An aiohttp application tells nobody when it has started, only whether.
            if await self._stopped(LOOK):
                return
        async with asyncio.TaskGroup() as group:
            gauging = group.create_task(self.gauge.run(lambda: self._server.running)) if self.gauge else None
            await self._consume()
            if gauging is not None:
                gauging.cancel()

    async def _consume(self) -> None:
        """Consume until stopped, whatever comes between."""
        log.info("consuming beside the application as %s", self._name)
        told = ""
        while not self._stopping.is_set():
            try:
                await self._tq.try_routes()
                if self._stopping.is_set():
                    return
                self._queues = narrowed(self._tq, self._wanted, where="consume: queues")
                self._server = self._made()
                await self._server.run()
            except TaskQueueError as error:
                # What goes on for hours is said once; to be fenced is always news.
                level = logging.DEBUG if str(error) == told and not isinstance(error, Fenced) else logging.ERROR
                told = str(error)
                log.log(
                    level, "the consumer of this web process has ended, and tries again every %g s: %s", PAUSE, error
                )
            except Exception:
                log.exception("the consumer of this web process has failed, and begins anew in %g s", PAUSE)
            await self._stopped(PAUSE)

    async def _stopped(self, seconds: float) -> bool:
        """Wait so long, or until it is to stop; tell whether it is."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True


def beside_asgi(
    tq: TaskQueue, consume: Consuming, app: AsgiApp, state: Mapping[str, Any] | None = None
) -> WebConsumer | None:
    """Return a consumer for an application whose lifespan has put things into ``state``, or None where none is wanted.

    That is in a test that captures, and in the process of a consumer that calls the application. Raises ConfigError.
    """
    if captures or consumed.get():
        return None
    return WebConsumer(
        tq, wanted(consume), lambda: AsgiReplayer(app, started=True, state={} if state is None else state)
    )


def beside_aiohttp(tq: TaskQueue, consume: Consuming, app: "web.Application") -> WebConsumer | None:
    """Do the same for an aiohttp application."""
    if captures or consumed.get():
        return None
    return WebConsumer(tq, wanted(consume), lambda: AiohttpReplayer(app, tq.keyring, started=True))


def own_name() -> str:
    """Return a consumer's name that is this process's: of its host and its id, and a number if it is taken here."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:40] or "host"
    first = f"{host}-{os.getpid()}"
    return next(name for number in count(1) if (name := first if number == 1 else f"{first}-{number}") not in _names)
