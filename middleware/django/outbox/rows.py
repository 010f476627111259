"""Writing the rows of an outbox, in the application's own transaction, and passing them on, in a relay's."""

import time
from collections.abc import Collection, Sequence
from typing import Any, Final

from anyio import CapacityLimiter, from_thread, to_thread
from django.apps import apps
from django.db import close_old_connections, connections, transaction

from ....relay import ROWS, Push, from_now, portion
from ....task import SealedTask


def _model() -> Any:
    return apps.get_model("taskqueue_outbox", "Row")


def write(tasks: Sequence[SealedTask], *, using: str) -> None:
    """Have these tasks pushed once the transaction running on this database has committed."""
    now, model = time.time_ns() // 1_000_000, _model()
    model.objects.using(using).bulk_create(
        model(
            id=task.id,
            queue=task.queue,
            record=task.record,
            size=len(task.record),
            due=from_now(task, now=now).due,
            method=task.method,
            path=task.path,
            label=task.label,
        )
        for task in tasks
    )


class Rows:
    """The outbox in one database."""

    def __init__(self, using: str) -> None:
        """Take the alias."""
        self.using: Final = using
        self._thread: Final = CapacityLimiter(1)

    async def pass_on(self, push: Push, *, without: Collection[str]) -> int:
        """See Outbox."""
        return await to_thread.run_sync(self._pass_on, push, without, limiter=self._thread)

    def _pass_on(self, push: Push, without: Collection[str]) -> int:
        close_old_connections()
        locks = connections[self.using].features.has_select_for_update_skip_locked
        rows = _model().objects.using(self.using)
        try:
            with transaction.atomic(using=self.using):
                first = rows.select_for_update(skip_locked=True) if locks else rows
                sizes = list(first.exclude(queue__in=without).values_list("sequence", "size")[:ROWS])
                if sizes:
                    tasks = {row.sequence: _task(row) for row in rows.filter(sequence__in=portion(sizes))}
                    confirmed = from_thread.run(push, [*tasks.values()])
                    rows.filter(sequence__in=[row for row, task in tasks.items() if task.id in confirmed]).delete()
                return len(sizes)
        finally:
            close_old_connections()

    async def aclose(self) -> None:
        """See Outbox."""
        await to_thread.run_sync(connections.close_all, limiter=self._thread)


def _task(row: Any) -> SealedTask:
    return SealedTask(row.id, row.queue, bytes(row.record), row.due, row.method, row.path, row.label)
