"""What operators do to a queue in memory, and to the tasks in it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..broker import Withdrawal
from ..inspector import Control
from ..task import TaskState
from .memory_ends import Ends
from .memory_tasks import ENDED, HELD
from .places import TaskLog


class Acts(Ends):
    """These moves of a queue. ``actor``: who does it, kept in the log."""

    def _act(self, task_id: str, what: str, actor: str, at: int) -> None:
        self.log_of(task_id).acts[at, what] = actor

    def say(self, changes: Mapping[Control, int | None]) -> None:
        """Say how the queue is to be run; None takes a word back."""
        for name, value in changes.items():
            self.control.pop(name, None)
            if value is not None:
                self.control[name] = value
        self._hint()

    def withdraw(self, ids: Sequence[str], word: Withdrawal, *, actor: str, force: bool, at: int) -> list[str]:
        """Cancel or archive tasks; return for each what has become of it: see Broker."""
        return [self._withdraw(task_id, word, actor=actor, force=force, at=at) for task_id in ids]

    def _withdraw(self, task_id: str, word: Withdrawal, *, actor: str, force: bool, at: int) -> str:
        task = self.states.get(task_id)
        if task is None:
            return "unknown"
        if task.state in HELD and force:
            self._act(task_id, "marked", actor, at)
            self.marks[task_id] = word
            return "marked"
        if not _may_end(task, word, force=force):
            return task.state
        if task.state == "completed":
            self._act(task_id, "completed", task.holder, task.changed)
        self._act(task_id, word, actor, at)
        self._take_out(task)
        if task.state in ENDED:
            self._list_in(task, word, at)
        else:
            self._conclude(task, word, at)
        self._log_record(task_id)
        return word

    def hasten(self, ids: Sequence[str], *, actor: str, at: int) -> int:
        """Queue now, in front, what waits for its time; return how many were."""
        hastened = 0
        for task_id in reversed(ids):
            task = self.states.get(task_id)
            if task is not None and task.state == "scheduled":
                self._act(task_id, "hastened", actor, at)
                self._take_out(task)
                self._put_in_front(replace(task, due=min(task.due, at)), at)
                hastened += 1
        if hastened:
            self._hint()
        return hastened

    def restart(self, ids: Sequence[str], *, actor: str, at: int) -> int:
        """Queue again what is stuck; return how many were. Whatever is where its state says is left alone.

        What is marked has no holder that could obey: it ends here.
        """
        restarted = 0
        for task_id in ids:
            task = self.states.get(task_id)
            if task is not None and self._is_stuck(task):
                if task_id in self.marks:
                    self._obey(task, at)
                else:
                    self._act(task_id, "restarted", actor, at)
                    self._enqueue(replace(task, crashes=task.crashes + (task.state == "running")), at)
                restarted += 1
        if restarted:
            self._hint()
        return restarted

    def _is_stuck(self, task: TaskState) -> bool:
        """Tell whether a task is said to wait, but in no line; or to be held, but by nobody."""
        if task.state == "queued":
            return task not in self.lines
        if task.state == "scheduled":
            return task.id not in self.indexes["scheduled"].times
        holder = self.consumers.get(task.holder)
        return task.state in HELD and not (holder and holder.watched and task.id in holder.held)

    def retry(self, tasks: Sequence[tuple[str, bytes]], *, actor: str, at: int) -> int:
        """Queue failed or cancelled tasks again, each with a new record or b"" for the old; return how many were."""
        queued = 0
        for task_id, record in tasks:
            task = self.states.get(task_id)
            kept = self.records.get(task_id, self.logs.get(task_id, TaskLog()).record)
            if task is not None and task.state in ("failed", "cancelled") and kept is not None:
                self._keep_record(task_id, record or kept)
                self.log_of(task_id).record = None
                self._act(task_id, "retried", actor, at)
                self._take_out(task)
                task = self._open_child(task, failed=task.state == "failed")
                # Children that failed in its earlier life are no matter of this one.
                self._enqueue(replace(task, attempt=0, crashes=0, due=0, status=0, reason="", spoilt=0), at)
                queued += 1
        if queued:
            self._hint()
        return queued

    def purge(self, most: int, *, at: int) -> int:
        """Forget up to ``most`` tasks that wait, in the lines and for their time, the least urgent first."""
        left = most
        for line in reversed(self.lines.by_priority.values()):
            while line and left:
                self._purge(next(iter(line)), at)
                left -= 1
        for task_id in self.indexes["scheduled"].first(left):
            self._purge(task_id, at)
            left -= 1
        return most - left

    def _purge(self, task_id: str, at: int) -> None:
        task = self.states[task_id]
        self._forget(task)
        self._tell_parent(task, "cancelled", at)

    def reset(self) -> None:
        """Empty the queue. Consumers keep their leases: what they still run is settled as stale."""
        for consumer in self.consumers.values():
            consumer.held.clear()
        self._empty()


def _may_end(task: TaskState, word: Withdrawal, *, force: bool) -> bool:
    """Tell whether a task that is not under way may be ended with this word: what has ended can only be archived."""
    if task.state in ("queued", "scheduled"):
        return True
    if task.state == "waiting":
        return force or word == "cancelled"
    return word == "archived" and task.state in ENDED and task.state != word
