"""Deciding what no producer has decided: tasks whose process died between the vote and the end of its transaction.

The broker sets them aside as failed ``in-doubt`` a minute after the vote. Whether the transaction has committed, only
the application's own data tell: its resolver is asked, and what it knows is carried out.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from .broker import CALL_DEADLINE, Broker
from .errors import BrokerUnavailable, ConfigError
from .hooks import called
from .task import TaskState

log = logging.getLogger("taskqueue.server")

# Seconds between two looks.
INTERVAL: Final = 5.0
PAGE: Final = 100
IN_DOUBT: Final = "in-doubt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """A task of which only the application knows whether its transaction has committed; ``voted`` in ms since 1970."""

    id: str
    queue: str
    method: str
    path: str
    label: str
    voted: int


Resolve: TypeAlias = Callable[[Doubt], bool | Awaitable[bool | None] | None]


class Doubts:
    """Asks the resolver about every task in doubt: True, it has committed; False, it has not; None, not known yet."""

    def __init__(self, broker: Broker, queues: Sequence[str], resolve: Resolve) -> None:
        """Take where the tasks are, and whom to ask; it may be plain or async, and has 10 s."""
        self._broker, self._queues, self._resolve = broker, queues, resolve
        self._seen = dict.fromkeys(queues, 0)  # when what was seen last had failed, ms
        self._open: dict[str, TaskState] = {}

    async def watch(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            try:
                await self.look()
            except (BrokerUnavailable, ConfigError) as error:
                log.debug("tasks in doubt were not looked for: %s", error)
            await asyncio.sleep(INTERVAL)

    async def look(self) -> None:
        """Ask about all that is in doubt; raises BrokerUnavailable, ConfigError."""
        for queue in self._queues:
            latest = self._seen[queue]
            async for task in self._failed_since(queue, latest):
                self._seen[queue] = max(self._seen[queue], task.changed)
                if task.reason == IN_DOUBT:
                    self._open[task.id] = task
        for task in tuple(self._open.values()):
            current = await self._broker.get(task.queue, task.id, deadline=_soon())
            if current is None or (current.state, current.reason) != ("failed", IN_DOUBT):
                del self._open[task.id]
            else:
                await self._decide(current)

    async def _failed_since(self, queue: str, since: int) -> AsyncIterator[TaskState]:
        """Yield what has failed since then, the newest first; ``since`` itself too: several may fail in one ms."""
        ask = self._broker.inspector.tasks
        for offset in itertools.count(step=PAGE):
            page = await ask(queue, "failed", limit=PAGE, offset=offset, deadline=_soon())
            for task in page:
                if task.changed < since:
                    return
                yield task
            if not page:
                return

    async def _decide(self, task: TaskState) -> None:
        doubt = Doubt(
            id=task.id, queue=task.queue, method=task.method, path=task.path, label=task.label, voted=task.added
        )
        committed = await self._answer(doubt)
        if committed is None:
            return
        decide = self._broker.promote if committed else self._broker.discard
        await decide(task.queue, [task.id], deadline=_soon())
        del self._open[task.id]
        what = "it has committed, and is queued" if committed else "it was aborted, and is forgotten"
        log.warning("task %s was in doubt: %s", task.id, what, extra={"task_id": task.id})

    async def _answer(self, doubt: Doubt) -> bool | None:
        """Return what the resolver says; what it raises is logged, and it is asked again."""
        try:
            answer = await called(self._resolve, doubt)
        except Exception:
            log.exception("resolve raised for task %s, which stays in doubt", doubt.id, extra={"task_id": doubt.id})
            return None
        if answer is None or isinstance(answer, bool):
            return answer
        log.error(
            "resolve gave %s for task %s, which stays in doubt: True, False or None is needed",
            type(answer).__name__,
            doubt.id,
        )
        return None


def _soon() -> float:
    return time.monotonic() + CALL_DEADLINE
