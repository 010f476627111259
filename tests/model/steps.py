"""Steps in few words, for sequences that are written by hand: one consumer, one moment."""

from typing import Any, Final

import msgpack

from tests.model.values import Step, Task, commit

AT: Final = 1_700_000_000_000_000
# The values of a task (see Broker.push): id, record, due, method, path, label, priority, owner, route, parent, flags.
TASK: Final = (b"id", b"record", 0, b"GET", b"/", b"", 4, b"", b"", b"", 0)


def tasks(count: int) -> tuple[Any, ...]:
    """Return the values of so many tasks: id-0, id-1, ..."""
    return tuple(value for number in range(count) for value in (b"id-%d" % number, *TASK[1:]))


def task(
    task_id: bytes, parent: bytes = b"", flags: int = 0, *, due: int = 0, by: bytes = b"", priority: int = 4
) -> tuple[Any, ...]:
    """Return the values of a task; ``by``: what it is found by, in all three ways."""
    return (task_id, b"record", due, b"GET", b"/", by, priority, by, by and b"/" + by, parent, flags)


def packed(task_id: bytes, parent: bytes = b"", flags: int = 0, *, due: int = 0, priority: int = 4) -> bytes:
    """Return the values of a task that follows from another, as they travel."""
    values = task(task_id, parent, flags, due=due, priority=priority)
    return bytes(msgpack.packb([b"%d" % one if isinstance(one, int) else one for one in values], use_bin_type=False))


def push(*many: tuple[Any, ...]) -> Step:
    return Step(AT, "push", commit(AT, 0, 0, *(value for one in many for value in one)))


def prepare(*many: tuple[Any, ...]) -> Step:
    return push(*many)._replace(name="prepare")


def claim(name: bytes = b"one", *, begins: int = 1, found: bytes = b"") -> Step:
    return Step(AT, "claim", (name, b"c-" + name, b"host", 1, b"boot", b"1", begins, found, b""))


def again(name: bytes = b"one", *, begins: int = 1) -> Step:
    """Take the name from whoever has it: what it held is given back."""
    return Step(AT, "claim", (name, b"c-again", b"host", 1, b"boot", b"1", begins, b"*", b""))


def take(token: bytes, count: int = 1, *, later: int = 0, waits: int = 0) -> Step:
    return Step(AT + later, "exchange", (b"one", b"1-c-one", token, count, 10**6, 0, 0, waits))


def end(
    task_id: bytes,
    kind: bytes,
    delivery: int = 1,
    *,
    after: tuple[bytes, bytes] = (b"", b""),
    keep: int = 0,
    slow: int = 0,
    delay: int = 0,
    response: bytes = b"",
    later: int = 0,
) -> Step:
    """Settle one delivery; ``after``: what follows when the task has completed, and when it has failed."""
    ending = (task_id, delivery, kind, delay, 500, b"status", response, *after)
    return Step(AT + later, "exchange", (b"one", b"1-c-one", b"ending", 0, 0, slow, keep, 0, *ending))


def withdraw(word: bytes, *ids: bytes, forced: int = 0) -> Step:
    return Step(AT, "withdraw", (word, forced, b"somebody", *ids))


def retry(*ids: bytes, record: bytes = b"") -> Step:
    return Step(AT, "retry", (b"somebody", *(value for task_id in ids for value in (task_id, record))))


def write(command: bytes, key: bytes, *values: bytes | int) -> Step:
    """Let something else write."""
    return Step(AT, "write", (command, key, *values))


def spoil(task_id: bytes, **fields: Any) -> Step:
    """Let something else write a state: queued long ago, but for these fields."""
    state = Task(b"queued", 0, 0, 0, AT, 0, 0, 0, AT, 0)._replace(**fields)
    return write(b"HSET", b":state", task_id, bytes(msgpack.packb(state, use_bin_type=False)))


def trim(*limits: Any, later: int = 0) -> Step:
    return Step(AT + later, "trim", (100, *limits))
