"""Tasks reserved ahead of the slots: while the broker is asked for more, no slot that falls free waits for its answer.

Only so many are held as will be started within moments at the pace of the last moments: none where tasks are slow, so
that no other consumer, and no task of a higher priority, waits for what one consumer holds. What could not be started
soon is given back.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from .delivery import Prepared
from .line import Line
from .task import Reservation

# Seconds of work that is held ahead: a few round trips, those of a busy broker included.
AHEAD: Final = 0.01
MOST: Final = 100
# The pace is measured over so many seconds at least; a shorter look would take a burst for it.
LOOK: Final = 0.002
# What was held for so many seconds is not started: something has come between, perhaps a process that was stopped for
# so long that the task is somebody else's by now.
STALE: Final = 0.5


class Held(NamedTuple):
    """A delivery that can start, its line, the size of its record, and since when it has been held."""

    line: Line
    prepared: Prepared
    size: int
    since: float


class Prefetch:
    """What is held, in the order it was reserved; ``bytes`` of records are theirs. Times as ``time.monotonic()``."""

    def __init__(self, prepare: Callable[[Reservation], Prepared]) -> None:
        """Begin with nothing held, and no pace; take what does for a delivery all that needs no waiting."""
        self._prepare = prepare
        self._fresh: deque[tuple[Line, Reservation, float]] = deque()
        self._ready: deque[Held] = deque()
        self._looked = self._pace = 0.0
        self._ended = self.bytes = 0

    def __len__(self) -> int:
        """Return how many are held."""
        return len(self._fresh) + len(self._ready)

    def ended(self) -> None:
        """Note that a delivery has ended."""
        self._ended += 1

    def depth(self, now: float) -> int:
        """Return how many are to be held."""
        if now - self._looked >= LOOK:
            # One slow moment must not empty what a fast one needs, nor the other way round.
            self._pace = (self._pace + self._ended / (now - self._looked)) / 2
            self._looked, self._ended = now, 0
        return min(MOST, int(self._pace * AHEAD))

    @property
    def is_plenty(self) -> bool:
        """Whether more than half of what is to be held is; where nothing is, what is held waits for nobody."""
        depth = int(self._pace * AHEAD)
        return 0 < depth < 2 * len(self)

    def hold(self, line: Line, reservation: Reservation, now: float) -> None:
        """Hold one more."""
        self._fresh.append((line, reservation, now))
        self.bytes += len(reservation.record)

    def make_ready(self) -> None:
        """Prepare what has come; what is done in a row takes half the time."""
        for line, reservation, now in self._fresh:
            self._ready.append(Held(line, self._prepare(reservation), len(reservation.record), now))
        self._fresh.clear()

    def pop(self) -> Held:
        """Return the one that was reserved first, to be started now; it must have been made ready."""
        held = self._ready.popleft()
        self.bytes -= held.size
        return held

    @property
    def stale_at(self) -> float:
        """From when on the first one is not to be started any more; infinite if none is held."""
        since = self._ready[0].since if self._ready else self._fresh[0][2] if self._fresh else math.inf
        return since + STALE

    def clear(self) -> list[tuple[Line, Reservation]]:
        """Return all that are held, which are held no more; there is no pace then."""
        ready = [(held.line, held.prepared.reservation) for held in self._ready]
        fresh = [(line, reservation) for line, reservation, _ in self._fresh]
        self._ready.clear()
        self._fresh.clear()
        self.bytes, self._pace = 0, 0.0
        return ready + fresh
