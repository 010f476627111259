"""SQLAlchemy: tasks that are added while a session is in a transaction live and die with that transaction.

Two ways. Without an outbox the transaction votes: before the database commits, the tasks are stored in the broker, not
queued yet, and if they cannot be the commit fails; when the database has committed they are queued. With an outbox they
are rows of the same database, and a relay brings them to the broker: see ``taskqueue.relay``.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary, finalize, ref

from sqlalchemy import Connection, Table, event
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, SessionTransaction, scoped_session, sessionmaker
from sqlalchemy.util import await_only, concurrency

from ..ballot import Captured
from ..errors import ConfigError, NoTransaction
from ..middleware import sqlalchemy_outbox
from ..middleware.sqlalchemy_outbox import metadata, outbox
from ..producer import TaskQueue, captures
from ..relay import Outbox, from_now
from ..task import Task
from ..transaction import Ending, Transaction, innermost, outermost

__all__ = ["bind", "metadata", "outbox"]

log = logging.getLogger("taskqueue.sqlalchemy")

# What a flush changes is flushed by the next one; so often at most, as SQLAlchemy itself does it.
FLUSHES: Final = 100
_GREENLETS: Final = find_spec("greenlet") is not None


def bind(tq: TaskQueue, sessions: Any, *, outbox: "bool | Table" = False) -> None:
    """Have tasks that are added in a transaction of these sessions belong to it.

    ``sessions``: a ``Session`` class (with its subclasses), a ``sessionmaker``, a ``scoped_session``, or their
    asynchronous twins; what comes from a maker must be made after this call. Raises ConfigError for anything else.
    ``outbox``: True, or a table with these columns: tasks become rows of it, so the broker may be down at the commit;
    ``taskqueue-server --app``, or ``taskqueue relay``, pushes them, for which ``sessions`` is called without arguments.

    A task belongs to the transaction begun last in its context (thread, asyncio task), or where there is none to the
    one begun last in its request, in a FastAPI dependency for example. A session that has not begun (it does with its
    first statement, or its first ``add``) has no part in it: such a task follows the request.
    """
    target, table = _listened_to(sessions), sqlalchemy_outbox.outbox if outbox is True else outbox
    bound = _Sessions(tq, None if table is False else table)
    for name, listener in bound.listeners().items():
        event.listen(target, name, listener)
    tq.enlist(bound.running)
    if table is not False:
        tq.outboxes.append(_outbox_of(sessions, table))


def _outbox_of(sessions: Any, table: Table) -> Outbox:
    if isinstance(sessions, scoped_session | async_scoped_session):
        sessions = sessions.session_factory
    if isinstance(sessions, async_sessionmaker) or (isinstance(sessions, type) and issubclass(sessions, AsyncSession)):
        return sqlalchemy_outbox.RowsAsync(sessions, table)
    return sqlalchemy_outbox.Rows(sessions, table)


def _listened_to(sessions: Any) -> Any:
    """Return the class of synchronous sessions in which these have their events."""
    if isinstance(sessions, scoped_session | async_scoped_session):
        sessions = sessions.session_factory
    if isinstance(sessions, async_sessionmaker):
        # The class given, or that of the sessions made, may be everybody's: these get one of their own.
        given = sessions.kw.get("sync_session_class") or sessions.class_.sync_session_class
        own = type(given.__name__, (given,), {})
        sessions.configure(sync_session_class=own)
        return own
    if isinstance(sessions, type) and issubclass(sessions, AsyncSession):
        given = sessions.sync_session_class
        sessions.sync_session_class = type(given.__name__, (given,), {})
        return sessions.sync_session_class
    if isinstance(sessions, sessionmaker) or (isinstance(sessions, type) and issubclass(sessions, Session)):
        return sessions
    raise ConfigError(
        f"sessions: a Session class, a sessionmaker, a scoped_session, or their asynchronous twins is needed, not"
        f" {sessions!r}"
    )


class _OfSession(Transaction):
    """The tasks of one root transaction of a session."""

    def __init__(self, sessions: "_Sessions", begun: SessionTransaction) -> None:
        around = innermost(sessions.tq)
        request = around.request if around is not None and around.state == "open" else None
        super().__init__(sessions.tq, request=request)
        self.sessions: Final = sessions
        self.door = None if request is None else outermost(sessions.tq, request)
        if self.door is not None:
            self.door.attach(self)
        self.savepoints: Final[WeakKeyDictionary[SessionTransaction, int]] = WeakKeyDictionary()
        """Those under way, and the mark of where each was begun."""
        self.connections: Final[WeakSet[Connection]] = WeakSet()  # a session that just disappears gives its own back
        self.lost = False  # a connection, and with it maybe the answer to the commit
        self.voted: Sequence[str] = ()
        self._begun = ref(begun)
        self._watched = False

    def taken(self) -> Transaction:
        """Return this for tasks to be added; from now on it is noticed if the session just disappears."""
        begun = self._begun()
        if begun is not None and not self._watched:
            self._watched = True
            finalize(begun, self._disappeared).atexit = False
        return self

    def _disappeared(self) -> None:
        if self.state == "open" and len(self):
            ids = self.ids
            text = "a session was neither committed nor closed: its %d task(s) are forgotten: %s"
            log.error(text, len(ids), ", ".join(ids), extra={"task_ids": ids})
        self.abort()

    def before_commit(self, session: Session) -> None:
        """Vote, before the database commits; raises what ``Transaction.vote`` does, and then the commit fails."""
        if self.state != "open":
            raise NoTransaction(
                f"commit: this session's transaction could not store its tasks before ({self.state}), and must not be"
                " committed without them; call rollback()"
            )
        self.voted = self.ids
        self.keep(session)

    def keep(self, _session: Session) -> None:
        """Have the tasks stored in the broker, not queued yet."""
        for connection in tuple(self.connections) if self.voted else ():
            _voted_on[id(connection.connection.dbapi_connection)] = self
            if not event.contains(connection.engine, "invalidate", _invalidated):
                event.listen(connection.engine, "invalidate", _invalidated)
        self.wait(self.vote, self.vote_sync)

    def wait(self, call: Callable[[], Awaitable[None]], call_sync: Callable[[], None]) -> None:
        """Call the one that does not block the event loop, if one runs here."""
        if self.voted and _GREENLETS and concurrency.in_greenlet():
            await_only(call())
        else:
            call_sync()

    def end(self) -> None:
        """Forget what is not committed, if the database has forgotten it for certain."""
        if self.state == "voted" and self.lost:
            self.leave_in_doubt()
            text = "the database's connection was lost in a commit: %d task(s) are set aside as in-doubt, to decide: %s"
            log.error(text, len(self.voted), ", ".join(self.voted), extra={"task_ids": self.voted})
        else:
            self.wait(self.discard, self.discard_sync)
        if self.door is not None:
            self.door.detach(self)


class _InOutbox(_OfSession):
    """The same, where they become rows of the database."""

    def __init__(self, sessions: "_Sessions", begun: SessionTransaction) -> None:
        super().__init__(sessions, begun)
        self.fails_fast = False

    def keep(self, session: Session) -> None:
        """Write the rows."""
        tq, finished = self.sessions.tq, list[Task]()

        async def finish() -> None:
            tasks = await tq.finished(entries, self.request)
            finished.extend(tasks if captures else await tq.routed_without(tasks))

        def finish_sync() -> None:
            tasks = tq.finished_sync(entries, self.request)
            finished.extend(tasks if captures else tq.routed_without_sync(tasks))

        with Ending(self, "vote", "voted") as entries:
            if not entries:
                return
            self.wait(finish, finish_sync)
            if captures:
                self._ballot = Captured(finished, captures[-1])
            elif self.sessions.outbox is not None:
                now = time.time_ns() // 1_000_000
                tasks = [from_now(task, now=now) for task in tq.sealed(finished)]
                session.execute(*sqlalchemy_outbox.written(self.sessions.outbox, tasks))


class _Sessions:
    """The sessions of one ``bind``, and the transactions that they are in."""

    def __init__(self, tq: TaskQueue, outbox: Table | None) -> None:
        self.tq: Final = tq
        self.outbox: Final = outbox
        self._kind: Final = _OfSession if outbox is None else _InOutbox
        self._roots: WeakKeyDictionary[SessionTransaction, _OfSession] = WeakKeyDictionary()

    def listeners(self) -> dict[str, Callable[..., None]]:
        """Return what is to be called, by the name of the event."""
        return {
            "after_transaction_create": self._begun,
            "after_begin": self._connected,
            "before_commit": self._committing,
            "after_commit": self._committed,
            "after_transaction_end": self._ended,
        }

    def running(self) -> Transaction | None:
        """Return the transaction that a task added here belongs to, None if there is none."""
        found = [one for one in _begun_here.get() if one.sessions is self and one.state == "open"]
        around = None if found else innermost(self.tq)
        if around is not None and around.request is not None:
            door = outermost(self.tq, around.request)
            attached = () if door is None else door.attached
            found = [one for one in attached if isinstance(one, _OfSession) and one.sessions is self]
            found = [one for one in found if one.state == "open"]
        return max(found, key=lambda one: one.serial).taken() if found else None

    def _begun(self, session: Session, begun: SessionTransaction) -> None:
        if begun.parent is None:
            root = self._roots[begun] = self._kind(self, begun)
            _begun_here.set((*_still_running(), root))
        elif begun.nested:
            around = self._root(session)
            if around is not None:
                around.savepoints[begun] = around.mark()

    def _connected(self, session: Session, _begun: SessionTransaction, connection: Connection) -> None:
        root = self._root(session)
        if root is not None:
            root.connections.add(connection)

    def _committing(self, session: Session) -> None:
        """Vote before a root transaction commits. That of a savepoint is told by the same event."""
        root = self._root(session)
        if root is None or session.in_nested_transaction():
            return
        for _ in range(FLUSHES):  # What a flush adds takes part.
            if not (session.new or session.dirty or session.deleted):
                break
            session.flush()
        root.before_commit(session)

    def _committed(self, session: Session) -> None:
        """Queue what was voted; or keep what was added in a savepoint that is released."""
        root = self._root(session)
        released = session.get_nested_transaction()
        if root is None:
            return
        if released is not None:
            root.savepoints.pop(released, None)
        else:
            root.wait(root.finish, root.finish_sync)

    def _ended(self, _session: Session, ended: SessionTransaction) -> None:
        if ended.nested:
            around = self._roots.get(_root_of(ended))
            mark = None if around is None else around.savepoints.pop(ended, None)
            if around is not None and mark is not None:
                around.rollback(mark)
        root = self._roots.pop(ended, None)
        if root is not None:
            root.end()
            _begun_here.set(_still_running())

    def _root(self, session: Session) -> _OfSession | None:
        begun = session.get_transaction()
        return None if begun is None else self._roots.get(begun)


_begun_here: Final[ContextVar[tuple[_OfSession, ...]]] = ContextVar("taskqueue_sessions", default=())
# By the DB-API's connection.
_voted_on: Final[WeakValueDictionary[int, _OfSession]] = WeakValueDictionary()


def _invalidated(connection: Any, *_: Any) -> None:
    voted = _voted_on.get(id(connection))
    if voted is not None:
        voted.lost = True


def _still_running() -> tuple[_OfSession, ...]:
    return tuple(one for one in _begun_here.get() if one.state in ("open", "voted"))


def _root_of(transaction: SessionTransaction) -> SessionTransaction:
    while transaction.parent is not None:
        transaction = transaction.parent
    return transaction
