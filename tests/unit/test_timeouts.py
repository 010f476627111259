"""Timeouts that share a timer do what those of asyncio do."""

import asyncio
from typing import Any

import pytest

from taskqueue.timeouts import Timeouts


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the times for which a timer was asked for."""
    loop, asked = asyncio.get_running_loop(), list[float]()
    call_at = loop.call_at

    def counted(at: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        asked.append(at)
        return call_at(at, *args, **kwargs)

    monkeypatch.setattr(loop, "call_at", counted)
    return asked


async def hangs(timeouts: Timeouts, seconds: float) -> str:
    with timeouts.after(seconds):
        await asyncio.Event().wait()
    return "never"


async def test_what_hangs_is_ended_when_its_time_is_over() -> None:
    limit = Timeouts().after(0.01)
    with pytest.raises(TimeoutError), limit:
        await asyncio.Event().wait()
    assert limit.expired
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
    await asyncio.sleep(0)  # nothing is left of the cancellation


async def test_each_ends_in_its_own_time_whatever_the_order() -> None:
    timeouts, ended = Timeouts(), list[float]()

    async def one(seconds: float) -> None:
        with pytest.raises(TimeoutError):
            await hangs(timeouts, seconds)
        ended.append(seconds)

    await asyncio.gather(*(one(seconds) for seconds in (0.06, 0.02, 0.04, 0.02)))
    assert ended == [0.02, 0.02, 0.04, 0.06]


async def test_many_that_end_before_share_one_timer(timers: list[float]) -> None:
    timeouts = Timeouts()
    for _ in range(100):
        with timeouts.after(30) as limit:
            await asyncio.sleep(0)
        assert not limit.expired
    assert len(timers) == 1


async def test_after_the_timer_has_rung_the_next_one_is_ended_too() -> None:
    timeouts = Timeouts()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await hangs(timeouts, 0.01)


async def test_one_that_was_left_is_not_ended_later() -> None:
    timeouts = Timeouts()
    with timeouts.after(0.01):
        pass
    await asyncio.sleep(0.03)


async def test_without_an_end_it_needs_no_timer(timers: list[float]) -> None:
    with Timeouts().after(float("inf")) as limit:
        await asyncio.sleep(0)
    assert (timers, limit.expired) == ([], False)


async def test_who_else_has_cancelled_the_task_is_heard() -> None:
    timeouts = Timeouts()
    job = asyncio.create_task(hangs(timeouts, 30))
    await asyncio.sleep(0)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job


async def test_a_cancellation_counts_more_than_a_time_that_is_over_as_well() -> None:
    limit = Timeouts().after(30)

    async def run() -> None:
        with limit:
            await asyncio.Event().wait()

    job = asyncio.create_task(run())
    await asyncio.sleep(0)
    job.cancel()
    limit.expire()
    with pytest.raises(asyncio.CancelledError):
        await job


async def test_what_the_application_raises_of_its_end_is_its_own() -> None:
    limit = Timeouts().after(0.01)

    async def raises() -> None:
        with limit:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise LookupError from None

    with pytest.raises(LookupError):
        await raises()
    assert limit.expired
