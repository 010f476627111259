"""Who lives and who is dead, told without comparing clocks.

A consumer beats: a counter grows. The others look at it now and then, each by its own monotonic clock. Only when the
same count was seen again and again, over a whole lease, is its consumer dead. What is added up is the time between two
looks, and of that no more than one look would take: whoever was itself asleep, or on a machine that was, has not
watched, and starts anew.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from .broker import Lease, Pulse, Seen
from .errors import BrokerUnavailable, Fenced

log = logging.getLogger("taskqueue.server")

LEAST_LOOKS: Final = 4


def beat_interval(lease: float) -> float:
    """Return how many seconds lie between two beats; 0.5, so that an owner of a name is heard within a second."""
    return min(0.5, lease / 8)


@dataclass(slots=True)
class _Quiet:
    seen: Seen
    since: float
    looks: int = 1
    seconds: float = 0.0


@dataclass(slots=True)
class Watch:
    """Judges the consumers of one queue from what the beats bring; ``lease`` in seconds."""

    lease: float
    _quiet: dict[str, _Quiet] = field(default_factory=dict)

    def look(self, seen: Sequence[Seen], *, now: float) -> list[Seen]:
        """Take the counters as they are now (``time.monotonic()``) and return the consumers that are dead."""
        most = 2 * beat_interval(self.lease)
        kept: dict[str, _Quiet] = {}
        for one in seen:
            before = self._quiet.get(one.consumer)
            if before is None or before.seen != one or now - before.since > most:
                kept[one.consumer] = _Quiet(one, now)
            else:
                seconds = before.seconds + now - before.since
                kept[one.consumer] = _Quiet(one, now, before.looks + 1, seconds)
        self._quiet = kept
        return [quiet.seen for quiet in kept.values() if quiet.looks >= LEAST_LOOKS and quiet.seconds >= self.lease]


class Heart:
    """Beats for a consumer from a thread of its own, and tells the event loop what it saw."""

    def __init__(
        self,
        pulse: Pulse,
        *,
        lease: float,
        patience: float,
        on_seen: Callable[[str, Sequence[Seen]], None],
        on_fenced: Callable[[Fenced], None],
    ) -> None:
        """Take how to beat; ``patience``: seconds without a turn of the event loop after which it beats no more.

        ``on_seen`` (queue, the other consumers) and ``on_fenced`` are called in the running event loop.
        """
        self._pulse, self._interval = pulse, beat_interval(lease)
        self._patience = patience + lease
        self._on_seen, self._on_fenced = on_seen, on_fenced
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leases: Mapping[str, Lease] = {}
        self._turned = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="taskqueue-heart", daemon=True)

    def beat_for(self, leases: Sequence[Lease]) -> None:
        """Beat for these from now on; what is seen is told to the running event loop."""
        self._loop, self._turned = asyncio.get_running_loop(), time.monotonic()
        self._leases = {lease.queue: lease for lease in leases}
        if not self._thread.is_alive():
            self._thread.start()

    async def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            due = time.monotonic() + self._interval
            if time.monotonic() - self._turned > self._patience:
                # The loop hangs for good: better that others do its work than that nobody does.
                log.error("the event loop has not turned for %.0f s: no more beats", self._patience)
                continue
            for lease in self._leases.values():
                self._beat(lease)
        self._pulse.close()

    def _beat(self, lease: Lease) -> None:
        try:
            seen = self._pulse.beat(lease)
        except BrokerUnavailable as error:
            log.debug("no beat: %s", error)
        except Fenced as error:
            self._tell(self._on_fenced, error)
        else:
            self._tell(self._on_seen, lease.queue, seen)

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        def told() -> None:
            self._turned = time.monotonic()
            function(*arguments)

        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(told)
