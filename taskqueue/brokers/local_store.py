"""The stores inside this process, and the one way in: a lock for one move at a time, the clock, hints across loops."""

import asyncio
import logging
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from ..errors import BrokerUnavailable
from .memory import MemoryQueue

log = logging.getLogger("taskqueue.brokers.local")

Result = TypeVar("Result")
Move = Callable[[MemoryQueue, int], Result]


def clock() -> int:
    """Return what the clock of every store here shows, in ms since 1970."""
    return time.time_ns() // 1_000_000


def clock_at(monotonic: float) -> int:
    """Return what it will show when ``time.monotonic()`` is at this value."""
    return clock() + int((monotonic - time.monotonic()) * 1000)


class Ear:
    """Somebody who listens for hints, in an event loop of their own."""

    def __init__(self, queues: Sequence[str]) -> None:
        """Take the queues to listen for; must be called in the loop that will wait."""
        self._loop = asyncio.get_running_loop()
        self._queues = frozenset(queues)
        # What was pushed before somebody listened has been missed, so there is a hint for each queue at first.
        self._heard = dict.fromkeys(queues)
        self._any = asyncio.Event()

    def tell(self, queue: str) -> bool:
        """Wake the listener, from any thread; return False if its loop has been closed."""
        if queue in self._queues:
            try:
                self._loop.call_soon_threadsafe(self._hear, queue)
            except RuntimeError:
                return False
        return True

    def _hear(self, queue: str) -> None:
        self._heard[queue] = None
        self._any.set()

    async def hints(self) -> AsyncIterator[str]:
        """Yield the queues in which something may be waiting, for ever."""
        while True:
            while self._heard:
                queue = next(iter(self._heard))
                del self._heard[queue]
                yield queue
            self._any.clear()
            await self._any.wait()


class Store:
    """All queues of one name and namespace. Its lock is held for one move at a time, and never across an await."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, MemoryQueue] = {}
        self._ears: set[Ear] = set()
        self._routes: dict[str, bytes] = {}

    def make(self, queue: str, move: Move[Result]) -> Result:
        """Make one move in a queue, told what the clock shows."""
        with self._lock:
            if queue not in self._queues:
                self._queues[queue] = MemoryQueue(queue, partial(self._hint, queue))
            return move(self._queues[queue], clock())

    def _hint(self, queue: str) -> None:
        self._ears.difference_update([ear for ear in self._ears if not ear.tell(queue)])

    def listen(self, ear: Ear) -> None:
        """Tell this listener from now on."""
        with self._lock:
            self._ears.add(ear)

    def leave(self, ear: Ear) -> None:
        """Tell this listener no more."""
        with self._lock:
            self._ears.discard(ear)

    @property
    def routes(self) -> dict[str, bytes]:
        """The rules kept here, packed, by pattern."""
        with self._lock:
            return dict(self._routes)

    def keep_route(self, pattern: str, rule: bytes | None) -> None:
        """Keep this rule for a pattern instead of any other; None: keep none."""
        with self._lock:
            if rule is None:
                self._routes.pop(pattern, None)
            else:
                self._routes[pattern] = rule

    def queues(self) -> list[MemoryQueue]:
        """Return every queue that was ever asked for."""
        with self._lock:
            return list(self._queues.values())


class Stores:
    """The stores of this process by name and namespace, and the secret for what never leaves them."""

    def __init__(self) -> None:
        self._stores: dict[tuple[str, str], Store] = {}
        self._left_behind = False
        self.secret: Final = secrets.token_urlsafe(48)

    def find(self, name: str, namespace: str) -> Store:
        """Return a store, made when it is first asked for."""
        if self._left_behind:
            self._left_behind = False
            log.warning("this process was forked: its local stores are its own, and begin empty")
        return self._stores.get((name, namespace)) or self._stores.setdefault((name, namespace), Store())

    def renew(self) -> None:
        """Begin anew in a child, where tasks would run a second time, and a lock may be held for ever."""
        self._left_behind, self._stores = bool(self._stores), {}


here: Final = Stores()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=here.renew)


class Way:
    """The way to one store, which leads to the child's own from a broker that was made before a fork."""

    def __init__(self, name: str, namespace: str) -> None:
        """Take the store's name and the namespace in it."""
        self._name, self._namespace = name, namespace

    @property
    def store(self) -> Store:
        """The store in this process."""
        return here.find(self._name, self._namespace)

    async def call(self, queue: str, deadline: float, move: Move[Result]) -> Result:
        """Make one move in a queue; raises BrokerUnavailable after the deadline."""
        # As with a store elsewhere, others have their turn first: a busy consumer must not keep its loop to itself.
        await asyncio.sleep(0)
        if deadline <= time.monotonic():
            raise BrokerUnavailable("the local store: the deadline had passed before the command could be carried out")
        return self.store.make(queue, move)
