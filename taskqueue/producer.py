"""The producing side: ``add`` records a request in the running transaction, the commit hands it to the broker.

``add`` does no I/O and is the same plain function in every framework. What the commit still has to fill in is the body
the client is sending, and a user that can only be awaited; then the tasks are sealed and stored.
"""

import math
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final, TypeVar, Unpack
from urllib.parse import urlsplit
from weakref import WeakSet

from . import settings
from .broker import Broker, Capacity, connect, kept_secret
from .commit import commit
from .defaults import DefaultsByPath, View
from .durability import Durability
from .durability import durability as parse_durability
from .errors import BodyUnavailable, ConfigError, InvalidTask, NoTransaction
from .headers import check_host
from .keys import Keyring
from .portal import in_portal
from .record import Frame, Headers, Options, Payload, draft, queue_name
from .request import CURRENT, CurrentRequest, CurrentTask
from .seal import NONCE_BYTES, seal
from .target import Limits, check_queue_name, check_user_id
from .task import Task, TaskState
from .transaction import Entry, Scope, Transaction, innermost

Result = TypeVar("Result")

instances: Final["WeakSet[TaskQueue]"] = WeakSet()
"""Every TaskQueue of this process: how a consumer finds the one of the application it has imported."""

unbound: Final[list[Callable[[], "TaskQueue | None"]]] = []
"""Asked for the TaskQueue to act for where no door has bound one: a framework may have a transaction running there."""

captures: Final[list[list[Task]]] = []
"""Where commits go instead of the broker while ``taskqueue.capture()`` is active; the last one counts."""

drains: Final[list[Keyring]] = []
"""What proves deliveries to every door while captured tasks are drained, as tests need no secret; the last counts."""


class TaskQueue:
    """The queues of one application: where they are, the secret that protects them, and what may go in."""

    def __init__(
        self,
        url: str | None = None,
        *,
        secret: str | Sequence[str] | None = None,
        queues: Iterable[str] | None = None,
        namespace: str | None = None,
        public_url: str | None = None,
        limits: Limits | None = None,
        commit_deadline: float = 2.0,
        max_tasks: int | None = None,
        max_bytes: int | None = None,
        durability: str | None = None,
    ) -> None:
        """Take where the queues are; nothing is connected, and nothing missing is missed, before first use.

        ``url`` is ``redis://host:port/db``, ``rediss://``, ``unix://``, ``embedded:///directory`` or ``local://``, both
        of which keep a secret of their own, or another that ``taskqueue.broker.connect`` knows; ``secret`` 32 bytes or
        more, or several with the newest first; ``queues`` the names that ``add`` accepts; ``public_url`` names scheme
        and host for tasks added outside a request; ``commit_deadline`` is how many seconds a commit may take; a queue
        that holds ``max_tasks`` tasks, failed ones left out, or ``max_bytes`` bytes of records takes no more
        (QueueFull; 0: no limit). ``durability``: what a commit is to survive, ``memory``,
        ``process``, ``disk`` or ``replica:N``; only the last, N replicas that confirm each commit, is waited for, the
        others are a matter of the store's configuration, which ``taskqueue doctor`` checks. What is None comes from
        ``TASKQUEUE_*`` variables, then from ``taskqueue.toml``, then from the defaults. Raises ConfigError.
        """
        if not 0 < commit_deadline < math.inf:
            raise ConfigError(f"commit_deadline: {commit_deadline!r} must be seconds above 0, for example 2.0")
        self._url, self._secret, self._namespace, self._public_url = url, secret, namespace, public_url
        self._defaults = DefaultsByPath()
        if min(max_tasks or 0, max_bytes or 0) < 0:
            raise ConfigError(f"max_tasks, max_bytes: {max_tasks}, {max_bytes} must be 0 (no limit) or more")
        self._max_tasks, self._max_bytes = max_tasks, max_bytes
        self._durability = None if durability is None else parse_durability(durability)
        self._queues = None if queues is None else _checked_queues(queues)
        self.limits: Final = limits or Limits()
        instances.add(self)
        self.commit_deadline: Final = commit_deadline

    @cached_property
    def _settings(self) -> settings.Settings:
        return settings.load()

    @cached_property
    def url(self) -> str:
        """The broker's URL; raises ConfigError with the remedies if none is set."""
        return self._url or self._settings.required_url()

    @cached_property
    def queues(self) -> tuple[str, ...]:
        """The names that ``add`` accepts, sorted."""
        return self._queues or _checked_queues(self._settings.queues)

    @cached_property
    def namespace(self) -> str:
        """The prefix of every key in the broker."""
        return self._namespace or self._settings.namespace

    @cached_property
    def durability(self) -> Durability | None:
        """What a commit is declared to survive, None if nobody has."""
        if self._durability is not None:
            return self._durability
        declared = self._settings.durability
        return None if declared is None else parse_durability(declared)

    @cached_property
    def keyring(self) -> Keyring:
        """The keys made of the secrets, or of the one that the store keeps; raises ConfigError if there is none."""
        found = self._secret or self._settings.secrets or kept_secret(self.url) or ()
        return Keyring((found,) if isinstance(found, str) else found)

    @cached_property
    def capacity(self) -> Capacity:
        """What a queue may hold before a commit is refused."""
        chosen = self._settings
        return Capacity(
            chosen.max_tasks if self._max_tasks is None else self._max_tasks,
            chosen.max_bytes if self._max_bytes is None else self._max_bytes,
        )

    @cached_property
    def broker(self) -> Broker:
        """The broker behind the URL, not connected yet."""
        return connect(self.url, namespace=self.namespace, capacity=self.capacity, durability=self.durability)

    @cached_property
    def _public(self) -> tuple[str, str]:
        """Scheme and host for tasks added outside a request, empty if not configured."""
        public_url = self._public_url or self._settings.public_url
        if not public_url:
            return "", ""
        parts = urlsplit(public_url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.username or parts.path.strip("/"):
            raise ConfigError(f"public_url: {public_url!r} must be a scheme and a host, as in https://example.org")
        return parts.scheme, check_host(parts.netloc)

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
        those copied from the current request. ``queue`` omitted: ``default`` if there is one, else the alphabetically
        first.

        Options: ``json``: a JSON value as the payload; ``delay`` (seconds or timedelta, from the commit) or ``eta`` (an
        aware datetime): not before, at most a year ahead; ``user_id`` omitted: the current request's user, None:
        nobody; ``label``: up to 200 characters for lists and logs; ``timeout`` (seconds, up to a day) and
        ``retry_max_count`` (up to 1000) override the server's. Raises InvalidTask, UnknownQueue, BodyUnavailable or
        NoTransaction, and then nothing was recorded.
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
        frame = Frame(self.queues, self.limits, self._public, transaction.request, self._defaults)
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

    def running(self) -> Transaction | None:
        """Return the transaction that ``add`` records in, None if none runs here.

        Where a framework has transactions of its own, its TaskQueue looks here for those too.
        """
        return innermost(self)

    def defaults(
        self, path: str, *, queue: str | None = None, timeout: float | None = None, retry_max_count: int | None = None
    ) -> Callable[[View], View]:
        """Decorate a view with what counts for its tasks unless ``add`` says otherwise; the view stays as it is.

        ``path`` is where it answers, with parameters as its router writes them: ``/reports/{year}``,
        ``/reports/<int:year>``; each stands for one part between slashes. Of two that match, the one without
        parameters counts, else the one declared first. Raises InvalidTask, or ConfigError for the queue's name.
        """
        return self._defaults.declare(path, queue=queue, timeout=timeout, retry_max_count=retry_max_count)

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
        async with self.transaction(independent=True):
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
        with self.transaction(independent=True):
            return self.add(url, method, params, headers, payload, queue, **options)

    async def deliver(self, entries: Sequence[Entry], request: CurrentRequest | None) -> None:
        """Finish, seal and store what a transaction collected. For transactions only."""
        tasks = await self.finished(entries, request)
        if captures:
            captures[-1].extend(tasks)
            return
        deadline = time.monotonic() + self.commit_deadline
        sealed = [seal(self.keyring, task, nonce=os.urandom(NONCE_BYTES)) for task in tasks]
        await commit(self.broker, sealed, deadline=deadline)

    def deliver_sync(self, entries: Sequence[Entry], request: CurrentRequest | None) -> None:
        """Do the same from synchronous code."""
        self._in_portal(lambda: self.deliver(entries, request))

    async def finished(self, entries: Sequence[Entry], request: CurrentRequest | None) -> list[Task]:
        """Return the tasks with what only the commit can fill in; raises BodyUnavailable. For transactions only."""
        body, user_id = b"", None
        copies = sum(entry.copies_body for entry in entries)
        if request is not None and request.body is not None and copies:
            body = await request.body.finish(self.limits.body)
            size = sum(entry.task.size for entry in entries) + copies * len(body)
            if size > self.limits.transaction:
                raise BodyUnavailable(
                    f"payload: {copies} task(s) copy the current request's body of {len(body)} bytes, which makes"
                    f" {size} in this transaction, over the limit of {self.limits.transaction}; store the body once and"
                    " pass a reference",
                    status=413,
                )
        if request is not None and request.user_id_later is not None and any(entry.copies_user for entry in entries):
            user_id = check_user_id(await request.user_id_later())
        tasks: list[Task] = []
        for entry in entries:
            task = replace(entry.task, body=body) if entry.copies_body else entry.task
            tasks.append(replace(task, user_id=user_id) if entry.copies_user else task)
        return tasks

    async def get(self, task_id: str) -> TaskState | None:
        """Return where the task with this id is, its attempt and last outcome; None if it is unknown or forgotten."""
        for queue in self.queues:
            found = await self.broker.get(queue, task_id, deadline=self._deadline())
            if found is not None:
                return found
        return None

    async def size(self, queue: str | None = None) -> int:
        """Return how many tasks wait in a queue (the default one if omitted), delayed and reserved ones left out."""
        return await self.broker.size(queue_name(queue, self.queues), deadline=self._deadline())

    async def reset(self, queue: str | None = None) -> None:
        """Empty exactly this queue (the default one if omitted): waiting, delayed, running and ended tasks alike."""
        await self.broker.reset(queue_name(queue, self.queues), deadline=time.monotonic() + 60)

    def get_sync(self, task_id: str) -> TaskState | None:
        """``get`` for synchronous code."""
        return self._in_portal(lambda: self.get(task_id))

    def size_sync(self, queue: str | None = None) -> int:
        """``size`` for synchronous code."""
        return self._in_portal(lambda: self.size(queue))

    def reset_sync(self, queue: str | None = None) -> None:
        """``reset`` for synchronous code."""
        self._in_portal(lambda: self.reset(queue))

    async def aclose(self) -> None:
        """Close the running loop's connection to the broker. The doors call it when the application stops."""
        if "broker" in self.__dict__:
            await self.broker.aclose()

    def _in_portal(self, call: Callable[[], Awaitable[Result]]) -> Result:
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


def _bound_queue(verb: str) -> TaskQueue:
    running = innermost()
    if running is not None and isinstance(running.tq, TaskQueue):
        return running.tq
    found = next((tq for ask in unbound if (tq := ask()) is not None), None)
    if found is None:
        raise NoTransaction(
            f"{verb}: no TaskQueue is bound here. In a request: mount the middleware, and let threads of your own carry"
            " the context (contextvars.copy_context().run). Elsewhere name it: `async with taskqueue.transaction(tq):`,"
            " `await tq.push(...)`, or `tq.push_sync(...)` in synchronous code"
        )
    return found


def _checked_queues(queues: Iterable[str]) -> tuple[str, ...]:
    if isinstance(queues, str):
        raise ConfigError(f"queues: a list of names is needed, as in [{queues!r}]")
    names = tuple(sorted({check_queue_name(name) for name in queues}))
    if not names:
        raise ConfigError("queues: at least one name is needed, for example ['default']")
    return names
