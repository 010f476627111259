"""What a commit that has returned survives: as it is declared, and as a store keeps it.

``memory``: nothing but the life of the store. ``process``: its death, through an append-only file. ``disk``: a power
cut too, because each write is synced before it is answered. ``replica:N``: the loss of the machine, because N replicas
have confirmed each commit. Only the last changes what a producer does; the others are how the store was set up, and
checked. Redis has a command that waits for the disk, WAITAOF; some servers answer it before the disk has anything, so
nothing here is built on it.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal, cast

from .errors import ConfigError

Level = Literal["memory", "process", "disk", "replica"]

_DECLARED: Final = re.compile(r"(memory|process|disk)|replica(?::([1-9]))?")


@dataclass(frozen=True, slots=True)
class Durability:
    """A declared level; ``replicas`` must confirm each commit, 0 unless the level is ``replica``."""

    level: Level
    replicas: int = 0

    def __str__(self) -> str:
        return f"{self.level}:{self.replicas}" if self.replicas else self.level


def durability(declared: str) -> Durability:
    """Take ``memory``, ``process``, ``disk``, ``replica`` (one) or ``replica:N`` (1 to 9); raise ConfigError else."""
    match = _DECLARED.fullmatch(declared)
    if not match:
        raise ConfigError(
            f"durability: {declared!r} must be memory, process, disk, replica or replica:N with N from 1 to 9"
        )
    if match[1]:
        return Durability(cast("Level", match[1]))
    return Durability("replica", int(match[2] or 1))


def kept(*, appendonly: bool | None, fsync: str | None) -> Level | None:
    """Return the level that a store's append-only file gives, or None if the store does not tell."""
    if appendonly is None:
        return None
    if not appendonly:
        return "memory"
    return "disk" if fsync == "always" else "process"
