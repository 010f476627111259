"""From a list of sealed tasks to the queue: in one command if it fits, in two phases if not.

The promise: an error other than CommitUncertain means that none of these tasks will ever run.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from anyio import CancelScope

from .broker import Broker
from .errors import BrokerUnavailable, CommitUncertain, ReplyLost, TaskQueueError
from .task import SealedTask, total_bytes

PUSH_TASKS: Final = 200
PUSH_BYTES: Final = 1024 * 1024

Queues = Mapping[str, Sequence[SealedTask]]


async def commit(broker: Broker, tasks: Sequence[SealedTask], *, deadline: float) -> None:
    """Queue all these tasks, each queue's in the order given.

    Raises CommitUncertain with the ids that may run; after any other error none will. ``deadline`` is a value of
    ``time.monotonic()``. A cancellation is held back until the outcome is known: CancelledError too means that nothing
    will run, and a commit that was cancelled too late to be stopped raises CommitUncertain.
    """
    ids = [task.id for task in tasks]
    cancelled: asyncio.CancelledError | None = None
    work = asyncio.create_task(_commit(broker, tasks, deadline))
    with CancelScope(shield=True):
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError as error:
                cancelled = error
    if work.cancelled():  # by a loop that is being closed: it asks nobody first
        raise CommitUncertain(ids)
    failure = work.exception()
    if cancelled is None or isinstance(failure, CommitUncertain):
        return work.result()
    if failure is None:
        raise CommitUncertain(ids) from cancelled
    raise cancelled


async def _commit(broker: Broker, tasks: Sequence[SealedTask], deadline: float) -> None:
    by_queue: dict[str, list[SealedTask]] = {}
    for task in tasks:
        by_queue.setdefault(task.queue, []).append(task)
    if len(by_queue) == 1 and len(tasks) <= PUSH_TASKS and total_bytes(tasks) <= PUSH_BYTES:
        try:
            await broker.push(tasks[0].queue, tasks, deadline=deadline)
        except ReplyLost as error:
            raise CommitUncertain([task.id for task in tasks]) from error
        return
    await _prepare(broker, by_queue, deadline)
    await _promote(broker, by_queue, deadline)


async def _prepare(broker: Broker, by_queue: Queues, deadline: float) -> None:
    try:
        for queue, tasks in by_queue.items():
            for chunk in chunks(tasks):
                await broker.prepare(queue, chunk, deadline=deadline)
    except TaskQueueError as error:
        await _discard(broker, by_queue, deadline)
        if isinstance(error, ReplyLost):
            # What is only prepared never runs, so here a lost reply is no doubt at all.
            raise BrokerUnavailable(str(error)) from error
        raise


async def _promote(broker: Broker, by_queue: Queues, deadline: float) -> None:
    may_run: list[str] = []
    for queue, tasks in by_queue.items():
        ids = [task.id for task in tasks]
        try:
            await broker.promote(queue, ids, deadline=deadline)
        except TaskQueueError as error:
            if isinstance(error, ReplyLost):
                may_run += ids
            # What may run stays as it is: only what is still prepared can be discarded.
            await _discard(broker, by_queue, deadline)
            if may_run:
                raise CommitUncertain(may_run) from error
            raise
        may_run += ids


async def _discard(broker: Broker, by_queue: Queues, deadline: float) -> None:
    """Forget what is prepared, if there is time left for it; if not, it ends as in-doubt by itself."""
    for queue, tasks in by_queue.items():
        # The error that brought us here is the one to tell.
        with contextlib.suppress(TaskQueueError):
            await broker.discard(queue, [task.id for task in tasks], deadline=deadline)


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
