"""The event loop of a consumer: that of uvloop where it is installed (extra ``fast``), else asyncio's own."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, Final

# Objects of a batch of a hundred deliveries that are on their way.
YOUNG: Final = 3000


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run this to its end in the fastest loop there is here."""
    with asyncio.Runner(loop_factory=_fastest()) as runner:
        runner.run(main)


def name() -> str:
    """Return whose loop is running."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def settled_in() -> None:
    """Note that what is there now stays: the garbage collector would look through all of it again and again.

    Of what comes it looks less often than usual, unless more seldom yet was asked for: a batch of deliveries is so many
    objects that none of them is garbage, and of those that end nothing is left for it.
    """
    gc.collect()
    gc.freeze()
    young, *older = gc.get_threshold()
    if young:  # else it is off
        gc.set_threshold(max(young, YOUNG), *older)


def _fastest() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    return uvloop.new_event_loop
