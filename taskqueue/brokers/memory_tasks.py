"""The tasks of one queue as Python values, and the places where they are: what every move does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ..inspector import By, Control
from ..task import CHILD, SealedTask, StateName, TaskState
from .places import INDEX_OF, Consumer, Index, Lines, TaskLog

HELD: Final = ("reserved", "running")
ENDED: Final = ("completed", "failed", "cancelled", "archived")


class Tasks:
    """What is stored of one queue. ``hint`` is called whenever something may be waiting."""

    def __init__(self, name: str, hint: Callable[[], None]) -> None:
        self.name: Final = name
        self._hint = hint
        self.consumers: dict[str, Consumer] = {}
        self.control: dict[Control, int] = {}
        self.slowed = 0
        self._empty()

    def _empty(self) -> None:
        self.lines = Lines()
        self.indexes = {name: Index() for name in INDEX_OF.values()}
        self.found: dict[tuple[By, str], Index] = {}
        self.states: dict[str, TaskState] = {}
        self.records: dict[str, bytes] = {}
        self.logs: dict[str, TaskLog] = {}
        self.marks: dict[str, StateName] = {}
        self.bytes = 0

    def log_of(self, task_id: str) -> TaskLog:
        """Return a task's log, to be written into."""
        return self.logs.setdefault(task_id, TaskLog())

    # ---- from place to place

    def _put(self, task: TaskState) -> None:
        self.states[task.id] = task

    def _save(self, task: TaskState, state: StateName, at: int) -> None:
        self._put(replace(task, state=state, changed=at))

    def _list_in(self, task: TaskState, state: StateName, at: int) -> None:
        self.indexes[INDEX_OF[state]].put(task.id, task.due if state == "scheduled" else at)
        self._save(task, state, at)

    def _take_out(self, task: TaskState) -> None:
        """Take a task out of the line or the index where its state says that it is."""
        if task.state == "queued":
            self.lines.take(task)
        elif task.state in INDEX_OF:
            self.indexes[INDEX_OF[task.state]].remove(task.id)

    def _enqueue(self, task: TaskState, at: int) -> None:
        """To the back of the line, or among the scheduled until its time."""
        if task.due > at:
            self._list_in(task, "scheduled", at)
        else:
            self.lines.append(task)
            self._save(task, "queued", at)

    def _put_in_front(self, task: TaskState, at: int) -> None:
        self.lines.put_back(task)
        self._save(task, "queued", at)

    # ---- from nothing, and back

    def _store(self, task: SealedTask, at: int) -> TaskState:
        """Store a new task, except its place; return what is to be put there."""
        self._keep_record(task.id, task.record)
        due = task.due if task.due >= 0 else at - task.due
        shown = (task.method, task.path, task.label, task.priority, task.owner, task.route, task.parent, task.flags)
        made = TaskState(task.id, self.name, "prepared", 0, 0, 0, at, due, 0, 0, at, 0, "", "", *shown)
        for found in _found_by(made):
            self.found.setdefault(found, Index()).put(task.id, at)
        return self._open_child(made)

    def _open_child(self, task: TaskState, *, failed: bool = False) -> TaskState:
        """Let a parent wait for a task that begins, or begins anew (after it had ``failed``); return the task.

        It is a child no more if its parent has ended.
        """
        if not task.flags & CHILD:
            return task
        parent = self.states.get(task.parent)
        if parent is None or parent.state in ENDED:
            return replace(task, flags=task.flags - CHILD)
        self._put(replace(parent, open=parent.open + 1, spoilt=max(0, parent.spoilt - failed)))
        return task

    def _forget(self, task: TaskState) -> None:
        """Remove all that is known of a task."""
        self._take_out(task)
        for found in _found_by(task):
            index = self.found[found]
            index.remove(task.id)
            if not index:
                del self.found[found]
        self._drop_record(task.id)
        del self.states[task.id]
        self.logs.pop(task.id, None)

    # ---- records

    def _keep_record(self, task_id: str, record: bytes) -> None:
        self._drop_record(task_id)
        self.records[task_id] = record
        self.bytes += len(record)

    def _drop_record(self, task_id: str) -> None:
        self.bytes -= len(self.records.pop(task_id, b""))

    def _log_record(self, task_id: str) -> None:
        """Out of the way, but not forgotten: what a queue may hold is a matter of what is still to run."""
        if task_id in self.records:
            self.log_of(task_id).record = self.records[task_id]
            self._drop_record(task_id)


def _found_by(task: TaskState) -> list[tuple[By, str]]:
    by: list[tuple[By, str]] = [("owner", task.owner), ("label", task.label), ("route", task.route)]
    return [found for found in by if found[1]]
