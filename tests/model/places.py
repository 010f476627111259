"""Where tasks are and how they get there: what the parts that scripts begin with (taskqueue/lua/_*.lua) should do.

The lines stand here as people see them, the front first, what was reserved first first; only ``keys`` knows how Redis
holds them.
"""

from collections import defaultdict
from typing import Any, Final

import msgpack

from tests.model.values import Task, has

INDEX_OF: Final = {
    b"scheduled": b"scheduled", b"prepared": b"prepared", b"waiting": b"waiting", b"failed": b"failed",
    b"completed": b"finished", b"cancelled": b"cancelled", b"archived": b"archived",
}  # fmt: skip
INDEXES: Final = tuple(INDEX_OF.values())
BY: Final = ("owner", "label", "route")
EXPIRES: Final = b"(expires)"
HELD: Final = (b"reserved", b"running")
ENDED: Final = (b"completed", b"failed", b"cancelled", b"archived")
NORMAL: Final = 4
CHILD: Final = 1
MASTER: Final = 2
GHOST: Final = 4


def line_key(priority: int) -> bytes:
    """Return the key of the line of a priority, as the part after the queue's own."""
    return b"" if priority == NORMAL else b":p%d" % priority


class Places:
    """One queue, and the moves that several scripts have in common."""

    def __init__(self) -> None:
        self.now = 0
        self._hints: list[Any] = []
        self._empty()

    def _empty(self) -> None:
        self.lines: dict[int, list[bytes]] = {priority: [] for priority in range(10)}
        self.reserved: defaultdict[bytes, list[bytes]] = defaultdict(list)
        self.indexes: dict[bytes, dict[bytes, float]] = {name: {} for name in INDEXES}
        self.by: defaultdict[bytes, dict[bytes, float]] = defaultdict(dict)
        self.states: dict[bytes, Task | bytes] = {}
        self.records: dict[bytes, bytes] = {}
        self.logs: defaultdict[bytes, dict[bytes, Any]] = defaultdict(dict)
        self.marks: dict[bytes, bytes] = {}
        self.leases: defaultdict[bytes, dict[bytes, bytes]] = defaultdict(dict)
        self.expiring: set[bytes] = set()
        self.consumers: set[bytes] = set()
        self.idle: dict[bytes, float] = {}
        self.handed: dict[bytes, bytes] = {}
        self.control: dict[bytes, int] = {}
        self.emptied: dict[bytes, Task | bytes] = {}

    def keys(self) -> dict[bytes, Any]:
        """Return what Redis should hold, by the part of the key after the queue's own."""
        held = {
            **{line_key(priority): ids[::-1] for priority, ids in self.lines.items()},
            b":state": self.states.copy(),
            b":records": self.records.copy(),
            b":marks": self.marks.copy(),
            b":consumers": self.consumers.copy(),
            b":idle": self.idle.copy(),
            b":handed": self.handed.copy(),
            b":emptied": self.emptied.copy(),
            b":control": {name: b"%d" % value for name, value in self.control.items()},
        }
        held |= {b":" + name: index.copy() for name, index in self.indexes.items()}
        held |= {b":by:" + name: index.copy() for name, index in self.by.items()}
        held |= {b":reserved:" + name: ids[::-1] for name, ids in self.reserved.items()}
        held |= {b":log:" + task_id: log.copy() for task_id, log in self.logs.items()}
        for name, lease in self.leases.items():
            held[b":consumer:" + name] = lease | ({EXPIRES: b"24 h"} if name in self.expiring else {})
        return {key: value for key, value in held.items() if value}

    def _load(self, task_id: bytes) -> Task | None:
        found = self.states.get(task_id)
        return found if isinstance(found, Task) else None

    def _save(self, task_id: bytes, task: Task, state: bytes) -> None:
        self.states[task_id] = task._replace(state=state, changed=self.now)

    def _hint(self) -> None:
        self._hints.append(b"")

    def _hinted(self, reply: bytes) -> bytes:
        self._hint()
        return reply

    def _oldest(self, index: bytes, until: float = float("inf")) -> list[bytes]:
        ordered = sorted((score, task_id) for task_id, score in self.indexes[index].items())
        return [task_id for score, task_id in ordered if score <= until]

    # ---- counters, which are no more when nothing is left of them

    def _more(self, name: bytes, count: int) -> None:
        self.control[name] = self.control.get(name, 0) + count

    def _less(self, name: bytes, count: int) -> None:
        self._more(name, -count)
        if self.control[name] <= 0:
            del self.control[name]

    # ---- records and logs

    def _drop_record(self, task_id: bytes) -> None:
        if task_id in self.records:
            self._less(b"bytes", len(self.records.pop(task_id)))

    def _log_record(self, task_id: bytes) -> None:
        if task_id in self.records:
            self.logs[task_id][b"record"] = self.records[task_id]
        self._drop_record(task_id)

    def _act(self, task_id: bytes, what: bytes, actor: bytes) -> None:
        self.logs[task_id][b"act:%d:%s" % (self.now, what)] = actor

    def _log_release(self, task_id: bytes, reason: bytes, actor: bytes) -> None:
        first, _, count, *_ = self.logs[task_id].get(b"released", (self.now, self.now, 0))
        self.logs[task_id][b"released"] = (first, self.now, count + 1, reason, actor)

    def _forget(self, task_id: bytes) -> None:
        self._find_no_more(task_id, self._load(task_id))
        self._drop_record(task_id)
        self.states.pop(task_id, None)
        self.logs.pop(task_id, None)

    def _find_no_more(self, task_id: bytes, task: Task | bytes | None) -> None:
        if isinstance(task, Task):
            for by in BY:
                self.by[b"%s:%s" % (by.encode(), getattr(task, by))].pop(task_id, None)

    # ---- ways in, and on

    def _line(self, task: Task) -> list[bytes]:
        return self.lines[int(task.priority)]

    def _list_in(self, task_id: bytes, task: Task, state: bytes) -> None:
        self.indexes[INDEX_OF[state]][task_id] = task.due if state == b"scheduled" else self.now
        self._save(task_id, task, state)

    def _lay(self, task: Task) -> Task:
        self._less(b"ghosts", 1)
        return task._replace(flags=task.flags - GHOST)

    def _enqueue(self, task_id: bytes, task: Task) -> None:
        if task.due > self.now:
            self._list_in(task_id, task, b"scheduled")
            return
        if has(task, GHOST):
            task = self._lay(task)
        else:
            self._line(task).append(task_id)
        self._save(task_id, task, b"queued")

    def _give_back(self, task_id: bytes, task: Task) -> None:
        self._line(task).insert(0, task_id)
        self._save(task_id, task, b"queued")

    def _open_child(self, task: Task, spoilt: int) -> Task:
        """Let the parent wait for it, which had counted so many failed of it; return the task, perhaps no child."""
        if not has(task, CHILD):
            return task
        parent = self._load(task.parent)
        if parent is None or parent.state in ENDED:
            return task._replace(flags=task.flags - CHILD)
        self.states[task.parent] = parent._replace(open=parent.open + 1, spoilt=max(0, parent.spoilt - spoilt))
        return task

    def _store(self, task_id: bytes, record: bytes, due: int, *fields: Any) -> Task:
        self.records[task_id] = record
        self._more(b"bytes", len(record))
        due = self.now - due if due < 0 else due
        task = Task(b"", 0, 0, 0, self.now, due, 0, 0, self.now, 0, b"", b"", b"", *fields)
        for by in BY:
            if value := getattr(task, by):
                self.by[b"%s:%s" % (by.encode(), value)][task_id] = self.now
        return self._open_child(task, 0)

    # ---- the ends

    def _follow(self, packed: bytes) -> None:
        task_id, record, due, *texts, priority, owner, route, parent, flags = msgpack.unpackb(packed, raw=True)
        if task_id not in self.states:
            rest = (*texts, int(priority), owner, route, parent, int(flags))
            self._enqueue(task_id, self._store(task_id, record, int(due), *rest))
            self._hint()

    def _tell_parent(self, task: Task, state: bytes) -> None:
        while has(task, CHILD):
            parent_id, parent = task.parent, self._load(task.parent)
            if parent is None:
                return
            parent = parent._replace(open=parent.open - 1, spoilt=parent.spoilt + (state == b"failed"))
            if parent.state != b"waiting" or parent.open > 0:
                self.states[parent_id] = parent
                return
            task, state = parent, b"failed" if parent.spoilt > 0 else b"completed"
            if state == b"failed":
                task = task._replace(reason=b"children")
            self._list_in(parent_id, task, state)
            self.indexes[b"waiting"].pop(parent_id, None)
            if state == b"completed":
                self._drop_record(parent_id)
            if following := self.logs[parent_id].get(state):
                self._follow(following)

    def _conclude(self, task_id: bytes, task: Task, state: bytes) -> None:
        self._list_in(task_id, task, state)
        self._tell_parent(task, state)

    def _fail(self, task_id: bytes, task: Task, reason: bytes) -> None:
        self._conclude(task_id, task._replace(reason=reason), b"failed")

    def _set_aside(self, task_id: bytes, task: Task | None) -> None:
        unknown = Task(b"", 0, 0, 0, self.now, 0, 0, 0, self.now, 0)
        self._fail(task_id, task or unknown, b"format")

    def _obey(self, task_id: bytes, task: Task, mark: bytes) -> None:
        self._conclude(task_id, task, mark)
        self._log_record(task_id)
        self.marks.pop(task_id, None)
