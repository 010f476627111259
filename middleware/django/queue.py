"""The project's TaskQueue, which knows the database's transactions: a task belongs to the block entered last.

If that is an ``atomic()`` block, Django keeps the task for us (``transaction.on_commit``): it goes with the block that
is rolled back, and once the outermost one has committed it is stored, whatever becomes of the request. If it is the
request, or a ``taskqueue.transaction()``, the task follows that.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, Unpack

from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from ... import producer
from ...errors import CommitUncertain, InvalidTask
from ...middleware.django import configuration
from ...middleware.django.outbox import rows
from ...record import Headers, Options, Payload
from ...request import CURRENT, CurrentRequest
from ...task import Task
from ...transaction import Entry, Transaction, innermost

log = logging.getLogger("taskqueue.door")


class TaskQueue(producer.TaskQueue):
    """A TaskQueue whose tasks also live and die with the transactions of Django's databases."""

    def __init__(
        self, url: str | None = None, *, using: str = DEFAULT_DB_ALIAS, outboxes: Sequence[str] = (), **options: Any
    ) -> None:
        """Take what ``taskqueue.TaskQueue`` takes, and the alias of the database whose transactions count.

        ``outboxes``: the aliases of the databases in which tasks become rows of an outbox.
        """
        super().__init__(url, **options)
        self.using: Final = using
        self.has_outbox: Final = frozenset(outboxes)
        self.outboxes.extend(rows.Rows(alias) for alias in outboxes)

    def add(  # pyright: ignore[reportIncompatibleMethodOverride] - one keyword more
        self,
        url: object,
        method: str | None = None,
        params: Mapping[str, object] | None = None,
        headers: Headers = None,
        payload: Payload = CURRENT,
        queue: str | None = None,
        *,
        using: str | None = None,
        **options: Unpack[Options],
    ) -> str:
        """Record a request, see ``taskqueue.TaskQueue.add``, in the transaction running on the database ``using``.

        Without ``using`` it is the one of ``TASKQUEUE["USING"]``. In an atomic block a task that copies the current
        request's body, or its user, does so at once. Raises InvalidTask for an alias that there is not.
        """
        if using is not None and using not in connections:
            raise InvalidTask(f"using: {using!r} is no database alias; one of {', '.join(connections)} is needed")
        return self._add(self.running(using), url, method, params, headers, payload, queue, **options)

    def begin(self, *, outer: Transaction | None = None, request: CurrentRequest | None = None) -> Transaction:
        """See ``taskqueue.TaskQueue.begin``."""
        return _Noting(self, outer=outer, request=request)

    def running(self, using: str | None = None) -> Transaction | None:
        """Return the transaction that ``add`` records in: the database's if its innermost block was entered last."""
        around, alias = innermost(self), self.using if using is None else using
        noted = around.depths.get(alias, 0) if isinstance(around, _Noting) else 0
        return _Atomic(self, alias, around) if _depth(alias) > noted else around

    def deliver_sync(self, entries: Sequence[Entry], request: CurrentRequest | None) -> None:
        """See ``taskqueue.TaskQueue.deliver_sync``; a user that must be awaited is loaded in this thread."""
        super().deliver_sync(self.complete(entries, request), request)

    def complete(self, entries: Sequence[Entry], request: CurrentRequest | None) -> Sequence[Entry]:
        """Fill in, if that takes the request's user, all that only the request can."""
        if request is None or request.user_id_later is None or not any(entry.copies_user for entry in entries):
            return entries
        return self.filled(entries, request)

    def filled(self, entries: Sequence[Entry], request: CurrentRequest | None) -> Sequence[Entry]:
        """Return the entries with all that the request has to fill in; raises BodyUnavailable, InvalidTask."""
        tasks = async_to_sync(self.finished)(entries, request)
        return [
            Entry(entry.sequence, task, copies_body=False, copies_user=False)
            for entry, task in zip(entries, tasks, strict=True)
        ]


class _Noting(Transaction):
    """Knows how deep in ``atomic()`` blocks it was begun: what is deeper was entered later."""

    def __init__(
        self, tq: TaskQueue, *, outer: Transaction | None = None, request: CurrentRequest | None = None
    ) -> None:
        super().__init__(tq, outer=outer, request=request)
        self._queue, self.depths = tq, _depths()

    def append(self, task: Task, *, copies_body: bool, copies_user: bool) -> None:
        """Add a task; in synchronous code for who the user is now: they may log out before the request ends."""
        if copies_user and not _in_event_loop():
            entry = Entry(0, task, copies_body=False, copies_user=True)
            (task,), copies_user = async_to_sync(self._queue.finished)([entry], self.request), False
        super().append(task, copies_body=copies_body, copies_user=copies_user)


class _Atomic(Transaction):
    """The database's own transaction, as something to add to. It is Django that ends it."""

    def __init__(self, tq: TaskQueue, alias: str, around: Transaction | None) -> None:
        """Take the alias, and in which transaction of a request this happens, if it does."""
        super().__init__(tq, request=around.request if around is not None and around.state == "open" else None)
        self._queue, self._alias = tq, alias
        self._kept = alias in tq.has_outbox and not producer.captures
        self.fails_fast = not self._kept

    @property
    def total_bytes(self) -> int:
        """Bytes of what is to be stored when the database commits, and of what a savepoint here collects."""
        hooks = reversed(_hooks(self._alias))
        last = next((hook for _, hook, *_ in hooks if isinstance(hook, _Push | _Kept)), None)
        return self._bytes + (0 if last is None else last.total)

    def append(self, task: Task, *, copies_body: bool, copies_user: bool) -> None:
        """Have a task stored when the outermost block commits."""
        self.join([Entry(0, task, copies_body=copies_body, copies_user=copies_user)])

    def join(self, entries: Sequence[Entry]) -> None:
        """Have these tasks stored when the outermost block commits."""
        copies_body = any(entry.copies_body for entry in entries)
        if copies_body and self.request is not None and self.request.body is not None:
            self.request.body.fetch()
        if copies_body or any(entry.copies_user for entry in entries):
            entries = self._queue.filled(entries, self.request)
        if self._kept:
            tasks = self._queue.routed_without_sync([entry.task for entry in entries])
            rows.write(self._queue.sealed(tasks), using=self._alias)
            total = self.total_bytes + sum(task.size for task in tasks)
            transaction.on_commit(_Kept(total), using=self._alias)
            return
        for entry in entries:
            total = self.total_bytes + entry.task.size
            transaction.on_commit(_Push(self._queue, entry, total, _hooks(self._alias)), using=self._alias)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Knows how many bytes there are in an outbox's rows of this transaction; goes with the block rolled back."""

    total: int

    def __call__(self) -> None:
        """Do nothing: the rows are committed."""


@dataclass(eq=False, slots=True)
class _Push:
    """Stores a task after the database's commit, and with it, in one go, those that Django would call for next."""

    tq: TaskQueue
    entry: Entry
    total: int  # bytes, this task's and those before it
    hooks: Sequence[Any]  # Django's list in which this stands; it takes them off one by one
    done: bool = False

    def __call__(self) -> None:
        """Store them; raises BrokerUnavailable or CommitUncertain, which Django passes on."""
        if self.done:
            return
        batch = [self, *self._next()]
        for push in batch:
            push.done = True
        ids = [push.entry.task.id for push in batch]
        try:
            self.tq.deliver_sync([push.entry for push in batch], None)
        except Exception as error:
            may_run = "may run" if isinstance(error, CommitUncertain) else "will not run"
            text = "the database has committed, but %d task(s) %s: %s: %s"
            log.error(text, len(ids), may_run, error, ", ".join(ids), extra={"task_ids": ids})  # noqa: TRY400 - who gets it has its traceback
            raise

    def _next(self) -> "Sequence[_Push]":
        """Return those that follow, or none if this is not the list Django works on: then a rollback has replaced it.

        That it is, is seen by this one not being in it any more.
        """
        pushes = [hook for _, hook, *_ in self.hooks if isinstance(hook, _Push)]
        return [] if self in pushes else [push for push in pushes if push.tq is self.tq and not push.done]


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _hooks(alias: str) -> Sequence[Any]:
    hooks: list[Any] = connections[alias].run_on_commit
    return hooks


def _depth(alias: str) -> int:
    return len(connections[alias].atomic_blocks)


def _depths() -> Mapping[str, int]:
    """Return how deep in ``atomic()`` blocks this is on each database in use."""
    return {connection.alias: _depth(connection.alias) for connection in connections.all(initialized_only=True)}


_lock: Final = Lock()
_made: Final[list[TaskQueue]] = []


def task_queue() -> TaskQueue:
    """Return the TaskQueue of this project, made of ``settings.TASKQUEUE`` at the first call; raises ConfigError."""
    with _lock:
        if not _made:
            given = configuration.given(configuration.OF_QUEUE)
            _made.append(TaskQueue(using=configuration.using(), outboxes=configuration.outboxes(), **given))
        return _made[0]


def _in_block() -> TaskQueue | None:
    """Return the project's TaskQueue where a block is open on its database: ``taskqueue.add`` needs no request then."""
    if not settings.configured or not any(_depths().values()):
        return None
    tq = task_queue()
    return tq if tq.running() is not None else None


producer.unbound.append(_in_block)


def _forget(*, setting: str, **_: object) -> None:
    """Make it anew where a test has changed the settings."""
    if setting == "TASKQUEUE":
        with _lock:
            _made.clear()


setting_changed.connect(_forget, dispatch_uid="taskqueue")


def add(
    url: object,
    method: str | None = None,
    params: Mapping[str, object] | None = None,
    headers: Headers = None,
    payload: Payload = CURRENT,
    queue: str | None = None,
    *,
    using: str | None = None,
    **options: Unpack[Options],
) -> str:
    """Record a request in the transaction running on the database ``using``, or in the request; see TaskQueue.add."""
    return task_queue().add(url, method, params, headers, payload, queue, using=using, **options)
