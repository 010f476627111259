"""Telling a service manager how this consumer is: ready, alive, stopping. See sd_notify(3); it needs no library.

The same words go to systemd, for a service of ``Type=notify``, and from a process of ``--workers`` to the one above it.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

from .signs import Phase, Signs

log = logging.getLogger("taskqueue.server")

Send: TypeAlias = Callable[[str], None]

READY: Final = "READY=1"
ALIVE: Final = "WATCHDOG=1"
STOPPING: Final = "STOPPING=1"
_WORDS: Final[Mapping[Phase, Sequence[str]]] = {"starting": (), "consuming": (READY,), "stopping": (STOPPING,)}

# Seconds between two looks if there is no watchdog.
INTERVAL: Final = 10.0


def to_systemd(address: str) -> Send:
    """Return how to tell systemd, at the address in NOTIFY_SOCKET; ``@`` begins an abstract one."""
    to = "\0" + address[1:] if address.startswith("@") else address

    def send(words: str) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(words.encode(), to)
        except OSError as error:
            log.warning("systemd was not told: %s", error)

    return send


class Notices:
    """Tells of one consumer: READY=1 once the broker has answered, STATUS, WATCHDOG=1 while the loop turns, STOPPING=1.

    Made for the loop of the consumer: if that is blocked, no WATCHDOG=1 is sent, and systemd restarts the service.
    """

    def __init__(self, send: Send, signs: Signs, *, watchdog: float | None) -> None:
        """Take whom to tell, of what, and within how many seconds each sign of life is wanted (None: not at all)."""
        self._send, self._signs, self._watchdog = send, signs, watchdog
        self._told: set[str] = set()
        self._changed = asyncio.Event()

    async def watch(self) -> None:
        """Tell, until cancelled."""
        self._signs.on_change.append(self._changed.set)
        interval = self._watchdog / 2 if self._watchdog else INTERVAL
        try:
            while True:
                self._changed.clear()
                self._send("\n".join(self._news()))
                await _within(interval, self._changed)
        finally:
            if STOPPING not in self._told:
                self._send(STOPPING)

    def _news(self) -> list[str]:
        signs = self._signs
        once = [word for word in _WORDS[signs.phase] if word not in self._told]
        self._told.update(once)
        about = "paused" if signs.paused else signs.phase
        status = f"STATUS={about}: {signs.running} running, {signs.done} done"
        return [*once, status, *([ALIVE] if self._watchdog else [])]


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Return when the event is set, or so many seconds are over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
