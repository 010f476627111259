"""A broker that keeps what tasks say of themselves where a test can see it, around one that does everything else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import taskqueue
from taskqueue.errors import BrokerUnavailable
from taskqueue.seal import unseal_note
from tests.tasks import KEYRING


@dataclass
class Kept:
    """What was kept of a task: each note with its delivery, opened."""

    notes: list[tuple[str, int, dict[str, bytes]]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    down: bool = False

    @property
    def fields(self) -> dict[str, bytes]:
        """Return the last value of each field."""
        return {name: raw for _, _, fields in self.notes for name, raw in fields.items()}

    @property
    def report(self) -> taskqueue.Report:
        """Return the report that was kept last."""
        return taskqueue.Report.decode(self.fields["report"])


class Notebook:
    """A broker with ``note``."""

    def __init__(self, broker: Any, kept: Kept) -> None:
        self._broker, self._kept = broker, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def note(
        self, queue: str, task_id: str, delivery: int, fields: Mapping[str, bytes], *, deadline: float
    ) -> bool:
        if self._kept.down:
            raise BrokerUnavailable("note: the store is away")
        opened = {}
        for name, sealed in fields.items():
            raw = unseal_note(KEYRING, queue, task_id, name, sealed) if sealed else b""
            assert raw is not None
            opened[name] = raw
            self._kept.raw.append(sealed)
        self._kept.notes.append((task_id, delivery, opened))
        return bool(await self._broker.note(queue, task_id, delivery, fields, deadline=deadline))


def keeping(tq: taskqueue.TaskQueue) -> Kept:
    """Let this TaskQueue keep notes, and return where they are found."""
    kept = Kept()
    tq.__dict__["broker"] = Notebook(tq.broker, kept)
    return kept
