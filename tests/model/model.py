"""A queue as the scripts of taskqueue/lua should keep it: every reply, every key and every hint, told again in Python.

One method a script, with the same arguments and the same reply. The lines stand here as people see them, the front
first, what was reserved first first; only ``keys`` knows how Redis holds them. What the scripts must survive although
they never write it (states that cannot be read, ids in two places) is modelled too.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

from tests.model.values import Outcome, Step, Task, Value, grouped, next_epoch, random_part, separate, task_of

GIVEN_BACK_AT_ONCE: Final = 500
MOVED_AT_ONCE: Final = 100
SPOILT_AT_ONCE: Final = 100
INDEXES: Final = (b"scheduled", b"prepared", b"failed", b"finished")
EXPIRES: Final = b"(expires)"
HELD: Final = (b"reserved", b"running")
NORMAL: Final = 4


def line_key(priority: int) -> bytes:
    """Return the key of the line of a priority, as the part after the queue's own."""
    return b"" if priority == NORMAL else b":p%d" % priority


class Model:
    """One queue."""

    def __init__(self) -> None:
        self.now = 0
        self._hints: list[bytes] = []
        self._empty()

    def _empty(self) -> None:
        self.lines: dict[int, list[bytes]] = {priority: [] for priority in range(10)}
        self.reserved: defaultdict[bytes, list[bytes]] = defaultdict(list)
        self.indexes: dict[bytes, dict[bytes, float]] = {name: {} for name in INDEXES}
        self.states: dict[bytes, Task | bytes] = {}
        self.records: dict[bytes, bytes] = {}
        self.logs: defaultdict[bytes, dict[bytes, Any]] = defaultdict(dict)
        self.leases: defaultdict[bytes, dict[bytes, bytes]] = defaultdict(dict)
        self.expiring: set[bytes] = set()
        self.consumers: set[bytes] = set()
        self.control: dict[bytes, int] = {}
        self.emptied: dict[bytes, Task | bytes] = {}

    def apply(self, step: Step) -> Outcome:
        """Let a step happen."""
        self.now, self._hints = step.clock // 1000, []
        reply = getattr(self, "control_" if step.name == "control" else step.name)(*step.arguments)
        return Outcome(reply, self._hints, self.keys())

    def keys(self) -> dict[bytes, Any]:
        """Return what Redis should hold, by the part of the key after the queue's own."""
        held = {
            **{line_key(priority): ids[::-1] for priority, ids in self.lines.items()},
            b":state": self.states.copy(),
            b":records": self.records.copy(),
            b":consumers": self.consumers.copy(),
            b":emptied": self.emptied.copy(),
            b":control": {name: b"%d" % value for name, value in self.control.items()},
        }
        held |= {b":" + name: index.copy() for name, index in self.indexes.items()}
        held |= {b":reserved:" + name: ids[::-1] for name, ids in self.reserved.items()}
        held |= {b":log:" + task_id: log.copy() for task_id, log in self.logs.items()}
        for name, lease in self.leases.items():
            held[b":consumer:" + name] = lease | ({EXPIRES: b"24 h"} if name in self.expiring else {})
        return {key: value for key, value in held.items() if value}

    # ---- what every script may do

    def _load(self, task_id: bytes) -> Task | None:
        found = self.states.get(task_id)
        return found if isinstance(found, Task) else None

    def _new(
        self, due: float, method: bytes = b"", path: bytes = b"", label: bytes = b"", priority: int = NORMAL
    ) -> Task:
        due = self.now - due if due < 0 else due
        return Task(
            b"", 0, 0, 0, self.now, due, 0, 0, self.now, 0, method=method, path=path, label=label, priority=priority
        )

    def _line(self, task: Task) -> list[bytes]:
        return self.lines.setdefault(int(task.priority), [])

    def _save(self, task_id: bytes, task: Task, state: bytes) -> None:
        self.states[task_id] = task._replace(state=state, changed=self.now)

    def _schedule(self, task_id: bytes, task: Task) -> None:
        self.indexes[b"scheduled"][task_id] = task.due
        self._save(task_id, task, b"scheduled")

    def _enqueue(self, task_id: bytes, task: Task) -> None:
        if task.due > self.now:
            self._schedule(task_id, task)
        else:
            self._line(task).append(task_id)
            self._save(task_id, task, b"queued")

    def _give_back(self, task_id: bytes, task: Task) -> None:
        self._line(task).insert(0, task_id)
        self._save(task_id, task, b"queued")

    def _fail(self, task_id: bytes, task: Task | None, reason: bytes) -> None:
        self.indexes[b"failed"][task_id] = self.now
        self._save(task_id, (task or self._new(0))._replace(reason=reason), b"failed")

    def _hint(self) -> None:
        self._hints.append(b"")

    def _hinted(self, reply: bytes) -> bytes:
        self._hint()
        return reply

    def _oldest(self, index: bytes, until: float = float("inf")) -> list[bytes]:
        ordered = sorted((score, task_id) for task_id, score in self.indexes[index].items())
        return [task_id for score, task_id in ordered if score <= until]

    def _refusal(self, consumer: bytes, epoch: bytes) -> list[bytes] | None:
        mine = self.leases.get(consumer, {}).get(b"epoch")
        if mine is None:
            return [b"GONE"]
        return None if mine == epoch else [b"FENCED"]

    # ---- the producer's scripts

    def push(self, *commits: Any) -> list[bytes]:
        answers = [self._store(self._enqueue, *commit) for commit in separate(commits)]
        if b"OK" in answers:
            self._hint()
        return answers

    def prepare(self, *commits: Any) -> list[bytes]:
        def prepared(task_id: bytes, task: Task) -> None:
            self.indexes[b"prepared"][task_id] = self.now
            self._save(task_id, task, b"prepared")

        return [self._store(prepared, *commit) for commit in separate(commits)]

    def _store(
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
        for task_id, (record, *fields) in fresh.items():
            self.records[task_id] = record
            self._weigh(len(record))
            put(task_id, self._new(*fields))
        return b"OK"

    def _weigh(self, size: int) -> int:
        self.control[b"bytes"] = self.control.get(b"bytes", 0) + size
        return self.control[b"bytes"]

    def _drop_record(self, task_id: bytes) -> None:
        if task_id in self.records and self._weigh(-len(self.records.pop(task_id))) <= 0:
            del self.control[b"bytes"]

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
                self._enqueue(task_id, task._replace(reason=b""))
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
                self._drop_record(task_id)
                del self.states[task_id]
                self.indexes[b"failed" if doubtful else b"prepared"].pop(task_id, None)
        return forgotten

    # ---- the consumer's scripts

    def claim(
        self,
        consumer: bytes,
        random: bytes,
        host: bytes,
        pid: int,
        boot: bytes,
        start: bytes,
        begins: int,
        epoch_found: bytes,
        beat_found: bytes,
    ) -> list[Value]:
        if b"disabled" in self.control:
            return [b"DISABLED"]
        lease = self.leases[consumer]
        epoch = lease.get(b"epoch", b"")
        if random_part(epoch) != random:
            if epoch_found not in (b"*", epoch) or (epoch_found != b"*" and lease.get(b"beat", b"") != beat_found):
                return [b"TAKEN"]
            epoch = next_epoch(epoch, random)
            names = (b"epoch", b"host", b"pid", b"boot", b"start", b"begins", b"claimed", b"beat", b"token", b"count")
            fields = (epoch, host, b"%d" % pid, boot, start, b"%d" % begins, b"%d" % self.now, b"0", b"", b"0")
            lease |= zip(names, fields, strict=True)
            self.expiring.discard(consumer)
            self.consumers.add(consumer)
        return [epoch, *self._return(consumer, begins=begins == 1)]

    def reclaim(self, consumer: bytes, random: bytes, epoch_found: bytes, beat_found: bytes) -> list[int]:
        lease = self.leases[consumer]
        epoch = lease.get(b"epoch")
        if epoch is None:
            return [0, 0]
        if random_part(epoch) != random:
            if (epoch, lease.get(b"beat", b"")) != (epoch_found, beat_found):
                return [0, 0]
            lease |= {b"epoch": next_epoch(epoch, random), b"token": b"", b"count": b"0"}
        returned, left = self._return(consumer, begins=lease.get(b"begins") == b"1")
        if not left:
            self.expiring.add(consumer)
            self.consumers.discard(consumer)
        return [returned, left]

    def _return(self, consumer: bytes, *, begins: bool) -> tuple[int, int]:
        held = self.reserved[consumer]
        returned = held[: -GIVEN_BACK_AT_ONCE - 1 : -1]
        for task_id in returned:
            held.pop()
            task = self._load(task_id)
            if not task:
                self._fail(task_id, None, b"format")
            elif task.holder == consumer and task.state in HELD:
                if task.state == b"running" or not begins:
                    task = task._replace(crashes=task.crashes + 1)
                else:
                    task = task._replace(attempt=task.attempt - 1)
                self._give_back(task_id, task)
        if returned:
            self._hint()
        return len(returned), len(held)

    def beat(self, consumer: bytes, epoch: bytes) -> list[bytes]:
        if refusal := self._refusal(consumer, epoch):
            return refusal
        lease = self.leases[consumer]
        lease[b"beat"] = b"%d" % (int(lease.get(b"beat", b"0")) + 1)
        reply = [b"OK"]
        for name in sorted(self.consumers - {consumer}):
            other = self.leases[name]
            if b"epoch" in other:
                reply += (name, other[b"epoch"], other.get(b"beat", b""))
        return reply

    def leave(self, consumer: bytes, epoch: bytes) -> list[bytes]:
        if refusal := self._refusal(consumer, epoch):
            return refusal
        if not self.reserved[consumer]:
            del self.leases[consumer]
            self.consumers.discard(consumer)
            self.expiring.discard(consumer)
        return [b"OK"]

    def due(self, in_doubt_after: int) -> int:
        for task_id in self._oldest(b"scheduled", self.now)[:MOVED_AT_ONCE]:
            task = self._load(task_id)
            if not task:
                self._fail(task_id, None, b"format")
            elif task.state == b"scheduled":
                self._enqueue(task_id, task._replace(due=min(task.due, self.now)))
            del self.indexes[b"scheduled"][task_id]
        for task_id in self._oldest(b"prepared", self.now - in_doubt_after)[:MOVED_AT_ONCE]:
            self._fail(task_id, self._load(task_id), b"in-doubt")
            del self.indexes[b"prepared"][task_id]
        following = min(self.indexes[b"scheduled"].values(), default=None)
        return -1 if following is None else int(max(0, following - self.now))

    def reserve(self, consumer: bytes, epoch: bytes, token: bytes, count: int, room: int) -> list[Any]:
        if refusal := self._refusal(consumer, epoch):
            return refusal
        lease, held = self.leases[consumer], self.reserved[consumer]
        known = lease.get(b"count", b"")
        repeated = int(known) if lease.get(b"token") == token and known.isdigit() else 0
        if repeated:
            given = [task_id for task_id in held[-repeated:] if self._load(task_id) and task_id in self.records]
        else:
            given = self._take(consumer, self._allowed(count), room)
            lease |= {b"token": token, b"count": b"%d" % len(given)}
        return [b"OK", *(self._given(task_id) for task_id in given)]

    def _allowed(self, count: int) -> int:
        if self.now < self.control.get(b"slowed", 0) or {b"paused", b"disabled"} & set(self.control):
            return 0
        held = sum(len(self.reserved[name]) for name in self.consumers)
        return min(count, self.control[b"limit"] - held) if b"limit" in self.control else count

    def _take(self, consumer: bytes, count: int, room: int) -> list[bytes]:
        given: list[bytes] = []
        spoilt = size = 0
        while len(given) < count and spoilt < SPOILT_AT_ONCE:
            line = next((self.lines[priority] for priority in range(9, -1, -1) if self.lines[priority]), None)
            if line is None:
                break
            task_id = line[0]
            task, record = self._load(task_id), self.records.get(task_id)
            if task and task.state == b"queued" and record is not None:
                size += len(record)
                if given and size > room:
                    break
                delivery, attempt = task.delivery + 1, task.attempt + 1
                task = task._replace(delivery=delivery, attempt=attempt, reserved=self.now, begun=0)
                self._save(task_id, task._replace(holder=consumer, token=b""), b"reserved")
                self.reserved[consumer].append(task_id)
                given.append(task_id)
            else:
                spoilt += 1
                if not task or task.state == b"queued":
                    self._fail(task_id, task, b"format")
            line.pop(0)
        return given

    def _given(self, task_id: bytes) -> list[Any]:
        task = self._load(task_id)
        assert task
        return [task_id, self.records[task_id], int(task.delivery), int(task.attempt), int(task.crashes)]

    def begin(self, task_id: bytes, delivery: int, token: bytes) -> int:
        task = self._load(task_id)
        if not task or task.delivery != delivery or task.state not in HELD:
            return 0
        if task.state == b"running":
            return int(task.token == token)
        self._save(task_id, task._replace(begun=self.now, token=token), b"running")
        return 1

    def settle(self, consumer: bytes, epoch: bytes, slow: int, *endings: Any) -> list[bytes]:
        if refusal := self._refusal(consumer, epoch):
            return refusal
        if slow:
            self.control[b"slowed"] = max(self.control.get(b"slowed", 0), self.now + slow)
        stale = []
        for task_id, delivery, kind, delay, status, reason, response in reversed(list(grouped(endings, 7))):
            task = self._load(task_id)
            if not task or (task.delivery, task.holder) != (delivery, consumer):
                stale.append(task_id)
            elif task.state in HELD:
                task = task._replace(status=status, reason=reason)
                self._end(task_id, task, consumer, kind, self.now + delay, response)
                if task_id in self.reserved[consumer]:
                    self.reserved[consumer].remove(task_id)
        return [b"OK", *stale]

    def _end(self, task_id: bytes, task: Task, consumer: bytes, kind: bytes, due: int, response: bytes) -> None:
        if kind == b"complete":
            self.indexes[b"finished"][task_id] = self.now
            self._save(task_id, task, b"completed")
            self._drop_record(task_id)
            self.logs[task_id].pop(b"response", None)
        elif kind == b"release":
            task = task._replace(attempt=task.attempt - 1, due=due)
            (self._schedule if due > self.now else self._give_back)(task_id, task)
        else:
            line = (task.attempt, task.reserved, task.begun, self.now, task.status, task.reason, consumer, kind)
            self.logs[task_id][b"%d" % task.delivery] = line
            if response:
                self.logs[task_id][b"response"] = response
            if kind == b"retry":
                self._schedule(task_id, task._replace(due=due))
            else:
                self._fail(task_id, task, task.reason)

    # ---- the scripts of tools, and of housekeeping

    def trim(self, most: int, *limits: Any) -> int:
        left = most
        for index, kept, count in grouped(limits, 3):
            everything = self._oldest(index)
            old = self._oldest(index, self.now - kept)
            surplus = max(len(old), len(everything) - count, 0)
            for task_id in everything[: min(surplus, left)]:
                left -= 1
                self._drop_record(task_id)
                for place in (self.indexes[index], self.states, self.logs):
                    place.pop(task_id, None)
        return most - left

    def reset(self) -> bytes:
        if self.emptied:
            return b"AGAIN"
        self.emptied, self.states, self.records = self.states, {}, {}
        for priority in range(10):
            self.lines[priority] = []
        self.control.pop(b"bytes", None)
        for index in self.indexes.values():
            index.clear()
        for consumer in self.consumers:
            self.reserved.pop(consumer, None)
        return b"OK"

    def retry(self, *tasks: bytes) -> int:
        queued = 0
        for task_id, record in grouped(tasks, 2):
            task = self._load(task_id)
            if task and task.state == b"failed" and task_id in self.records:
                queued += 1
                if record:
                    self._weigh(len(record) - len(self.records[task_id]))
                    self.records[task_id] = record
                self._enqueue(task_id, task._replace(attempt=0, crashes=0, due=0, status=0, reason=b""))
                self.indexes[b"failed"].pop(task_id, None)
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
                self._forget(line.pop(0), b"queued")
                left -= 1
        for task_id in self._oldest(b"scheduled")[:left]:
            self._forget(task_id, b"scheduled")
            del self.indexes[b"scheduled"][task_id]
            left -= 1
        return most - left

    def _forget(self, task_id: bytes, state: bytes) -> None:
        task = self._load(task_id)
        if not task or task.state == state:
            self._drop_record(task_id)
            self.states.pop(task_id, None)
            self.logs.pop(task_id, None)

    # ---- what is no script

    def flush(self) -> bytes:
        """Forget all scripts, as Redis does when it restarts."""
        return b"OK"

    def lost(self) -> bytes:
        """Lose everything, as a Redis without persistence does."""
        self._empty()
        return b"OK"

    def forget(self) -> None:
        """Remove the logs of what a reset has emptied, as its caller does."""
        for task_id in self.emptied:
            self.logs.pop(task_id, None)
        self.emptied = {}

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
            if command == b"HSET":
                self.leases[name] |= grouped(values, 2)
            elif command == b"HDEL":
                self.leases[name].pop(values[0], None)
            else:
                self.leases[name] = {}
                self.expiring.discard(name)
        elif command == b"HDEL":
            (self.states if kind == b"state" else self.records).pop(values[0], None)
        else:
            assert (command, kind) == (b"HSET", b"state"), f"not modelled: {command!r} {key!r}"
            self.states[values[0]] = task_of(values[1])
