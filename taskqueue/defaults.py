"""What a view says of its own tasks: declared beside it once, so that not everybody who adds one must know."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypedDict, TypeVar, Unpack

from .errors import InvalidTask
from .routes import Table, check_category, check_hidden
from .target import check_queue_name
from .task import PRIORITIES

View = TypeVar("View")

LONGEST_TIMEOUT: Final = 24 * 3600.0
MOST_RETRIES: Final = 1000


class Sayings(TypedDict, total=False):
    """The keyword arguments of ``TaskQueue.defaults``; see there."""

    queue: str | None
    timeout: float | None
    retry_max_count: int | None
    priority: int | None
    category: str | None
    hidden: bool | None


@dataclass(frozen=True, slots=True)
class Defaults:
    """What counts for a task whose ``add`` does not say otherwise; None: what counts for every task."""

    queue: str | None = None
    timeout: float | None = None
    retry_max_count: int | None = None
    priority: int | None = None
    category: str | None = None
    hidden: bool | None = None


NOTHING: Final = Defaults()


class DefaultsByPath:
    """The defaults of all views, by the paths at which they answer."""

    def __init__(self) -> None:
        self._table: Table[Defaults] = Table()

    def declare(self, path: str, **said: Unpack[Sayings]) -> Callable[[View], View]:
        """Note defaults for a path; see ``TaskQueue.defaults``. Raises InvalidTask, ConfigError."""
        queue = said.get("queue")
        defaults = Defaults(
            None if queue is None else check_queue_name(queue),
            check_timeout(said.get("timeout")),
            check_retries(said.get("retry_max_count")),
            check_priority(said.get("priority")),
            check_category(said.get("category")),
            check_hidden(said.get("hidden")),
        )
        if isinstance(path, str) and path in self._table:
            raise InvalidTask(f"path: the defaults of {path!r} are declared twice; declare them once")
        if defaults == NOTHING:
            raise InvalidTask(
                f"defaults: nothing is said of {path!r}; give queue=, timeout=, retry_max_count=, priority=, category="
                " or hidden="
            )
        self._table.add(path, defaults)
        return _itself

    def of(self, target: str) -> tuple[str, Defaults] | None:
        """Return the pattern that counts for a canonical request target, and the defaults; see ``routes``."""
        return self._table.of(target)


NO_DEFAULTS: Final = DefaultsByPath()


def _itself(view: View) -> View:
    return view


def check_timeout(seconds: float | None) -> float | None:
    """Return how many seconds a task may take; raises InvalidTask."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST_TIMEOUT:
        raise InvalidTask(f"timeout: {seconds!r} must be seconds above 0, at most {LONGEST_TIMEOUT:.0f}")
    return float(seconds)


def check_priority(priority: int | None) -> int | None:
    """Return how urgent a task is among those of its queue; raises InvalidTask."""
    if priority is None:
        return None
    if isinstance(priority, bool) or not isinstance(priority, int) or priority not in PRIORITIES:
        raise InvalidTask(f"priority: {priority!r} must be a whole number from 0 to 9; 9 goes first, 4 is usual")
    return priority


def check_retries(count: int | None) -> int | None:
    """Return how often a task may be retried; raises InvalidTask."""
    if count is None:
        return None
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MOST_RETRIES:
        raise InvalidTask(f"retry_max_count: {count!r} must be a whole number from 0 to {MOST_RETRIES}")
    return count
