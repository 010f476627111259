"""Who lives and who is dead, told without comparing clocks.

A consumer beats: a counter grows. The others look at it now and then, each by its own monotonic clock. Only when the
same count was seen again and again, over a whole lease, is its consumer dead. What is added up is the time between two
looks: whoever has not looked for long was itself asleep, or on a machine that was, and starts anew.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from . import stacks
from .broker import Beat, Lease, Pulse, Seen
from .errors import Fenced, TaskQueueError

log = logging.getLogger("taskqueue.server")

# The longest time between two looks that still counts is this part of a lease.
LOOKS: Final = 4


def beat_interval(lease: float) -> float:
    """Return how many seconds lie between two beats; 0.5, so that an owner of a name is heard within a second."""
    return min(0.5, lease / 8)


@dataclass(slots=True)
class _Quiet:
    seen: Seen
    last: float
    seconds: float = 0.0


@dataclass(slots=True)
class Watch:
    """Judges the consumers of one queue from what the beats bring; ``lease`` in seconds."""

    lease: float
    _quiet: dict[str, _Quiet] = field(default_factory=dict)

    def look(self, seen: Sequence[Seen], *, now: float) -> list[Seen]:
        """Take the counters as they were at ``now`` (``time.monotonic()``) and return the consumers that are dead."""
        kept: dict[str, _Quiet] = {}
        for one in seen:
            before = self._quiet.get(one.consumer)
            if before is None or before.seen != one or now - before.last > self.lease / LOOKS:
                kept[one.consumer] = _Quiet(one, now)
            else:
                kept[one.consumer] = _Quiet(one, now, before.seconds + now - before.last)
        self._quiet = kept
        return [quiet.seen for quiet in kept.values() if quiet.seconds >= self.lease]


class Heart:
    """Beats for a consumer from a thread of its own, and tells the event loop what it saw."""

    def __init__(
        self,
        pulse: Pulse,
        *,
        lease: float,
        patience: Callable[[], float],
        on_beat: Callable[[str, Beat, float], None],
        on_fenced: Callable[[Lease, Fenced], None],
    ) -> None:
        """Take how to beat; ``patience``: seconds that a task may take, and with a lease more the event loop to turn.

        ``on_beat`` (queue, what it brought, when) and ``on_fenced`` are called in the running event loop.
        """
        self._pulse, self._lease, self._interval = pulse, lease, beat_interval(lease)
        self._patience = patience
        self._on_beat, self._on_fenced = on_beat, on_fenced
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: int | None = None
        self._leases: Mapping[str, Lease] = {}
        self._turned, self._still = time.monotonic(), 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="taskqueue-heart", daemon=True)

    def beat_for(self, leases: Sequence[Lease]) -> None:
        """Beat for these from now on; what is seen is told to the running event loop."""
        self._loop, self._turned = asyncio.get_running_loop(), time.monotonic()
        self._loop_thread = threading.get_ident()
        self._leases = {lease.queue: lease for lease in leases}
        if not self._thread.is_alive():
            self._thread.start()

    async def stop(self) -> None:
        """Beat no more. May be called twice."""
        self._stopped.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            due = time.monotonic() + self._interval
            hangs = self._hangs()
            self._tell(lambda: None)
            for lease in () if hangs else self._leases.values():
                if not self._stopped.is_set():
                    self._beat(lease)
        self._pulse.close()

    def _hangs(self) -> bool:
        """Tell whether the event loop hangs for good: better that others do its work then than that nobody does."""
        before, self._still = self._still, time.monotonic() - self._turned
        given_up = self._patience() + self._lease
        if before <= self._lease < self._still:
            log.warning(
                "the event loop has not turned for %.0f s:\n%s", self._still, stacks.of_thread(self._loop_thread)
            )
        if before <= given_up < self._still:
            log.error("the event loop has not turned for %.0f s: no more beats until it does", self._still)
        return self._still > given_up

    def _beat(self, lease: Lease) -> None:
        try:
            beat = self._pulse.beat(lease)
        except Fenced as error:
            self._tell(self._on_fenced, lease, error)
        except TaskQueueError as error:
            log.debug("no beat: %s", error)
        else:
            # The time of the look, not of its telling: a busy loop must not seem to have looked seldom.
            self._tell(self._on_beat, lease.queue, beat, time.monotonic())

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        def told() -> None:
            self._turned = time.monotonic()
            function(*arguments)

        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(told)
