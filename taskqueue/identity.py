"""Who this process is, in a way that still tells after its death whether that was it."""

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Identity:
    """A process: pids are used again, so its start time belongs to it; ``boot`` tells one run of one machine."""

    host: str
    pid: int
    boot: str
    start: str

    @property
    def gone(self) -> bool:
        """Whether this process ran here, under this very boot, and runs no more; False if that cannot be told."""
        here = own()
        if (self.host, self.boot) != (here.host, here.boot) or not here.boot:
            return False
        return _start_of(self.pid) != self.start


def own() -> Identity:
    """Return the identity of this process."""
    return Identity(socket.gethostname(), os.getpid(), _boot(), _start_of(os.getpid()) or str(time.time_ns()))


def _boot() -> str:
    """Return what two processes share only if they can see each other's pids: boot id and pid namespace."""
    boot = PROC / "sys/kernel/random/boot_id"
    if not boot.exists():
        return ""
    return f"{boot.read_text().strip()}:{(PROC / 'self/ns/pid').readlink()}"


def _start_of(pid: int) -> str | None:
    """Return when a process began, in clock ticks since boot; None if there is none, or only its remains."""
    try:
        state, *fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in ("Z", "X") else fields[18]
