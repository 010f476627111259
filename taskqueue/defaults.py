"""What a view says of its own tasks: declared beside it once, so that not everybody who adds one must know."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from .errors import InvalidTask
from .target import check_queue_name, quote_path
from .task import PRIORITIES

View = TypeVar("View")

LONGEST_TIMEOUT: Final = 24 * 3600.0
MOST_RETRIES: Final = 1000

# A parameter as routers write it: {year}, {year:int}, <year>, <int:year>.
_PARAMETER: Final = re.compile(r"\{[^{}/]+\}|<[^<>/]+>")


@dataclass(frozen=True, slots=True)
class Defaults:
    """What counts for a task whose ``add`` does not say otherwise; None: what counts for every task."""

    queue: str | None = None
    timeout: float | None = None
    retry_max_count: int | None = None
    priority: int | None = None


_NONE: Final = Defaults()


class DefaultsByPath:
    """The defaults of all views, by the paths at which they answer."""

    def __init__(self) -> None:
        self._exact: dict[str, Defaults] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], Defaults]] = {}

    def declare(
        self,
        path: str,
        *,
        queue: str | None = None,
        timeout: float | None = None,
        retry_max_count: int | None = None,
        priority: int | None = None,
    ) -> Callable[[View], View]:
        """Note defaults for a path; see ``TaskQueue.defaults``. Raises InvalidTask, or ConfigError for the queue."""
        if not isinstance(path, str) or not path.startswith("/") or re.search(r"[?#]", path):
            raise InvalidTask(f"path: {path!r} must be the path of a view, as in '/reports/{{year}}'")
        key = quote_path(path.encode())
        if key in self._exact or key in self._patterns:
            raise InvalidTask(f"path: the defaults of {path!r} are declared twice; declare them once")
        defaults = Defaults(
            None if queue is None else check_queue_name(queue),
            check_timeout(timeout),
            check_retries(retry_max_count),
            check_priority(priority),
        )
        if defaults == _NONE:
            raise InvalidTask(
                f"defaults: nothing is said of {path!r}; give queue=, timeout=, retry_max_count= or priority="
            )
        pattern = "[^/]+".join(re.escape(quote_path(text.encode())) for text in _PARAMETER.split(path))
        if _PARAMETER.search(path):
            self._patterns[key] = re.compile(pattern), defaults
        else:
            self._exact[key] = defaults
        return _itself

    def of(self, target: str) -> Defaults:
        """Return the defaults for a canonical request target: those of exactly its path, else of the first pattern."""
        path = target.partition("?")[0]
        if path in self._exact:
            return self._exact[path]
        return next((found for pattern, found in self._patterns.values() if pattern.fullmatch(path)), _NONE)


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
