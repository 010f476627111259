"""What a consumer shows of itself while it works. The server writes it; health checks, metrics and systemd read it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from .fast_init import fast_init

Phase: TypeAlias = Literal["starting", "consuming", "stopping"]

# Progress is an exchange with the broker within so many polls, and a beat within so many seconds (one comes each 0.5).
POLLS: Final = 3
BEATS: Final = 3.0
SHORTEST_POLL: Final = 1.0


@fast_init
@dataclass(frozen=True, slots=True)
class EndedTask:
    """The task of a delivery that has ended; of a record that cannot be opened all but id and numbers is empty."""

    id: str
    method: str
    path: str
    label: str
    route: str
    status: int
    attempt: int


@fast_init
@dataclass(frozen=True, slots=True)
class Ending:
    """How a delivery ended: seconds that the task had waited since it was added, and that it ran; None if it did not.

    ``kind`` and ``reason`` are the verdict's; ``task`` says of which task, where somebody wants to know.
    """

    queue: str
    kind: Literal["complete", "retry", "fail", "release"]
    reason: str
    first: bool
    waited: float | None
    ran: float | None
    task: EndedTask | None = None


class Signs:
    """The state of one consumer, as others may see it; seconds are those of ``time.monotonic()``."""

    def __init__(self, *, poll_max: float = 1.0, capacity: int = 1) -> None:
        """Take how long the consumer waits between two looks, and how many tasks it may run at a time (0: no limit)."""
        self.capacity: Final = capacity
        self.phase: Phase = "starting"
        self.why = "no exchange with the broker yet"
        """What a phase other than consuming is due to."""
        self.paused = False
        self.running = 0
        self.done = 0
        """Deliveries that have ended, without those that were given back."""
        self.errors = 0
        """Exchanges that the broker did not answer."""
        self.beats: Mapping[str, float] = {}
        """By queue, when the broker has last answered a beat."""
        self.on_ended: list[Callable[[Ending], None]] = []
        self.on_change: list[Callable[[], None]] = []
        """Called when the phase changes, and at a pause and its end."""
        self._patience = POLLS * max(poll_max, SHORTEST_POLL)
        self._progress = 0.0

    def progressed(self, now: float) -> None:
        """Note that the broker has answered an exchange, or that there was nothing to ask: no slot is free."""
        self._progress = now
        if self.phase == "starting":
            self._change("consuming", "")

    def unanswered(self) -> None:
        """Note that it has not."""
        self.errors += 1

    def stop(self, why: str) -> None:
        """Note that the consumer takes no more tasks, and why."""
        if self.phase != "stopping":
            self._change("stopping", why)

    def pause(self, *, paused: bool) -> None:
        """Note that the consumer was told to start nothing, or to go on."""
        self.paused = paused
        self._tell()

    def ended(self, ending: Ending) -> None:
        """Note that a delivery has ended."""
        self.done += ending.kind != "release"
        for listener in self.on_ended:
            listener(ending)

    def unready(self, now: float) -> str | None:
        """Return why this consumer makes no progress, or None: one whose slots are full, or that has no work, does."""
        if self.phase != "consuming":
            return f"{self.phase}: {self.why}"
        if self.paused:
            return "paused"
        if now - self._progress > self._patience:
            return f"the broker has not answered for {now - self._progress:.0f} s"
        late = {queue: now - beat for queue, beat in self.beats.items() if now - beat > BEATS}
        return f"no beat was answered for {max(late.values()):.0f} s: queue {', '.join(sorted(late))}" if late else None

    def _change(self, phase: Phase, why: str) -> None:
        self.phase, self.why = phase, why
        self._tell()

    def _tell(self) -> None:
        for listener in self.on_change:
            listener()
