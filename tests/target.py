"""A small application without a door, in the test's own event loop: it notes what reaches it and answers as told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tests.waiting import until

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def fine(_request: web.Request) -> web.StreamResponse:
    """Answer 200."""
    return web.Response()


@dataclass
class Target:
    """What the application saw: ``paths`` with their query as they began, ``done`` as they ended well."""

    handler: Handler = fine
    paths: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    port: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    _site: web.BaseSite | None = None
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    async def gated(self, _request: web.Request) -> web.StreamResponse:
        """Answer 200 as soon as ``gate`` is set; a handler for tests that want tasks to be running."""
        await self.gate.wait()
        return web.Response()

    async def started(self, count: int = 1) -> None:
        """Wait until so many requests have begun."""
        await until(lambda: _value(len(self.paths) >= count), f"{count} requests have begun")

    async def finished(self, count: int) -> None:
        """Wait until so many requests have ended well."""
        await until(lambda: _value(len(self.done) >= count), f"{count} requests have ended, now {len(self.done)}")

    async def up(self) -> None:
        """Listen, on the same port as before if there was one."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    async def down(self) -> None:
        """Stop listening; nobody answers on the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.raw_path)
        self.headers.append(dict(request.headers))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            response = await self.handler(request)
        finally:
            self.running -= 1
        if response.status < 300:
            self.done.append(request.raw_path)
        return response


async def _value(value: bool) -> bool:  # noqa: FBT001
    return value


@asynccontextmanager
async def listening() -> AsyncIterator[Target]:
    """Run a Target."""
    target = Target()
    await target.up()
    try:
        yield target
    finally:
        target.gate.set()
        await target.down()
