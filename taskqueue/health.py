"""Whether a consumer lives, makes progress, and what it has done: over HTTP, at an address of its own.

``/livez`` answers while the event loop turns, and does not ask the broker: a restart repairs no outage. ``/readyz`` is
about progress, see ``Signs.unready``. ``/metrics`` is for Prometheus. None of it is logged.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from aiohttp import web

from .broker import Broker
from .errors import ConfigError
from .options import host_and_port
from .replay import VERSION
from .signs import Signs

Text: TypeAlias = Callable[[], Awaitable[bytes]]

PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
NO_METRICS: Final = 'metrics need a library: pip install "http-taskqueue[metrics]"\n'


def listening(address: str) -> socket.socket:
    """Return a socket that listens at host:port; raises ConfigError if it cannot."""
    host, port = host_and_port(address)
    bare = host.strip("[]")
    try:
        family = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((bare, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"health_addr: nothing can listen at {address} ({error.strerror}); give --health-addr a free one"
        ) from None


class Health:
    """Answers at one socket for one consumer."""

    def __init__(self, listener: socket.socket, broker: Broker, queues: Sequence[str], signs: Signs) -> None:
        """Take where to answer, and about what."""
        self._listener, self._signs = listener, signs
        self._text = _metrics(broker, queues, signs)

    async def serve(self) -> None:
        """Answer until cancelled."""
        app = web.Application()
        app.add_routes(
            [web.get("/livez", self._livez), web.get("/readyz", self._readyz), web.get("/metrics", self._metrics)]
        )
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.SockSite(runner, self._listener).start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        why = self._signs.unready(time.monotonic())
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        if self._text is None:
            return web.Response(text=NO_METRICS, status=501)
        return web.Response(body=await self._text(), headers={"Content-Type": PROMETHEUS})


def _metrics(broker: Broker, queues: Sequence[str], signs: Signs) -> Text | None:
    """Return what makes the text of the metrics, or None without the library for it."""
    try:
        from .metrics import Metrics  # noqa: PLC0415  an extra, and slow to import
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        return None
    return Metrics(broker, queues, signs, version=VERSION).text
