"""A queue as the scripts of taskqueue/lua should keep it: every reply, every key and every hint, told again in Python.

One method a script, with the same arguments and the same reply; those of consumers and of operators have modules of
their own. What the scripts must survive although they never write it (states that cannot be read, ids in two places)
is modelled too.
"""

from collections.abc import Callable
from typing import Any

from tests.model.consuming import DEAF, LARGEST, Consuming
from tests.model.operating import Operating
from tests.model.places import CHILD, EXPIRES, HELD, INDEXES, NORMAL, line_key
from tests.model.values import VALUES, Outcome, Step, Task, grouped, separate, task_of

__all__ = ["EXPIRES", "HELD", "INDEXES", "NORMAL", "VALUES", "Model", "line_key"]


class Model(Consuming, Operating):
    """One queue."""

    def apply(self, step: Step) -> Outcome:
        """Let a step happen."""
        self.now, self._hints = step.clock // 1000, []
        reply = getattr(self, "control_" if step.name == "control" else step.name)(*step.arguments)
        return Outcome(reply, self._hints, self.keys())

    # ---- the producer's scripts

    def push(self, *commits: Any) -> list[bytes]:
        whole = list(separate(commits))
        handed: list[bytes] = []
        (_, _, due, *_, flags), *more = [values for *_, some in whole for values in some] or [(b"", b"", 0, CHILD)]
        alone = len(whole) == 1 and not more and due == 0 and not flags & CHILD

        def placed(task_id: bytes, task: Task) -> None:
            if alone and (name := self._taker(self.records[task_id])):
                handed.append(name)
                self._give_out(task_id, task, name.rpartition(b":")[0])
            else:
                self._enqueue(task_id, task)

        answers = [self._admit(placed, *commit) for commit in whole]
        if b"OK" in answers and not (handed and self._told(handed[0], whole[0][3][0][0])):
            self._hint()
        return answers

    def prepare(self, *commits: Any) -> list[bytes]:
        def prepared(task_id: bytes, task: Task) -> None:
            self._list_in(task_id, task, b"prepared")

        return [self._admit(prepared, *commit) for commit in separate(commits)]

    def _admit(
        self, put: Callable[[bytes, Task], None], not_after: int, most: int, most_bytes: int, tasks: Any
    ) -> bytes:
        fresh: dict[bytes, Any] = {}
        for task_id, *rest in tasks:
            if task_id not in self.states:
                fresh.setdefault(task_id, rest)
        size = sum(len(record) for record, *_ in fresh.values())
        if fresh and self.now > not_after:
            return b"LATE"
        if fresh and b"closed" in self.control:
            return b"CLOSED"
        if fresh and most and len(self.records) - len(self.indexes[b"failed"]) + len(fresh) > most:
            return b"FULL"
        if fresh and most_bytes and self.control.get(b"bytes", 0) + size > most_bytes:
            return b"FULL"
        for task_id, values in fresh.items():
            put(task_id, self._store(task_id, *values))
        return b"OK"

    def _taker(self, record: bytes) -> bytes | None:
        """Return who may have this task at once, having waited longest, with the token of its question."""
        if len(record) > LARGEST or not self.idle or any(self.lines.values()):
            return None
        if b"limit" in self.control or self._allowed(1) < 1:
            return None
        return min(self.idle, key=lambda one: (self.idle[one], one))

    def _told(self, waiting: bytes, task_id: bytes) -> bool:
        """Tell a consumer of the task that it was given; nobody listens to the name of who is deaf."""
        name, _, token = waiting.rpartition(b":")
        task = self._load(task_id)
        assert task
        del self.idle[waiting]
        if name == DEAF:
            self._enqueue(task_id, task._replace(attempt=0))
            self.handed.pop(name, None)
            return False
        self.handed[name] = task_id
        self._hints.append((name, [token, *self._given(task_id)]))
        return True

    def promote(self, *ids: bytes) -> int:
        unknown = sum(self._load(task_id) is None for task_id in ids)
        if unknown:
            return unknown
        for task_id in ids:
            task = self._load(task_id)
            if task and task.state == b"prepared":
                self._enqueue(task_id, task)
                self.indexes[b"prepared"].pop(task_id, None)
            elif task and task.state == b"failed" and task.reason == b"in-doubt":
                self._enqueue(task_id, self._open_child(task._replace(reason=b""), 1))
                self.indexes[b"failed"].pop(task_id, None)
        self._hint()
        return 0

    def discard(self, *ids: bytes) -> int:
        forgotten = 0
        for task_id in ids:
            task = self._load(task_id)
            doubtful = task and task.state == b"failed" and task.reason == b"in-doubt"
            if task and (doubtful or task.state == b"prepared"):
                forgotten += 1
                if doubtful:
                    task = self._open_child(task, 1)
                self.indexes[b"failed" if doubtful else b"prepared"].pop(task_id, None)
                self._forget(task_id)
                self._tell_parent(task, b"cancelled")
        return forgotten

    # ---- what is no script

    def flush(self) -> bytes:
        """Forget all scripts, as Redis does when it restarts."""
        return b"OK"

    def lost(self) -> bytes:
        """Lose everything, as a Redis without persistence does."""
        self._empty()
        return b"OK"

    def write(self, command: bytes, key: bytes, *values: Any) -> None:
        """Let something that knows nothing of tasks write into a key; only what walk.py uses is here."""
        kind, _, name = key[1:].partition(b":")
        if command in (b"LPUSH", b"RPUSH"):
            line = self.reserved[name] if kind else self.lines[NORMAL]
            line[:] = line + list(values) if command == b"LPUSH" else list(reversed(values)) + line
        elif command == b"ZADD":
            self.indexes[kind][values[1]] = values[0]
        elif kind == b"control":
            self.control = self.control | {values[0]: values[1]} if command == b"HSET" else {}
        elif kind == b"consumer":
            self._write_lease(command, name, values)
        elif kind == b"reserved":
            self.reserved[name] = []
        elif kind in (b"marks", b"handed"):
            getattr(self, kind.decode())[values[0]] = values[1]
        elif command == b"HDEL":
            (self.states if kind == b"state" else self.records).pop(values[0], None)
        else:
            assert (command, kind) == (b"HSET", b"state"), f"not modelled: {command!r} {key!r}"
            self.states[values[0]] = task_of(values[1])

    def _write_lease(self, command: bytes, name: bytes, values: tuple[Any, ...]) -> None:
        if command == b"HSET":
            self.leases[name] |= grouped(values, 2)
        elif command == b"HDEL":
            self.leases[name].pop(values[0], None)
        else:
            self.leases[name] = {}
            self.expiring.discard(name)
