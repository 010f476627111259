"""Model and server side by side: the first step at which they differ, and the fewest steps that show it."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

from tests.invariants import Queue, check_queue
from tests.model.model import INDEXES, Model
from tests.model.sequences import SEQUENCES
from tests.model.values import Outcome, Step, Task
from tests.model.walk import CLEAN, CROWDED, FAMILIES, ORPHANS, OVERRUN, SPOILT, Profile, Walk

WINDOW: Final = 25
EPISODE: Final = 250
CROWDED_EPISODE: Final = 60


class Subject(Protocol):
    """One queue, driven by steps; the ``model`` tells what it should do."""

    model: ClassVar[type[Model]]

    def clean(self) -> None:
        """Begin with an empty queue."""
        ...

    def run(self, steps: Sequence[Step]) -> list[Outcome]:
        """Let steps happen."""
        ...


@dataclass(frozen=True)
class Difference:
    """The steps up to the one after which model and server differ, and in what."""

    steps: Sequence[Step]
    what: str
    check: bool


@dataclass(frozen=True)
class Episode:
    """A walk from an empty server; the number chooses seed and profile."""

    seed: str
    profile: Profile
    length: int

    def steps(self, model: Model) -> Iterator[Step]:
        """Yield the steps, each to be applied to the model before the next."""
        return itertools.islice(Walk(model, self.seed, self.profile), self.length)


def episodes(seed: str, steps: int, *, garbage: bool = True) -> Iterator[Episode]:
    """Yield walks of so many steps together: of five, two are clean, two spoilt, and one has a crowd in it.

    One of each is about parents and children. Without ``garbage`` all are clean, or have a crowd in it.
    """
    for number in itertools.count():
        profile = (CLEAN, SPOILT, (CROWDED, OVERRUN)[number // 5 % 2], FAMILIES, ORPHANS)[number % 5]
        if profile.garbage and not garbage:
            continue
        length = min(steps, CROWDED_EPISODE if profile.ids > 100 else EPISODE)
        if length <= 0:
            return
        yield Episode(f"{seed}/{number}", profile, length)
        steps -= length


def exactly(steps: Sequence[Step]) -> Callable[[Model], Iterable[Step]]:
    """Return these steps, whatever the model is like."""
    return lambda _: steps


def difference(
    real: Subject, steps_for: Callable[[Model], Iterable[Step]], *, check: bool = False
) -> Difference | None:
    """Let steps happen to a new model and a cleaned server; ``check`` the invariants as well."""
    model = real.model()
    real.clean()
    steps = iter(steps_for(model))
    past: list[Step] = []
    while True:
        expected = [(step, model.apply(step)) for step in itertools.islice(steps, WINDOW)]
        if not expected:
            return None
        for (step, wanted), found in zip(expected, real.run([step for step, _ in expected]), strict=True):
            past.append(step)
            what = described(wanted, found) or (violation(found.keys) if check else "")
            if what:
                return Difference(past, what, check)


def first_difference(real: Subject, seed: str, steps: int, *, garbage: bool = True) -> Difference | None:
    """Take the known sequences, then walk, until model and server differ, or for so many steps.

    ``garbage``: something else may write into the queue, too.
    """
    for known in SEQUENCES.values():
        found = difference(real, exactly(known)) if garbage or not foreign(known) else None
        if found:
            return found
    for episode in episodes(seed, steps, garbage=garbage):
        found = difference(real, episode.steps, check=not episode.profile.garbage)
        if found:
            return found
    return None


def foreign(steps: Sequence[Step]) -> bool:
    """Tell whether something else writes in one of these steps."""
    return any(step.name == "write" for step in steps)


def described(wanted: Outcome, found: Outcome) -> str:
    """Say in what two outcomes differ; nothing if they are equal."""
    if wanted == found:
        return ""
    lines = []
    if wanted.reply != found.reply:
        lines.append(f"reply: the model says {wanted.reply!r}, the server {found.reply!r}")
    if wanted.hints != found.hints:
        lines.append(f"hints: the model sends {wanted.hints!r}, the server {found.hints!r}")
    for key in sorted(wanted.keys.keys() | found.keys.keys()):
        lines += _unequal(key, wanted.keys.get(key), found.keys.get(key))
    return "\n".join(lines)


def _unequal(key: bytes, wanted: Any, found: Any) -> Iterator[str]:
    if isinstance(wanted, dict) and isinstance(found, dict):
        for field in sorted(wanted.keys() | found.keys()):
            yield from _unequal(key + b" " + field, wanted.get(field), found.get(field))
    elif wanted != found:
        yield f"{key!r}: the model has {wanted!r}, the server {found!r}"


def violation(keys: dict[bytes, Any]) -> str:
    """Say which invariant does not hold; nothing if all do, or while a reset is under way."""
    if b":emptied" in keys:
        return ""
    try:
        check_queue(as_queue(keys))
    except AssertionError as error:
        return f"an invariant does not hold: {error}"
    return ""


def as_queue(keys: dict[bytes, Any]) -> Queue:
    """Return a queue for the invariants from what stands in its keys."""
    named: dict[bytes, dict[bytes, Any]] = {}
    for key, value in keys.items():
        kind, _, name = key[1:].partition(b":")
        named.setdefault(kind, {})[name] = value
    return Queue(
        lines={int(name[2:]): ids for name, ids in keys.items() if re.fullmatch(rb":p[0-9]", name)},
        waiting=keys.get(b"", []),
        indexes={index.decode(): keys[b":" + index] for index in INDEXES if b":" + index in keys},
        reserved={name.decode(): ids for name, ids in named.get(b"reserved", {}).items()},
        states={task_id: _readable(task) for task_id, task in keys.get(b":state", {}).items()},
        records=set(keys.get(b":records", ())),
        stored=sum(map(len, keys.get(b":records", {}).values())),
        weighed=int(keys.get(b":control", {}).get(b"bytes", 0)),
        ghosts=int(keys.get(b":control", {}).get(b"ghosts", 0)),
        by=named.get(b"by", {}),
        marks=set(keys.get(b":marks", ())),
        logs=set(named.get(b"log", ())),
        leases={name.decode() for name in named.get(b"consumer", ())},
        consumers={name.decode() for name in keys.get(b":consumers", ())},
        idle={name.decode().partition(":")[0] for name in keys.get(b":idle", ())},
        handed={name.decode(): task_id for name, task_id in keys.get(b":handed", {}).items()},
    )


def _readable(task: Task) -> list[Any]:
    return [value.decode(errors="replace") if isinstance(value, bytes) else value for value in task]


def fewest(steps: Sequence[Step], fails: Callable[[Sequence[Step]], bool]) -> list[Step]:
    """Return steps that still fail, of which none can be left out: halves first, then ever smaller parts."""
    left, size = list(steps), max(1, len(steps) // 2)
    while True:
        before = len(left)
        for start in range(len(left) - size, -size, -size):
            part = left[: max(start, 0)] + left[start + size :]
            if fails(part):
                left = part
        if size == 1 and len(left) == before:
            return left
        size = max(1, size // 2)


def report(real: Subject, found: Difference) -> str:
    """Say what differs after the fewest steps, and how to see it again."""

    def fails(steps: Sequence[Step]) -> bool:
        return difference(real, exactly(steps), check=found.check) is not None

    if not fails(found.steps):
        return f"after {len(found.steps)} steps:\n{found.what}"
    steps = fewest(found.steps, fails)
    again = difference(real, exactly(steps), check=found.check)
    assert again
    listed = "\n".join(f"    Step({step.clock}, {step.name!r}, {step.arguments!r})," for step in steps)
    return f"{again.what}\nafter (put this into tests/model/sequences.py):\n[\n{listed}\n]"
