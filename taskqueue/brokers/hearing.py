"""How a consumer hears of tasks: a subscription on a connection of its own, and each message in the turn it comes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import msgpack

from ..broker import Handed, Taken
from ..task import Reservation
from .calls import pack
from .wire import Wire

log = logging.getLogger("taskqueue.brokers.redis")

# Seconds.
HINT_PING: Final = 4.0
# The types of what push says to a consumer that waits: token, id, record, delivery, attempt, crashes.
_ANSWER: Final = (bytes, bytes, bytes, int, int, int)


def reservation(queue: str, task_id: bytes, record: bytes, *counts: int) -> Reservation:
    """Return what a script has said of a task that it gives out."""
    return Reservation(task_id.decode(errors="replace"), queue, record, *counts)


class Hearing:
    """The hints for one consumer; ``queues`` by their channels, and ``late`` by those of late answers to it."""

    def __init__(self, queues: Mapping[bytes, str], late: Mapping[bytes, str]) -> None:
        """Hear nothing yet."""
        self._queues, self._late = queues, late
        self._said: asyncio.Queue[Any] = asyncio.Queue()

    def say(self, word: Any) -> None:
        """Take what Redis has said, or why it says no more."""
        self._said.put_nowait(word)

    async def listen(self, wire: Wire) -> AsyncIterator[str]:
        """Yield hints; raises what the connection ends with, TimeoutError if it is open at this end only."""
        # Once the queue's own channel is heard of, what is handed over is heard too.
        wire.write(pack(("SUBSCRIBE", *self._late, *self._queues)))
        unanswered = False
        while True:
            try:
                async with asyncio.timeout(HINT_PING):
                    word = await self._said.get()
            except TimeoutError:
                # Silence is normal; silence after a PING is a line that is open at this end only.
                if unanswered:
                    raise
                unanswered = True
                wire.write(pack(("PING",)))
                continue
            if isinstance(word, Exception):
                raise word
            unanswered = False
            hint = self._hint(*word)
            if hint is not None:
                yield hint

    def _hint(self, kind: bytes, channel: bytes, *words: Any) -> str | None:
        # A subscription that was just made counts too: what was published before it has been missed.
        if kind not in (b"message", b"subscribe"):
            return None
        if channel in self._queues:
            queue = self._queues[channel]
            return Taken(queue) if words[0] == b"taken" else queue
        if kind == b"subscribe":
            return None
        return self._handed(self._late[channel], words[0])

    def _handed(self, queue: str, packed: bytes) -> str:
        """Return the late answer packed here; of what is none, that something may wait: the exchange brings it."""
        try:
            values = msgpack.unpackb(packed, raw=True)
        except ValueError:
            values = None
        if not isinstance(values, list) or tuple(map(type, values)) != _ANSWER:
            log.warning("queue %s: a message to this consumer that no script has sent is passed over", queue)
            return queue
        token, *given = values
        return Handed(queue, token.decode(errors="replace"), reservation(queue, *given))
