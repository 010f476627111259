"""What is kept of a response's content, whichever way it came."""

import logging
from collections.abc import Mapping
from typing import Final

from .errors import InvalidReport
from .reporting import MAX_BYTES, MEDIA_TYPE, Report, parse

log = logging.getLogger("taskqueue.server")

# How much of an answer that people may want to see is kept with its task; what is longer may be kept as a file.
KEPT_BYTES: Final = 16 * 1024


class Content:
    """What is kept of a response's content: the beginning of what people want to see, and all of a report."""

    def __init__(self, headers: Mapping[str, str], *, shown: int) -> None:
        """Take the response's headers, caseless, and how many bytes of its content are for people to see."""
        kind = headers.get("content-type")
        self._shown = shown
        self._reports = kind is not None and kind.partition(";")[0].strip().lower() == MEDIA_TYPE
        # Of a report one more, to know what is too long.
        self._most = max(shown, MAX_BYTES + 1) if self._reports else shown
        self._kept = bytearray()
        self.size = 0
        """How many bytes it had, kept or not."""

    def take(self, piece: bytes) -> None:
        """Take a piece of it."""
        self.size += len(piece)
        if len(self._kept) < self._most:
            self._kept += piece[: self._most - len(self._kept)]

    @property
    def shown(self) -> bytes:
        """The beginning, for people."""
        return bytes(self._kept[: self._shown])

    def report(self, task_id: str) -> Report | None:
        """Return the report that it is; one that cannot be read is logged, and changes nothing for the task."""
        if not self._reports:
            return None
        try:
            return parse(bytes(self._kept[: MAX_BYTES + 1]))
        except InvalidReport as error:
            log.warning("task %s: its answer calls itself a report: %s", task_id, error, extra={"task_id": task_id})
            return None
