"""What an operator does to tasks: cancel, archive, run now, run again, and get moving what is stuck.

Many tasks are dealt with in batches, read page by page, so that a queue of any length can be worked through. Who did it
stands in each task's log.
"""

import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .admin import PAGE, Admin, Filter
from .broker import Broker, Withdrawal
from .errors import RecordError
from .keys import Keyring
from .record import EXPIRES_AFTER
from .seal import NONCE_BYTES, seal
from .task import StateName, TaskState

HELD: Final[Sequence[StateName]] = ("reserved", "running")
# In which states a task is looked for when all are meant; with force, in those under way too.
WITHDRAWN_FROM: Final[dict[Withdrawal, Sequence[StateName]]] = {
    "cancelled": ("queued", "scheduled", "waiting"),
    "archived": ("completed", "failed", "cancelled"),
}
# These keep their place while one goes through them; in all others what is dealt with drops out.
_IN_PLACE: Final[Sequence[StateName]] = ("queued", *HELD)
PATIENCE: Final = 10.0

Progress = Callable[[int], None]


@dataclass(slots=True)
class Tally:
    """What became of the tasks that were to be withdrawn.

    ``marked`` are under way, and end as soon as their consumers hear of it; ``refused`` says of each of the others its
    state, or ``unknown``.
    """

    done: list[str] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many were asked for."""
        return len(self.done) + len(self.marked) + len(self.refused)


@dataclass(frozen=True, slots=True)
class Stuck:
    """A task that gets nowhere: ``why`` is ``waits``, ``overdue`` (under way for too long), or ``lost``.

    What is lost is in no line, or held by nobody: only that can be started again. ``seconds`` is for how long.
    """

    task: TaskState
    why: str
    seconds: float

    @property
    def orphan(self) -> bool:
        """Whether nobody will ever come to it."""
        return self.why == "lost"


class Actor:
    """Does these things, and says who did them. Raises BrokerUnavailable, ConfigError."""

    def __init__(self, broker: Broker, admin: Admin, name: str) -> None:
        """Take the broker, how to find tasks in it, and who acts."""
        self._broker, self._admin, self._name = broker, admin, name

    async def withdraw(self, tasks: Sequence[TaskState], word: Withdrawal, *, force: bool) -> Tally:
        """Cancel or archive these tasks."""
        tally = Tally()
        for queue in dict.fromkeys(task.queue for task in tasks):
            ids = [task.id for task in tasks if task.queue == queue]
            for start in range(0, len(ids), PAGE):
                await self._withdraw(queue, ids[start : start + PAGE], word, tally, force=force)
        return tally

    async def _withdraw(self, queue: str, ids: Sequence[str], word: Withdrawal, tally: Tally, *, force: bool) -> int:
        answers = await self._broker.withdraw(queue, ids, word, actor=self._name, force=force, deadline=_soon())
        for task_id, answer in zip(ids, answers, strict=True):
            if answer == word:
                tally.done.append(task_id)
            elif answer == "marked":
                tally.marked.append(task_id)
            else:
                tally.refused[task_id] = answer
        return answers.count(word)

    async def withdraw_all(
        self, word: Withdrawal, only: Filter, *, force: bool, progress: Progress = lambda _: None
    ) -> Tally:
        """Cancel what has not begun, or archive what has ended; with ``force`` also what is under way."""
        tally = Tally()
        states = (*WITHDRAWN_FROM[word], *((*HELD, "queued", "scheduled", "waiting") if force else ()))
        for queue in self._admin.queues:
            for state in dict.fromkeys(states):
                async for page in self._pages(queue, state, only, tally):
                    await self._withdraw(queue, page, word, tally, force=force)
                    progress(tally.count)
        return tally

    async def _pages(self, queue: str, state: StateName, only: Filter, tally: Tally) -> AsyncIterator[Sequence[str]]:
        """Yield ids in batches; what was done to the last batch is in the tally before the next is looked for."""
        if state in _IN_PLACE:
            batch: list[str] = []
            async for task in self._admin.walk(queue, state):
                if only.takes(task):
                    batch.append(task.id)
                if len(batch) == PAGE:
                    yield batch
                    batch = []
            if batch:
                yield batch
            return
        offset = 0
        while page := await self._admin.page(queue, state, limit=PAGE, offset=offset):
            chosen, before = [task.id for task in page if only.takes(task)], len(tally.done)
            if chosen:
                yield chosen
            offset += len(page) - (len(tally.done) - before)

    async def hasten(self, tasks: Sequence[TaskState]) -> int:
        """Queue now, in front, what waits for its time; return how many were."""
        hastened = 0
        for queue in dict.fromkeys(task.queue for task in tasks):
            ids = [task.id for task in tasks if task.queue == queue]
            hastened += await self._broker.hasten(queue, ids, actor=self._name, deadline=_soon())
        return hastened

    async def rerun(self, task: TaskState, keyring: Keyring) -> str | None:
        """Queue a new task that asks what this one asked, for the same user; return its id, None without a record.

        Raises RecordError if the record cannot be opened, BrokerUnavailable, QueueFull, QueueClosed.
        """
        request = await self._admin.request(task, keyring)
        if request is None:
            return None
        now = time.time_ns() // 1_000_000
        lasts = round(EXPIRES_AFTER.total_seconds() * 1000)
        again = replace(
            request, id=str(uuid.uuid4()), created=now, expires=now + lasts, priority=task.priority, child=False
        )
        sealed = seal(keyring, again, nonce=secrets.token_bytes(NONCE_BYTES))
        await self._broker.push(task.queue, [sealed], deadline=_soon())
        return again.id

    async def restart(self, tasks: Sequence[TaskState]) -> int:
        """Queue again what is lost; return how many were."""
        restarted = 0
        for queue in dict.fromkeys(task.queue for task in tasks):
            ids = [task.id for task in tasks if task.queue == queue]
            for start in range(0, len(ids), PAGE):
                batch = ids[start : start + PAGE]
                restarted += await self._broker.restart(queue, batch, actor=self._name, deadline=_soon())
        return restarted

    async def stuck(
        self,
        only: Filter,
        *,
        age: float,
        may_take: float,
        keyring: Keyring | None,
        progress: Progress = lambda _: None,
    ) -> list[Stuck]:
        """Return what gets nowhere, the longest first. Goes through all tasks.

        That is: what has waited in line for ``age`` seconds; what is under way for longer than its own time-out (the
        secret tells it), or than ``may_take`` seconds; and what is lost.
        """
        found: list[Stuck] = []
        seen = 0
        for queue in self._admin.queues:
            waiting: list[TaskState] = []
            held = {task.id for state in HELD async for task in self._admin.walk(queue, state)}
            async for batch in self._admin.scan(queue):
                waiting += [task for task in batch if task.state == "queued" and _since(task) >= age]
                under_way = [task for task in batch if task.state in HELD and only.takes(task)]
                found += [one for task in under_way if (one := await self._judged(task, held, may_take, keyring))]
                seen += len(batch)
                progress(seen)
            found += await self._waiting(queue, [task for task in waiting if only.takes(task)])
        return sorted(found, key=lambda one: one.seconds, reverse=True)

    async def _waiting(self, queue: str, tasks: Sequence[TaskState]) -> list[Stuck]:
        """Judge what has waited for long: what is in no line is lost."""
        if not tasks:
            return []
        in_line = {task.id async for task in self._admin.walk(queue, "queued")}
        return [
            Stuck(task, "waits" if task.id in in_line else "lost", _since(task))
            for task in tasks
            if task.id in in_line or await self._unmoved(task)
        ]

    async def _judged(self, task: TaskState, held: set[str], may_take: float, keyring: Keyring | None) -> Stuck | None:
        if task.id not in held:
            return Stuck(task, "lost", _since(task)) if await self._unmoved(task) else None
        longest = await self._timeout(task, keyring) or may_take
        return Stuck(task, "overdue", _since(task)) if _since(task) > longest else None

    async def _unmoved(self, task: TaskState) -> bool:
        """Tell whether a task is still as it was; else it was on its way while we looked."""
        now = await self._broker.get(task.queue, task.id, deadline=_soon())
        return now is not None and (now.state, now.changed) == (task.state, task.changed)

    async def _timeout(self, task: TaskState, keyring: Keyring | None) -> float | None:
        if keyring is None:
            return None
        try:
            request = await self._admin.request(task, keyring)
        except RecordError:
            return None  # Its consumer says so, and fails it.
        return request.timeout if request else None


def _since(task: TaskState) -> float:
    return time.time() - task.changed / 1000


def _soon() -> float:
    return time.monotonic() + PATIENCE
