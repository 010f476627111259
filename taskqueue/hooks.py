"""Telling the operator's own code that a task has failed for good: an error tracker, a chat, a table."""

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from .task import Reservation, Task, Verdict

log = logging.getLogger("taskqueue.server")

Subject = TypeVar("Subject")

# Seconds a hook may take; a stop waits for those under way.
PATIENCE: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedTask:
    """A task that a delivery has failed: what may be known of it without its secret.

    ``reason`` is one of ``exhausted``, ``auth``, ``not-found``, ... ; ``status`` the response's, 0 if there was none.
    Of a record that cannot be opened ``method`` and ``path`` are empty.
    """

    id: str
    queue: str
    method: str
    path: str
    label: str
    reason: str
    status: int
    attempt: int
    delivery: int


OnFailed: TypeAlias = Callable[[FailedTask], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that has happened to a task.

    ``what``: a delivery has ``completed`` or ``failed``, is to be followed by another (``retry``), or was given back
    (``released``); or somebody has ``cancelled``, ``archived``, ``hastened``, ``retried`` or ``restarted`` it, or had
    it ``rerun``.
    ``actor`` is the consumer, or who ran the command; ``forced`` tells that it was under way when it was cancelled or
    archived, or may have been. ``status`` and ``reason`` are of the last outcome.
    """

    what: str
    id: str
    queue: str
    method: str
    path: str
    label: str
    route: str
    status: int
    reason: str
    attempt: int
    actor: str
    forced: bool = False


OnEvent: TypeAlias = Callable[[Event], object]


def failed_task(reservation: Reservation, task: Task | None, verdict: Verdict) -> FailedTask:
    """Return what is told of a delivery that ended so; ``task`` is None if its record could not be opened."""
    return FailedTask(
        id=reservation.id,
        queue=reservation.queue,
        method=task.method if task else "",
        path=task.path if task else "",
        label=task.label if task else "",
        reason=verdict.reason,
        status=verdict.status,
        attempt=reservation.attempt,
        delivery=reservation.delivery,
    )


async def called(hook: Callable[[Subject], object], subject: Subject) -> object:
    """Call a hook, a plain one in a thread, and return its answer; raises what it raises, TimeoutError after 10 s."""
    async with asyncio.timeout(PATIENCE):
        if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None)):  # noqa: B004  an object with an async __call__
            answer = hook(subject)
        else:
            answer = await asyncio.to_thread(hook, subject)
        return await answer if inspect.isawaitable(answer) else answer


async def tell_event(hook: OnEvent, event: Event) -> None:
    """Call a hook; whatever it raises is logged and changes nothing for the task."""
    try:
        await called(hook, event)
    except Exception:
        log.exception("on_event raised for task %s (%s)", event.id, event.what, extra={"task_id": event.id})


async def tell(hook: OnFailed, failed: FailedTask) -> None:
    """Call a hook; whatever it raises is logged and changes nothing for the task."""
    try:
        await called(hook, failed)
    except Exception:
        log.exception("on_failed raised for task %s, which stays failed", failed.id, extra={"task_id": failed.id})
