"""A random walk through all that may happen to a queue: what clients do, what they do wrongly, and what befalls them.

The walk looks at the model to make calls that matter, and mixes in those that must not: repeated after lost replies,
with stale epochs and deliveries, under names and tokens of others, for tasks that are elsewhere, a moment too late.
"""

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgpack

from tests.model.consuming import CONSUMERS
from tests.model.model import HELD, INDEXES, VALUES, Model
from tests.model.places import CHILD, MASTER
from tests.model.values import Step, Task, commit, has, separate

T = TypeVar("T")

START: Final = 1_700_000_000_000_000
MINUTE: Final = 60_000
DAY: Final = 24 * 60 * MINUTE
# How the random part of an epoch begins here: taken by its owner, or by who found the owner dead.
CLAIMED, RECLAIMED = b"c", b"r"
STRANGER: Final = b"nobody"
SEALED: Final = (b"", b"s", b"\xff\x00", b"ten bytes.", b"as long as twenty is")

# How often each step is taken; the names are those of the methods of Walk that choose the arguments.
CALLS: Final = {
    "push": 16, "prepare": 7, "promote": 7, "discard": 3, "retry": 5, "trim": 6, "reset": 0.7, "due": 9,
    "control": 2, "purge": 0.7, "withdraw": 7, "hasten": 2, "restart": 2,
    "claim": 5, "reclaim": 3, "beat": 5, "leave": 1.5, "exchange": 35, "begin": 12, "note": 3,
    "again": 9, "flush": 1, "lost": 0.2,
}  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """What kind of walk: how many ids there are, how many go into one call, how often (per call) garbage is written."""

    name: str
    ids: int = 30
    sizes: Sequence[int] = (0, 1, 1, 1, 2, 3, 5)
    garbage: float = 0.0
    strays: int = 1
    calls: Mapping[str, float] = field(default_factory=lambda: CALLS)


# Where there is a crowd, it is the limits of one call that matter.
_LARGE: Final = {
    "push": 10, "prepare": 4, "promote": 2, "retry": 1, "trim": 2, "due": 5, "withdraw": 2, "hasten": 1, "restart": 1,
    "claim": 4, "reclaim": 4, "exchange": 15, "again": 4,
}  # fmt: skip
# Where there are families, most of what is added is soon taken, so that parents come to their ends.
_KIN: Final = {
    "push": 9, "prepare": 3, "promote": 4, "discard": 2, "retry": 3, "trim": 4, "purge": 0.5, "due": 6,
    "withdraw": 4, "hasten": 6, "restart": 1, "claim": 7, "reclaim": 1, "beat": 2, "exchange": 65, "begin": 3,
    "note": 1, "again": 3,
}  # fmt: skip
CLEAN: Final = Profile("clean")
FAMILIES: Final = Profile("families", ids=30, sizes=(1, 1, 2), calls=_KIN)
ORPHANS: Final = Profile("orphans", ids=30, sizes=(1, 1, 2), garbage=0.03, calls=_KIN)
SPOILT: Final = Profile("spoilt", garbage=0.08)
CROWDED: Final = Profile("crowded", ids=1000, sizes=(1, 100, 101, 199, 200, 201, 400), calls=_LARGE)
OVERRUN: Final = Profile("overrun", ids=400, sizes=(1, 120), garbage=0.3, strays=103, calls=_LARGE)


class Walk:
    """Steps from one seed, for ever; each must be applied to the model before the next is asked for."""

    def __init__(self, model: Model, seed: str, profile: Profile) -> None:
        self._model, self._profile = model, profile
        self._random = random.Random(seed)
        self._ids = [b"id-%d" % number for number in range(profile.ids - 2)] + [b"\xff\x00 id", b"id:with:colons"]
        self._clock = START
        self._count = 0
        self._past: deque[Step] = deque(maxlen=30)
        self._epochs: list[bytes] = [b"", b"1-", b"9-ff"]
        self._tokens: list[bytes] = [b"", b"0"]

    def __iter__(self) -> Iterator[Step]:
        while True:
            self._clock += self._pause()
            if self._random.random() < self._profile.garbage:
                yield Step(self._clock, "write", self._garbage())
                continue
            if self._model.emptied and self._random.random() < 0.4:
                yield Step(self._clock, "forget")
                continue
            (name,) = self._random.choices(list(self._profile.calls), list(self._profile.calls.values()))
            step = Step(self._clock, name, getattr(self, "_" + name)()) if name != "again" else self._again()
            if not self._profile.garbage and self._reborn() & set(_added(step)):
                continue
            yield step
            self._past.append(step)

    # ---- choices

    def _one(self, *choices: T) -> T:
        return self._random.choice(choices)

    def _size(self) -> int:
        return self._one(*self._profile.sizes)

    def _any_id(self) -> bytes:
        return self._random.choice(self._ids)

    def _some(self, likely: Sequence[bytes]) -> list[bytes]:
        """Return ids, most of them of the likely ones, now and then twice the same."""
        ids = list(likely)[: self._size()] if self._one(True, False) else self._sample(likely)
        if self._random.random() < 0.2:
            ids.append(self._any_id())
        if ids and self._random.random() < 0.1:
            ids.append(self._one(*ids))
        return ids

    def _sample(self, likely: Sequence[bytes]) -> list[bytes]:
        return self._random.sample(likely, min(self._size(), len(likely)))

    def _in_state(self, *states: bytes) -> list[bytes]:
        return [name for name, task in self._model.states.items() if isinstance(task, Task) and task.state in states]

    def _pause(self) -> int:
        """Return microseconds to pass: mostly few, sometimes until something falls due, rarely less than none."""
        chance = self._random.random()
        if chance < 0.5:
            return 0
        if chance < 0.75:
            return self._random.randrange(50_000)
        if chance < 0.9:
            instants = [*self._model.indexes[b"scheduled"].values()]
            instants += [self._model.control.get(b"slowed", 0)]
            instants += [at + MINUTE for at in self._model.indexes[b"prepared"].values()]
            ahead = [int(at) * 1000 - self._clock for at in instants if int(at) * 1000 > self._clock]
            return min(ahead) + self._one(-1000, -1, 0, 999, 1000) if ahead else 0
        if chance < 0.99:
            return self._one(1_000_000, 10_000_000, 61_000_000)
        return self._one(-2_000_000, 3_600_000_000, DAY * 1000)

    # ---- arguments of the scripts

    def _push(self) -> tuple[Any, ...]:
        """Return one commit, or as many as have come together."""
        return tuple(value for _ in range(self._one(1, 1, 2, 3)) for value in self._commit())

    def _commit(self) -> tuple[Any, ...]:
        late = self._one(2000, 2000, 2000, 2000, 1, 0, -1)
        tasks = tuple(field for task_id in self._new_ids() for field in self._new(task_id))
        return commit(self._clock // 1000 + late, *self._caps(tasks), *tasks)

    def _reborn(self) -> set[bytes]:
        """Return ids that are never added again, as no two tasks have the same: something still remembers the first."""
        children = (task for task in self._model.states.values() if isinstance(task, Task) and has(task, CHILD))
        return {child.parent for child in children} - self._model.states.keys() | self._model.emptied.keys()

    def _caps(self, tasks: Sequence[Any]) -> tuple[int, int]:
        """Return how many tasks and bytes the queue may hold: mostly any number, else about what it will."""
        if self._random.random() < 0.8:
            return 0, 0
        held = len(self._model.records) - len(self._model.indexes[b"failed"]) + len(tasks) // VALUES
        stored = self._model.control.get(b"bytes", 0) + sum(map(len, tasks[1::VALUES]))
        return max(0, self._one(0, held - 1, held, held + 1)), max(0, self._one(0, stored - 1, stored, stored + 1))

    _prepare = _push

    def _new_ids(self) -> list[bytes]:
        free = [name for name in self._ids if name not in self._model.states and name not in self._reborn()]
        return self._some(free) or [self._any_id()]

    def _new(self, task_id: bytes) -> tuple[Any, ...]:
        now = self._clock // 1000
        priority = self._one(4, 4, 4, 9, 5, 3, 0)
        due = self._one(0, 0, 0, 0, 1, now - 1, now, now + 1, now + 5000, -1, -1000, -MINUTE)
        found_by = self._one(b"", b"user\xff"), self._one(b"", b"/path/:name")
        texts = b"POST", b"/path\xff", self._one(b"", b"", b"label", b"a:label")
        return (task_id, self._one(*SEALED), due, *texts, priority, *found_by, *self._family())

    def _family(self) -> tuple[bytes, int]:
        """Return a parent and flags: of what runs, mostly; or of anything, and nothing."""
        likely = self._in_state(*HELD, b"waiting") or self._in_state(b"queued", b"scheduled", b"prepared")
        if not likely or self._random.random() < 0.3:
            return self._one((b"", 0), (b"", 0), (b"", CHILD), (b"", MASTER), (self._any_id(), CHILD))
        return self._one(*likely), self._one(0, CHILD, CHILD, CHILD, CHILD, CHILD | MASTER, MASTER)

    def _undecided(self) -> list[bytes]:
        doubted = [name for name in self._in_state(b"failed") if self._model.states[name].reason == b"in-doubt"]  # type: ignore[union-attr]
        return self._shuffled(self._in_state(b"prepared") + doubted)

    def _promote(self) -> tuple[Any, ...]:
        likely = self._undecided()
        known = [task_id for task_id in self._some(likely) if task_id in self._model.states]
        return (*known, *(self._any_id() for _ in range(self._random.random() < 0.15)))

    def _discard(self) -> tuple[Any, ...]:
        likely = self._undecided() + self._in_state(b"failed")[:1]
        return tuple(self._some(likely))

    def _retry(self) -> tuple[Any, ...]:
        ids = self._some(self._shuffled(self._in_state(b"failed", b"cancelled")))
        records = (field for task_id in ids for field in (task_id, self._one(b"", b"", b"again", *ids[:3])))
        return (self._actor(), *records)

    def _actor(self) -> bytes:
        return self._one(b"one", b"somebody@host", b"")

    def _shuffled(self, ids: list[bytes]) -> list[bytes]:
        self._random.shuffle(ids)
        return ids

    def _trim(self) -> tuple[Any, ...]:
        limits: list[Any] = []
        for index in (b"failed", b"finished", b"cancelled", b"archived"):
            ages = [self._model.now - int(at) for at in self._model.indexes[index].values()]
            kept = self._one(0, DAY, DAY, self._one(*ages) + self._one(-1, 0, 1) if ages else 0)
            limits += index, kept, self._one(0, 1, 3, len(ages), 10_000, 10_000)
        return (self._one(0, 1, 2, 5, 100), *limits)

    def _reset(self) -> tuple[Any, ...]:
        return ()

    def _control(self) -> tuple[Any, ...]:
        values = {b"paused": b"1", b"closed": b"1", b"disabled": b"1", b"limit": self._one(b"0", b"2", b"5")}
        chosen = self._sample(list(values))[:2]
        # Mostly off, so that it does not stand in the way of everything else for long.
        on = self._random.random() < 0.25
        pairs = [(name, values[name] if on else b"") for name in (chosen if on else values)]
        return tuple(value for pair in pairs for value in pair)

    def _purge(self) -> tuple[Any, ...]:
        return (self._one(1, 2, 5, 100),)

    def _withdraw(self) -> tuple[Any, ...]:
        states = (b"queued", b"scheduled", b"waiting", *HELD, b"completed", b"failed", b"cancelled", b"prepared")
        there = [state for state in states if self._in_state(state)] or states
        ids = self._some(self._shuffled(self._in_state(self._one(*there))))
        return (self._one(b"cancelled", b"cancelled", b"archived"), self._one(0, 1), self._actor(), *ids)

    def _hasten(self) -> tuple[Any, ...]:
        return (self._actor(), *self._some(self._shuffled(self._in_state(b"scheduled"))))

    def _restart(self) -> tuple[Any, ...]:
        return (self._actor(), *self._some(self._shuffled(self._in_state(b"queued", b"scheduled", *HELD))))

    def _flush(self) -> tuple[Any, ...]:
        return ()

    def _lost(self) -> tuple[Any, ...]:
        return ()

    def _due(self) -> tuple[Any, ...]:
        waits = [self._clock // 1000 - int(at) for at in self._model.indexes[b"prepared"].values()]
        return (self._one(MINUTE, MINUTE, self._one(*waits) + self._one(-1, 0, 1) if waits else MINUTE),)

    def _claim(self) -> tuple[Any, ...]:
        name = self._one(*CONSUMERS)
        found = self._one(self._found(name), self._found(name), (b"*", b""), (b"", b""))
        begins = self._one(1, 1, 0)
        who = (self._one(b"host", b"other"), self._count, b"boot", b"%d" % self._count)
        return (name, self._random_part(name, CLAIMED), *who, begins, *found)

    def _reclaim(self) -> tuple[Any, ...]:
        name = self._one(*CONSUMERS, *CONSUMERS, *CONSUMERS, STRANGER)
        return (name, self._random_part(name, RECLAIMED), *self._found(name))

    def _found(self, name: bytes) -> tuple[bytes, bytes]:
        """Return epoch and beat at which somebody may have found this consumer dead: mostly those it has."""
        lease = self._model.leases.get(name, {})
        epoch, beat = lease.get(b"epoch", b""), lease.get(b"beat", b"")
        if b"-" + CLAIMED in epoch:
            self._epochs.append(epoch)
        chance = self._random.random()
        return self._one(*self._epochs) if chance < 0.1 else epoch, b"%d" % self._count if chance > 0.9 else beat

    def _random_part(self, name: bytes, kind: bytes) -> bytes:
        """Return a new one; or that of before, as more may be left than one call gives back."""
        self._count += 1
        old = self._model.leases.get(name, {}).get(b"epoch", b"").partition(b"-")[2]
        return old if old.startswith(kind) and self._random.random() < 0.3 else b"%s%x" % (kind, self._count)

    def _beat(self) -> tuple[Any, ...]:
        return self._lease()

    _leave = _beat

    def _lease(self, *likely: bytes) -> tuple[bytes, bytes]:
        name = self._one(*CONSUMERS, *CONSUMERS, *CONSUMERS, *CONSUMERS, STRANGER)
        if self._random.random() < 0.85:
            name = self._one(*(likely or sorted(self._model.consumers) or [name]))
        current = self._model.leases.get(name, {}).get(b"epoch", b"")
        # The epoch that a reclaim leaves behind is nobody's; only who reads Redis can use it.
        owned = self._profile.garbage or b"-" + RECLAIMED not in current
        return name, current if owned and self._random.random() < 0.9 else self._one(*self._epochs)

    def _exchange(self) -> tuple[Any, ...]:
        ends, takes = self._one((True, False), (True, False), (False, True), (False, True), (True, True))
        name, epoch = self._lease(*(name for name in CONSUMERS if ends and self._model.reserved.get(name)))
        room = self._one(0, 1, 3, 10, 11, 20, 22, 40, 10**6, 10**6, 10**6)
        waits = self._one(1, 1, 0)
        slow, keep = (self._one(*[0] * 14, 1, 1000), self._one(0, 1)) if ends else (0, 0)
        endings = self._endings(name) if ends else []
        return (name, epoch, self._token(name), self._size() if takes else 0, room, slow, keep, waits, *endings)

    def _token(self, name: bytes) -> bytes:
        if self._random.random() < 0.7:
            self._count += 1
            self._tokens.append(b"%x" % self._count)
            return self._tokens[-1]
        if self._random.random() < 0.7:
            return self._model.leases.get(name, {}).get(b"token", b"")
        return self._one(*self._tokens[-10:])

    def _begin(self) -> tuple[Any, ...]:
        return tuple(value for _ in range(self._one(1, 1, 2, 3)) for value in self._start())

    def _start(self) -> tuple[Any, ...]:
        held = self._in_state(*(HELD if self._one(True, False) else HELD[:1]))
        task_id = self._one(*held) if held and self._random.random() < 0.95 else self._any_id()
        task = self._model.states.get(task_id)
        known = task.token if isinstance(task, Task) and isinstance(task.token, bytes) else b""
        return task_id, self._delivery(task_id), self._one(b"start-1", b"start-2", known)

    def _note(self) -> tuple[Any, ...]:
        held = self._in_state(*HELD)
        task_id = self._one(*held) if held and self._random.random() < 0.9 else self._any_id()
        names = (b"report", b"progress", b"redirect", b"output", b"files")
        fields = (value for name in names[: self._one(1, 2, 5)] for value in (name, self._one(b"sealed", b"\x01", b"")))
        return (task_id, self._delivery(task_id), *fields)

    def _delivery(self, task_id: bytes) -> int:
        task = self._model.states.get(task_id)
        return (int(task.delivery) if isinstance(task, Task) else 1) + self._one(*[0] * 12, -1, 1)

    def _endings(self, name: bytes) -> list[Any]:
        flat: list[Any] = []
        for task_id in self._some(self._model.reserved.get(name, [])):
            kind = self._one(b"complete", b"complete", b"retry", b"fail", b"release")
            delay = self._one(0, 0, 1, 1000, MINUTE, -5)
            flat += task_id, self._delivery(task_id), kind, delay, self._one(0, 200, 503), self._one(b"", b"status")
            flat.append(self._one(b"", b"", b"sealed response", b"\x01"))
            flat += self._follower(task_id), self._follower(task_id)
        return flat

    def _follower(self, task_id: bytes) -> bytes:
        """Return the values of a task that follows from the end of another, packed; mostly of none."""
        if self._random.random() < 0.8:
            return b""
        self._count += 1
        new_id = b"after-%d" % self._count
        if self._profile.garbage:
            new_id = self._one(new_id, self._any_id())
        *values, _, flags = self._new(new_id)
        texts = (b"%d" % value if isinstance(value, int) else value for value in (*values, task_id, flags))
        return _packed(list(texts))

    def _again(self) -> Step:
        """Return a step of before, as after a lost reply: most often the last one."""
        if not self._past:
            return Step(self._clock, "flush")
        step = self._past[-1] if self._one(True, False) else self._one(*self._past)
        return step._replace(clock=self._clock)

    # ---- what no script writes

    def _garbage(self) -> tuple[Any, ...]:
        task_id, name = self._any_id(), self._one(*CONSUMERS)
        choice = self._random.random()
        if choice < 0.22:
            line, there = self._one((b"", []), (b":reserved:" + name, self._model.reserved.get(name, [])))
            strays = [self._one(task_id, b"stray-%d" % number, *there) for number in range(self._profile.strays)]
            return self._one(b"LPUSH", b"RPUSH"), line, *strays
        if choice < 0.47:
            return b"HSET", b":state", task_id, self._spoilt(self._model.states.get(task_id))
        if choice < 0.62:
            return b"HDEL", self._one(b":state", b":records"), task_id
        if choice < 0.77:
            return self._stray()
        if choice < 0.82:
            counter = b"HSET", b":control", self._one(b"bytes", b"ghosts"), self._one(-5, 0, 7)
            return self._one((b"DEL", b":control"), counter, counter)
        mark = b"HSET", b":marks", task_id, self._one(b"cancelled", b"archived")
        return mark if choice < 0.87 else self._spoilt_lease(name)

    def _stray(self) -> tuple[Any, ...]:
        index = self._one(*INDEXES)
        there = self._sample(list(self._model.indexes[index]))
        score = self._one(-1, self._clock // 1000 + self._one(-MINUTE, 0, 1000))
        return b"ZADD", b":" + index, score, self._one(self._any_id(), *there)

    def _spoilt_lease(self, name: bytes) -> tuple[Any, ...]:
        lease = b":consumer:" + name
        field, value = self._one(
            *((b"epoch", value) for value in (b"", b"7", b"7-", b"-a", b"x7-a", b"3-a-b")),
            *((b"count", value) for value in (b"", b"x", b"0", b"1", b"9")),
        )
        return self._one(
            *((b"DEL", lease), (b"HDEL", lease, b"beat"), (b"DEL", b":reserved:" + name)),
            *((b"HSET", lease, field, value), (b"HSET", lease, field, value)),
        )

    def _spoilt(self, task: Task | bytes | None) -> bytes:
        """Return something to stand in the place of a task's state: unreadable, of another shape, or untrue."""
        fields = list(task) if isinstance(task, Task) else list(Task(b"queued", 1, 1, 0, 0, 0, 0, 0, 0, 0))
        whole = _packed(fields)
        untrue = self._one(
            b"queued", b"scheduled", b"prepared", b"reserved", b"running", b"waiting",
            b"failed", b"completed", b"cancelled", b"archived", b"", 7,
        )  # fmt: skip
        text = self._one(0, *range(10, 16), *range(17, 20))
        position, later = self._one(*range(1, 10), 16, *range(20, 23)), self._clock // 1000 + 5000
        shapes: Sequence[object] = (b"1", True, [], 1.5, later, -1, 9, 10)
        return self._one(
            *(b"", b"x", b"\xc1", b"\xc0", b"\x07", b"\x90", whole[:-1], whole[:20], whole + b"\xc1", whole + b"\x00"),
            *(_packed(fields[:22]), _packed([*fields, b""])),
            *(_packed([*fields[:position], wrong, *fields[position + 1 :]]) for wrong in shapes),
            *(_packed([*fields[:text], wrong, *fields[text + 1 :]]) for wrong in (7, [b"no"], None)),
            *(_packed([*fields[:19], self._any_id(), self._one(*range(8)), self._one(0, 1), self._one(0, 1)]),) * 3,
            *(_packed([wrong, *fields[1:]]) for wrong in (untrue, untrue, [b"queued"])),
            _packed([*fields[:11], self._one(*CONSUMERS, 3), *fields[12:]]),
        )


def _added(step: Step) -> list[bytes]:
    """Return the ids of the tasks that a step may add."""
    if step.name in ("push", "prepare"):
        return [bytes(values[0]) for *_, tasks in separate(step.arguments) for values in tasks]
    if step.name != "exchange":
        return []
    packed = [value for start in (8 + 7, 8 + 8) for value in step.arguments[start::9] if value]
    return [msgpack.unpackb(bytes(value), raw=True)[0] for value in packed]


def _packed(value: object) -> bytes:
    return bytes(msgpack.packb(value, use_bin_type=False))
