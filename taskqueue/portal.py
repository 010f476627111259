"""One background event loop a process, through which synchronous code uses the asynchronous broker.

Started at first use, so after a pre-forking server has forked; a child of a process that had one gets its own.
"""

import atexit
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

Result = TypeVar("Result")

_lock = threading.Lock()
_portals: dict[int, BlockingPortal] = {}
_closers: dict[int, Callable[[], Awaitable[None]]] = {}


def in_portal(owner: object, close: Callable[[], Awaitable[None]], call: Callable[[], Awaitable[Result]]) -> Result:
    """Run ``call`` in the background loop and return what it returns; ``close`` runs there when the process ends."""
    _closers[id(owner)] = close
    return _portal().call(call)


def _portal() -> BlockingPortal:
    process = os.getpid()
    with _lock:
        if process not in _portals:
            stack = ExitStack()
            _portals[process] = stack.enter_context(start_blocking_portal("asyncio", name="taskqueue"))
            atexit.register(_stop, process, stack)
        return _portals[process]


def _stop(process: int, stack: ExitStack) -> None:
    if process != os.getpid():
        return
    running = _portals.pop(process)
    for close in _closers.values():
        running.call(close)
    stack.close()
