"""What a consumer's life needs beside its loop, as its settings say: who is told or may ask, when it waits or ends."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypedDict

from . import settings, workers
from .broker import Broker
from .catalogue import Settings
from .ceilings import ceilings
from .health import Health, listening
from .intake import Intake
from .notify import Notices, Send, to_systemd
from .settings import WorkerPlace
from .signs import Signs

Companion: TypeAlias = Callable[[], Awaitable[None]]


class Around(TypedDict):
    """Those arguments of a TaskQueueServer that are about its life."""

    companions: Sequence[Companion]
    intake: Intake


def around(chosen: Settings, broker: Broker, queues: Sequence[str], place: WorkerPlace | None) -> Around:
    """Return what goes around a consumer, ``place`` being its own among ``--workers``; raises ConfigError.

    A worker tells the process above it how it is, any other consumer tells systemd if that has asked.
    """
    signs = Signs(poll_max=chosen.poll_max, capacity=chosen.concurrent_limit)
    ceiling = ceilings(chosen.max_memory, chosen.max_load)
    may_start = ceiling.may_start if ceiling else lambda: True
    companions: list[Companion] = []
    if chosen.health_addr:
        companions.append(Health(listening(chosen.health_addr), broker, queues, signs).serve)
    above = workers.Above(place.channel) if place else None
    if above is not None:
        companions.append(above.watch)
    tell = above.tell if above else _manager()
    if tell is not None:
        companions.append(Notices(tell, signs, watchdog=settings.watchdog()).watch)
    return {
        "companions": companions,
        "intake": Intake(broker, queues, signs, limit=chosen.limit, burst=chosen.burst, may_start=may_start),
    }


def supervise(chosen: Settings) -> int:
    """Run the workers that are wanted, until they end; return the exit code."""

    async def run() -> int:
        return await workers.Supervisor(
            workers.same_command(),
            lambda number, channel: settings.environment_of_worker(WorkerPlace(number, channel)),
            count=chosen.workers,
            burst=chosen.burst,
            tell=_manager(),
            watchdog=settings.watchdog(),
        ).run()

    return asyncio.run(run())


def _manager() -> Send | None:
    """Return how to tell systemd, or None if it does not ask."""
    address = settings.notify_socket()
    return to_systemd(address) if address else None
