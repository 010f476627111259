"""What happened, written down by those to whom it happened, and never read from Redis.

Each process appends lines to a file of its own and syncs each one, so that what it wrote outlives it. Times are those
of the machine's monotonic clock, which all its processes share.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, Self


class Event(NamedTuple):
    """One line: when (seconds), who wrote it, what happened, and to what."""

    at: float
    source: str
    word: str
    about: tuple[str, ...]


class Ledger:
    """The file of one process; ``role`` tells readers what it was."""

    def __init__(self, folder: Path, role: str) -> None:
        folder.mkdir(exist_ok=True)
        self._file: Final = os.open(folder / f"{role}-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, word: str, *about: object) -> None:
        """Write one line; on return it is on the disk. The fields have no blanks in them."""
        os.write(self._file, " ".join((f"{time.monotonic():.6f}", word, *map(str, about))).encode() + b"\n")
        os.fdatasync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(folder: Path) -> list[Event]:
    """Return what all of them wrote, by time; a line that was cut off by the death of its writer is no line."""
    events = (event for path in folder.iterdir() for event in parse(path.name, path.read_text().splitlines(True)))
    return sorted(events, key=lambda event: event.at)


def parse(source: str, lines: Iterable[str]) -> Iterable[Event]:
    """Yield the events of one file's lines."""
    for line in lines:
        if line.endswith("\n"):
            at, word, *about = line.split()
            yield Event(float(at), source, word, tuple(about))


def size(folder: Path) -> int:
    """Return how many bytes were written so far: as long as that grows, something happens."""
    return sum(path.stat().st_size for path in folder.iterdir())
