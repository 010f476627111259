"""What a door tells the queue about the request that is running, and what a task may know about itself."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, Protocol, TypeAlias

from .fast_init import fast_init
from .notes import Notes
from .signature import Proof


class _Omitted(Enum):
    CURRENT = "the current request's"
    UNSET = "not given"

    def __repr__(self) -> str:
        return self.name


CURRENT: Final = _Omitted.CURRENT
UNSET: Final = _Omitted.UNSET
Current: TypeAlias = Literal[_Omitted.CURRENT]
Unset: TypeAlias = Literal[_Omitted.UNSET]


class Body(Protocol):
    """A copy of the current request's body, filled while the application reads it."""

    @property
    def declared(self) -> int | None:
        """The Content-Length in bytes, or None if the client named none."""
        ...

    def fetch(self) -> None:
        """Read in this thread what the application has not read yet, and it gets that all the same.

        Where it is an event loop that reads, nothing is done. Raises BodyUnavailable.
        """
        ...

    async def finish(self, limit: int) -> bytes:
        """Return all of it, reading what the application left unread once its handler has been left.

        Raises BodyUnavailable if it is over ``limit`` bytes, was broken off or not sent in time; InvalidTask while the
        handler may still be reading it.
        """
        ...


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentTask:
    """The task whose delivery is the running request.

    ``user`` is what the door's ``load_user`` returned (None without one); ``parent`` is the id of the task that has
    added this one, None if no task has; ``attempt`` counts from 1 and is the last one when it equals ``max_attempts``;
    ``enqueued_at`` and ``deadline`` are milliseconds since 1970. ``manual``: a person has made this delivery by hand
    (``taskqueue curl``, ``taskqueue replay``) and the queue knows nothing of it: its number is 0, how it ends changes
    nothing for the task, and nothing is kept of what it says of itself or saves.
    """

    id: str
    queue: str
    user_id: str | None
    user: object | None
    attempt: int
    delivery: int
    max_attempts: int
    enqueued_at: int
    deadline: int
    parent: str | None = None
    manual: bool = False


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentRequest:
    """The request that is running, as a door sees it.

    ``headers`` are as received; ``user_id`` is asked when a task is added, and ``user_id_later``, for frameworks that
    can only await it, once at commit; ``credentials`` tells whether Cookie and Authorization are copied into tasks.
    ``task`` and ``notes``, what that says of itself, are None in all but deliveries.
    """

    headers: Sequence[tuple[str, str]]
    host: str
    scheme: str
    body: Body | None = None
    user_id: Callable[[], str | None] | None = None
    user_id_later: Callable[[], Awaitable[str | None]] | None = None
    credentials: bool = True
    task: CurrentTask | None = None
    notes: Notes | None = None


HANDOVER: Final = "taskqueue.handover"
"""Where a Handover stands in an ASGI scope, and under ``asgi.scope`` in the environ of a WSGI application."""


@dataclass(slots=True)
class Handover:
    """A delivery made inside one process: an object that no request from outside can carry, so proof enough.

    The door notes on it what over HTTP a receipt says: ``admitted``, it let the delivery in; ``logged_in``, as the
    task's user; ``reported``, the type that counts for the task's report, empty if there is none.
    """

    proof: Proof
    admitted: bool = False
    logged_in: bool = False
    reported: str = ""
