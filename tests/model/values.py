"""What goes into the model and comes out of it: steps and outcomes, and tasks as they are packed."""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import msgpack

Value: TypeAlias = bytes | int


class Task(NamedTuple):
    """The state of a task, in the order in which it is packed."""

    state: Any
    delivery: float
    attempt: float
    crashes: float
    added: float
    due: float
    reserved: float
    begun: float
    changed: float
    status: float
    reason: Any = b""
    holder: Any = b""
    token: Any = b""
    method: Any = b""
    path: Any = b""
    label: Any = b""
    priority: float = 4
    owner: Any = b""
    route: Any = b""
    parent: Any = b""
    flags: float = 0
    open: float = 0
    spoilt: float = 0


HEAD: Final = 4
VALUES: Final = 11
"""How many arguments of push and prepare stand before the tasks of a commit, and how many tell of each task."""


class Step(NamedTuple):
    """One thing that happens: a script is called, or something else writes or flushes; ``clock`` in microseconds."""

    clock: int
    name: str
    arguments: tuple[Value, ...] = ()


class Outcome(NamedTuple):
    """What a step has led to: the reply, the hints sent, and all keys after it."""

    reply: Any
    hints: list[Any]
    keys: dict[bytes, Any]


@lru_cache(maxsize=100_000)
def unpacked(raw: bytes) -> Any:
    """Return the first value packed here, a list as a tuple; the bytes themselves if any of it cannot be read."""
    try:
        value = msgpack.unpackb(raw, raw=True, strict_map_key=False)
    except msgpack.ExtraData as error:
        value = raw if unpacked(error.extra) is error.extra else error.unpacked
    except ValueError:
        return raw
    return tuple(value) if isinstance(value, list) else value


@lru_cache(maxsize=100_000)
def task_of(raw: bytes) -> Task | bytes:
    """Return the task packed here, or the bytes themselves if the scripts must not take them for one."""
    fields = unpacked(raw)
    if not isinstance(fields, tuple) or len(fields) != len(Task._fields):
        return raw
    task = Task(*fields)
    if not all(type(number) in (int, float) for number in (*task[1:10], task.priority, *task[20:])):
        return raw
    if not all(type(text) is bytes for text in (task.state, *task[10:16], *task[17:20])):
        return raw
    return task if task.priority in range(10) else raw


def has(task: Task, flag: int) -> bool:
    """Tell whether a flag is one of a task's."""
    return math.floor(task.flags / flag) % 2 == 1


def random_part(epoch: bytes) -> bytes | None:
    """Return what tells one owner of a name from all others; nothing if this is no epoch."""
    match = re.fullmatch(rb"\d+-(.*)", epoch, re.DOTALL)
    return match[1] if match else None


def next_epoch(epoch: bytes, random: bytes) -> bytes:
    """Return the epoch that follows one."""
    match = re.match(rb"(\d+)-", epoch)
    return b"%d-%s" % ((int(match[1]) if match else 0) + 1, random)


def grouped(flat: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """Return consecutive values in groups."""
    values = iter(flat)
    return zip(*itertools.repeat(values, size), strict=True)


def commit(not_after: int, most: int, most_bytes: int, *tasks: Any) -> tuple[Any, ...]:
    """Return the arguments of push and prepare for one commit of these tasks, whose fields follow each other."""
    return (not_after, most, most_bytes, len(tasks) // VALUES, *tasks)


def separate(flat: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield time and limits of each commit among the arguments of push and prepare, and its tasks."""
    while flat:
        *limits, count = flat[:HEAD]
        end = HEAD + VALUES * count
        yield (*limits, list(grouped(flat[HEAD:end], VALUES)))
        flat = flat[end:]
