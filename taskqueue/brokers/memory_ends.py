"""How the tasks of a queue in memory come to their ends: outcomes, marks, children and their parents, what follows."""

from dataclasses import replace

from ..inspector import Ended, Released
from ..task import CHILD, MASTER, SealedTask, Settlement, StateName, TaskState
from .memory_tasks import Tasks
from .places import TaskLog


class Ends(Tasks):
    """These parts of a queue's moves."""

    def _conclude(self, task: TaskState, state: StateName, at: int) -> None:
        self._list_in(task, state, at)
        self._tell_parent(task, state, at)

    def _fail(self, task: TaskState, reason: str, at: int) -> None:
        self._conclude(replace(task, reason=reason), "failed", at)

    def _tell_parent(self, task: TaskState, state: StateName, at: int) -> None:
        """Let a parent know that a child has ended: with the last one it does too, and perhaps its own parent."""
        while task.flags & CHILD and (parent := self.states.get(task.parent)):
            parent = replace(parent, open=parent.open - 1, spoilt=parent.spoilt + (state == "failed"))
            if parent.state != "waiting" or parent.open > 0:
                self._put(parent)
                return
            self._take_out(parent)
            task, state = parent, "completed"
            if parent.spoilt:
                task, state = replace(parent, reason="children"), "failed"
            self._list_in(task, state, at)
            if state == "completed":
                self._drop_record(task.id)
            self._follow(self.logs.get(task.id, TaskLog()).following.get(state), at)

    def _follow(self, task: SealedTask | None, at: int) -> None:
        """Queue what follows from an end, if anything does: it belongs to what was accepted, so no limit holds."""
        if task is not None and task.id not in self.states:
            self._enqueue(self._store(task, at), at)
            self._hint()

    def _obey(self, task: TaskState, at: int) -> None:
        """Let a task under way end as what it is marked."""
        self._conclude(task, self.marks.pop(task.id), at)
        self._log_record(task.id)

    def _end(self, task: TaskState, item: Settlement, *, keep: bool, at: int) -> None:
        """Let a delivery end with this settlement."""
        task = replace(task, status=item.verdict.status, reason=item.verdict.reason)
        kind = item.verdict.kind
        if task.id in self.marks:
            self._log_ending(task, self.marks[task.id], at)
            self._obey(task, at)
        elif kind == "complete":
            self._complete(task, item, keep=keep, at=at)
        elif kind == "release":
            self._log_release(task.id, task.reason, task.holder, at)
            task = replace(task, attempt=task.attempt - 1, due=at + in_ms(item.verdict.delay))
            (self._enqueue if task.due > at else self._put_in_front)(task, at)
        else:
            self._fall(task, item, at)

    def _complete(self, task: TaskState, item: Settlement, *, keep: bool, at: int) -> None:
        if keep:
            self._log_record(task.id)
        if item.response:
            self.log_of(task.id).fields["response"] = item.response
        elif task.id in self.logs:
            # That of an earlier delivery, which did not complete.
            self.logs[task.id].fields.pop("response", None)
        children_count = not task.flags & MASTER
        if task.open and children_count:
            self.log_of(task.id).following.clear()  # those of an earlier delivery
            if item.on_success is not None:
                self.log_of(task.id).following["completed"] = item.on_success
            if item.on_failure is not None:
                self.log_of(task.id).following["failed"] = item.on_failure
            self._log_ending(task, "waiting", at)
            self._list_in(task, "waiting", at)
        elif task.spoilt and children_count:
            self._fail(task, "children", at)
            self._follow(item.on_failure, at)
        else:
            self._conclude(task, "completed", at)
            self._drop_record(task.id)
            self._follow(item.on_success, at)

    def _fall(self, task: TaskState, item: Settlement, at: int) -> None:
        self._log_ending(task, item.verdict.kind, at)
        if item.response:
            self.log_of(task.id).fields["response"] = item.response
        if item.verdict.kind == "retry":
            self._list_in(replace(task, due=at + in_ms(item.verdict.delay)), "scheduled", at)
        else:
            self._fail(task, task.reason, at)
            self._follow(item.on_failure, at)

    def _log_ending(self, task: TaskState, verdict: str, at: int) -> None:
        self.log_of(task.id).ended[task.delivery] = Ended(
            *(task.delivery, task.attempt, task.reserved, task.begun, at),
            *(task.status, task.reason, task.holder, verdict),
        )

    def _log_release(self, task_id: str, reason: str, actor: str, at: int) -> None:
        log = self.log_of(task_id)
        first, count = (log.released.first, log.released.count) if log.released else (at, 0)
        log.released = Released(first, at, count + 1, reason, actor)


def in_ms(seconds: float) -> int:
    """Return a duration as the store counts it."""
    return round(seconds * 1000)
