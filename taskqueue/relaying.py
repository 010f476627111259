"""``taskqueue relay``, and the relays that run beside a server."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

from cyclopts import App, Parameter

from . import catalogue, logs, settings
from .producer import TaskQueue
from .relay import Relay

log = logging.getLogger("taskqueue.relay")


def register(app: App) -> None:
    """Add this command to ``taskqueue``."""
    app.command(relay, help_epilogue="Example:\n  taskqueue relay main:tq")


def relay(
    name: Annotated[str, Parameter(help="The TaskQueue with the outbox, or a function that returns it: main:tq.")],
    /,
    *,
    config: Annotated[
        str | None, Parameter(help=f"File to read instead of ./{catalogue.FILE}. [{settings.CONFIG}]")
    ] = None,
) -> None:
    """Push what an application's outbox holds, until a signal says stop; taskqueue-server --app does it as well."""
    chosen = settings.load(config=config)
    style = settings.log_style(chosen, sys.stderr)
    handler = logs.setup(style, chosen.log_level, colour=settings.colours(sys.stderr))
    settings.announce(dev=chosen.dev, config=config)
    asyncio.run(_relay(name, chosen.poll_max, handler))


async def _relay(name: str, poll_max: float, handler: logging.Handler) -> None:
    tq = owner("relay", name)
    logs.keep(handler)
    relays = [Relay(outbox, tq.broker, poll_max=poll_max) for outbox in tq.outboxes]
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with beside(relays, tq):
        await stopped.wait()
    log.info("stopped")


def owner(setting: str, name: str) -> TaskQueue:
    """Import the TaskQueue whose outboxes are relayed; raises ConfigError."""
    from . import loading  # noqa: PLC0415  brings the HTTP client, which no other command needs

    return loading.task_queue_at(setting, name)


@asynccontextmanager
async def beside(relays: Sequence[Relay], tq: TaskQueue) -> AsyncIterator[None]:
    """Let these relays of a TaskQueue's run meanwhile, and end them."""
    jobs = [asyncio.create_task(one.run()) for one in relays]
    if relays:
        log.info("relaying from %d outbox(es)", len(relays))
    try:
        yield
    finally:
        for one in relays:
            one.stop()
        await asyncio.gather(*jobs)
        await tq.aclose()
