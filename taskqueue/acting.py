"""What an operator does to tasks: cancel, archive, run now, retry, run again, and get moving what is stuck.

Many tasks are dealt with in batches, read page by page, so that a queue of any length can be worked through. Who did it
stands in each task's log.
"""

import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .admin import PAGE, Admin, Filter
from .broker import Withdrawal
from .errors import RecordError
from .events import event_of
from .hooks import OnEvent, tell_event
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
# Whether one is in its line at all takes a look along all of that line.
RESTARTED_AT_ONCE: Final = 20

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

    def __init__(self, admin: Admin, name: str, *, on_event: OnEvent | None = None) -> None:
        """Take where the tasks are, who acts, and whom to tell."""
        self._broker, self._admin, self._name, self._on_event = admin.broker, admin, name, on_event

    async def _tell(self, task: TaskState, what: str, *, forced: bool = False) -> None:
        if self._on_event is not None:
            await tell_event(self._on_event, event_of(task, what, actor=self._name, forced=forced))

    async def _tell_of_moved(self, tasks: Sequence[TaskState], what: str) -> None:
        """Tell of those of these tasks that are not as they were: the others were left alone."""
        for task in tasks if self._on_event is not None else ():
            if not await self._unmoved(task):
                await self._tell(task, what)

    async def withdraw(self, tasks: Sequence[TaskState], word: Withdrawal, *, force: bool) -> Tally:
        """Cancel or archive these tasks."""
        tally = Tally()
        for queue, batch in _batches(tasks):
            await self._withdraw(queue, batch, word, tally, force=force)
        return tally

    async def _withdraw(
        self, queue: str, tasks: Sequence[TaskState], word: Withdrawal, tally: Tally, *, force: bool
    ) -> None:
        ids = [task.id for task in tasks]
        answers = await self._broker.withdraw(queue, ids, word, actor=self._name, force=force, deadline=_soon())
        for task, answer in zip(tasks, answers, strict=True):
            if answer == word:
                tally.done.append(task.id)
            elif answer == "marked":
                tally.marked.append(task.id)
            else:
                tally.refused[task.id] = answer
            if answer in (word, "marked"):
                await self._tell(task, word, forced=force)

    async def withdraw_all(
        self, word: Withdrawal, only: Filter, *, force: bool, progress: Progress = lambda _: None
    ) -> Tally:
        """Cancel what has not begun, or archive what has ended; with ``force`` also what is under way."""
        tally = Tally()
        more: Sequence[StateName] = (*HELD, *WITHDRAWN_FROM["cancelled"]) if force else ()
        states: Sequence[StateName] = (*WITHDRAWN_FROM[word], *more)
        for queue in self._admin.queues:
            for state in dict.fromkeys(states):
                async for page in self._pages(queue, state, only, tally):
                    await self._withdraw(queue, page, word, tally, force=force)
                    progress(tally.count)
        return tally

    async def _pages(
        self, queue: str, state: StateName, only: Filter, tally: Tally
    ) -> AsyncIterator[Sequence[TaskState]]:
        """Yield tasks in batches; what was done to the last batch is in the tally before the next is looked for."""
        if state in _IN_PLACE:
            batch: list[TaskState] = []
            async for task in self._admin.walk(queue, state):
                if only.takes(task):
                    batch.append(task)
                if len(batch) == PAGE:
                    yield batch
                    batch = []
            if batch:
                yield batch
            return
        offset = 0
        while page := await self._admin.page(queue, state, limit=PAGE, offset=offset):
            chosen, before = [task for task in page if only.takes(task)], len(tally.done)
            if chosen:
                yield chosen
            offset += len(page) - (len(tally.done) - before)

    async def hasten(self, tasks: Sequence[TaskState]) -> int:
        """Queue now, in front, what waits for its time; return how many were."""
        hastened = 0
        for queue, batch in _batches(tasks):
            ids = [task.id for task in batch]
            hastened += await self._broker.hasten(queue, ids, actor=self._name, deadline=_soon())
            await self._tell_of_moved(batch, "hastened")
        return hastened

    async def retry(
        self, tasks: Sequence[TaskState], keyring: Keyring | None, *, progress: Progress = lambda _: None
    ) -> int:
        """Queue failed or cancelled tasks again, see Admin; return how many were."""
        queued = await self._admin.retry(tasks, keyring, actor=self._name, progress=progress)
        await self._tell_of_moved(tasks, "retried")
        return queued

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
        await self._tell(task, "rerun")
        return again.id

    async def restart(self, tasks: Sequence[TaskState]) -> int:
        """Queue again what is lost; return how many were."""
        restarted = 0
        for queue, batch in _batches(tasks, RESTARTED_AT_ONCE):
            ids = [task.id for task in batch]
            restarted += await self._broker.restart(queue, ids, actor=self._name, deadline=_soon())
            await self._tell_of_moved(batch, "restarted")
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


def _batches(tasks: Sequence[TaskState], most: int = PAGE) -> Iterator[tuple[str, Sequence[TaskState]]]:
    """Yield these tasks queue by queue, so many at a time as one move takes."""
    for queue in dict.fromkeys(task.queue for task in tasks):
        chosen = [task for task in tasks if task.queue == queue]
        for start in range(0, len(chosen), most):
            yield queue, chosen[start : start + most]


def _since(task: TaskState) -> float:
    return time.time() - task.changed / 1000


def _soon() -> float:
    return time.monotonic() + PATIENCE
