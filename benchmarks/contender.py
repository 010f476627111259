"""What a contender is: how it queues one task and many, and how it consumes. One module each in ``contenders``."""

import importlib
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, cast


class Producer(Protocol):
    """Queues the task of ``work``, and returns when the store has confirmed it."""

    async def one(self) -> None:
        """Queue one."""
        ...

    async def many(self, count: int) -> bool:
        """Queue so many in one go; False, and nothing done, if that cannot be."""
        ...


class Contender(Protocol):
    """The module of a contender. Its docstring gives its settings and their reasons."""

    def producer(self) -> AbstractAsyncContextManager[Producer]:
        """Connect."""
        ...

    def consume(self, limit: int, variant: str) -> None:
        """Consume until killed, so many at a time. ``variant``: how the work is done, where there are several ways."""
        ...


def load(name: str) -> Contender:
    """Return the contender of this name; raises ImportError where it is not installed."""
    return cast("Contender", importlib.import_module(f"benchmarks.contenders.{name}"))


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run this in the fastest event loop there is here."""
    try:
        import uvloop
    except ImportError:
        import asyncio

        asyncio.run(main)
    else:
        uvloop.run(main)
