"""The lifespan of an ASGI application (ASGI lifespan 2.0) with a consumer in it.

The consumer begins when the application has started, and has stopped before the application begins to.
"""

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack

from .errors import ConfigError
from .exchange import App, Message, Receive, Scope, Send
from .webconsumer import WebConsumer

log = logging.getLogger("taskqueue.server")


async def run(app: App, scope: Scope, receive: Receive, send: Send, make: Callable[[], WebConsumer | None]) -> None:
    """Let the application start and stop, and between that the consumer that ``make`` gives, if it gives one.

    What is wrong with the consumer's configuration fails the start, before the application has begun with its own.
    """
    startup = await receive()
    async with AsyncExitStack() as stack:
        try:
            consumer = make()
            if consumer is not None:
                await stack.enter_async_context(consumer)
        except ConfigError as error:
            log.critical("the consumer of this web process cannot start: %s", error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        life = _Life(startup, receive, send, consumer)
        try:
            await app(scope, life.receive, life.send)
        except Exception:
            if life.known:
                raise
        await life.finish()


class _Life:
    """What server and application say to each other."""

    def __init__(self, startup: Message, receive: Receive, send: Send, consumer: WebConsumer | None) -> None:
        self._startup: Message | None = startup
        self._receive, self._send, self._consumer = receive, send, consumer
        self._over = False
        self._said: set[str] = set()

    @property
    def known(self) -> bool:
        """Whether the application knows that there is a lifespan."""
        return self._startup is None or bool(self._said)

    async def receive(self) -> Message:
        if self._startup is not None:
            startup, self._startup = self._startup, None
            return startup
        message = await self._receive()
        self._over = True
        if self._consumer is not None:
            await self._consumer.stop()
        return message

    async def send(self, message: Message) -> None:
        self._said.add(message["type"])
        if message["type"] == "lifespan.startup.complete" and self._consumer is not None:
            self._consumer.start()
        await self._send(message)

    async def finish(self) -> None:
        """Say what the application has left unsaid, because it knows no lifespan or not all of it."""
        if "lifespan.startup.failed" in self._said:
            return
        if "lifespan.startup.complete" not in self._said:
            self._startup = None
            await self.send({"type": "lifespan.startup.complete"})
        if not self._said & {"lifespan.shutdown.complete", "lifespan.shutdown.failed"}:
            if not self._over:
                await self.receive()
            await self.send({"type": "lifespan.shutdown.complete"})
