"""Removes, now and then, the files of tasks that are not remembered any more.

When a task is forgotten its files go at once. What a consumer that died then has left, and what a reset or a purge
leaves, is found here.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from typing import Final

from .broker import CALL_DEADLINE, Broker
from .errors import StorageError, TaskQueueError
from .storage import Storage

log = logging.getLogger("taskqueue.server")

# Seconds.
SWEEP_EVERY: Final = 3600.0
PATIENCE: Final = 30.0


class Sweeper:
    """Looks through one storage."""

    def __init__(self, storage: Storage, broker: Broker) -> None:
        """Take where the files are, and who remembers the tasks."""
        self._storage, self._broker = storage, broker

    async def watch(self) -> None:
        """Sweep at the start and every hour, for ever."""
        while True:
            try:
                if swept := await self.sweep():
                    log.info("the files of %d forgotten task(s) were removed", swept)
            except (TaskQueueError, OSError, TimeoutError) as error:
                log.warning("the storage was not swept: %s", error)
            await asyncio.sleep(SWEEP_EVERY)

    async def sweep(self) -> int:
        """Sweep once; return of how many tasks files were removed."""
        loop, wanted = asyncio.get_running_loop(), True

        def known(queue: str, ids: Sequence[str]) -> Collection[str]:
            if not wanted:
                raise StorageError("nobody waits for the sweep any more")
            return asyncio.run_coroutine_threadsafe(self._known(queue, ids), loop).result(PATIENCE)

        try:
            return await asyncio.to_thread(self._storage.sweep, known)
        finally:
            wanted = False  # The thread goes on after a stop, which waits for it.

    async def _known(self, queue: str, ids: Sequence[str]) -> list[str]:
        deadline = time.monotonic() + CALL_DEADLINE
        found = await asyncio.gather(*(self._broker.get(queue, task_id, deadline=deadline) for task_id in ids))
        return [task_id for task_id, state in zip(ids, found, strict=True) if state is not None]
