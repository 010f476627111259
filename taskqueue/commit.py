"""From a list of sealed tasks to the queue: in one command if it fits, in two phases if not.

The promise: an error other than CommitUncertain means that none of these tasks will ever run.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from anyio import CancelScope, current_effective_deadline

from .broker import Broker
from .errors import BrokerUnavailable, CommitUncertain, ReplyLost, TaskQueueError
from .task import SealedTask

log = logging.getLogger("taskqueue.commit")

Result = TypeVar("Result")

PUSH_TASKS: Final = 200
PUSH_BYTES: Final = 1024 * 1024


class Outcome(asyncio.Future[None]):
    """What a broker may return for work that nobody can take back: who is cancelled meanwhile hears how it ended first.

    A task that waits for a future which refuses to be cancelled is cancelled as soon as that is done. So no other task
    is needed to hold the work.
    """

    def cancel(self, msg: Any = None) -> bool:  # noqa: ARG002 - as every Future has it
        """Refuse."""
        return False


Queues = Mapping[str, Sequence[SealedTask]]


async def commit(broker: Broker, tasks: Sequence[SealedTask], *, deadline: float) -> None:
    """Queue all these tasks, each queue's in the order given.

    Raises CommitUncertain with the ids that may run; after any other error none will. ``deadline`` is a value of
    ``time.monotonic()``. A cancellation is held back until the outcome is known: CancelledError too means that nothing
    will run, and a commit that was cancelled too late to be stopped raises CommitUncertain.
    """
    queue = tasks[0].queue
    if _fit(tasks, queue):
        push = broker.push(queue, tasks, deadline=deadline)
        job, cancelled = (push, await _heard(push)) if isinstance(push, Outcome) else await to_its_end(push)
    else:
        job, cancelled = await to_its_end(_in_two_phases(broker, _by_queue(tasks), deadline))
    if job.cancelled():  # by a loop that is being closed: it asks nobody first
        raise CommitUncertain([task.id for task in tasks])
    failure = job.exception()
    if isinstance(failure, CommitUncertain):
        raise failure
    if isinstance(failure, ReplyLost) or (failure is None and cancelled is not None):
        raise CommitUncertain([task.id for task in tasks]) from failure or cancelled
    if cancelled is not None:
        raise cancelled
    if failure is not None:
        raise failure


async def prepare(broker: Broker, tasks: Sequence[SealedTask], *, deadline: float) -> Mapping[str, Sequence[str]]:
    """Store all these tasks without queueing any; return their ids by queue.

    After an error, a cancellation too, none will ever run. ``deadline`` as for ``commit``.
    """
    by_queue = _by_queue(tasks)
    work, cancelled = await to_its_end(_prepare(broker, by_queue, deadline))
    if cancelled is not None:
        await to_its_end(discard(broker, _ids(by_queue), deadline=deadline))
        raise cancelled
    work.result()
    return _ids(by_queue)


async def promote(broker: Broker, ids: Mapping[str, Sequence[str]], *, deadline: float) -> Sequence[str]:
    """Queue what was prepared, in each queue whatever becomes of the others; return those that did not confirm."""
    unconfirmed = []
    for queue, some in ids.items():
        try:
            await broker.promote(queue, some, deadline=deadline)
        except TaskQueueError as error:
            log.warning("queue %s: %d task(s) not queued yet: %s", queue, len(some), error)
            unconfirmed.append(queue)
    return unconfirmed


async def discard(broker: Broker, ids: Mapping[str, Sequence[str]], *, deadline: float) -> None:
    """Forget what is prepared, if there is time left for it; if not, it ends as in-doubt by itself."""
    for queue, some in ids.items():
        try:
            await broker.discard(queue, some, deadline=deadline)
        except TaskQueueError as error:
            log.warning("queue %s: %d aborted task(s) not forgotten yet: %s", queue, len(some), error)


async def to_its_end(work: Awaitable[Result]) -> tuple["asyncio.Future[Result]", asyncio.CancelledError | None]:
    """Let this work end whatever becomes of the caller; return it, and the cancellation that came meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    job = asyncio.ensure_future(work)
    with CancelScope(shield=True):
        while not job.done():
            try:
                await asyncio.wait([job])
            except asyncio.CancelledError as error:
                cancelled = error
    return job, cancelled


async def _heard(outcome: Outcome) -> asyncio.CancelledError | None:
    """Wait for an outcome; return the cancellation that came meanwhile.

    That of a scope of anyio does not count, as if there were a shield, which costs as much as all else that is done
    here: it comes again as soon as its task waits for something else. A scope says which one it is, others are silent.
    """
    cancelled = None
    while not outcome.done():
        try:
            await outcome
        except asyncio.CancelledError as error:
            if not (error.args and current_effective_deadline() == -math.inf):
                cancelled = error
        except TaskQueueError:
            break  # which the caller finds in the outcome
    return cancelled


def _fit(tasks: Sequence[SealedTask], queue: str) -> bool:
    """Tell whether these tasks go into one call."""
    weight = 0
    for task in tasks:
        if task.queue != queue:
            return False
        weight += len(task.record)
    return len(tasks) <= PUSH_TASKS and weight <= PUSH_BYTES


async def _in_two_phases(broker: Broker, by_queue: Queues, deadline: float) -> None:
    await _prepare(broker, by_queue, deadline)
    await _promote(broker, _ids(by_queue), deadline)


async def _prepare(broker: Broker, by_queue: Queues, deadline: float) -> None:
    try:
        for queue, tasks in by_queue.items():
            for chunk in chunks(tasks):
                await broker.prepare(queue, chunk, deadline=deadline)
    except TaskQueueError as error:
        await discard(broker, _ids(by_queue), deadline=deadline)
        if isinstance(error, ReplyLost):
            # What is only prepared never runs, so here a lost reply is no doubt at all.
            raise BrokerUnavailable(str(error)) from error
        raise


async def _promote(broker: Broker, by_queue: Mapping[str, Sequence[str]], deadline: float) -> None:
    may_run: list[str] = []
    for queue, ids in by_queue.items():
        try:
            await broker.promote(queue, ids, deadline=deadline)
        except TaskQueueError as error:
            if isinstance(error, ReplyLost):
                may_run += ids
            # What may run stays as it is: only what is still prepared can be discarded.
            await discard(broker, by_queue, deadline=deadline)
            if may_run:
                raise CommitUncertain(may_run) from error
            raise
        may_run += ids


def _by_queue(tasks: Sequence[SealedTask]) -> Queues:
    by_queue: dict[str, list[SealedTask]] = {}
    for task in tasks:
        by_queue.setdefault(task.queue, []).append(task)
    return by_queue


def _ids(by_queue: Queues) -> Mapping[str, Sequence[str]]:
    return {queue: [task.id for task in tasks] for queue, tasks in by_queue.items()}


def chunks(tasks: Sequence[SealedTask]) -> Iterator[Sequence[SealedTask]]:
    """Cut a list into pieces of at most 200 tasks and 1 MiB; one larger record travels alone."""
    start, weight = 0, 0
    for end, task in enumerate(tasks):
        if end > start and (end - start == PUSH_TASKS or weight + len(task.record) > PUSH_BYTES):
            yield tasks[start:end]
            start, weight = end, 0
        weight += len(task.record)
    if start < len(tasks):
        yield tasks[start:]
