"""From a list of sealed tasks to the queue: in one command if it fits, in two phases if not.

The promise: an error other than CommitUncertain means that none of these tasks will ever run.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Final

from .broker import Broker
from .errors import BrokerUnavailable, CommitUncertain, ReplyLost, TaskQueueError
from .task import SealedTask, total_bytes

PUSH_TASKS: Final = 200
PUSH_BYTES: Final = 1024 * 1024
# Seconds. What was prepared for a commit that failed is forgotten in passing; if not, it ends as in-doubt by itself.
DISCARD_PATIENCE: Final = 0.5


async def commit(broker: Broker, tasks: Sequence[SealedTask], *, deadline: float) -> None:
    """Queue all these tasks, each queue's in the order given.

    Raises CommitUncertain with the ids that may run, or BrokerUnavailable and then none will; ``deadline`` is a value
    of ``time.monotonic()``.
    """
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


async def _prepare(broker: Broker, by_queue: dict[str, list[SealedTask]], deadline: float) -> None:
    try:
        for queue, tasks in by_queue.items():
            for chunk in chunks(tasks):
                await broker.prepare(queue, chunk, deadline=deadline)
    except ReplyLost as error:
        # What is only prepared never runs, so here a lost reply is no doubt at all.
        await _discard(broker, by_queue)
        raise BrokerUnavailable(str(error)) from error
    except BaseException:
        await _discard(broker, by_queue)
        raise


async def _promote(broker: Broker, by_queue: dict[str, list[SealedTask]], deadline: float) -> None:
    unsure: list[str] = []
    started = False
    cause: TaskQueueError | None = None
    for queue, tasks in by_queue.items():
        ids = [task.id for task in tasks]
        try:
            await broker.promote(queue, ids, deadline=deadline)
            started = True
        except BrokerUnavailable as error:
            cause = error
            started = started or isinstance(error, ReplyLost)
            unsure += ids
        if cause is not None and not started:
            await _discard(broker, by_queue)
            raise cause
    if cause is not None:
        raise CommitUncertain(unsure) from cause


async def _discard(broker: Broker, by_queue: dict[str, list[SealedTask]]) -> None:
    for queue, tasks in by_queue.items():
        try:
            ids = [task.id for task in tasks]
            await broker.discard(queue, ids, deadline=time.monotonic() + DISCARD_PATIENCE)
        except BrokerUnavailable:
            return  # Nothing is lost by it: see DISCARD_PATIENCE.


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
