"""Counts in one process, read in another."""

import mmap
import struct
from pathlib import Path
from typing import Final

NUMBERS: Final = struct.Struct("=QQ")
"""What such a file holds: how many requests came, and how many of them were not the work."""


class Counter:
    """Two numbers in a file that is mapped into memory: others read them without disturbing who counts."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._numbers = mmap.mmap(file.fileno(), NUMBERS.size)
        self._count = self._wrong = 0

    def count(self, *, right: bool) -> None:
        """Count one request."""
        self._count += 1
        self._wrong += not right
        NUMBERS.pack_into(self._numbers, 0, self._count, self._wrong)

    def close(self) -> None:
        """Close the file."""
        self._numbers.close()

    def read(self) -> tuple[int, int]:
        """Return what anybody has counted: all, and the wrong ones."""
        count, wrong = NUMBERS.unpack_from(self._numbers)
        return int(count), int(wrong)
