"""The producing side: ``add`` records a request in the running transaction, the commit hands it to the broker.

``add`` does no I/O and is the same plain function in every framework. What the commit still has to fill in is the body
the client is sending, and a user that can only be awaited; then the tasks are sealed and stored.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Final, Protocol, TypeVar, Unpack

from .ballot import Captured, Replayed, Voted
from .broker import replays_at_commit
from .commit import commit, prepare
from .configured import instances
from .defaults import Sayings, View
from .errors import BodyUnavailable, BrokerUnavailable, CommitUncertain, ConfigError, InvalidTask, NoTransaction
from .keys import Keyring
from .portal import in_portal
from .record import Frame, Headers, Options, Payload, draft
from .request import CURRENT, CurrentRequest, CurrentTask
from .routes import routed
from .routing import Routed
from .seal import NONCE_BYTES, seal
from .storage import Storage
from .target import check_user_id
from .task import SealedTask, Task, TaskState
from .transaction import Ballot, Entry, Scope, Transaction, innermost

Result = TypeVar("Result")

unbound: Final[list[Callable[[], "TaskQueue | None"]]] = []
"""Asked for the TaskQueue to act for where no door has bound one: a framework may have a transaction running there."""

captures: Final[list[list[Task]]] = []
"""Where commits go instead of the broker while ``taskqueue.capture()`` is active; the last one counts."""

drains: Final[list[Keyring]] = []
"""What proves deliveries to every door while captured tasks are drained, as tests need no secret; the last counts."""


NO_APPLICATION: Final = (
    "url: mode=sync replays tasks in the application as soon as they are committed, and none runs here; mount the door"
    " and let the application start, or answer its first request, before anything is committed. In a script take"
    " local:// without mode, in a test maybe taskqueue.capture()"
)


class AtCommit(Protocol):
    """A way to replay what a commit has stored (mode ``sync``)."""

    def require(self) -> None:
        """Raise ConfigError if that is not possible now."""
        ...

    async def replay(self, tasks: Sequence[Task], adding: str | None) -> None:
        """Return when these tasks, which are queued, have been delivered; ``adding`` is the task that added them."""
        ...


class TaskQueue(Routed):
    """The queues of one application: where they are, the secret that protects them, and what may go in."""

    replays: Callable[[], AtCommit] | None = None
    """How to replay in the application, as its door has noted it. For doors only."""

    def add(
        self,
        url: object,
        method: str | None = None,
        params: Mapping[str, object] | None = None,
        headers: Headers = None,
        payload: Payload = CURRENT,
        queue: str | None = None,
        **options: Unpack[Options],
    ) -> str:
        """Record a request in the running transaction; return its id (a UUID) at once. No I/O.

        ``url`` is a path with or without query, as str or as a framework's URL object; ``params`` are form-encoded and
        joined to the query. ``method`` omitted: POST with a payload, else GET. ``payload`` omitted: the current
        request's body and its ``Content-*`` headers if the method carries a body; None: empty. ``headers`` win over
        those copied from the current request. ``queue`` omitted: what the view says of itself (see ``defaults``), else
        a rule (``taskqueue route``, then ``[[route]]``), else ``default`` if there is one, else the alphabetically
        first; rules kept in the broker choose at commit.

        Options: ``json``: a JSON value as the payload; ``delay`` (seconds or timedelta, from the commit) or ``eta`` (an
        aware datetime): not before, at most a year ahead; ``user_id`` omitted: the current request's user, None:
        nobody; ``label``: up to 200 characters for lists and logs; ``timeout`` (seconds, up to a day) and
        ``retry_max_count`` (up to 1000) override the server's; ``priority``: 0 to 9, in its queue a task with a higher
        one goes first, 4 is usual. Raises InvalidTask, UnknownQueue, BodyUnavailable, NoTransaction, or
        BrokerUnavailable while the broker is known to be down, and then nothing was recorded. A queue that is full or
        closed fails the commit.
        """
        return self._add(self.running(), url, method, params, headers, payload, queue, **options)

    def _add(
        self,
        transaction: Transaction | None,
        url: object,
        method: str | None,
        params: Mapping[str, object] | None,
        headers: Headers,
        payload: Payload,
        queue: str | None,
        **options: Unpack[Options],
    ) -> str:
        if transaction is None:
            raise NoTransaction(
                "add: no transaction is running here, so nothing would commit the task. In a request: mount the"
                " middleware, and let threads of your own carry the context (contextvars.copy_context().run)."
                " Elsewhere: `async with taskqueue.transaction(tq):` or `await tq.push(...)` (`tq.push_sync` in"
                " synchronous code)"
            )
        transaction.require_open("add")
        if transaction.fails_fast:
            self.require_broker()
        frame = Frame(self.queues, self.limits, self.public, transaction.request, self._defaults, self.routes)
        made = draft(frame, url, method, params, headers, payload, queue, **options)
        size = transaction.total_bytes + made.task.size
        if size > self.limits.transaction:
            raise InvalidTask(
                f"payload: this transaction would hold {size} bytes, over the limit of {self.limits.transaction};"
                " commit in several, or store the data elsewhere and pass a reference"
            )
        transaction.append(made.task, copies_body=made.copies_body, copies_user=made.copies_user)
        return made.task.id

    def begin(self, *, outer: Transaction | None = None, request: CurrentRequest | None = None) -> Transaction:
        """Return a new transaction, or with ``outer`` a savepoint in one. For doors, and for what is built on this."""
        return Transaction(self, outer=outer, request=request)

    def enlist(self, running: Callable[[], Transaction | None]) -> None:
        """Have transactions of something else asked for too, a database's for example: ``running`` returns one or None.

        Of those that run the one begun last is the innermost. Without a door, too, ``taskqueue.add`` finds them.
        """
        self._enlisted.append(running)

    @property
    def enlists(self) -> bool:
        """Whether transactions of something else are asked for."""
        return bool(self._enlisted)

    def running(self) -> Transaction | None:
        """Return the transaction that ``add`` records in, None if none runs here."""
        if not self._enlisted:
            return innermost(self)
        found = [innermost(self), *(running() for running in self._enlisted)]
        return max((one for one in found if one is not None), key=lambda one: one.serial, default=None)

    def defaults(self, path: str, **said: Unpack[Sayings]) -> Callable[[View], View]:
        """Decorate a view with what counts for its tasks unless ``add`` says otherwise; the view stays as it is.

        ``path`` is where it answers, with parameters as its router writes them: ``/reports/{year}``,
        ``/reports/<int:year>``; each stands for one part between slashes, and ``*`` for anything. Of several that
        match, the one without either counts, else the one with the most letters, else the one declared first.

        ``queue``, ``timeout``, ``retry_max_count``, ``priority``: as for ``add``; ``category``: a word for what kind of
        work it is; ``hidden``: whether users' lists leave it out. Raises InvalidTask, ConfigError.
        """
        return self._defaults.declare(path, **said)

    def transaction(self, *, independent: bool = False) -> Scope:
        """Return a context manager (``async with``, or ``with`` in synchronous code) that commits at its end.

        Inside a running transaction it is a savepoint: its end joins the outer one, an exception forgets only what was
        added inside. ``independent``: a transaction of its own, for tasks wanted even if the request fails. Leaving it
        raises CommitUncertain if the outcome is unknown; after any other error nothing will run.
        """
        return Scope(self, independent=independent)

    async def push(
        self,
        url: object,
        method: str | None = None,
        params: Mapping[str, object] | None = None,
        headers: Headers = None,
        payload: Payload = CURRENT,
        queue: str | None = None,
        **options: Unpack[Options],
    ) -> str:
        """Take what ``add`` takes and queue it now, whatever becomes of the running request; return the id."""
        async with self.transaction(independent=True) as pushed:
            pushed.fails_fast = False  # the broker is asked at once
            return self.add(url, method, params, headers, payload, queue, **options)

    def push_sync(
        self,
        url: object,
        method: str | None = None,
        params: Mapping[str, object] | None = None,
        headers: Headers = None,
        payload: Payload = CURRENT,
        queue: str | None = None,
        **options: Unpack[Options],
    ) -> str:
        """Do the same from synchronous code."""
        with self.transaction(independent=True) as pushed:
            pushed.fails_fast = False
            return self.add(url, method, params, headers, payload, queue, **options)

    def require_broker(self) -> None:
        """Raise BrokerUnavailable if this process has just heard that the broker is down. No I/O.

        So most outages fail the request, and with it its database, before it has done its work.
        """
        trouble = self.broker.trouble if "broker" in self.__dict__ and not captures else None
        if trouble is not None:
            raise BrokerUnavailable(
                f"add: the broker is down, as this process has just heard ({trouble}); nothing was recorded, try again"
            )

    async def deliver(self, entries: Sequence[Entry], request: CurrentRequest | None) -> None:
        """Finish, seal and store what a transaction collected. For transactions only."""
        tasks = await self.finished(entries, request)
        if captures:
            captures[-1].extend(tasks)
            return
        deadline = self._deadline()
        tasks = await self.routed(tasks, deadline=deadline)
        replay = self._replay(tasks, request)
        await commit(self.broker, self.sealed(tasks), deadline=deadline)
        if replay is _nothing:
            return
        try:
            await replay()
        except asyncio.CancelledError as error:
            raise CommitUncertain([task.id for task in tasks]) from error

    async def vote(self, entries: Sequence[Entry], request: CurrentRequest | None) -> Ballot:
        """Finish, seal and store them without queueing them; after an error none will run. For transactions only."""
        tasks = await self.finished(entries, request)
        if captures:
            return Captured(tasks, captures[-1])
        deadline = self._deadline()
        tasks = await self.routed(tasks, deadline=deadline)
        replay = self._replay(tasks, request)
        ids = await prepare(self.broker, self.sealed(tasks), deadline=deadline)
        return Replayed(Voted(self.broker, ids, self.commit_deadline), replay)

    def _replay(self, tasks: Sequence[Task], request: CurrentRequest | None) -> Callable[[], Awaitable[None]]:
        """Return what is to be done as soon as these are queued; raises ConfigError if it cannot be done."""
        if not replays_at_commit(self.broker):
            return _nothing
        if self.replays is None:
            raise ConfigError(NO_APPLICATION)
        mode = self.replays()
        mode.require()
        adding = current_task() if request is None else request.task
        return partial(mode.replay, tasks, None if adding is None else adding.id)

    def sealed(self, tasks: Sequence[Task]) -> list[SealedTask]:
        """Return these tasks as a store keeps them; raises ConfigError without a secret."""
        return [seal(self.keyring, task, nonce=os.urandom(NONCE_BYTES)) for task in tasks]

    def deliver_sync(self, entries: Sequence[Entry], request: CurrentRequest | None) -> None:
        """Do the same from synchronous code."""
        self.run_sync(lambda: self.deliver(entries, request))

    def vote_sync(self, entries: Sequence[Entry], request: CurrentRequest | None) -> Ballot:
        """Do what ``vote`` does from synchronous code, which is where the application's own code has run."""
        _fetch(entries, request)
        return self.run_sync(lambda: self.vote(entries, request))

    async def finished(self, entries: Sequence[Entry], request: CurrentRequest | None) -> Sequence[Task]:
        """Return the tasks with what only the commit can fill in; raises BodyUnavailable. For transactions only."""
        if request is None:
            return [entry.task for entry in entries]
        body, user_id = b"", None
        copies = sum(entry.copies_body for entry in entries)
        if request.body is not None and copies:
            body = await request.body.finish(self.limits.body)
            size = sum(entry.task.size for entry in entries) + copies * len(body)
            if size > self.limits.transaction:
                raise BodyUnavailable(
                    f"payload: {copies} task(s) copy the current request's body of {len(body)} bytes, which makes"
                    f" {size} in this transaction, over the limit of {self.limits.transaction}; store the body once and"
                    " pass a reference",
                    status=413,
                )
        if request.user_id_later is not None and any(entry.copies_user for entry in entries):
            user_id = check_user_id(await request.user_id_later())
        tasks: list[Task] = []
        for entry in entries:
            task = replace(entry.task, body=body) if entry.copies_body else entry.task
            tasks.append(replace(task, user_id=user_id) if entry.copies_user else task)
        return tasks

    def finished_sync(self, entries: Sequence[Entry], request: CurrentRequest | None) -> Sequence[Task]:
        """Do the same from synchronous code, which is where the application's own code has run."""
        _fetch(entries, request)
        return self.run_sync(lambda: self.finished(entries, request))

    @property
    def storage(self) -> Storage:
        """The files that tasks have saved; raises ConfigError if there is no place for them, or no secret."""
        keyring = drains[-1] if drains else self.keyring
        return Storage(self.storage_directory, keyring, namespace=self.namespace)

    def routed_without_sync(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """``routed_without`` for synchronous code."""
        if not self.routes_outdated:
            return routed(tasks, self.routes.broker)
        return self.run_sync(lambda: self.routed_without(tasks))

    async def get(self, task_id: str) -> TaskState | None:
        """Return where the task with this id is, its attempt and last outcome; None if it is unknown or forgotten."""
        for queue in await self.all_queues():
            found = await self.broker.get(queue, task_id, deadline=self._deadline())
            if found is not None:
                return found
        return None

    async def size(self, queue: str | None = None) -> int:
        """Return how many tasks wait in a queue (the default one if omitted), delayed and reserved ones left out."""
        return await self.broker.size(await self.queue_meant(queue), deadline=self._deadline())

    async def reset(self, queue: str | None = None) -> None:
        """Empty exactly this queue (the default one if omitted): waiting, delayed, running and ended tasks alike."""
        await self.broker.reset(await self.queue_meant(queue), deadline=time.monotonic() + 60)

    def get_sync(self, task_id: str) -> TaskState | None:
        """``get`` for synchronous code."""
        return self.run_sync(lambda: self.get(task_id))

    def size_sync(self, queue: str | None = None) -> int:
        """``size`` for synchronous code."""
        return self.run_sync(lambda: self.size(queue))

    def reset_sync(self, queue: str | None = None) -> None:
        """``reset`` for synchronous code."""
        self.run_sync(lambda: self.reset(queue))

    async def aclose(self) -> None:
        """Close the running loop's connection to the broker. The doors call it when the application stops."""
        if "broker" in self.__dict__:
            await self.broker.aclose()

    def run_sync(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Run this in the background loop of the process, and return what it returns. For transactions only."""
        return in_portal(self, self.aclose, call)

    def _deadline(self) -> float:
        return time.monotonic() + self.commit_deadline


def add(
    url: object,
    method: str | None = None,
    params: Mapping[str, object] | None = None,
    headers: Headers = None,
    payload: Payload = CURRENT,
    queue: str | None = None,
    **options: Unpack[Options],
) -> str:
    """Record a request in the running transaction of the TaskQueue that the door bound; see ``TaskQueue.add``."""
    return _bound_queue("add").add(url, method, params, headers, payload, queue, **options)


def transaction(tq: TaskQueue | None = None, *, independent: bool = False) -> Scope:
    """Return a context manager that commits at its end, of ``tq`` or the one bound; see ``TaskQueue.transaction``."""
    return (tq or _bound_queue("transaction")).transaction(independent=independent)


def current_task() -> CurrentTask | None:
    """Return the task that the running request is a delivery of, or None in any other request or outside one."""
    running = innermost()
    return running.request.task if running is not None and running.request is not None else None


async def _nothing() -> None: ...


def _fetch(entries: Sequence[Entry], request: CurrentRequest | None) -> None:
    if request is not None and request.body is not None and any(entry.copies_body for entry in entries):
        request.body.fetch()


def _enlisting() -> TaskQueue | None:
    """Return the TaskQueue for which a transaction of something else runs here; of several the one begun last."""
    found = [(running.serial, tq) for tq in tuple(instances) if tq.enlists and (running := tq.running()) is not None]
    return max(found, key=itemgetter(0))[1] if found else None


def _bound_queue(verb: str) -> TaskQueue:
    running = innermost()
    if running is not None and isinstance(running.tq, TaskQueue):
        return running.tq
    found = next((tq for ask in unbound if (tq := ask()) is not None), None) or _enlisting()
    if found is None:
        raise NoTransaction(
            f"{verb}: no TaskQueue is bound here. In a request: mount the middleware, and let threads of your own carry"
            " the context (contextvars.copy_context().run). Elsewhere name it: `async with taskqueue.transaction(tq):`,"
            " `await tq.push(...)`, or `tq.push_sync(...)` in synchronous code"
        )
    return found
