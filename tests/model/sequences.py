"""What a walk comes upon too rarely, and what one has found once, in the fewest steps."""

from typing import Any, Final

from tests.model.log_sequences import LOG_SEQUENCES
from tests.model.places import INDEXES
from tests.model.steps import AT, TASK, again, claim, end, packed, prepare, push, spoil, take, task, tasks, write
from tests.model.values import Step, Task, commit
from tests.model.waiting_sequences import WAITING_SEQUENCES

_SOUND: Final = Task(b"queued", 0, 0, 0, 0, 0, 0, 0, 0, 0)


def _urgent(*priorities: int) -> tuple[Any, ...]:
    """Return the values of a task of each priority: p0, p1, ..."""
    return tuple(value for n in priorities for value in (b"p%d" % n, *TASK[1:6], n, *TASK[7:]))


SEQUENCES: Final[dict[str, list[Step]]] = (
    LOG_SEQUENCES
    | WAITING_SEQUENCES
    | {
        "an id twice in one promotion": [
            Step(AT, "prepare", commit(AT, 0, 0, *TASK)),
            Step(AT, "promote", (b"id", b"id")),
        ],
        "a lease whose epoch is none, found dead": [
            write(b"HSET", b":consumer:one", b"epoch", b"spoilt"),
            Step(AT, "reclaim", (b"one", b"r1", b"spoilt", b"")),
        ],
        "a lease without a beat, seen by another and found dead": [
            claim(b"one"),
            claim(b"two"),
            write(b"HDEL", b":consumer:one", b"beat"),
            Step(AT, "beat", (b"two", b"1-c-two")),
            Step(AT, "reclaim", (b"one", b"r1", b"1-c-one", b"")),
        ],
        "a reset when nothing waits": [
            push(TASK),
            claim(b"one"),
            Step(AT, "exchange", (b"one", b"1-c-one", b"token", 1, 100, 0, 0, 0)),
            Step(AT, "reset"),
            Step(AT, "forget"),
        ],
        "scheduled for later than its index says": [
            Step(AT, "push", commit(AT, 0, 0, b"id", b"record", AT // 1000 + 5000, *TASK[3:])),
            write(b"ZADD", b":scheduled", AT // 1000 - 1, b"id"),
            Step(AT, "due", (60_000,)),
        ],
        "a completed task whose record has gone": [
            push(TASK),
            claim(b"one"),
            Step(AT, "exchange", (b"one", b"1-c-one", b"token", 1, 100, 0, 0, 0)),
            write(b"HDEL", b":records", b"id"),
            write(b"HSET", b":control", b"bytes", -5),
            Step(
                AT,
                "exchange",
                (b"one", b"1-c-one", b"ending", 0, 0, 0, 0, 0, b"id", 1, b"complete", 0, 200, *[b""] * 4),
            ),
        ],
        "a repeat when record or state have gone": [
            push(*(task(b"%d" % number) for number in range(3))),
            claim(),
            take(b"t1", 3),
            write(b"HDEL", b":records", b"0"),
            write(b"HDEL", b":state", b"2"),
            take(b"t1", 3),
        ],
        "what is queued without a record": [
            push(task(b"1"), task(b"2")),
            write(b"HDEL", b":records", b"1"),
            claim(),
            take(b"t1", 2),
        ],
        "a purge of what was scheduled for before there was time": [
            push(task(b"1", due=-5000)),
            write(b"ZADD", b":scheduled", -1, b"1"),
            Step(AT, "purge", (5,)),
        ],
        "a reservation of what is not held, and of what is another's": [
            push(*(task(b"%d" % number) for number in range(4))),
            claim(),
            take(b"t1", 4),
            spoil(b"1", state=b"completed", holder=b"one"),
            spoil(b"2", state=b"reserved", holder=b"two"),
            spoil(b"3", state=b"queued", holder=b"two"),
            again(),
        ],
        "ids of no task, wherever one may be": [
            claim(),
            *(write(b"ZADD", b":" + index, -1, index) for index in INDEXES),
            write(b"LPUSH", b"", b"in line"),
            write(b"LPUSH", b":reserved:one", b"held"),
            Step(AT, "due", (60_000,)),
            take(b"t1"),
            again(),
            Step(AT, "trim", (100, *(value for index in INDEXES for value in (index, 0, 0)))),
        ],
        "more to give back than one call does": [
            Step(AT, "push", commit(AT, 0, 0, *tasks(201))),
            claim(b"one"),
            Step(AT, "exchange", (b"one", b"1-c-one", b"token", 201, 10**6, 0, 0, 0)),
            again(),
            again(),
        ],
        "priorities that there are not": [
            Step(AT, "push", commit(AT, 0, 0, *tasks(5))),
            *(spoil(b"id-%d" % number, priority=priority) for number, priority in enumerate((-1, 10, 1.5, b"4", 9))),
            claim(b"one"),
            Step(AT, "exchange", (b"one", b"1-c-one", b"token", 9, 1000, 0, 0, 0)),
        ],
        "a limit over all consumers": [
            Step(AT, "push", commit(AT, 0, 0, *tasks(5))),
            claim(b"one"),
            claim(b"two"),
            Step(AT, "control", (b"limit", b"3")),
            Step(AT, "exchange", (b"one", b"1-c-one", b"t1", 2, 100, 0, 0, 0)),
            Step(AT, "exchange", (b"two", b"1-c-two", b"t2", 5, 100, 0, 0, 0)),
            Step(AT, "exchange", (b"one", b"1-c-one", b"t3", 5, 100, 0, 0, 0)),
            Step(
                AT, "exchange", (b"two", b"1-c-two", b"end", 0, 0, 0, 0, 0, b"id-2", 1, b"complete", 0, 200, *[b""] * 4)
            ),
            Step(AT, "exchange", (b"two", b"1-c-two", b"t4", 5, 100, 0, 0, 0)),
            Step(AT, "control", (b"limit", b"")),
            Step(AT, "exchange", (b"two", b"1-c-two", b"t5", 5, 100, 0, 0, 0)),
        ],
        "a queue that is paused, then disabled, then closed": [
            push(TASK),
            claim(b"one"),
            *(
                step
                for word in (b"paused", b"disabled", b"closed")
                for step in (
                    Step(AT, "control", (word, b"1")),
                    Step(
                        AT, "exchange", (b"one", b"1-c-one", b"t-" + word, 0 if word == b"closed" else 1, 100, 0, 0, 0)
                    ),
                    Step(AT, "push", commit(AT, 0, 0, b"new", *TASK[1:])),
                    claim(b"two"),
                    Step(AT, "control", (word, b"")),
                )
            ),
        ],
        "a purge of every line, piece by piece": [
            Step(AT, "push", commit(AT, 0, 0, *tasks(10))),
            Step(
                AT,
                "push",
                commit(AT, 0, 0, *(value for n in (0, 9, 5) for value in (b"p%d" % n, *TASK[1:6], n, *TASK[7:]))),
            ),
            Step(AT, "push", commit(AT, 0, 0, *(value for n in (1, 2) for value in (b"s%d" % n, b"", AT, *TASK[3:])))),
            Step(AT, "purge", (4,)),
            Step(AT, "purge", (9,)),
            Step(AT, "purge", (1,)),
            Step(AT, "purge", (5,)),
            Step(AT, "purge", (5,)),
        ],
        "a reset of every line": [
            Step(
                AT,
                "push",
                commit(AT, 0, 0, *(value for n in range(10) for value in (b"p%d" % n, *TASK[1:6], n, *TASK[7:]))),
            ),
            Step(AT, "reset"),
            Step(AT, "forget"),
        ],
        "a promotion of what has failed for another reason": [
            push(TASK),
            claim(b"one"),
            Step(AT, "exchange", (b"one", b"1-c-one", b"token", 1, 100, 0, 0, 0)),
            Step(
                AT,
                "exchange",
                (b"one", b"1-c-one", b"ending", 0, 0, 0, 0, 0, b"id", 1, b"fail", 0, 500, b"status", *[b""] * 3),
            ),
            Step(AT, "promote", (b"id",)),
        ],
        "patience until the last millisecond": [
            push(TASK),
            claim(b"one"),
            take(b"t1"),
            end(b"id", b"release", 1, slow=1000),
            end(b"id", b"release", 1, slow=1),
            take(b"t2", later=999_999),
            take(b"t3", later=1_000_000),
        ],
        "the last response is kept until there is another, or the task completes": [
            push(TASK),
            claim(b"one"),
            take(b"t1"),
            end(b"id", b"retry", 1, response=b"sealed"),
            Step(AT, "due", (60_000,)),
            take(b"t2"),
            end(b"id", b"retry", 2),
            Step(AT, "due", (60_000,)),
            take(b"t3"),
            end(b"id", b"complete", 3),
        ],
        "commits that come at once, each with a fate of its own": [
            Step(
                AT,
                "push",
                (
                    *commit(AT, 2, 0, *TASK),
                    *commit(AT // 1000 - 1, 0, 0, b"late", *TASK[1:]),
                    *commit(AT, 2, 0, *(value for name in (b"too", b"many") for value in (name, *TASK[1:]))),
                    *commit(AT, 0, 12, b"heavy", *TASK[1:]),
                    *commit(AT, 2, 12, b"light", b"r", *TASK[2:]),
                    *commit(AT // 1000 - 1, 1, 1, *TASK),
                ),
            ),
            Step(
                AT,
                "prepare",
                (*commit(AT // 1000 - 1, 0, 0, b"late", *TASK[1:]), *commit(AT, 3, 13, b"p", b"", *TASK[2:])),
            ),
            Step(
                AT,
                "push",
                (*commit(AT, 1, 0, b"refused", *TASK[1:]), *commit(AT // 1000 - 1, 0, 0, b"late", *TASK[1:])),
            ),
        ],
        "a value of another kind anywhere in a state": [
            push(*(task(name.encode()) for name in (*Task._fields, "none"))),
            *(
                spoil(name.encode(), **{name: b"4" if isinstance(value, int) else 4})
                for name, value in _SOUND._asdict().items()
            ),
            spoil(b"none", state=b"", holder=b"somebody"),
            claim(),
            take(b"t1", 30),
        ],
        "to the front of a line and to its back at once": [
            push(task(b"1"), task(b"2"), task(b"3")),
            claim(),
            take(b"t1", 2),
            Step(
                AT,
                "exchange",
                (
                    *(b"one", b"1-c-one", b"t2", 0, 0, 0, 0, 0),
                    *(b"1", 1, b"release", 0, 500, b"status", b"", b"", b""),
                    *(b"2", 1, b"complete", 0, 200, b"status", b"", packed(b"4"), b""),
                ),
            ),
            take(b"t3", 9),
        ],
        "one byte is left": [
            push((b"1", b"r", *TASK[2:]), task(b"2")),
            claim(),
            take(b"t1", 2),
            end(b"2", b"complete"),
        ],
        **{
            f"a child that is forgotten by a {name}, and whose id follows its parent": [
                push(task(b"parent")),
                claim(),
                take(b"t1"),
                store(task(b"child", b"parent", 1)),
                end(b"parent", b"complete", after=(packed(b"child"), b"")),
                Step(AT, name, arguments),
            ]
            for name, store, arguments in (("discard", prepare, (b"child",)), ("purge", push, (10,)))
        },
        "a queue that takes no more": [
            Step(AT, "control", (b"closed", b"1")),
            push(TASK),
            prepare(TASK),
        ],
    }
)
