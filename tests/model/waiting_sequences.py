"""Consumers that have found nothing, and are handed what comes: sequences that are written by hand."""

from typing import Any, Final

from tests.model.consuming import LARGEST
from tests.model.steps import AT, TASK, again, claim, end, prepare, push, take, task, write
from tests.model.values import Step, commit

_WAITS: Final = (claim(), take(b"t1", waits=1))


def _control(*words: Any) -> Step:
    return Step(AT, "control", words)


def _ask(name: bytes, token: bytes, *, later: int = 0) -> Step:
    return Step(AT + later, "exchange", (name, b"1-c-" + name, token, 1, 10**6, 0, 0, 1))


WAITING_SEQUENCES: Final[dict[str, list[Step]]] = {
    "one that waits is handed what comes, and has told how it ended": [
        *_WAITS,
        push(TASK),
        end(b"id", b"complete"),
        take(b"t2"),
    ],
    "what was handed over is given again, once": [*_WAITS, push(TASK), take(b"t2", 9), take(b"t3", 9)],
    "and again if that reply was lost, with what came behind it": [
        *_WAITS,
        push(task(b"first")),
        push(task(b"second")),
        take(b"t2", 9),
        take(b"t2", 9),
        take(b"t2", 9),
    ],
    "its own question again brings it too": [*_WAITS, push(TASK), take(b"t1", waits=1), take(b"t1", waits=1)],
    "one alone, and no other": [*_WAITS, push(task(b"1"), task(b"2")), take(b"t2", 9)],
    "two commits that have come together": [
        *_WAITS,
        Step(AT, "push", (*commit(AT, 0, 0, *task(b"1")), *commit(AT, 0, 0, *task(b"2")))),
    ],
    "nobody waits who has not said so": [claim(), take(b"t1"), push(TASK)],
    "nor who was given something": [push(task(b"1")), *_WAITS, push(task(b"2"))],
    "nor who has asked for none": [claim(), take(b"t1", 0, waits=1), push(TASK)],
    "nor who asks again without": [*_WAITS, take(b"t2"), push(TASK)],
    "nor who leaves": [*_WAITS, Step(AT, "leave", (b"one", b"1-c-one")), push(TASK)],
    "nor whose name was taken": [*_WAITS, again(), push(TASK)],
    "nor who was found dead": [*_WAITS, Step(AT, "reclaim", (b"one", b"r-1", b"1-c-one", b"0")), push(TASK)],
    "what was handed to one who died goes back": [
        *_WAITS,
        push(TASK),
        Step(AT, "reclaim", (b"one", b"r-1", b"1-c-one", b"0")),
    ],
    "and to one whose name was taken": [*_WAITS, push(TASK), again()],
    "one that leaves with it keeps its name": [*_WAITS, push(TASK), Step(AT, "leave", (b"one", b"1-c-one"))],
    "the one that has waited longest, then the other": [
        claim(b"two"),
        claim(b"one"),
        _ask(b"two", b"t1"),
        _ask(b"one", b"t2", later=1000),
        push(task(b"1"))._replace(clock=AT + 1000),
        push(task(b"2"))._replace(clock=AT + 1000),
        push(task(b"3"))._replace(clock=AT + 1000),
    ],
    "who asks again has waited since then": [
        claim(b"two"),
        claim(b"one"),
        _ask(b"one", b"t1"),
        _ask(b"two", b"t2", later=1000),
        _ask(b"one", b"t3", later=2000),
        push(TASK)._replace(clock=AT + 2000),
    ],
    "one that hears nothing has gone, and the task waits as any other": [
        claim(b"three"),
        _ask(b"three", b"t1"),
        push(TASK),
        claim(),
        take(b"t2"),
    ],
    **{
        f"none is handed out of a queue that is {word.decode()}": [*_WAITS, _control(word, value), push(TASK)]
        for word, value in ((b"paused", b"1"), (b"disabled", b"1"), (b"closed", b"1"), (b"limit", b"5"))
    },
    **{
        f"none while the application wants to be left alone, {later} us later": [
            claim(b"two"),
            push(TASK),
            claim(),
            take(b"t1"),
            _ask(b"two", b"t2"),
            end(b"id", b"complete", slow=1000),
            push(task(b"1"))._replace(clock=AT + later),
        ]
        for later in (999_999, 1_000_000, 1_001_000)
    },
    "nobody waits for a queue that is paused": [
        claim(),
        _control(b"paused", b"1"),
        take(b"t1", waits=1),
        _control(b"paused", b""),
        push(TASK),
    ],
    "what is handed over counts for the limit": [
        *_WAITS,
        push(task(b"1")),
        _control(b"limit", b"2"),
        push(task(b"2"), task(b"3")),
        claim(b"two"),
        Step(AT, "exchange", (b"two", b"1-c-two", b"t2", 5, 10**6, 0, 0, 0)),
    ],
    **{
        f"what waits in a line of priority {priority} goes first": [
            *_WAITS,
            push(*(task(b"%d" % number, priority=priority) for number in range(2))),
            push(task(b"3", priority=9)),
        ]
        for priority in range(10)
    },
    **{
        f"what was handed over and ends with a {kind.decode()} is not given again": [
            *_WAITS,
            push(TASK),
            end(b"id", kind),
            take(b"t2", 9),
        ]
        for kind in (b"retry", b"fail", b"release")
    },
    "what was handed over runs, and is given again": [
        *_WAITS,
        push(TASK),
        Step(AT, "begin", (b"id", 1, b"start")),
        take(b"t2", 9),
        take(b"t2", 9),
    ],
    "what was handed over comes behind what is held, and is given again": [
        push(task(b"1")),
        claim(),
        take(b"t1"),
        take(b"t2", waits=1),
        push(task(b"2")),
        take(b"t3"),
        take(b"t3"),
    ],
    "what is to wait for its time is not handed over": [*_WAITS, push(task(b"1", due=-1)), push(task(b"2", due=1))],
    "nor what is only prepared": [*_WAITS, prepare(TASK), Step(AT, "promote", (b"id",))],
    **{
        f"a record of {more:+} bytes beside the largest": [
            *_WAITS,
            push((b"id", bytes(LARGEST + more), *TASK[2:])),
        ]
        for more in (-1, 0, 1)
    },
    **{
        f"one more where {held} are, {waits} and there may be {most} of {most_bytes} bytes, {late} ms late": [
            *((push(*(task(b"%d" % number) for number in range(held))),) if held else ()),
            *(_WAITS if waits else (claim(),)),
            *((take(b"t0", 9), take(b"t1", waits=1)) if waits and held else ()),
            Step(AT, "push", commit(AT // 1000 - late, most, most_bytes, *TASK)),
        ]
        for held in (0, 1, 2)
        for waits in ("somebody waits", "")
        for most, most_bytes in (
            (0, 0),
            (1, 0),
            (2, 0),
            (3, 0),
            (0, 1),
            (0, 5),
            (0, 6),
            (0, 7),
            (0, 12),
            (0, 18),
            (1, 18),
        )
        for late in ((0,) if most or most_bytes else (-1, 0, 1))
    },
    "one more beside what has failed": [
        push(task(b"1"), task(b"2")),
        claim(),
        take(b"t1"),
        end(b"1", b"fail"),
        take(b"t2"),
        take(b"t3", waits=1),
        Step(AT, "push", commit(AT // 1000, 2, 0, *TASK)),
        Step(AT, "push", commit(AT // 1000, 2, 0, *task(b"3"))),
    ],
    "the same again is nothing new": [*_WAITS, push(TASK), push(TASK), take(b"t2", 9, waits=1), push(TASK)],
    "what was reset is not given again": [*_WAITS, push(TASK), Step(AT, "reset", ()), take(b"t2", 9)],
    "what runs where it was handed is not stuck": [*_WAITS, push(TASK), Step(AT, "restart", (b"somebody", b"id"))],
    "what was handed to another is": [
        *_WAITS,
        push(TASK),
        write(b"HSET", b":handed", b"one", b"other"),
        Step(AT, "restart", (b"somebody", b"id")),
    ],
    "what was handed over is marked, and ends so": [
        *_WAITS,
        push(TASK),
        Step(AT, "withdraw", (b"cancelled", 1, b"somebody", b"id")),
        Step(AT, "beat", (b"one", b"1-c-one")),
        end(b"id", b"release"),
    ],
    "a child that is handed over": [
        push(task(b"parent")),
        claim(),
        take(b"t1"),
        take(b"t2", waits=1),
        push(task(b"child", b"parent", 1)),
        end(b"parent", b"complete"),
        end(b"child", b"complete"),
    ],
    "what has ended meanwhile is not given again": [
        *_WAITS,
        push(TASK),
        write(b"HDEL", b":records", b"id"),
        take(b"t2", 9),
    ],
}
