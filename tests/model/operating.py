"""The scripts of tools, and of housekeeping."""

from typing import Any

from tests.model.places import ENDED, GHOST, HELD, INDEX_OF, Places
from tests.model.values import Task, grouped, has


class Operating(Places):
    """One method a script, with the same arguments and the same reply."""

    def trim(self, most: int, *limits: Any) -> list[Any]:
        left, forgotten, with_files = most, 0, []
        for index, kept, count in grouped(limits, 3):
            everything = self._oldest(index)
            old = self._oldest(index, self.now - kept)
            surplus = max(len(old), len(everything) - count, 0)
            for task_id in everything[: min(surplus, left)]:
                left -= 1
                task = self._load(task_id)
                if task and has(task, GHOST):
                    self.indexes[index][task_id] = self.now
                    continue
                if {b"files", b"response_file"} & set(self.logs[task_id]):
                    with_files.append(task_id)
                del self.indexes[index][task_id]
                self._forget(task_id)
                forgotten += 1
        return [forgotten, *with_files]

    def reset(self) -> bytes:
        if self.emptied:
            return b"AGAIN"
        self.emptied, self.states, self.records, self.marks = self.states, {}, {}, {}
        for priority in range(10):
            self.lines[priority] = []
        for name in (b"bytes", b"ghosts"):
            self.control.pop(name, None)
        for index in self.indexes.values():
            index.clear()
        self.handed.clear()
        for consumer in self.consumers:
            self.reserved.pop(consumer, None)
        return b"OK"

    def forget(self) -> None:
        """Remove logs and what they are found by of all that a reset has emptied, as its caller does."""
        for task_id, task in self.emptied.items():
            self._find_no_more(task_id, task)
            self.logs.pop(task_id, None)
        self.emptied = {}

    def retry(self, actor: bytes, *tasks: bytes) -> int:
        queued = 0
        for task_id, record in grouped(tasks, 2):
            task = self._load(task_id)
            stored = self.records.get(task_id)
            kept = self.logs[task_id].get(b"record") if stored is None else stored
            if task and task.state in (b"failed", b"cancelled") and kept is not None:
                queued += 1
                self.records[task_id] = record or kept
                self._more(b"bytes", len(record or kept) - len(stored or b""))
                self.logs[task_id].pop(b"record", None)
                state, task = task.state, self._open_child(task, int(task.state == b"failed"))
                task = task._replace(attempt=0, crashes=0, due=0, status=0, reason=b"", spoilt=0)
                self._act(task_id, b"retried", actor)
                self._enqueue(task_id, task)
                self.indexes[state].pop(task_id, None)
        if queued:
            self._hint()
        return queued

    def control_(self, *values: bytes) -> bytes:
        for name, value in grouped(values, 2):
            if value:
                self.control[name] = int(value)
            else:
                self.control.pop(name, None)
        return self._hinted(b"OK")

    def purge(self, most: int) -> int:
        left = most
        for priority in range(10):
            line = self.lines[priority]
            while line and left > 0:
                self._purge(line[0], b"queued")
                line.pop(0)
                left -= 1
        for task_id in self._oldest(b"scheduled")[:left]:
            self._purge(task_id, b"scheduled")
            del self.indexes[b"scheduled"][task_id]
            left -= 1
        return most - left

    def _purge(self, task_id: bytes, state: bytes) -> None:
        task = self._load(task_id)
        if task and has(task, GHOST):
            self.states[task_id] = self._lay(task)
        elif not task or task.state == state:
            self._forget(task_id)
            if task:
                self._tell_parent(task, b"cancelled")

    # ---- what becomes of single tasks

    def withdraw(self, word: bytes, forced: int, actor: bytes, *ids: bytes) -> list[bytes]:
        return [self._withdraw(task_id, word, actor, forced=forced == 1) for task_id in ids]

    def _withdraw(self, task_id: bytes, word: bytes, actor: bytes, *, forced: bool) -> bytes:
        task = self._load(task_id)
        if not task:
            return b"unknown"
        state: bytes = task.state
        if state in HELD and forced:
            self._act(task_id, b"marked", actor)
            self.marks[task_id] = word
            return b"marked"
        waits = state == b"waiting" and (forced or word == b"cancelled")
        ended = state in (b"completed", b"failed", b"cancelled") and word == b"archived"
        if state in (b"queued", b"scheduled") or waits or ended:
            self._away(task_id, task, word, actor)
            return word
        return state

    def _away(self, task_id: bytes, task: Task, word: bytes, actor: bytes) -> None:
        state = task.state
        if state == b"queued":
            task = task._replace(flags=task.flags + GHOST)
            self._more(b"ghosts", 1)
        if state == b"completed":
            self.logs[task_id][b"act:%d:completed" % task.changed] = task.holder
        self._act(task_id, word, actor)
        (self._list_in if state in ENDED else self._conclude)(task_id, task, word)
        self._log_record(task_id)
        if state in INDEX_OF:
            self.indexes[INDEX_OF[state]].pop(task_id, None)

    def hasten(self, actor: bytes, *ids: bytes) -> int:
        hastened = 0
        for task_id in reversed(ids):
            task = self._load(task_id)
            if task and task.state == b"scheduled":
                hastened += 1
                self._act(task_id, b"hastened", actor)
                self._give_back(task_id, task._replace(due=min(task.due, self.now)))
                self.indexes[b"scheduled"].pop(task_id, None)
        if hastened:
            self._hint()
        return hastened

    def restart(self, actor: bytes, *ids: bytes) -> int:
        restarted = sum(self._restart(task_id, actor) for task_id in ids)
        if restarted:
            self._hint()
        return restarted

    def _restart(self, task_id: bytes, actor: bytes) -> bool:
        task = self._load(task_id)
        if not task or not self._stuck(task_id, task):
            return False
        if mark := self.marks.get(task_id):
            self._obey(task_id, task, mark)
            return True
        if task_id not in self.records:
            return False
        self._act(task_id, b"restarted", actor)
        self._enqueue(task_id, task._replace(crashes=task.crashes + (task.state == b"running")))
        return True

    def _stuck(self, task_id: bytes, task: Task) -> bool:
        if task.state == b"queued":
            return task_id not in self._line(task)
        if task.state == b"scheduled":
            return task_id not in self.indexes[b"scheduled"]
        served = task.holder in self.consumers and task_id in self.reserved[task.holder]
        return task.state in HELD and not served and self.handed.get(task.holder) != task_id
