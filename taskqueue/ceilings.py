"""Ceilings: above so much memory or load no task is started; those that run go on."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import ConfigError

log = logging.getLogger("taskqueue.server")

PROC: Final = Path("/proc")
MIB: Final = 2**20
# Seconds between two readings, at least.
INTERVAL: Final = 1.0


@dataclass(frozen=True, slots=True)
class Readings:
    """What was read: MiB of this process (resident), the part of the machine's memory in use, load per core (1 min)."""

    own: float = 0.0
    used: float = 0.0
    load: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What may not be passed; None: no ceiling. ``used`` is a part of 1."""

    own: float | None = None
    used: float | None = None
    load: float | None = None


def above(limits: Limits, readings: Readings) -> str | None:
    """Return which ceiling is passed, in words, or None."""
    if limits.own is not None and readings.own > limits.own:
        return f"this process has {readings.own:.0f} MiB of memory, above {limits.own:.0f} (--max-memory)"
    if limits.used is not None and readings.used > limits.used:
        return f"{readings.used:.0%} of the machine's memory is in use, above {limits.used:.0%} (--max-memory)"
    if limits.load is not None and readings.load > limits.load:
        return f"the load per core is {readings.load:.2f}, above {limits.load:g} (--max-load)"
    return None


class Ceilings:
    """Tells whether a task may be started; logs when that ends to be so, and when it begins again."""

    def __init__(self, limits: Limits, read: Callable[[], Readings]) -> None:
        """Take the ceilings, and how to read where things stand, which is done at most once a second."""
        self._limits, self._read = limits, read
        self._passed: str | None = None
        self._next = 0.0

    def may_start(self) -> bool:
        """Return whether no ceiling is passed."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + INTERVAL
            before, self._passed = self._passed, above(self._limits, self._read())
            if self._passed and not before:
                log.warning("no task is started, those that run go on: %s", self._passed)
            elif before and not self._passed:
                log.warning("tasks are started again: no ceiling is passed any more")
        return self._passed is None


def ceilings(max_memory: str | None, max_load: float | None) -> Ceilings | None:
    """Return the ceilings for these settings, or None without any; raises ConfigError where they cannot be read."""
    if max_memory is None and max_load is None:
        return None
    percent = max_memory is not None and max_memory.endswith("%")
    limits = Limits(
        own=float(max_memory) if max_memory and not percent else None,
        used=float(max_memory[:-1]) / 100 if max_memory and percent else None,
        load=max_load,
    )

    def read() -> Readings:
        return Readings(
            own=_own() if limits.own is not None else 0.0,
            used=_used() if limits.used is not None else 0.0,
            load=_load() if limits.load is not None else 0.0,
        )

    _try("max_memory", _own if limits.own else _used if limits.used else float, f"{PROC} tells it, on Linux only")
    _try("max_load", _load if limits.load else float, "the system tells none")
    return Ceilings(limits, read)


def _try(name: str, read: Callable[[], float], why: str) -> None:
    try:
        read()
    except (OSError, AttributeError, LookupError, ValueError) as error:
        raise ConfigError(f"{name}: it cannot be read here ({why}); leave it out") from error


def _own() -> float:
    pages = int((PROC / "self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def _used() -> float:
    lines = (line.split() for line in (PROC / "meminfo").read_text().splitlines())
    amounts = {words[0]: int(words[1]) for words in lines}
    return 1 - amounts["MemAvailable:"] / amounts["MemTotal:"]


def _load() -> float:
    return os.getloadavg()[0] / (os.cpu_count() or 1)
