"""A broker that does not answer: said once and then each minute, and given up when the patience is over."""

import logging
import time
from typing import Final

from .errors import BrokerUnavailable

log = logging.getLogger("taskqueue.server")

# Seconds.
REMIND: Final = 60.0


class Absence:
    """Since when a broker has been away, if it is."""

    def __init__(self, patience: float | None) -> None:
        """Take for how many seconds it is waited for; None: for ever."""
        self._patience = patience
        self._since: float | None = None
        self._reminded = 0.0

    def __bool__(self) -> bool:
        """Tell whether the broker is away."""
        return self._since is not None

    def note(self, error: BrokerUnavailable) -> None:
        """Note that it did not answer; raises the error when it has been away for longer than is waited for."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if now - self._reminded >= REMIND:
            self._reminded = now
            log.warning("broker unreachable, trying on: %s", error)
        if self._patience is not None and now - self._since > self._patience:
            raise error

    def end(self) -> None:
        """Note that it has answered."""
        if self._since is not None:
            log.warning("broker back after %.1f s", time.monotonic() - self._since)
            self._since, self._reminded = None, 0.0
