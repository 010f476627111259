"""What happens to tasks, told to a listener: ``on_event``. One at a time and in order, beside the consumer's loop."""

import asyncio
import logging
from typing import Final

from .hooks import PATIENCE, Event, OnEvent, tell_event
from .signs import Ending
from .task import TaskState

log = logging.getLogger("taskqueue.server")

# A listener that is slower than the tasks must not fill the memory.
MOST_WAITING: Final = 10_000
_WHAT: Final = {"complete": "completed", "fail": "failed", "retry": "retry", "release": "released"}


class Events:
    """The events of one consumer."""

    def __init__(self, hook: OnEvent, *, consumer: str) -> None:
        """Take whom to tell."""
        self._hook, self._consumer = hook, consumer
        self._waiting: asyncio.Queue[Event] = asyncio.Queue(MOST_WAITING)
        self._lost = 0

    def ended(self, ending: Ending) -> None:
        """Note that a delivery has ended; for ``Signs.on_ended``."""
        task = ending.task
        if task is None:
            return
        event = Event(
            what=_WHAT[ending.kind],
            id=task.id,
            queue=ending.queue,
            method=task.method,
            path=task.path,
            label=task.label,
            route=task.route,
            status=task.status,
            reason=ending.reason,
            attempt=task.attempt,
            actor=self._consumer,
        )
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            self._lost += 1
            if self._lost == 1:
                log.warning("on_event is slower than the tasks: events are being left out")

    async def watch(self) -> None:
        """Tell what happens, for ever; what is still to be told at the end is told then, as far as 10 s allow."""
        telling: asyncio.Task[None] | None = None
        try:
            while True:
                telling = asyncio.create_task(tell_event(self._hook, await self._waiting.get()))
                await asyncio.shield(telling)
        finally:
            # A stop waits for this.
            loop = asyncio.get_running_loop()
            until = loop.time() + PATIENCE
            if telling is not None:
                await telling
            while not self._waiting.empty() and loop.time() < until:
                await tell_event(self._hook, self._waiting.get_nowait())
            self._lost += self._waiting.qsize()
            if self._lost:
                log.warning("on_event: %d event(s) were left out", self._lost)


def event_of(task: TaskState, what: str, *, actor: str, forced: bool = False) -> Event:
    """Return what is told of a task to which somebody has done something."""
    return Event(
        what=what,
        id=task.id,
        queue=task.queue,
        method=task.method,
        path=task.path,
        label=task.label,
        route=task.route,
        status=task.status,
        reason=task.reason,
        attempt=task.attempt,
        actor=actor,
        forced=forced,
    )
