"""The seam between the queue and the store: what a broker must be able to do, and how a URL becomes one.

A producer needs push, prepare, promote, discard; a door needs begin; a consumer needs claim, exchange and hints. Every
method is one atomic change of place, may be repeated after a lost reply with the same effect, and gives up at
``deadline`` (a value of ``time.monotonic()``).
"""

import importlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

from .errors import ConfigError
from .task import Reservation, SealedTask, Settlement, TaskState


@dataclass(frozen=True, slots=True)
class Lease:
    """A consumer's right to act on one queue under its name; ``epoch`` is what a takeover changes."""

    queue: str
    consumer: str
    epoch: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one round trip of a consumer brought: new reservations, and settlements that no longer held."""

    reservations: Sequence[Reservation]
    stale: Sequence[str]


class Broker(Protocol):
    """A store of tasks. Raises BrokerUnavailable (ReplyLost if a command had been sent) when a deadline passes."""

    async def push(self, queue: str, tasks: Sequence[SealedTask], *, deadline: float) -> None:
        """Store these tasks and queue them, all or none; must refuse if carried out after the deadline."""
        ...

    async def prepare(self, queue: str, tasks: Sequence[SealedTask], *, deadline: float) -> None:
        """Store these tasks without queueing them, all or none; must refuse if carried out after the deadline."""
        ...

    async def promote(self, queue: str, ids: Sequence[str], *, deadline: float) -> None:
        """Queue what was prepared, in the order of ``ids``."""
        ...

    async def discard(self, queue: str, ids: Sequence[str], *, deadline: float) -> None:
        """Forget what was prepared."""
        ...

    async def begin(self, queue: str, task_id: str, delivery: int, *, deadline: float) -> bool:
        """Note that this delivery starts to run; False if it has already, or is no longer the task's latest."""
        ...

    async def claim(self, queue: str, consumer: str, *, begins: bool, deadline: float) -> tuple[Lease, int]:
        """Take the name, give back to the front what it had reserved; return the lease and how many that were.

        ``begins`` tells that the application notes the start of each delivery, so that what had not begun has spent
        nothing.
        """
        ...

    async def exchange(
        self, lease: Lease, settlements: Sequence[Settlement], *, token: str, want: int, room: int, deadline: float
    ) -> Exchange:
        """Settle these deliveries and reserve up to ``want`` tasks (``room`` bytes, one task at least if want > 0).

        The same ``token`` brings the same reservations again. Raises Fenced if the name was taken over.
        """
        ...

    async def due(self, queue: str, *, deadline: float) -> float | None:
        """Queue what has fallen due; return in how many seconds the next task does, or None.

        Also sets aside, as failed ``in-doubt``, what was prepared and then neither promoted nor discarded for 60 s.
        """
        ...

    async def trim(self, queue: str, limits: Sequence[tuple[str, int, int]], *, most: int, deadline: float) -> int:
        """Forget what was kept long enough: at most ``most`` tasks, by (index, ms kept, number kept)."""
        ...

    def hints(self, queues: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Return a stream of queues in which something may be waiting. A hint may be missing; none is a promise."""
        ...

    async def get(self, queue: str, task_id: str, *, deadline: float) -> TaskState | None:
        """Return what is known of a task, or None."""
        ...

    async def size(self, queue: str, *, deadline: float) -> int:
        """Return how many tasks wait: neither those delayed nor those reserved."""
        ...

    async def reset(self, queue: str, *, deadline: float) -> None:
        """Empty this queue, running tasks included: what they end with is then stale."""
        ...

    async def aclose(self) -> None:
        """Close every connection. May be called twice."""
        ...


_BROKERS: Final = {
    "redis": ".brokers.redis",
    "rediss": ".brokers.redis",
    "unix": ".brokers.redis",
}


def connect(url: str, *, namespace: str) -> Broker:
    """Return the broker for a URL, without any I/O yet; raise ConfigError for a URL that names none.

    Known schemes: ``redis://host:port/db``, ``rediss://`` (TLS), ``unix:///path/to.sock``.
    """
    scheme = urlsplit(url).scheme
    if scheme not in _BROKERS:
        raise ConfigError(
            f"url: {masked(url)!r} has no known scheme; needed is one of"
            f" {', '.join(f'{name}://' for name in _BROKERS)}, for example redis://127.0.0.1:6379/0"
        )
    module = importlib.import_module(_BROKERS[scheme], __package__)
    broker: Broker = module.open_broker(url, namespace=namespace)
    return broker


def masked(url: str) -> str:
    """Return the URL with its password replaced, fit for a log line."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")).geturl()
