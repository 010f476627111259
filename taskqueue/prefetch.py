"""Tasks reserved ahead of the slots: while the broker is asked for more, no slot that falls free waits for its answer.

Only so many are held as will be started within moments at the pace of the last moments: none where tasks are slow, so
that no other consumer, and no task of a higher priority, waits for what one consumer holds. What could not be started
soon is given back.
"""

import math
from collections import deque
from typing import Final

from .line import Line
from .task import Reservation

# Seconds of work that is held ahead: a few round trips, those of a busy broker included.
AHEAD: Final = 0.01
MOST: Final = 100
# The pace is measured over so many seconds at least; a shorter look would take a burst for it.
LOOK: Final = 0.002
# What was held for so many seconds is not started: something has come between, perhaps a process that was stopped for
# so long that the task is somebody else's by now.
STALE: Final = 0.25


class Prefetch:
    """What is held, in the order it was reserved; ``bytes`` of records are theirs. Times as ``time.monotonic()``."""

    def __init__(self) -> None:
        """Begin with nothing held, and no pace."""
        self._held: deque[tuple[Line, Reservation, float]] = deque()
        self._looked = self._pace = 0.0
        self._ended = self.bytes = 0

    def __len__(self) -> int:
        """Return how many are held."""
        return len(self._held)

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
        return 0 < depth < 2 * len(self._held)

    def hold(self, line: Line, reservation: Reservation, now: float) -> None:
        """Hold one more."""
        self._held.append((line, reservation, now))
        self.bytes += len(reservation.record)

    def pop(self) -> tuple[Line, Reservation]:
        """Return the one that was reserved first, to be started now."""
        line, reservation, _ = self._held.popleft()
        self.bytes -= len(reservation.record)
        return line, reservation

    @property
    def stale_at(self) -> float:
        """From when on the first one is not to be started any more; infinite if none is held."""
        return self._held[0][2] + STALE if self._held else math.inf

    def clear(self) -> list[tuple[Line, Reservation]]:
        """Return all that are held, which are held no more; there is no pace then."""
        held, self._held = [(line, reservation) for line, reservation, _ in self._held], deque()
        self.bytes, self._pace = 0, 0.0
        return held
