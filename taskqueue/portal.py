"""One background event loop a process, through which synchronous code uses the asynchronous broker.

Started at first use, so after a pre-forking server has forked; a child of a process that had one gets its own.
"""

import asyncio
import atexit
import ctypes
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Final, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

Result = TypeVar("Result")

waiting: Final[ContextVar[asyncio.AbstractEventLoop | None]] = ContextVar("taskqueue_waiting", default=None)
"""In what runs in the background loop: the event loop that stands still until it has ended, if the caller is in one."""


class _Background:
    """The loop of this process, and what to close in it at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closers: dict[int, Callable[[], Awaitable[None]]] = {}
        self._running: tuple[BlockingPortal, threading.Thread] | None = None

    def call(
        self, owner: object, close: Callable[[], Awaitable[None]], call: Callable[[], Awaitable[Result]]
    ) -> Result:
        self._closers[id(owner)] = close
        return self._portal().call(call)

    def start(
        self, owner: object, close: Callable[[], Awaitable[None]], call: Callable[[], Awaitable[Result]]
    ) -> "Future[Result]":
        self._closers[id(owner)] = close
        return self._portal().start_task_soon(call)

    def _portal(self) -> BlockingPortal:
        with self._lock:
            if self._running is None:
                # Not anyio's start_blocking_portal: what it leaves in a child waits there for its parent's thread.
                ready: Future[BlockingPortal] = Future()
                thread = threading.Thread(target=_run, args=(ready,), daemon=True, name="taskqueue")
                thread.start()
                self._running = ready.result(), thread
            return self._running[0]

    def stop(self) -> None:
        """Close what was opened in the loop, then end it."""
        if self._running is None:
            return
        portal, thread = self._running
        try:
            for close in self._closers.values():
                portal.call(close)
        finally:
            portal.call(portal.stop)
            thread.join()

    def renew(self) -> None:
        """Begin anew in a child, which has its parent's sockets but not the thread, and maybe a lock held for ever.

        What the parent has is kept for good: freed here, its sockets would take themselves off the epoll instance that
        the two processes share, and the parent would wait for replies that it is no longer told of.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object([self._closers, self._running]))
        self._lock, self._closers, self._running = threading.Lock(), {}, None


def _run(ready: "Future[BlockingPortal]") -> None:
    try:
        anyio.run(_serve, ready)
    except BaseException as error:
        if ready.done():
            raise
        ready.set_exception(error)  # for the one who waits for the start


async def _serve(ready: "Future[BlockingPortal]") -> None:
    async with BlockingPortal() as portal:
        ready.set_result(portal)
        await portal.sleep_until_stopped()


_background = _Background()
atexit.register(_background.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_background.renew)


def in_portal(owner: object, close: Callable[[], Awaitable[None]], call: Callable[[], Awaitable[Result]]) -> Result:
    """Run ``call`` in the background loop and return what it returns; ``close`` runs there when the process ends."""
    token = waiting.set(asyncio._get_running_loop())
    try:
        return _background.call(owner, close, call)
    finally:
        waiting.reset(token)


def start_in_portal(
    owner: object, close: Callable[[], Awaitable[None]], call: Callable[[], Awaitable[Result]]
) -> "Future[Result]":
    """Begin ``call`` in the background loop, and return its outcome to come; ``close`` as for ``in_portal``."""
    return _background.start(owner, close, call)
