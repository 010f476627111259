"""Waiting for a condition, where a sleep would be a guess: the only place in the tests that sleeps."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

LIMIT_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.01


def wait_until(
    condition: Callable[[], bool], what: str, *, limit: float = LIMIT_SECONDS, every: float = POLL_SECONDS
) -> None:
    """Return once the condition holds; after ``limit`` seconds raise AssertionError that says ``what`` did not."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit} s: {what}"
        time.sleep(every)  # noqa: TID251  here is the waiting for a condition


async def until(condition: Callable[[], Awaitable[bool]], what: str, *, limit: float = LIMIT_SECONDS) -> None:
    """As wait_until, for a condition that is a coroutine function, letting the loop run meanwhile."""
    deadline = time.monotonic() + limit
    while not await condition():
        assert time.monotonic() < deadline, f"not within {limit} s: {what}"
        await asyncio.sleep(POLL_SECONDS)
