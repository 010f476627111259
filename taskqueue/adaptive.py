"""How many tasks may run beside an application whose users are not to feel it: one more, or half of them.

A decision without clock and event loop: it is fed with what was measured, a second at a time. The limit halves when
the event loop lags, or requests take, longer than usual, and grows by one while they do not; the less so, the more
often that was too much. What is usual is learnt while no task runs. Where that never is, it is slowly learnt from one
task at a time, because fewer there cannot be.
"""

from dataclasses import dataclass
from typing import Final

# Where there is no limit, so many.
MOST: Final = 100
# A rise is a fifth above what is usual, and so many seconds, which nobody feels and any garbage collection takes.
RISE: Final = 1.2
LAG_FLOOR: Final = 0.002
LATENCY_FLOOR: Final = 0.001
# How much of what is new becomes usual at once, and where tasks may have caused it.
FAST: Final = 0.3
SLOW: Final = 0.02
# So many calm seconds, at most, for one task more. It is what users feel of a limit that is tried and too much.
PATIENCE: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was measured in a second: seconds by which the loop was late, and that requests took (None: too few).

    ``running``: the most tasks that ran at a time.
    """

    lag: float
    latency: float | None
    running: int


@dataclass(slots=True)
class _Usual:
    """What is usual of one measure."""

    floor: float
    seconds: float | None = None

    def risen(self, seconds: float) -> bool:
        return self.seconds is not None and seconds > self.seconds * RISE + self.floor

    def learn(self, seconds: float, weight: float) -> None:
        if self.seconds is None:
            self.seconds = seconds
        else:
            self.seconds += (seconds - self.seconds) * (FAST if seconds < self.seconds else weight)


class Adaptive:
    """The limit for now: at least 1, at most what it was given."""

    def __init__(self, most: int) -> None:
        """Take the most tasks at a time, 0 for as many as 100. It begins with one."""
        self.most: Final = most or MOST
        self.limit = 1
        self._lag, self._latency = _Usual(LAG_FLOOR), _Usual(LATENCY_FLOOR)
        self._patience, self._calm, self._climbs = 1, 0, False

    def look(self, sample: Sample) -> None:
        """Take the next second into account. While no task runs nothing changes: a limit is not needed then."""
        measured = [(self._lag, sample.lag)]
        if sample.latency is not None:
            measured.append((self._latency, sample.latency))
        risen = any(usual.risen(seconds) for usual, seconds in measured)
        for usual, seconds in measured:
            usual.learn(seconds, self._weight(sample.running))
        if sample.running == 0:
            return
        if risen:
            self._halve()
        elif self._calm + 1 < self._patience:
            self._calm += 1
        else:
            self._grow()

    def _halve(self) -> None:
        if self.limit > 1:
            self.limit //= 2
            self._patience = min(PATIENCE, self._patience * 2)
        self._calm, self._climbs = 0, False

    def _grow(self) -> None:
        self.limit = min(self.most, self.limit + 1)
        if self._climbs:
            # The one before was not too much.
            self._patience = max(1, self._patience // 2)
        self._calm, self._climbs = 0, True

    def _weight(self, running: int) -> float:
        if running == 0:
            return FAST
        return SLOW if running == 1 else 0.0
