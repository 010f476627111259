"""One queue as a consumer sees it: how often what was kept long enough is cleared out."""

from typing import Any, Final

import pytest

from taskqueue import line as module
from taskqueue.broker import Lease, Trimmed
from taskqueue.line import TRIM_EVERY, Line

HOUR: Final = 3600.0


class Store:
    """As much of a broker as is asked."""

    def __init__(self) -> None:
        self.trimmed = 0

    async def trim(self, *_: Any, **__: Any) -> Trimmed:
        self.trimmed += 1
        return Trimmed(0)


async def trimmed(*settled: int) -> int:
    """Return how often is trimmed after turns that settle so many."""
    line, store = Line(Lease("default", "one", "1-a")), Store()
    for count in settled:
        await line.trim(store, count)  # type: ignore[arg-type]
    return store.trimmed


async def test_a_busy_queue_is_trimmed_by_what_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRIM_AFTER", HOUR)
    assert await trimmed(0) == 1
    assert await trimmed(0, TRIM_EVERY - 1) == 1
    assert await trimmed(0, TRIM_EVERY - 1, 1, 1) == 2


async def test_an_idle_queue_is_trimmed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or what a quiet queue has kept would stay for months, whatever its retention says."""
    monkeypatch.setattr(module, "TRIM_AFTER", 0.0)
    assert await trimmed(0, 0, 0) == 3
