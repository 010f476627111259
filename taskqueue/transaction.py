"""A transaction collects tasks and hands them over at commit, or forgets them.

It lives in a context variable, so two requests in one event loop, the branches of a ``gather`` and the threads that
carry a copy of the context each see the right one; a thread without it sees none, and ``add`` refuses rather than
push early. A savepoint is a transaction inside another: it owns its list and joins it to the outer one at the end.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from operator import itemgetter
from types import TracebackType
from typing import Final, Literal, NamedTuple, Protocol, TypeVar

from .errors import CommitUncertain, NoTransaction
from .request import CurrentRequest
from .task import Task

Result = TypeVar("Result")


class Entry(NamedTuple):
    """One task added, and what of it only the commit can fill in: the request's body, or its user."""

    sequence: int
    task: Task
    copies_body: bool
    copies_user: bool


class Ballot(Protocol):
    """The tasks of one transaction, after its vote."""

    async def finish(self) -> None:
        """Queue them: the transaction has committed. Nobody can take that back, so trouble is logged, not raised."""
        ...

    async def discard(self) -> None:
        """Forget them: the transaction was aborted. What cannot be told to the broker ends as in-doubt by itself."""
        ...


class Deliverer(Protocol):
    """What a transaction needs of its TaskQueue."""

    async def deliver(self, entries: Sequence[Entry], request: CurrentRequest | None) -> None:
        """Queue these tasks; raises BrokerUnavailable (QueueFull, QueueClosed), BodyUnavailable, CommitUncertain."""
        ...

    def deliver_sync(self, entries: Sequence[Entry], request: CurrentRequest | None) -> None:
        """Do the same from synchronous code."""
        ...

    async def vote(self, entries: Sequence[Entry], request: CurrentRequest | None) -> Ballot:
        """Store these tasks, not queued yet; raises as ``deliver``, without CommitUncertain, and then none will run."""
        ...

    def vote_sync(self, entries: Sequence[Entry], request: CurrentRequest | None) -> Ballot:
        """Do the same from synchronous code."""
        ...

    def run_sync(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Run this from synchronous code, and return what it returns."""
        ...


class Beginner(Deliverer, Protocol):
    """What a Scope needs of it beside: where a transaction of this TaskQueue comes from."""

    def begin(self, *, outer: "Transaction | None" = None, request: CurrentRequest | None = None) -> "Transaction":
        """Return a new transaction, or with ``outer`` a savepoint in one."""
        ...

    def running(self) -> "Transaction | None":
        """Return the transaction this code runs in, None outside."""
        ...


_serials: Final = itertools.count()
_innermost: "ContextVar[Transaction | None]" = ContextVar("taskqueue_transaction", default=None)


class Transaction:
    """Tasks that will be queued together, or not at all (atomic per queue).

    It ends at once with ``commit`` or ``abort``; or, as part of a larger transaction, with ``vote`` and then ``finish``
    or ``discard``.
    """

    def __init__(
        self, tq: Deliverer, *, outer: "Transaction | None" = None, request: CurrentRequest | None = None
    ) -> None:
        """Begin a transaction of ``tq``, or with ``outer`` a savepoint in one."""
        self.tq: Final = tq
        self.outer: Final = outer
        self.enclosing: Final = _innermost.get()
        # Compared with None: a transaction without tasks is as long as an empty list, so it counts as false.
        self.request: Final[CurrentRequest | None] = request if outer is None else outer.request
        self.state: Literal["open", "committing", "voted", "committed", "aborted", "uncertain"] = "open"
        self.serial: Final = next(_serials)
        """Of two transactions that run, the one begun last has the larger one."""
        self.fails_fast: bool = outer is None or outer.fails_fast
        """Whether ``add`` refuses at once while the broker is known to be down."""
        self._others: list[Transaction] = []
        self._ballot: Ballot | None = None
        self._entries: list[Entry] = []
        self._sequence: Final[Iterator[int]] = itertools.count() if outer is None else outer._sequence
        self._rolled_back: list[range] = []
        self._bytes = 0

    def __len__(self) -> int:
        """Return how many tasks are to be queued; those of savepoints under way are not counted yet."""
        return len(self._entries)

    @property
    def ids(self) -> Sequence[str]:
        """The ids of the tasks that are to be queued."""
        return [entry.task.id for entry in self._entries]

    @property
    def used(self) -> bool:
        """Whether anything was ever added here, in a savepoint under way or rolled back too."""
        return self._bytes > 0

    @property
    def pending(self) -> bool:
        """Whether tasks added while this runs, here or in transactions that end by themselves, may still be lost."""
        mine = self.used and self.state in ("open", "committing", "voted")
        return mine or (bool(self._others) and any(other.pending for other in self.attached))

    def attach(self, other: "Transaction") -> None:
        """Have an answer wait for a transaction, a database's, that was begun while this one runs."""
        self._others.append(other)

    def detach(self, other: "Transaction") -> None:
        """Forget one that has ended."""
        self._others.remove(other)

    @property
    def attached(self) -> Sequence["Transaction"]:
        """Those for which an answer waits, in the order in which they were begun."""
        return tuple(self._others)

    @property
    def copies_body(self) -> bool:
        """Whether a task that is to be queued takes the current request's body along."""
        return any(entry.copies_body for entry in self._entries)

    @property
    def total_bytes(self) -> int:
        """Bytes of all that was added so far (see Task.size); what savepoints rolled back counts too."""
        return self._bytes if self.outer is None else self.outer.total_bytes

    def append(self, task: Task, *, copies_body: bool, copies_user: bool) -> None:
        """Add a task; raises NoTransaction if this transaction, or one around it, has ended."""
        self.require_open("add")
        self._entries.append(Entry(next(self._sequence), task, copies_body, copies_user))
        self._weigh(task.size)

    def join(self, entries: Sequence[Entry]) -> None:
        """Take over what a savepoint in this transaction has collected, and none has rolled back; it was weighed."""
        gone = self._rolled_back
        self._entries.extend(entry for entry in entries if not any(entry.sequence in some for some in gone))

    def _weigh(self, size: int) -> None:
        if self.outer is not None:
            self.outer._weigh(size)
        self._bytes += size

    def require_open(self, verb: str) -> None:
        """Raise NoTransaction if this transaction, or one around it, has ended; ``verb`` is what was asked for."""
        around: Transaction | None = self
        while around is not None:
            if around.state != "open":
                raise NoTransaction(
                    f"{verb}: the transaction this code belongs to has ended ({around.state}), nothing would queue the"
                    " task; use `async with taskqueue.transaction(tq, independent=True):` or `await tq.push(...)`"
                )
            around = around.outer

    def mark(self) -> int:
        """Return a mark of what was added so far, for ``rollback``."""
        return next(self._sequence)

    def rollback(self, mark: int) -> None:
        """Forget what was added since ``mark``, in blocks inside this transaction too, also those not left yet."""
        if self.state == "open":
            self._entries = [entry for entry in self._entries if entry.sequence < mark]
            self._rolled_back.append(range(mark, next(self._sequence)))

    def abort(self) -> None:
        """Forget everything added; of a transaction that has ended nothing is changed."""
        if self.state == "open":
            self._entries.clear()
            self.state = "aborted"

    async def commit(self) -> None:
        """Queue what was added, in the order of the adds; of a savepoint: join it to the outer transaction.

        Raises CommitUncertain if the outcome is unknown; after any other error nothing will run.
        """
        if self.outer is None and not self._entries:  # as most requests end
            self.require_open("commit")
            self.state = "committed"
            return
        with Ending(self, "commit", "committed") as entries:
            if entries:
                await self.tq.deliver(entries, self.request)

    def commit_sync(self) -> None:
        """Do the same from synchronous code."""
        with Ending(self, "commit", "committed") as entries:
            if entries:
                self.tq.deliver_sync(entries, self.request)

    async def vote(self) -> None:
        """Have what was added stored, so that nothing but the broker's own loss can keep ``finish`` from queueing it.

        After an error this transaction is aborted, and nothing will run.
        """
        with Ending(self, "vote", "voted") as entries:
            if entries:
                self._ballot = await self.tq.vote(entries, self.request)

    def vote_sync(self) -> None:
        """Do the same from synchronous code, once the application's own code is done with the request's body."""
        with Ending(self, "vote", "voted") as entries:
            if entries:
                self._ballot = self.tq.vote_sync(entries, self.request)

    async def finish(self) -> None:
        """Queue what was voted: the larger transaction has committed. Trouble with the broker is logged, not raised."""
        ballot = self._end_of_vote("committed")
        if ballot is not None:
            await ballot.finish()

    def finish_sync(self) -> None:
        """Do the same from synchronous code."""
        ballot = self._end_of_vote("committed")
        if ballot is not None:
            self.tq.run_sync(ballot.finish)

    async def discard(self) -> None:
        """Forget everything, voted or not: the larger transaction was aborted."""
        ballot = self._end_of_vote("aborted")
        if ballot is not None:
            await ballot.discard()

    def discard_sync(self) -> None:
        """Do the same from synchronous code."""
        ballot = self._end_of_vote("aborted")
        if ballot is not None:
            self.tq.run_sync(ballot.discard)

    def leave_in_doubt(self) -> None:
        """Neither queue nor forget what was voted: nobody can tell whether the larger transaction has committed."""
        self.state, self._ballot = "uncertain", None

    def _end_of_vote(self, state: Literal["committed", "aborted"]) -> Ballot | None:
        if self.state == "voted":
            self.state = state
        elif state == "aborted":
            self.abort()
        ballot, self._ballot = self._ballot, None
        return ballot


class Ending:  # a generator would take three times as long
    """Gives what is to be handed to the broker (nothing for a savepoint), and notes how that ended."""

    def __init__(self, transaction: Transaction, verb: str, state: Literal["committed", "voted"]) -> None:
        """Take what is to end, the word for that, and what it has become where nothing goes wrong."""
        self._transaction, self._verb = transaction, verb
        self._state: Final = state

    def __enter__(self) -> Sequence[Entry]:
        """Begin."""
        ending = self._transaction
        ending.require_open(self._verb)
        entries = sorted(ending._entries, key=itemgetter(0))  # in the order of the adds
        ending._entries.clear()
        ending.state = "committing"
        if ending.outer is None:
            return entries
        ending.outer.join(entries)
        return ()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Note the end."""
        failed: Literal["uncertain", "aborted"] = "uncertain" if isinstance(error, CommitUncertain) else "aborted"
        self._transaction.state = self._state if error is None else failed


def outermost(tq: Deliverer, request: CurrentRequest) -> Transaction | None:
    """Return the transaction of this request itself, the one around all others of this TaskQueue; None outside."""
    found, transaction = None, innermost(tq)
    while transaction is not None:
        if transaction.tq is tq and transaction.request is request:
            found = transaction
        transaction = transaction.enclosing
    return found


def innermost(tq: Deliverer | None = None) -> Transaction | None:
    """Return the innermost transaction this code runs in, of this TaskQueue or of any; None outside."""
    transaction = _innermost.get()
    while transaction is not None and tq is not None and transaction.tq is not tq:
        transaction = transaction.enclosing
    return transaction


def bound(transaction: Transaction) -> AbstractContextManager[Transaction]:
    """Make this the innermost transaction; whoever binds it commits or aborts it."""
    return _Bound(transaction)


class _Bound:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def __enter__(self) -> Transaction:
        self._token = _innermost.set(self._transaction)
        return self._transaction

    def __exit__(self, *_: object) -> None:
        _innermost.reset(self._token)


class Scope:
    """``async with`` or ``with``: commits at the end, aborts on an exception. May be entered once."""

    def __init__(self, tq: Beginner, *, independent: bool) -> None:
        """See ``taskqueue.transaction``."""
        self._tq = tq
        self._independent = independent
        self._transaction: Transaction | None = None

    def _enter(self) -> Transaction:
        if self._transaction is not None:
            raise NoTransaction("transaction: this one was entered before; call taskqueue.transaction() again")
        around = self._tq.running()
        if around is not None and not self._independent:
            around.require_open("transaction")
        if not self._independent:
            self._transaction = self._tq.begin(outer=around)
        else:
            self._transaction = self._tq.begin(request=None if around is None else around.request)
        _innermost.set(self._transaction)
        return self._transaction

    def _leave(self, error: BaseException | None) -> Transaction | None:
        """Return the transaction if it is to be committed."""
        transaction = self._transaction
        if transaction is None:
            raise NoTransaction("transaction: this one is left but was never entered")
        # No token: some frameworks enter and leave a generator in two copies of one context.
        if _innermost.get() is transaction:
            _innermost.set(transaction.enclosing)
        if error is not None:
            transaction.abort()
        return transaction if transaction.state == "open" else None

    async def __aenter__(self) -> Transaction:
        """Begin."""
        return self._enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit, or abort on an exception."""
        transaction = self._leave(error)
        if transaction is not None:
            await transaction.commit()

    def __enter__(self) -> Transaction:
        """Begin; where an event loop runs only a savepoint may, because a commit would block the loop."""
        if (self._independent or self._tq.running() is None) and _in_event_loop():
            raise NoTransaction(
                "transaction: its commit would block the event loop that runs here; use"
                " `async with taskqueue.transaction(tq):` or `await tq.push(...)`"
            )
        return self._enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit, or abort on an exception."""
        transaction = self._leave(error)
        if transaction is not None:
            transaction.commit_sync()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
