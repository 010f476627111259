"""The ``transaction`` package (ZODB, Zope, Pyramid): tasks that live and die with its transactions.

A task is one resource among the others that commit together or not at all. It is stored before any of them can have
committed, so a broker that is down fails them all; it is queued after all of them have, so it never runs too early.
"""

from functools import partial
from typing import Any, Final

import transaction
from transaction.interfaces import ISavepointDataManager, TransactionFailedError
from zope.interface import implementer

from ..producer import TaskQueue
from ..transaction import Transaction, innermost


def bind(tq: TaskQueue, manager: Any = transaction.manager, *, implicit: bool = False) -> None:
    """Have what is added while a transaction of this manager runs live and die with it, in a request or not.

    ``manager`` is the package's own, which has a transaction for each thread, or a TransactionManager. A transaction
    runs from ``begin`` (``with manager:``) to its commit or abort; elsewhere tasks belong to the request, or ``add``
    raises NoTransaction. With ``implicit`` one runs always, begun by the first task if need be: for applications that
    leave no thread without a commit or an abort, as Zope. Where the manager changes with the request, give ``enlist`` a
    function that asks ``transaction_of``.
    """
    tq.enlist(partial(transaction_of, tq, manager, implicit=implicit))


def transaction_of(tq: TaskQueue, manager: Any, *, implicit: bool = False) -> Transaction | None:
    """Return the tasks of the transaction that runs in this manager, None if there is none; parameters as for bind."""
    foreign = manager.get() if implicit and not manager.explicit else _begun(manager)
    if foreign is None:
        return None
    found = _joined(foreign, tq)
    # One that is aborted may have been left by a savepoint made before it came, and then the other goes on.
    if found is not None and found.tasks.state != "aborted":
        return found.tasks
    joining = TaskDataManager(tq, manager)
    try:
        foreign.join(joining)
    except (ValueError, TransactionFailedError):  # it commits, or has failed: `add` is to tell that it has ended
        joining.tasks.abort()
        if found is not None:
            return found.tasks
    else:
        joining.attach()
    foreign.set_data(tq, joining)
    return joining.tasks


class _Probe:
    """A synchronizer that is told of the transaction that runs when it is registered."""

    found: Any = None

    def newTransaction(self, foreign: Any) -> None:  # noqa: N802 - see ISynchronizer
        self.found = foreign


def _begun(manager: Any) -> Any:
    """Return the transaction that runs, without beginning one."""
    probe = _Probe()
    manager.registerSynch(probe)
    manager.unregisterSynch(probe)
    return probe.found


def _joined(foreign: Any, tq: TaskQueue) -> "TaskDataManager | None":
    try:
        found: TaskDataManager = foreign.data(tq)
    except KeyError:
        return None
    return found


@implementer(ISavepointDataManager)
class TaskDataManager:
    """The tasks of one transaction and one TaskQueue, as the package's two-phase commit sees them."""

    def __init__(self, tq: TaskQueue, manager: Any) -> None:
        """Begin a transaction that takes over the request of the one around it."""
        self.transaction_manager: Final = manager
        around = innermost(tq)
        self._around = around if around is not None and around.state == "open" else None
        self.tasks: Final = tq.begin(request=None if self._around is None else self._around.request)

    def attach(self) -> None:
        """Have the request's answer wait for this transaction."""
        if self._around is not None:
            self._around.attach(self.tasks)

    def sortKey(self) -> str:  # noqa: N802 - see IDataManager
        """Return what stands behind all others, those that begin with ``~`` too, and keeps its order at any length."""
        return f"~~taskqueue:{self.tasks.serial:020}"

    def savepoint(self) -> "TaskSavepoint":
        """Return what forgets the tasks that are added from now on."""
        return TaskSavepoint(self.tasks)

    def tpc_begin(self, _foreign: Any) -> None:
        """Do nothing."""

    def commit(self, _foreign: Any) -> None:
        """Have the tasks stored; raises BrokerUnavailable, BodyUnavailable, InvalidTask, and then nothing will run.

        Not in ``tpc_vote``: databases of one phase, as those of zope.sqlalchemy, commit in theirs, and it may be first.
        """
        self.tasks.vote_sync()

    def tpc_vote(self, _foreign: Any) -> None:
        """Agree: what is stored can be queued."""

    def tpc_finish(self, _foreign: Any) -> None:
        """Queue the tasks: the others have committed."""
        self.tasks.finish_sync()

    def abort(self, _foreign: Any) -> None:
        """Forget the tasks, stored or not."""
        self.tasks.discard_sync()

    tpc_abort = abort


class TaskSavepoint:
    """Knows what was added before it."""

    def __init__(self, tasks: Transaction) -> None:
        """Take the tasks."""
        self._tasks, self._mark = tasks, tasks.mark()

    def rollback(self) -> None:
        """Forget what was added since, and nothing else."""
        self._tasks.rollback(self._mark)
