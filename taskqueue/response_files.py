"""Keeps an answer that is longer than what is kept with its task as a file of the task, which goes with it."""

import asyncio
import logging
import time
from typing import Final

from .broker import CALL_DEADLINE, Broker
from .content import KEPT_BYTES
from .errors import TaskQueueError
from .policy import Answered
from .storage import Storage
from .task import Reservation

log = logging.getLogger("taskqueue.server")

FIELD: Final = "response_file"
"""Of a task's log: there is such a file, and who forgets the task is told so."""


class ResponseFiles:
    """Those in one storage. What fails here is logged: it changes nothing for the task."""

    def __init__(self, storage: Storage, broker: Broker, *, most: int) -> None:
        """Take where the files are, who remembers the tasks, and how many bytes are kept of an answer at most."""
        self._storage, self._broker, self.most = storage, broker, most

    async def keep(self, reservation: Reservation, answer: Answered) -> int:
        """Keep what there is of this answer, in place of an earlier one; return how many bytes of it are kept."""
        content, queue, task_id = answer.content, reservation.queue, reservation.id
        if len(content) <= KEPT_BYTES:
            await self.remove(reservation)
            return len(content)
        kind = next((value for name, value in answer.headers if name.lower() == "content-type"), "")
        try:
            # Noted before it is there, lest it outlive its task; a delivery that was taken back has no say any more.
            if not await self._note(reservation, b"1"):
                return KEPT_BYTES
            await asyncio.to_thread(self._storage.save_response, queue, task_id, content, kind)
        except (TaskQueueError, OSError) as error:
            log.warning(
                "task %s: of its answer only the first %d bytes are kept: %s", task_id, KEPT_BYTES, error,
                extra={"task_id": task_id},
            )  # fmt: skip
            return KEPT_BYTES
        return len(content)

    async def remove(self, reservation: Reservation) -> None:
        """Remove what an earlier delivery of this task was answered, if that is kept here."""
        if reservation.delivery == 1:
            return
        queue, task_id = reservation.queue, reservation.id
        try:
            found = await asyncio.to_thread(self._storage.has_response, queue, task_id)
            if found and await self._note(reservation, b""):
                await asyncio.to_thread(self._storage.remove_response, queue, task_id)
        except (TaskQueueError, OSError) as error:
            log.warning("task %s: an earlier answer stays: %s", task_id, error, extra={"task_id": task_id})

    async def _note(self, reservation: Reservation, value: bytes) -> bool:
        deadline = time.monotonic() + CALL_DEADLINE
        fields = {FIELD: value}
        return await self._broker.note(
            reservation.queue, reservation.id, reservation.delivery, fields, deadline=deadline
        )
