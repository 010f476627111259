"""A consumer among others: takes its name, shows that it lives, and takes over what the dead have left.

A name is taken at once if its owner is known to be gone, after a look if it only seems so, and not if the owner lives.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from .broker import CALL_DEADLINE, Beat, Broker, Lease, Owner, Seen
from .errors import BrokerUnavailable, Fenced, NameInUse
from .identity import own
from .liveness import Heart, Watch

log = logging.getLogger("taskqueue.server")

# Seconds: more than two beats of an owner that lives (see liveness.beat_interval).
LISTEN: Final = 1.2
# A beat without an answer, at most: a line that is open at this end only must not seem alive for long.
BEAT_DEADLINE: Final = 4.0


class Membership:
    """One consumer's place in its queues."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        *,
        lease: float,
        patience: Callable[[], float],
        begins: Callable[[], bool],
        wake: Callable[[], None],
        on_marked: Callable[[Sequence[str]], None],
    ) -> None:
        """Take the name to consume under; seconds: ``lease``, ``patience`` (see Heart).

        ``begins`` tells, when the name is taken, whether the application notes the start of each delivery. ``wake``
        is called when there is news, ``on_marked`` with the ids of tasks of its own that somebody wants ended now.
        """
        self._broker, self._name, self._begins, self._wake = broker, name, begins, wake
        self._lease, self._on_marked = lease, on_marked
        self._watches: dict[str, Watch] = {}
        self._dead: dict[tuple[str, str], Seen] = {}
        self._fenced: Fenced | None = None
        self._leases: dict[str, Lease] = {}
        self.others: dict[str, int] = {}
        """By queue, how many other consumers there are."""
        self.beats: dict[str, float] = {}
        """By queue, when a beat was last answered (``time.monotonic()``)."""
        self._heart = Heart(
            broker.pulse(timeout=min(lease / 2, BEAT_DEADLINE)),
            lease=lease,
            patience=patience,
            on_beat=self._on_beat,
            on_fenced=self._on_fenced,
        )

    async def join(self, *queues: str) -> list[Lease]:
        """Take the name in these queues and begin to beat; raises NameInUse or BrokerUnavailable.

        All are looked at before any is taken, and taken one after the other in the order of their names: so of those
        who start under one name at the same time, whoever comes first where they meet goes on, and never nobody.
        """
        looks = {queue: asyncio.create_task(self._look(queue)) for queue in sorted(queues)}
        try:
            await asyncio.gather(*looks.values())
        finally:
            # If one queue is refused, nobody waits for the others any more.
            for look in looks.values():
                look.cancel()
            await asyncio.gather(*looks.values(), return_exceptions=True)
        leases = {queue: await self._take(queue, look.result()) for queue, look in looks.items()}
        return [leases[queue] for queue in queues]

    async def _look(self, queue: str) -> Owner:
        """Return whose name this is, or was, to be taken from; raise NameInUse if that one lives."""
        owner = await self._broker.owner(queue, self._name, deadline=_soon())
        if owner.free or owner.identity.gone or owner.identity == own():
            return owner
        return await self._listened(queue, owner)

    async def _take(self, queue: str, owner: Owner) -> Lease:
        self._leases.pop(queue, None)  # If this is taking it again, the old lease may well be called fenced now.
        try:
            lease, returned = await self._claim(queue, owner)
        except NameInUse:
            again = await self._broker.owner(queue, self._name, deadline=_soon())
            if again.epoch == owner.epoch or not _as_silent(again, owner):
                raise
            lease, returned = await self._claim(queue, again)
        log.info("queue %s: consuming as %s, %d task(s) taken back", queue, self._name, returned)
        self._watches[queue] = Watch(self._lease)
        self._leases[queue] = lease
        self.beats[queue] = time.monotonic()
        self._heart.beat_for(tuple(self._leases.values()))
        return lease

    async def _claim(self, queue: str, dead: Owner) -> tuple[Lease, int]:
        return await self._broker.claim(queue, self._name, dead=dead, begins=self._begins(), deadline=_soon())

    async def _listened(self, queue: str, owner: Owner) -> Owner:
        """Return the owner if it stays silent, or who has left a name free meanwhile; raise NameInUse if it lives."""
        await asyncio.sleep(LISTEN)
        again = await self._broker.owner(queue, self._name, deadline=_soon())
        if not _as_silent(again, owner):
            raise NameInUse(
                f"consumer {self._name} of queue {queue}: process {again.identity.pid} on {again.identity.host} runs"
                " under this name; stop it, or give this one another --name"
            )
        log.warning("queue %s: the last owner of %s has gone silent: taking the name over", queue, self._name)
        return again

    def _on_beat(self, queue: str, beat: Beat, now: float) -> None:
        self.beats[queue], self.others[queue] = now, len(beat.others)
        if beat.marked:
            self._on_marked(beat.marked)
        for one in self._watches[queue].look(beat.others, now=now):
            self._dead[queue, one.consumer] = one
            self._wake()

    def _on_fenced(self, lease: Lease, error: Fenced) -> None:
        # One that Redis has merely forgotten takes its name again, as soon as it asks for tasks.
        if not error.gone and self._leases.get(lease.queue) == lease:
            self._fenced = error
            self._wake()

    def require(self) -> None:
        """Raise Fenced if another server has taken the name over."""
        if self._fenced is not None:
            raise self._fenced

    async def take_over(self) -> bool:
        """Give back to the line what consumers found dead had reserved; return whether there was any."""
        found = False
        while self._dead:
            (queue, _), dead = self._dead.popitem()
            try:
                returned = await self._broker.reclaim(queue, dead, deadline=_soon())
            except BrokerUnavailable as error:
                log.debug("consumer %s not reclaimed yet: %s", dead.consumer, error)  # The watch will find it again.
                return found
            if returned:
                log.warning("queue %s: consumer %s is dead: %d task(s) given back", queue, dead.consumer, returned)
            found = found or returned > 0
        return found

    async def leave(self) -> None:
        """Beat no more, and give up the name where nothing is reserved any more."""
        await self._heart.stop()
        if self._fenced is not None:
            return
        for lease in self._leases.values():
            try:
                await self._broker.leave(lease, deadline=_soon())
            except (BrokerUnavailable, Fenced) as error:
                log.debug("the name was not given up: %s", error)


def _as_silent(again: Owner, owner: Owner) -> bool:
    """Tell whether an owner has shown no life since; that others found it dead too, and fenced it, is none."""
    return again.free or (again.beat, again.identity) == (owner.beat, owner.identity)


def _soon() -> float:
    return time.monotonic() + CALL_DEADLINE
