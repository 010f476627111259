"""A queue inside this process, driven by the steps that drive a server; and what the model of a server is then told.

Ids, names and paths are any bytes in the steps, and text here: each byte becomes the character of its number, so that
the order stays.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Final

import msgpack

from taskqueue.broker import Capacity, Lease, Owner, Seen
from taskqueue.brokers.memory import MemoryQueue
from taskqueue.brokers.places import Admission, Consumer, TaskLog
from taskqueue.errors import BrokerUnavailable, ConfigError, Fenced, NameInUse, QueueClosed, QueueFull
from taskqueue.identity import Identity
from taskqueue.task import SealedTask, Settlement, TaskState, Verdict
from tests.model.model import EXPIRES, Model, line_key
from tests.model.places import GHOST
from tests.model.values import Outcome, Step, Task, grouped, has, separate, unpacked

_ANYBODY: Final = b"*"


class InOneProcess(Model):
    """The model where no reply is ever lost: a start has no token, a reset no second half, and a zero is no key.

    Nor are there ghosts: out of a line in memory any task is taken at once. And nobody is handed what comes later: a
    hint is heard as soon.
    """

    may_wait = False

    def _begin(self, task_id: bytes, delivery: int, token: bytes) -> int:
        task = self._load(task_id)
        return 0 if task and task.state == b"running" else super()._begin(task_id, delivery, b"")

    def _settle(self, consumer: bytes, slow: int, keep: int, *endings: Any) -> list[bytes]:
        # It is a settlement that says so.
        return super()._settle(consumer, slow if endings else 0, keep, *endings)

    def _away(self, task_id: bytes, task: Task, word: bytes, actor: bytes) -> None:
        super()._away(task_id, task, word, actor)
        ghost = self._load(task_id)
        if ghost and has(ghost, GHOST):
            self._line(ghost).remove(task_id)
            self.states[task_id] = self._lay(ghost)

    def reset(self) -> bytes:
        reply = super().reset()
        self.forget()
        return reply

    def keys(self) -> dict[bytes, Any]:
        keys = super().keys()
        control = keys.pop(b":control", {})
        if control.get(b"bytes") == b"0":
            del control[b"bytes"]
        return keys | ({b":control": control} if control else {})

    def apply(self, step: Step) -> Outcome:
        outcome = super().apply(step)
        # Nobody tells others in the same process that all is taken: they are not woken one by one.
        return outcome._replace(hints=[hint for hint in outcome.hints if hint != b"taken"])


class Local:
    """A MemoryQueue that takes steps."""

    model: ClassVar[type[Model]] = InOneProcess

    def __init__(self) -> None:
        self.clean()

    def clean(self) -> None:
        """Begin with an empty queue."""
        self._queue = MemoryQueue("default", lambda: self._hints.append(b""))
        self._hints: list[bytes] = []
        self._at = 0

    def run(self, steps: Sequence[Step]) -> list[Outcome]:
        """Let steps happen."""
        return [self._outcome(step) for step in steps]

    def _outcome(self, step: Step) -> Outcome:
        self._at, self._hints = step.clock // 1000, []
        move: Callable[..., Any] = getattr(self, "_" + step.name)
        return Outcome(move(*step.arguments), self._hints, dump(self._queue))

    def _push(self, *commits: Any) -> list[bytes]:
        answers = [self._store(self._queue.push, *commit) for commit in separate(commits)]
        del self._hints[1:]  # one is enough for all that comes in one step
        return answers

    def _prepare(self, *commits: Any) -> list[bytes]:
        return [self._store(self._queue.prepare, *commit) for commit in separate(commits)]

    def _store(self, move: Callable[..., None], not_after: int, most: int, most_bytes: int, tasks: Any) -> bytes:
        try:
            move(
                [sealed(values) for values in tasks],
                Admission(not_after, Capacity(most, most_bytes)),
                at=self._at,
            )
        except QueueFull:
            return b"FULL"
        except QueueClosed:
            return b"CLOSED"
        except BrokerUnavailable:
            return b"LATE"
        return b"OK"

    def _promote(self, *ids: bytes) -> int:
        try:
            self._queue.promote(texts(ids), at=self._at)
        except BrokerUnavailable as error:
            return int(str(error).partition(" ")[0])
        return 0

    def _discard(self, *ids: bytes) -> int:
        return self._queue.discard(texts(ids), at=self._at)

    def _claim(  # as the script is called
        self, consumer: bytes, random: bytes, host: bytes, pid: int, boot: bytes, start: bytes, begins: int,
        epoch_found: bytes, beat_found: bytes,
    ) -> list[Any]:  # fmt: skip
        who = Identity(text(host), pid, text(boot), text(start))
        dead = None if epoch_found == _ANYBODY else Owner(text(epoch_found), text(beat_found), who)
        try:
            lease, returned, left = self._queue.claim(
                text(consumer), text(random), who, begins=begins == 1, dead=dead, at=self._at
            )
        except NameInUse:
            return [b"TAKEN"]
        except ConfigError:
            return [b"DISABLED"]
        return [raw(lease.epoch), returned, left]

    def _reclaim(self, consumer: bytes, random: bytes, epoch_found: bytes, beat_found: bytes) -> list[int]:
        dead = Seen(text(consumer), text(epoch_found), text(beat_found))
        return list(self._queue.reclaim(dead, text(random), at=self._at))

    def _beat(self, consumer: bytes, epoch: bytes) -> list[Any]:
        def heard() -> list[Any]:
            beat = self._queue.beat(lease(consumer, epoch))
            return [
                raws(sorted(beat.marked)),  # in any order, as those of a set are
                *(raw(word) for one in beat.others for word in (one.consumer, one.epoch, one.beat)),
            ]

        return leased(heard)

    def _leave(self, consumer: bytes, epoch: bytes) -> list[bytes]:
        return leased(lambda: self._queue.leave(lease(consumer, epoch)))

    def _begin(self, *starts: Any) -> list[int]:
        return [
            int(self._queue.begin(text(task_id), delivery, at=self._at)) for task_id, delivery, _ in grouped(starts, 3)
        ]

    def _note(self, task_id: bytes, delivery: int, *fields: bytes) -> int:
        noted = {text(name): value for name, value in grouped(fields, 2)}
        return int(self._queue.note(text(task_id), delivery, noted))

    def _exchange(  # as the script is called
        self,
        consumer: bytes,
        epoch: bytes,
        token: bytes,
        count: int,
        room: int,
        slow: int,
        keep: int,
        _waits: int,
        *endings: Any,
    ) -> list[Any]:
        settlements = [
            Settlement(
                text(task_id),
                delivery,
                Verdict(kind.decode(), text(reason), status, delay / 1000, slow / 1000),
                response,
                *(sealed(unpacked(packed)) if packed else None for packed in following),
            )
            for task_id, delivery, kind, delay, status, reason, response, *following in grouped(endings, 9)
        ]
        me = lease(consumer, epoch)

        def exchanged() -> list[Any]:
            stale = self._queue.settle(me, settlements, keep=keep == 1, at=self._at)
            given = self._queue.reserve(me, text(token), count, room, at=self._at)
            return [raws(stale), *([raw(one.id), one.record, one.delivery, one.attempt, one.crashes] for one in given)]

        return leased(exchanged)

    def _withdraw(self, word: bytes, forced: int, actor: bytes, *ids: bytes) -> list[bytes]:
        chosen: Any = word.decode()
        return raws(self._queue.withdraw(texts(ids), chosen, actor=text(actor), force=forced == 1, at=self._at))

    def _hasten(self, actor: bytes, *ids: bytes) -> int:
        return self._queue.hasten(texts(ids), actor=text(actor), at=self._at)

    def _restart(self, actor: bytes, *ids: bytes) -> int:
        return self._queue.restart(texts(ids), actor=text(actor), at=self._at)

    def _control(self, *changes: bytes) -> bytes:
        said: Any = {text(name): int(value) if value else None for name, value in grouped(changes, 2)}
        self._queue.say(said)
        return b"OK"

    def _purge(self, most: int) -> int:
        return self._queue.purge(most, at=self._at)

    def _due(self, in_doubt_after: int) -> int:
        wait = self._queue.due(in_doubt_after, at=self._at)
        return -1 if wait is None else wait

    def _trim(self, most: int, *limits: Any) -> list[Any]:
        chosen = [(text(index), kept, count) for index, kept, count in grouped(limits, 3)]
        trimmed = self._queue.trim(chosen, most=most, at=self._at)
        return [trimmed.count, *raws(trimmed.with_files)]

    def _reset(self) -> bytes:
        self._queue.reset()
        return b"OK"

    def _retry(self, actor: bytes, *tasks: bytes) -> int:
        chosen = [(text(task_id), record) for task_id, record in grouped(tasks, 2)]
        return self._queue.retry(chosen, actor=text(actor), at=self._at)

    def _flush(self) -> bytes:
        return b"OK"

    def _lost(self) -> bytes:
        hints = self._hints
        self.clean()
        self._hints = hints
        return b"OK"

    def _forget(self) -> None:
        """Nothing of what was reset is left."""


def text(value: bytes) -> str:
    return value.decode("latin-1")


def texts(values: Iterable[bytes]) -> list[str]:
    return [text(value) for value in values]


def raw(value: str) -> bytes:
    return value.encode("latin-1")


def raws(values: Iterable[str]) -> list[bytes]:
    return [raw(value) for value in values]


def sealed(values: Sequence[Any]) -> SealedTask:
    """Return a new task from what a script is told of it."""
    task_id, record, due, method, path, label, priority, owner, route, parent, flags = values
    of_whom = (text(owner), text(route), text(parent))
    shown = (text(method), text(path), text(label), int(priority), *of_whom, int(flags))
    return SealedTask(text(task_id), "default", record, int(due), *shown)


def packed_values(task: SealedTask) -> bytes:
    """Return a task that is to follow as the walk tells a script of it."""
    values = [value if isinstance(value, bytes) else raw(str(value)) for value in task.values]
    return bytes(msgpack.packb(values, use_bin_type=False))


def lease(consumer: bytes, epoch: bytes) -> Lease:
    return Lease("default", text(consumer), text(epoch))


def leased(move: Callable[[], Any]) -> list[Any]:
    """Return what a script says that a consumer calls under its lease."""
    try:
        return [b"OK", *(move() or ())]
    except Fenced as error:
        return [b"GONE"] if error.gone else [b"FENCED"]


def dump(queue: MemoryQueue) -> dict[bytes, Any]:
    """Return what Redis would hold, by the part of the key after the queue's own."""
    control = {b"bytes": queue.bytes, b"slowed": queue.slowed}
    watched = {raw(name) for name, one in queue.consumers.items() if one.watched}
    held: dict[bytes, Any] = {
        **{line_key(priority): raws(reversed(line)) for priority, line in queue.lines.by_priority.items()},
        b":state": {raw(task_id): packed(task) for task_id, task in queue.states.items()},
        b":records": {raw(task_id): record for task_id, record in queue.records.items()},
        b":consumers": watched,
        b":marks": {raw(task_id): raw(word) for task_id, word in queue.marks.items()},
        b":control": {name: b"%d" % value for name, value in control.items() if value}
        | {raw(name): b"%d" % value for name, value in queue.control.items()},
    }
    for name, index in queue.indexes.items():
        held[b":" + raw(name)] = {raw(task_id): float(at) for task_id, at in index.times.items()}
    for (by, value), index in queue.found.items():
        held[b":by:" + raw(by) + b":" + raw(value)] = {raw(task_id): float(at) for task_id, at in index.times.items()}
    for name, one in queue.consumers.items():
        held[b":reserved:" + raw(name)] = raws(reversed(one.held))
        held[b":consumer:" + raw(name)] = fields(one)
    for task_id, log in queue.logs.items():
        held[b":log:" + raw(task_id)] = lines(log)
    return {key: value for key, value in held.items() if value}


def packed(task: TaskState) -> Task:
    numbers = (task.delivery, task.attempt, task.crashes, task.added, task.due, task.reserved, task.begun, task.changed)
    words = map(raw, (task.reason, task.holder, "", task.method, task.path, task.label))
    of_whom = map(raw, (task.owner, task.route, task.parent))
    counts = (task.flags, task.open, task.spoilt)
    return Task._make((raw(task.state), *numbers, task.status, *words, task.priority, *of_whom, *counts))


def fields(one: Consumer) -> dict[bytes, bytes]:
    who = one.identity
    known = {
        "epoch": one.epoch, "host": who.host, "pid": who.pid, "boot": who.boot, "start": who.start,
        "begins": int(one.begins), "claimed": one.claimed, "beat": one.beat, "token": one.token, "count": one.count,
    }  # fmt: skip
    return {raw(name): raw(str(value)) for name, value in known.items()} | ({} if one.watched else {EXPIRES: b"24 h"})


def lines(log: TaskLog) -> dict[bytes, Any]:
    found: dict[bytes, Any] = {
        b"%d" % one.delivery: (
            *(one.attempt, one.reserved, one.begun, one.ended, one.status),
            *(raw(one.reason), raw(one.consumer), raw(one.verdict)),
        )
        for one in log.ended.values()
    }
    found |= {b"act:%d:%s" % (at, raw(what)): raw(actor) for (at, what), actor in log.acts.items()}
    found |= {raw(name): value for name, value in log.fields.items()}
    found |= {raw(state): packed_values(task) for state, task in log.following.items()}
    if log.released:
        given_back = log.released
        found[b"released"] = (
            *(given_back.first, given_back.last, given_back.count),
            *(raw(given_back.reason), raw(given_back.actor)),
        )
    return found if log.record is None else found | {b"record": log.record}
