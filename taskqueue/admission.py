"""A proved delivery on its way through a door: what its answer carries, and what is stored before that leaves."""

import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from .answers import REFUSED
from .errors import NotKept
from .fast_init import fast_init
from .notes import Notes
from .portal import start_in_portal
from .producer import TaskQueue, captures
from .request import Body, CurrentTask
from .seal import NONCE_BYTES, seal_note
from .signature import Proof
from .tee import Whole

log = logging.getLogger("taskqueue.door")

RECEIPT: Final = "x-task-receipt"
REPORT: Final = "x-task-report"
# A response of the application can neither refuse a delivery nor vouch for it.
OURS: Final = frozenset((RECEIPT, REFUSED, REPORT))

Headers: TypeAlias = tuple[tuple[str, str], ...]


@fast_init
@dataclass(frozen=True, slots=True)
class Admission:
    """A proved delivery, its body read.

    ``notes`` is what it says of itself; ``receipt`` makes the headers of the receipt, with the type of a report;
    ``run_sync`` runs a coroutine from synchronous code.
    """

    task: CurrentTask
    content: bytes
    notes: Notes
    receipt: Callable[[str], Headers]
    run_sync: Callable[[Callable[[], Awaitable[None]]], None]

    @property
    def body(self) -> Body | None:
        """What the queue is given to copy."""
        return Whole(self.content) if self.content else None

    @property
    def pending(self) -> bool:
        """Whether the answer must wait: the task has said something of itself that is not stored yet."""
        return self.notes.pending

    def headers(self) -> Headers:
        """Return what an answer begins with: the receipt, over HTTP. From now on nothing can be reported."""
        return self.receipt(self.notes.close())

    async def keep(self) -> None:
        """Store what the task has said of itself; raises NotKept, and then its answer must not be told."""
        if self.pending:
            await self.notes.keep()

    def keep_sync(self) -> None:
        """Do the same from synchronous code."""
        if self.pending:
            self.run_sync(self.notes.keep)

    async def keep_if_possible(self) -> None:
        """Do the same where the task is going to run again anyway, or its answer has been told: trouble is logged."""
        try:
            await self.keep()
        except NotKept as error:
            log.error("%s", error)  # noqa: TRY400 - an outage

    def keep_if_possible_sync(self) -> None:
        """Do the same from synchronous code."""
        if self.pending:
            self.run_sync(self.keep_if_possible)


def notes_for(tq: TaskQueue, proof: Proof) -> Notes:
    """Return what collects what this delivery says of itself, and stores it, sealed, in the broker."""
    queue, task_id = proof.queue, proof.task_id

    async def keep(fields: Mapping[str, bytes]) -> bool:
        if captures or proof.manual:
            return True  # No broker knows of the delivery: a test drains its tasks, or a person has made it by hand.
        sealed = {
            field: seal_note(tq.keyring, queue, task_id, field, raw, nonce=os.urandom(NONCE_BYTES)) if raw else b""
            for field, raw in fields.items()
        }
        deadline = time.monotonic() + tq.commit_deadline
        return await tq.broker.note(queue, task_id, proof.delivery, sealed, deadline=deadline)

    return Notes(task_id, keep, partial(start_in_portal, tq, tq.aclose), again=proof.delivery > 1 and not proof.manual)
