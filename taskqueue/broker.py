"""The seam between the queue and the store: what a broker must be able to do, and how a URL becomes one.

A producer needs push, prepare, promote, discard; a door needs begin; a consumer needs claim, exchange and hints. Every
method is one atomic change of place, may be repeated after a lost reply with the same effect, and gives up at
``deadline`` (a value of ``time.monotonic()``).
"""

import importlib
import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Literal, Protocol, Self, TypeAlias
from urllib.parse import urlsplit

from .durability import Durability
from .errors import ConfigError
from .identity import Identity
from .inspector import Control, Inspector
from .task import Reservation, SealedTask, Settlement, TaskState


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one queue may hold before a push is refused: tasks (failed ones left out), bytes of records; 0: no limit."""

    tasks: int = 0
    bytes: int = 0


UNLIMITED: Final = Capacity()
CALL_DEADLINE: Final = 2.0  # seconds that a consumer waits for the answer to one move
IN_DOUBT_AFTER_MS: Final = 60_000  # what is prepared for so long, neither promoted nor discarded, is set aside

Withdrawal: TypeAlias = Literal["cancelled", "archived"]
"""Two ways in which somebody ends a task: it is not to run, or it is not to be seen."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A consumer's right to act on one queue under its name; ``epoch`` is what a takeover changes."""

    queue: str
    consumer: str
    epoch: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Another consumer as a beat shows it: the counter grows while it lives."""

    consumer: str
    epoch: str
    beat: str


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has a consumer's name, or had it last; of a free name the epoch is empty."""

    epoch: str
    beat: str
    identity: Identity

    @property
    def free(self) -> bool:
        """Whether nobody has the name."""
        return not self.epoch


@dataclass(frozen=True, slots=True)
class Beat:
    """What a consumer is told when it beats: the others, and which of its tasks somebody wants ended (see withdraw)."""

    others: Sequence[Seen]
    marked: Sequence[str] = ()


class Pulse(Protocol):
    """A consumer's heartbeat, on a connection of its own. Synchronous, for a thread."""

    def beat(self, lease: Lease) -> Beat:
        """Show that the consumer lives, and hear what there is to hear; raises Fenced or BrokerUnavailable."""
        ...

    def close(self) -> None:
        """Close the connection. May be called twice, and beats may follow."""
        ...


class Taken(str):
    """A hint that somebody has taken all that waited in this queue."""

    __slots__ = ()


class Handed(str):
    """A hint that brings a task: the late answer to the exchange with this token, which had found nothing."""

    __slots__ = ("reservation", "token")

    def __new__(cls, queue: str, token: str, reservation: Reservation) -> Self:
        """Take the queue, the token of the exchange, and what is reserved."""
        made = super().__new__(cls, queue)
        made.token, made.reservation = token, reservation
        return made

    token: str
    reservation: Reservation


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one round trip of a consumer brought: new reservations, and settlements that no longer held."""

    reservations: Sequence[Reservation]
    stale: Sequence[str]


@dataclass(frozen=True, slots=True)
class Trimmed:
    """How many tasks were forgotten, and which of them have files that nobody can ask for any more.

    Those are the ones with ``files`` or ``response_file`` in their logs.
    """

    count: int
    with_files: Sequence[str] = ()


class Broker(Protocol):
    """A store of tasks. Raises BrokerUnavailable (ReplyLost if a command had been sent) when a deadline passes."""

    def push(self, queue: str, tasks: Sequence[SealedTask], *, deadline: float) -> Awaitable[None]:
        """Store these tasks and queue them, all or none; must refuse if carried out after the deadline.

        Raises QueueFull if the queue would then hold more than the capacity the broker was connected with, QueueClosed
        if somebody has closed it.
        """
        ...

    def prepare(self, queue: str, tasks: Sequence[SealedTask], *, deadline: float) -> Awaitable[None]:
        """Store these tasks without queueing them, all or none; else as push."""
        ...

    async def promote(self, queue: str, ids: Sequence[str], *, deadline: float) -> None:
        """Queue what was prepared, all or none, in the order of ``ids``, also if the queue was closed since.

        Raises BrokerUnavailable if one of them is gone.
        """
        ...

    async def discard(self, queue: str, ids: Sequence[str], *, deadline: float) -> None:
        """Forget what was prepared."""
        ...

    async def begin(self, queue: str, task_id: str, delivery: int, *, deadline: float) -> bool:
        """Note that this delivery starts to run; False if it has already, or is no longer the task's latest."""
        ...

    async def note(
        self, queue: str, task_id: str, delivery: int, fields: Mapping[str, bytes], *, deadline: float
    ) -> bool:
        """Keep these fields in the task's log, sealed by the caller, of an empty one nothing.

        Return False if this delivery is not under way.
        """
        ...

    async def owner(self, queue: str, consumer: str, *, deadline: float) -> Owner:
        """Return who has this name, or had it last and did not leave it."""
        ...

    async def claim(
        self, queue: str, consumer: str, *, dead: Owner | None = None, begins: bool, deadline: float
    ) -> tuple[Lease, int]:
        """Take the name, give back to the front what it had reserved; return the lease and how many that were.

        ``dead``: the owner that was found dead, or found to be nobody; raises NameInUse if it is another by now, or has
        beaten since, ConfigError if the queue is disabled. None: take it from whoever has it.
        ``begins`` tells that the application notes the start of each delivery, so that what had not begun has spent
        nothing.
        """
        ...

    async def reclaim(self, queue: str, dead: Seen, *, deadline: float) -> int:
        """Fence a dead consumer and give back to the front what it had reserved; return how many that were.

        Does nothing if it has beaten since, or somebody else was quicker.
        """
        ...

    async def leave(self, lease: Lease, *, deadline: float) -> None:
        """Give up the name, so that it is free at once; raises Fenced if it was not this consumer's any more."""
        ...

    def pulse(self, *, timeout: float) -> Pulse:
        """Return a heartbeat that waits at most so many seconds for an answer."""
        ...

    async def exchange(
        self,
        lease: Lease,
        settlements: Sequence[Settlement],
        *,
        token: str,
        want: int,
        room: int,
        keep: bool = False,
        waits: bool = False,
        deadline: float,
    ) -> Exchange:
        """Settle these deliveries and reserve up to ``want`` tasks (``room`` bytes, one task at least if want > 0).

        The same ``token`` brings the same reservations again. ``keep``: the requests of tasks that complete stay in
        their logs. ``waits``: if nothing is found, one task that comes later may be reserved for this consumer until
        its next exchange, and it hears of that by a hint (``Handed``); the next exchange brings it again. A broker need
        not do so. Raises Fenced if the name was taken over.
        """
        ...

    async def due(self, queue: str, *, deadline: float) -> float | None:
        """Queue what has fallen due; return in how many seconds the next task does, or None.

        Also sets aside, as failed ``in-doubt``, what was prepared and then neither promoted nor discarded for 60 s.
        """
        ...

    async def trim(self, queue: str, limits: Sequence[tuple[str, int, int]], *, most: int, deadline: float) -> Trimmed:
        """Forget what was kept long enough: at most ``most`` tasks, by (index, ms kept, number kept)."""
        ...

    def hints(self, queues: Sequence[str], consumer: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Return a stream of queues in which something may be waiting. A hint may be missing; none is a promise.

        One that is ``Taken`` says that what earlier hints spoke of has found its consumer; one that is ``Handed``
        brings a task for this one (see ``exchange``).
        """
        ...

    async def get(self, queue: str, task_id: str, *, deadline: float) -> TaskState | None:
        """Return what is known of a task, or None."""
        ...

    async def size(self, queue: str, *, deadline: float) -> int:
        """Return how many tasks wait: neither those delayed nor those reserved."""
        ...

    async def control(self, queue: str, changes: Mapping[Control, int | None], *, deadline: float) -> None:
        """Say how a queue is to be run (see Control); None takes a word back. Consumers are told at once."""
        ...

    async def withdraw(
        self, queue: str, ids: Sequence[str], word: Withdrawal, *, actor: str, force: bool, deadline: float
    ) -> list[str]:
        """Cancel or archive tasks; return for each ``word`` if that was done, or what kept it from being done.

        That is ``unknown``, or its state: what is under way is left alone unless ``force``, and then it is ``marked``:
        its holder obeys at its next beat, and whatever it comes to before, the word is its end. What has ended can only
        be archived. ``actor``: who does it, kept in the log.
        """
        ...

    async def hasten(self, queue: str, ids: Sequence[str], *, actor: str, deadline: float) -> int:
        """Queue now, in front, what waits for its time; return how many were."""
        ...

    async def restart(self, queue: str, ids: Sequence[str], *, actor: str, deadline: float) -> int:
        """Queue again what is stuck: in no line, or held by nobody; return how many were."""
        ...

    async def purge(self, queue: str, *, most: int, deadline: float) -> int:
        """Forget up to ``most`` tasks that wait, delayed ones too; return how many: repeat until none was."""
        ...

    async def reset(self, queue: str, *, deadline: float) -> None:
        """Empty this queue, running tasks included: what they end with is then stale."""
        ...

    async def routes(self, *, deadline: float) -> Mapping[str, bytes]:
        """Return the rules that say what counts for tasks of a route: packed (see ``routes.Route``), by pattern."""
        ...

    async def route(self, pattern: str, rule: bytes | None, *, deadline: float) -> None:
        """Keep this rule for a pattern instead of any other; None: keep none."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why the store was given up within the last second, or None if it was not, or has answered since."""
        ...

    @property
    def inspector(self) -> Inspector:
        """How to look into this store."""
        ...

    async def aclose(self) -> None:
        """Close every connection. May be called twice."""
        ...


# From the colon behind the user to the last "@", whatever stands there unquoted; or redis-py's parameter.
_PASSWORD: Final = re.compile(r"(://[^:/@?#]*:).*(?=@)|([?&](?:sentinel_)?password=)[^&#]*")


_BROKERS: Final = {
    "redis": ".brokers.redis",
    "rediss": ".brokers.redis",
    "unix": ".brokers.redis",
    "redis+sentinel": ".brokers.sentinel",
    "rediss+sentinel": ".brokers.sentinel",
    "embedded": ".brokers.embedded",
    "local": ".brokers.local",
    "python": ".brokers.custom",
}
_KEEP_SECRETS: Final = ("embedded", "local")


def connect(
    url: str, *, namespace: str, capacity: Capacity = UNLIMITED, durability: Durability | None = None
) -> Broker:
    """Return the broker for a URL, without any I/O yet; raise ConfigError for a URL that names none.

    Known schemes: ``redis://host:port/db``, ``rediss://`` (TLS), ``unix:///path/to.sock``; ``embedded:///directory``
    for development and demos: a private server that is started at first use and stopped with its last user;
    ``redis+sentinel://host1:port,host2:port/service/db``, also ``rediss+sentinel://``: the primary of that service;
    ``local://`` or ``local://name``: volatile, inside this process, where its consumer must run too; with
    ``?mode=sync`` each commit replays its tasks itself (see ``replays_at_commit``);
    ``python://package.module:attribute``, perhaps with ``?anything``: a broker of your own, which the class or function
    of that name makes of the whole URL and the keywords that this function takes.
    """
    scheme = urlsplit(url).scheme
    if scheme not in _BROKERS:
        raise ConfigError(
            f"url: {masked(url)!r} has no known scheme; needed is one of"
            f" {', '.join(f'{name}://' for name in _BROKERS)}, for example redis://127.0.0.1:6379/0"
        )
    module = importlib.import_module(_BROKERS[scheme], __package__)
    broker: Broker = module.open_broker(url, namespace=namespace, capacity=capacity, durability=durability)
    return broker


def kept_secret(url: str) -> str | None:
    """Return the secret that the store behind a URL keeps, made by the first who asks; None if it keeps none.

    An embedded store keeps one in its directory, a local one in memory. Raises ConfigError if that cannot be used.
    """
    scheme = urlsplit(url).scheme
    if scheme not in _KEEP_SECRETS:
        return None
    secret: str = importlib.import_module(_BROKERS[scheme], __package__).kept_secret(url)
    return secret


def replays_at_commit(broker: Broker) -> bool:
    """Tell whether a commit to this broker has its tasks replayed before it returns, as to ``local://?mode=sync``.

    A broker of which that is true says so in an attribute of this name; the others need none.
    """
    return bool(getattr(broker, "replays_at_commit", False))


def require_shared(url: str, remedy: str) -> None:
    """Raise ConfigError, with this remedy, for a store that no process sees but the one it is in."""
    if urlsplit(url).scheme == "local":
        raise ConfigError(
            f"url: {masked(url)!r} is inside the process that uses it, and this one would find an empty store of its"
            f" own; {remedy}, or take a store that processes share: embedded:///directory, redis://host:port/db"
        )


def masked(url: str) -> str:
    """Return the URL with its passwords replaced, fit for a log line; of a broken one rather too much."""
    return _PASSWORD.sub(r"\1\2***", url)
