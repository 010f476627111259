"""Timeouts of many calls with one timer for all of them: ``asyncio.timeout`` has one for each, which costs more."""

import asyncio
import math
from typing import Any, Final, Self


class Timeouts:
    """Makes timeouts, all of one event loop."""

    def __init__(self) -> None:
        """Begin with none."""
        self._running: Final[dict[Timeout, None]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf

    def after(self, seconds: float) -> "Timeout":
        """Return one that ends what runs in it so many seconds from now."""
        return Timeout(self, asyncio.get_running_loop().time() + seconds)

    def entered(self, timeout: "Timeout") -> None:
        """See to it that this one is told when its time is over."""
        self._running[timeout] = None
        self._wake_at(timeout.at)

    def left(self, timeout: "Timeout") -> None:
        """Forget it."""
        self._running.pop(timeout, None)

    def _wake_at(self, at: float) -> None:
        if at < self._alarm_at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm_at, self._alarm = at, asyncio.get_running_loop().call_at(at, self._ring)

    def _ring(self) -> None:
        self._alarm_at, self._alarm = math.inf, None
        now = asyncio.get_running_loop().time()
        for timeout in tuple(self._running):
            if timeout.at <= now:
                self.left(timeout)
                timeout.expire()
        self._wake_at(min((timeout.at for timeout in self._running), default=math.inf))


class Timeout:
    """``with``: cancels the asyncio task that has entered it when its time is over, which then raises TimeoutError."""

    __slots__ = ("_all", "_cancelling", "_task", "at", "expired")

    def __init__(self, others: Timeouts, at: float) -> None:
        """Take those it belongs to, and when its time is over, as the event loop's clock shows it."""
        self._all, self.at = others, at
        self.expired = False
        """Whether it has cancelled what ran in it."""

    def __enter__(self) -> Self:
        task: Any = asyncio.current_task()
        self._task, self._cancelling = task, task.cancelling()
        self._all.entered(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._all.left(self)
        # As asyncio's own does: whoever else has cancelled the task meanwhile is heard in its place.
        if self.expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """End what runs in it."""
        self.expired = True
        self._task.cancel()
