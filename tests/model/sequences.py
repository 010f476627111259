"""What a walk comes upon too rarely, and what one has found once, in the fewest steps."""

from typing import Any, Final

import msgpack

from tests.model.values import Step, Task, commit

AT: Final = 1_700_000_000_000_000
TASK: Final = (b"id", b"record", 0, b"GET", b"/", b"", 4)


def _tasks(count: int) -> tuple[Any, ...]:
    return tuple(value for number in range(count) for value in (b"id-%d" % number, *TASK[1:]))


def _of_priority(priority: object) -> bytes:
    return bytes(msgpack.packb([*Task(b"queued", 0, 0, 0, AT, 0, 0, 0, AT, 0)[:-1], priority], use_bin_type=False))


def _claim(name: bytes) -> Step:
    return Step(AT, "claim", (name, b"c-" + name, b"host", 1, b"boot", b"1", 1, b"", b""))


def _reserve(token: bytes, *, later: int = 0) -> Step:
    return Step(AT + later, "reserve", (b"one", b"1-c-one", token, 1, 100))


def _settle(delivery: int, kind: bytes, *, slow: int = 0, response: bytes = b"") -> Step:
    return Step(AT, "settle", (b"one", b"1-c-one", slow, b"id", delivery, kind, 0, 500, b"status", response))


SEQUENCES: Final[dict[str, list[Step]]] = {
    "an id twice in one promotion": [
        Step(AT, "prepare", commit(AT, 0, 0, *TASK)),
        Step(AT, "promote", (b"id", b"id")),
    ],
    "a lease whose epoch is none, found dead": [
        Step(AT, "write", (b"HSET", b":consumer:one", b"epoch", b"spoilt")),
        Step(AT, "reclaim", (b"one", b"r1", b"spoilt", b"")),
    ],
    "a lease without a beat, seen by another and found dead": [
        _claim(b"one"),
        _claim(b"two"),
        Step(AT, "write", (b"HDEL", b":consumer:one", b"beat")),
        Step(AT, "beat", (b"two", b"1-c-two")),
        Step(AT, "reclaim", (b"one", b"r1", b"1-c-one", b"")),
    ],
    "a reset when nothing waits": [
        Step(AT, "push", commit(AT, 0, 0, *TASK)),
        _claim(b"one"),
        Step(AT, "reserve", (b"one", b"1-c-one", b"token", 1, 100)),
        Step(AT, "reset"),
        Step(AT, "forget"),
    ],
    "scheduled for later than its index says": [
        Step(AT, "push", commit(AT, 0, 0, b"id", b"record", AT // 1000 + 5000, b"GET", b"/", b"", 4)),
        Step(AT, "write", (b"ZADD", b":scheduled", AT // 1000 - 1, b"id")),
        Step(AT, "due", (60_000,)),
    ],
    "a completed task whose record has gone": [
        Step(AT, "push", commit(AT, 0, 0, *TASK)),
        _claim(b"one"),
        Step(AT, "reserve", (b"one", b"1-c-one", b"token", 1, 100)),
        Step(AT, "write", (b"HDEL", b":records", b"id")),
        Step(AT, "write", (b"HSET", b":control", b"bytes", -5)),
        Step(AT, "settle", (b"one", b"1-c-one", 0, b"id", 1, b"complete", 0, 200, b"", b"")),
    ],
    "more to give back than one call does": [
        Step(AT, "push", commit(AT, 0, 0, *_tasks(501))),
        _claim(b"one"),
        Step(AT, "reserve", (b"one", b"1-c-one", b"token", 501, 10**6)),
        Step(AT, "claim", (b"one", b"c-again", b"host", 1, b"boot", b"1", 1, b"*", b"")),
        Step(AT, "claim", (b"one", b"c-again", b"host", 1, b"boot", b"1", 1, b"*", b"")),
    ],
    "priorities that there are not": [
        Step(AT, "push", commit(AT, 0, 0, *_tasks(5))),
        *(
            Step(AT, "write", (b"HSET", b":state", b"id-%d" % number, _of_priority(priority)))
            for number, priority in enumerate((-1, 10, 1.5, b"4", 9))
        ),
        _claim(b"one"),
        Step(AT, "reserve", (b"one", b"1-c-one", b"token", 9, 1000)),
    ],
    "a limit over all consumers": [
        Step(AT, "push", commit(AT, 0, 0, *_tasks(5))),
        _claim(b"one"),
        _claim(b"two"),
        Step(AT, "control", (b"limit", b"3")),
        Step(AT, "reserve", (b"one", b"1-c-one", b"t1", 2, 100)),
        Step(AT, "reserve", (b"two", b"1-c-two", b"t2", 5, 100)),
        Step(AT, "reserve", (b"one", b"1-c-one", b"t3", 5, 100)),
        Step(AT, "settle", (b"two", b"1-c-two", 0, b"id-2", 1, b"complete", 0, 200, b"", b"")),
        Step(AT, "reserve", (b"two", b"1-c-two", b"t4", 5, 100)),
        Step(AT, "control", (b"limit", b"")),
        Step(AT, "reserve", (b"two", b"1-c-two", b"t5", 5, 100)),
    ],
    "a queue that is paused, then disabled, then closed": [
        Step(AT, "push", commit(AT, 0, 0, *TASK)),
        _claim(b"one"),
        *(
            step
            for word in (b"paused", b"disabled", b"closed")
            for step in (
                Step(AT, "control", (word, b"1")),
                Step(AT, "reserve", (b"one", b"1-c-one", b"t-" + word, 0 if word == b"closed" else 1, 100)),
                Step(AT, "push", commit(AT, 0, 0, b"new", *TASK[1:])),
                _claim(b"two"),
                Step(AT, "control", (word, b"")),
            )
        ),
    ],
    "a purge of every line, piece by piece": [
        Step(AT, "push", commit(AT, 0, 0, *_tasks(10))),
        Step(AT, "push", commit(AT, 0, 0, *(value for n in (0, 9, 5) for value in (b"p%d" % n, *TASK[1:6], n)))),
        Step(AT, "push", commit(AT, 0, 0, *(value for n in (1, 2) for value in (b"s%d" % n, b"", AT, *TASK[3:])))),
        Step(AT, "purge", (4,)),
        Step(AT, "purge", (9,)),
        Step(AT, "purge", (1,)),
        Step(AT, "purge", (5,)),
        Step(AT, "purge", (5,)),
    ],
    "a reset of every line": [
        Step(AT, "push", commit(AT, 0, 0, *(value for n in range(10) for value in (b"p%d" % n, *TASK[1:6], n)))),
        Step(AT, "reset"),
        Step(AT, "forget"),
    ],
    "a promotion of what has failed for another reason": [
        Step(AT, "push", commit(AT, 0, 0, *TASK)),
        _claim(b"one"),
        Step(AT, "reserve", (b"one", b"1-c-one", b"token", 1, 100)),
        Step(AT, "settle", (b"one", b"1-c-one", 0, b"id", 1, b"fail", 0, 500, b"status", b"")),
        Step(AT, "promote", (b"id",)),
    ],
    "patience until the last millisecond": [
        Step(AT, "push", commit(AT, 0, 0, *TASK)),
        _claim(b"one"),
        _reserve(b"t1"),
        _settle(1, b"release", slow=1000),
        _settle(1, b"release", slow=1),
        _reserve(b"t2", later=999_999),
        _reserve(b"t3", later=1_000_000),
    ],
    "the last response is kept until there is another, or the task completes": [
        Step(AT, "push", commit(AT, 0, 0, *TASK)),
        _claim(b"one"),
        _reserve(b"t1"),
        _settle(1, b"retry", response=b"sealed"),
        Step(AT, "due", (60_000,)),
        _reserve(b"t2"),
        _settle(2, b"retry"),
        Step(AT, "due", (60_000,)),
        _reserve(b"t3"),
        _settle(3, b"complete"),
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
            AT, "prepare", (*commit(AT // 1000 - 1, 0, 0, b"late", *TASK[1:]), *commit(AT, 3, 13, b"p", b"", *TASK[2:]))
        ),
        Step(AT, "push", (*commit(AT, 1, 0, b"refused", *TASK[1:]), *commit(AT // 1000 - 1, 0, 0, b"late", *TASK[1:]))),
    ],
}
