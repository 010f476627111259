"""Finding out and mending: which tasks there are, what happened to one of them, and queueing again what has failed.

``story`` puts a task's life in order from what the broker keeps of it: its state, and one entry for each delivery that
ended with a retry or a failure. Of a delivery that was given back nothing is kept but its number, so the story says
that instead of guessing. Everything else asks the broker in pages, so that a queue of any length can be looked through.
"""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

from .broker import Broker
from .errors import RecordError
from .inspector import ConsumerInfo, Control, Ended, QueueStats
from .keys import Keyring
from .record import EXPIRES_AFTER
from .routes import Route, Table, table_of
from .routing import kept_routes
from .seal import NONCE_BYTES, seal, unseal, unseal_response
from .task import Response, StateName, Task, TaskState

STATES: Final[tuple[StateName, ...]] = (
    "queued",
    "scheduled",
    "prepared",
    "reserved",
    "running",
    "waiting",
    "completed",
    "failed",
    "cancelled",
    "archived",
)
PAGE: Final = 500
BATCH: Final = 100
COUNTED: Final = 5000
BATCH_BYTES: Final = 4 * 1024 * 1024
PATIENCE: Final = 5.0
_HELD: Final = ("reserved", "running")
_LIFETIME_MS: Final = round(EXPIRES_AFTER.total_seconds() * 1000)
# A producer's clock and the store's may differ; a record that might have expired is looked at.
_CLOCKS_MS: Final = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Step:
    """One moment of a task's life.

    ``at`` is ms of the broker's clock, None where that is not kept; ``what`` is ``added``, ``due``, ``reserved``,
    ``begun``, ``retry``, or a state; ``seconds`` have passed since the last step whose time is known.
    """

    at: int | None
    what: str
    delivery: int = 0
    detail: str = ""
    seconds: float | None = None


def story(task: TaskState, ended: Sequence[Ended]) -> list[Step]:
    """Return the life of a task in order; ``ended`` are its deliveries that ended with a retry or a failure."""
    steps = [Step(task.added, "added", detail=f"{task.method} {task.path}")]
    last: Ended | None = None
    for end in ended:
        steps += _between(last, end.delivery)
        steps += _handed_out(end.delivery, end.attempt, end.reserved, end.begun, end.consumer)
        what = "failed" if end.verdict == "fail" else end.verdict
        steps.append(Step(end.ended, what, end.delivery, outcome(end.status, end.reason)))
        last = end
    if task.delivery > (last.delivery if last else 0):
        steps += _between(last, task.delivery)
        steps += _handed_out(task.delivery, task.attempt, task.reserved, task.begun, task.holder)
    steps += _now(task, last)
    if _was_due(task, task.delivery - (last.delivery if last else 0)):
        retried = [place for place, step in enumerate(steps) if last and step.at == last.ended and step.what == "retry"]
        first = retried[-1] + 1 if retried else 1
        later = (place for place, step in enumerate(steps) if place >= first and (step.at or 0) >= task.due)
        steps.insert(next(later, len(steps)), Step(task.due, "due"))
    return list(_timed(steps))


def _was_due(task: TaskState, since: int) -> bool:
    """Tell whether ``due`` is a time that was waited for: giving a task back writes there when that happened.

    ``since`` counts the deliveries after the last one that is known.
    """
    given_back = since > 1 or (since == 1 and task.state == "queued")
    return task.due > task.added and (task.state == "scheduled" or not given_back)


def outcome(status: int, reason: str) -> str:
    """Return what a delivery ended with, for people: ``503 server``."""
    return " ".join(part for part in (str(status or ""), reason) if part)


def _handed_out(delivery: int, attempt: int, reserved: int, begun: int, consumer: str) -> list[Step]:
    steps = [Step(reserved, "reserved", delivery, f"by {consumer}, attempt {attempt}")]
    return steps + ([Step(begun, "begun", delivery)] if begun else [])


def _between(last: Ended | None, delivery: int) -> Iterator[Step]:
    """Yield what must have happened between the last delivery that is known and this one."""
    if last is not None and last.verdict == "fail":
        yield Step(None, "queued", detail="again, after it had failed")
    first = last.delivery + 1 if last else 1
    if delivery > first:
        which = f"delivery {first}" if delivery == first + 1 else f"deliveries {first} to {delivery - 1}"
        yield Step(None, "released", detail=f"{which}: given back, or lost with the consumer")


def _now(task: TaskState, last: Ended | None) -> Iterator[Step]:
    """Yield the step that brought the task where it is, unless a delivery has told it already."""
    told = last is not None and last.delivery == task.delivery
    if task.state == "completed":
        yield Step(task.changed, "completed", task.delivery, outcome(task.status, task.reason))
    elif task.state == "failed":
        if not (told and last is not None and last.verdict == "fail"):
            yield Step(task.changed, "failed", detail=outcome(task.status, task.reason))
    elif task.state == "scheduled":
        if not told:
            yield Step(task.changed, "scheduled", detail=f"given back: {task.reason}" if task.delivery else "")
    elif task.state not in _HELD:
        detail = ""
        if told and last is not None and last.verdict == "fail":
            detail = "again, after it had failed"
        elif task.delivery and not told:
            detail = "given back" + (f", last reason: {task.reason}" if task.reason else "")
        yield Step(task.changed, task.state, detail=detail)


def _timed(steps: Sequence[Step]) -> Iterator[Step]:
    before: int | None = None
    for step in steps:
        if step.at is None or before is None:
            yield step
        else:
            yield replace(step, seconds=(step.at - before) / 1000)
        before = step.at if step.at is not None else before


def gone(consumer: ConsumerInfo, *, host: str, runs: Callable[[int], bool]) -> bool:
    """Tell whether a consumer has certainly ended: it ran on this very host and its process is no more."""
    return consumer.host == host and not runs(consumer.pid)


def unserved(stats: QueueStats, *, host: str, runs: Callable[[int], bool]) -> str | None:
    """Return a warning if tasks wait and nobody consumes, or None."""
    if not stats.queued or not all(gone(consumer, host=host, runs=runs) for consumer in stats.consumers):
        return None
    names = ", ".join(consumer.name for consumer in stats.consumers)
    why = f"its consumers have ended: {names}" if names else "it has never had a consumer"
    return f"queue {stats.queue}: {stats.queued} task(s) wait and nobody consumes; {why}"


def in_use(stats: QueueStats) -> bool:
    """Tell whether a queue has tasks, or a consumer."""
    held = (stats.queued, stats.scheduled, stats.prepared, stats.reserved, stats.failed, stats.completed)
    return any(held) or bool(stats.consumers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which tasks are meant; ``path`` may have ``*`` in it, as in ``/reports/*``. None means any."""

    reason: str | None = None
    path: str | None = None
    label: str | None = None
    route: str | None = None

    def takes(self, task: TaskState) -> bool:
        """Tell whether this task is meant."""
        for wanted, has in ((self.reason, task.reason), (self.label, task.label), (self.route, task.route)):
            if wanted is not None and wanted != has:
                return False
        return self.path is None or fnmatchcase(task.path, self.path)


class Admin:
    """The queues of one store, for people. Each question has 5 s; raises BrokerUnavailable, ConfigError."""

    def __init__(self, broker: Broker, queues: Sequence[str]) -> None:
        """Take the broker, and the queues that are looked at."""
        self.queues: Final = tuple(queues)
        self.broker: Final = broker
        self._broker, self._inspector = broker, broker.inspector

    def of(self, queues: Sequence[str]) -> "Admin":
        """Return how to look at these queues of the same store."""
        return Admin(self._broker, queues)

    async def tasks(
        self, states: Sequence[StateName] = STATES, *, only: Filter | None = None, limit: int
    ) -> list[TaskState]:
        """Return tasks, what changed last first; of the scheduled ones those that are due first."""
        chosen = only or Filter()
        found: dict[str, TaskState] = {}
        for queue in self.queues:
            for state in states:
                count = 0
                async for task in self.walk(queue, state):
                    # What is held is in no order, and never much.
                    if count >= limit and state not in _HELD:
                        break
                    if chosen.takes(task):
                        found.setdefault(task.id, task)
                        count += 1
        if tuple(states) == ("scheduled",):
            return sorted(found.values(), key=lambda task: task.due)[:limit]
        return sorted(found.values(), key=lambda task: task.changed, reverse=True)[:limit]

    async def page(self, queue: str, state: StateName, *, limit: int, offset: int) -> list[TaskState]:
        """Return tasks of one state, see Inspector."""
        return await self._inspector.tasks(queue, state, limit=limit, offset=offset, deadline=_soon())

    async def scan(self, queue: str) -> AsyncIterator[Sequence[TaskState]]:
        """Yield all that a queue knows of, in batches and in no order; of what changes meanwhile some may be missed."""
        cursor = 0
        while True:
            cursor, tasks = await self._inspector.scan(queue, cursor, deadline=_soon())
            yield tasks
            if not cursor:
                return

    async def walk(self, queue: str, state: StateName) -> AsyncIterator[TaskState]:
        """Yield the tasks of one state, the latest first; what moves on meanwhile may be told twice, or not at all."""
        stats = await self._inspector.stats(queue, deadline=_soon())
        count: int = getattr(stats, "reserved" if state in _HELD else state)
        count += stats.ghosts if state == "queued" else 0
        # The store gives the line from its front, and the scheduled ones from the last due.
        backwards = state in ("queued", "scheduled")
        for start in range(0, count, PAGE):
            size = min(PAGE, count - start)
            offset = count - start - size if backwards else start
            page = await self._inspector.tasks(queue, state, limit=size, offset=offset, deadline=_soon())
            for task in reversed(page) if backwards else page:
                yield task

    async def find(self, task_id: str) -> TaskState | None:
        """Return where the task with this id is, or None if no queue knows it."""
        for queue in self.queues:
            task = await self._broker.get(queue, task_id, deadline=_soon())
            if task is not None:
                return task
        return None

    async def life(self, task: TaskState) -> list[Step]:
        """Return the life of a task in order."""
        return story(task, (await self._inspector.log(task.queue, task.id, deadline=_soon())).ended)

    async def request(self, task: TaskState, keyring: Keyring) -> Task | None:
        """Return the recorded request, None if it is stored no more; raises RecordError if it cannot be opened."""
        record = await self._inspector.record(task.queue, task.id, deadline=_soon())
        return None if record is None else unseal(keyring, queue=task.queue, task_id=task.id, record=record)

    async def response(self, task: TaskState, keyring: Keyring) -> Response | None:
        """Return the last response to a failure of a task; None if none is kept, or it cannot be opened."""
        log = await self._inspector.log(task.queue, task.id, deadline=_soon())
        sealed = log.fields.get("response")
        return None if sealed is None else unseal_response(keyring, task.queue, task.id, sealed)

    async def stats(self) -> list[QueueStats]:
        """Count, queue by queue."""
        return [await self.stats_of(queue) for queue in self.queues]

    async def stats_of(self, queue: str) -> QueueStats:
        """Count in one queue, whichever."""
        return await self._inspector.stats(queue, deadline=_soon())

    async def used_queues(self) -> list[str]:
        """Return the name of every queue that has tasks or had a consumer. Looks through the whole store."""
        return await self._inspector.queues(deadline=_soon())

    async def latest(self, queue: str, state: StateName) -> int:
        """Return when the last task came into this state (ms), 0 if none is kept; for states that have an index."""
        page = await self._inspector.tasks(queue, state, limit=1, offset=0, deadline=_soon())
        return max((task.changed for task in page), default=0)

    async def ended_since(self, queue: str, state: StateName, mark: int) -> tuple[int, int]:
        """Return how many tasks came into this state after ``mark`` (ms), and when the last one did.

        For states that have an index; counts no further than 5000.
        """
        count, newest = 0, mark
        for offset in range(0, COUNTED, PAGE):
            page = await self._inspector.tasks(queue, state, limit=PAGE, offset=offset, deadline=_soon())
            later = [task.changed for task in page if task.changed > mark]
            count, newest = count + len(later), max([newest, *later])
            if len(later) < PAGE:
                break
        return count, newest

    async def control(self, queue: str, changes: Mapping[Control, int | None]) -> None:
        """Say how a queue is to be run; None takes a word back."""
        await self._broker.control(queue, changes, deadline=_soon())

    async def routes(self) -> Table[Route]:
        """Return the rules in the broker, by path in order."""
        return table_of(await kept_routes(self._broker, deadline=_soon()))

    async def route(self, path: str, rule: Route | None) -> bool:
        """Keep this rule in the broker for a path, or with None none; tell whether there was one."""
        kept = path in await self._broker.routes(deadline=_soon())
        await self._broker.route(path, None if rule is None else rule.pack(), deadline=_soon())
        return kept

    async def purge(self, queue: str, *, most: int) -> int:
        """Forget up to so many tasks that wait; return how many: repeat until none was."""
        return await self._broker.purge(queue, most=most, deadline=_soon())

    async def failed(self, only: Filter) -> list[TaskState]:
        """Return all failed tasks that the filter takes, those that failed first in front."""
        latest = {task.id: task for queue in self.queues async for task in self.walk(queue, "failed")}
        found = [task for task in latest.values() if only.takes(task)]
        found.reverse()
        return sorted(found, key=lambda task: task.changed)

    async def retry(
        self,
        tasks: Sequence[TaskState],
        keyring: Keyring | None,
        *,
        actor: str = "",
        progress: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Queue these failed or cancelled tasks again, in this order; return how many were.

        Those that have moved on meanwhile, or whose record is gone, are left alone. A record that has expired gets a
        new term, for which the secret is needed. ``progress`` is told how many have been dealt with.
        """
        queued = done = 0
        for queue in self.queues:
            batch: list[tuple[str, bytes]] = []
            size = 0
            for task in (task for task in tasks if task.queue == queue):
                batch.append((task.id, b"" if keyring is None else await self._renewed(task, keyring)))
                size += len(batch[-1][1])
                if len(batch) == BATCH or size >= BATCH_BYTES:
                    queued += await self._inspector.retry(queue, batch, actor=actor, deadline=_soon())
                    done += len(batch)
                    progress(done)
                    batch, size = [], 0
            if batch:
                queued += await self._inspector.retry(queue, batch, actor=actor, deadline=_soon())
                done += len(batch)
                progress(done)
        return queued

    async def _renewed(self, task: TaskState, keyring: Keyring) -> bytes:
        """Return the record sealed anew if it has expired, else nothing: then the old one stays."""
        now = time.time_ns() // 1_000_000
        if task.reason != "expired" and now < task.added + _LIFETIME_MS - _CLOCKS_MS:
            return b""
        try:
            request = await self.request(task, keyring)
        except RecordError:
            return b""  # The consumer may have what is missing here, or fails it again with this very reason.
        if request is None or now <= request.expires:
            return b""
        request = replace(request, expires=now + _LIFETIME_MS)
        return seal(keyring, request, nonce=secrets.token_bytes(NONCE_BYTES)).record


def _soon() -> float:
    return time.monotonic() + PATIENCE
