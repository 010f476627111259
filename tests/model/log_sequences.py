"""Sequences about a task's log: parents and children, what follows, ghosts in a line, and tasks marked to end."""

from typing import Final

from tests.model.places import CHILD, MASTER
from tests.model.steps import (
    AT,
    again,
    claim,
    end,
    packed,
    prepare,
    push,
    retry,
    take,
    task,
    trim,
    withdraw,
)
from tests.model.values import Step

_IN_DOUBT: Final = Step(AT + 60_000_000, "due", (60_000,))
_AFTER: Final = (packed(b"after-success"), packed(b"after-failure"))
_EVERYTHING: Final = tuple(
    value for index in (b"finished", b"failed", b"cancelled", b"archived") for value in (index, 0, 0)
)
_ONE: Final = task(b"1", b"p", CHILD)
_TWO: Final = task(b"2", b"p", CHILD)


def _parent(*children: tuple[object, ...], flags: int = 0) -> list[Step]:
    """Return steps up to a parent that is under way, as its children are."""
    return [push(task(b"p", flags=flags)), claim(), take(b"t1"), push(*children), take(b"t2", len(children))]


FAMILIES: Final = {
    "a parent completes with the last of its children": [
        *_parent(_ONE, _TWO),
        end(b"p", b"complete", after=_AFTER),
        end(b"1", b"complete"),
        end(b"2", b"complete"),
    ],
    "a parent fails with the last of its children, for the first": [
        *_parent(_ONE, _TWO),
        end(b"p", b"complete", after=_AFTER),
        end(b"1", b"fail"),
        end(b"2", b"complete"),
        retry(b"p"),
        retry(b"1"),
        take(b"t3", 2),
        end(b"p", b"complete", 2),
        end(b"1", b"complete", 2),
    ],
    "children that ended first": [
        *_parent(_ONE, _TWO),
        end(b"1", b"complete"),
        end(b"2", b"fail"),
        end(b"p", b"complete", after=_AFTER),
    ],
    "children that ended well first": [*_parent(_ONE), end(b"1", b"complete"), end(b"p", b"complete", after=_AFTER)],
    "a parent that is a child, and waits for one": [
        *_parent(_ONE),
        push(task(b"1.1", b"1", CHILD)),
        take(b"t3"),
        end(b"p", b"complete", after=_AFTER),
        end(b"1", b"complete", after=(packed(b"a"), packed(b"b"))),
        end(b"1.1", b"complete"),
    ],
    "a failure that goes up three generations": [
        *_parent(_ONE),
        push(task(b"1.1", b"1", CHILD)),
        take(b"t3"),
        end(b"p", b"complete", after=_AFTER),
        end(b"1", b"complete", after=(packed(b"a"), packed(b"b"))),
        end(b"1.1", b"fail"),
        retry(b"1.1"),
        take(b"t4"),
    ],
    "a master ends by itself": [
        *_parent(_ONE, _TWO, flags=MASTER),
        end(b"1", b"fail"),
        end(b"p", b"complete", after=_AFTER),
        end(b"2", b"complete"),
    ],
    "a master that fails by itself": [
        *_parent(_ONE, flags=MASTER),
        end(b"p", b"fail", after=_AFTER),
        end(b"1", b"complete"),
    ],
    "a child that is a master": [
        *_parent(task(b"1", b"p", CHILD | MASTER)),
        push(task(b"1.1", b"1", CHILD)),
        end(b"p", b"complete", after=_AFTER),
        end(b"1", b"complete"),
    ],
    "a parent that fails while its child runs": [
        *_parent(_ONE),
        end(b"p", b"fail", after=_AFTER),
        end(b"1", b"fail"),
        retry(b"1"),
        retry(b"p"),
        take(b"t3", 2),
        end(b"1", b"complete", 2),
        end(b"p", b"complete", 2),
    ],
    "a child that is retried while its parent waits": [
        *_parent(_ONE, _TWO),
        end(b"1", b"fail"),
        end(b"p", b"complete"),
        retry(b"1"),
        end(b"2", b"complete"),
        take(b"t3"),
        end(b"1", b"complete", 2),
    ],
    "a parent that is retried before its failed child": [
        *_parent(_ONE),
        end(b"p", b"complete"),
        end(b"1", b"fail"),
        retry(b"p", b"1"),
        take(b"t3", 2),
        end(b"p", b"complete", 2),
        end(b"1", b"complete", 2),
    ],
    "a child is cancelled, another archived": [
        *_parent(),
        push(_ONE, _TWO),
        end(b"p", b"complete", after=_AFTER),
        withdraw(b"cancelled", b"1"),
        withdraw(b"archived", b"2"),
    ],
    "a failed child is archived": [
        *_parent(_ONE, _TWO),
        end(b"p", b"complete"),
        end(b"1", b"fail"),
        withdraw(b"archived", b"1"),
        end(b"2", b"complete"),
    ],
    "a waiting parent is cancelled, and retried": [
        *_parent(_ONE),
        end(b"p", b"complete", after=_AFTER),
        withdraw(b"archived", b"p"),
        withdraw(b"cancelled", b"p"),
        retry(b"p"),
        take(b"t3"),
        end(b"p", b"complete", 2, after=(b"", packed(b"other"))),
        end(b"1", b"complete"),
    ],
    "a waiting parent is archived by force": [
        *_parent(_ONE),
        end(b"p", b"complete"),
        withdraw(b"archived", b"p", forced=1),
        end(b"1", b"complete"),
    ],
    "children are purged": [
        *_parent(),
        push(_ONE, task(b"2", b"p", CHILD, due=AT)),
        end(b"p", b"complete", after=_AFTER),
        Step(AT, "purge", (1,)),
        Step(AT, "purge", (5,)),
    ],
    "a child is prepared, and promoted in doubt": [
        *_parent(),
        prepare(_ONE),
        end(b"p", b"complete"),
        _IN_DOUBT,
        Step(AT, "promote", (b"1",)),
        retry(b"p"),
    ],
    "a child in doubt is promoted while its parent waits": [
        *_parent(_TWO),
        prepare(_ONE),
        end(b"p", b"complete"),
        _IN_DOUBT,
        Step(AT, "promote", (b"1",)),
        end(b"2", b"complete"),
        take(b"t3"),
        end(b"1", b"complete"),
    ],
    "a child in doubt is discarded while its parent waits": [
        *_parent(_TWO),
        prepare(_ONE),
        end(b"p", b"complete"),
        _IN_DOUBT,
        Step(AT, "discard", (b"1",)),
        end(b"2", b"complete"),
    ],
    "a prepared child is discarded": [
        *_parent(),
        prepare(_ONE),
        end(b"p", b"complete", after=_AFTER),
        Step(AT, "discard", (b"1",)),
    ],
    "a child in doubt is discarded after its parent": [
        *_parent(),
        prepare(_ONE),
        end(b"p", b"complete"),
        _IN_DOUBT,
        Step(AT, "discard", (b"1",)),
    ],
    "a child of nobody, of itself, and of one that has ended": [
        push(task(b"1", b"unknown", CHILD), task(b"2", b"2", CHILD), task(b"3", b"", CHILD)),
        claim(),
        take(b"t1", 2),
        end(b"1", b"complete"),
        push(task(b"1.1", b"1", CHILD)),
        end(b"2", b"complete"),
    ],
    "a child outlives its parent": [
        *_parent(_ONE),
        end(b"p", b"fail"),
        trim(*_EVERYTHING),
        end(b"1", b"fail"),
        retry(b"1"),
    ],
}

FOLLOWING: Final = {
    "what follows is known already": [
        push(task(b"1"), task(b"2")),
        claim(),
        take(b"t1", 2),
        end(b"1", b"complete", after=(packed(b"2"), b"")),
        end(b"2", b"fail", after=(b"", packed(b"1"))),
    ],
    "what follows waits for its time, in a line of its own, and has a parent that has ended": [
        push(task(b"1")),
        claim(),
        take(b"t1"),
        end(b"1", b"complete", after=(packed(b"after", parent=b"1", flags=CHILD, due=-5000), b"")),
    ],
    "what follows from a release, a retry and a failure": [
        push(task(b"1")),
        claim(),
        take(b"t1"),
        end(b"1", b"release", after=_AFTER),
        take(b"t2"),
        end(b"1", b"retry", 2, after=_AFTER),
        Step(AT, "due", (60_000,)),
        take(b"t3"),
        end(b"1", b"fail", 3, after=_AFTER),
    ],
}

GHOSTS: Final = {
    "a ghost is queued again where it stands": [
        push(task(b"1"), task(b"2"), task(b"3")),
        withdraw(b"cancelled", b"2", b"2", b"unknown"),
        retry(b"2"),
        claim(),
        take(b"t1", 9),
    ],
    "ghosts are passed by": [
        push(task(b"1"), task(b"2"), task(b"3")),
        withdraw(b"cancelled", b"1"),
        withdraw(b"archived", b"1", b"2"),
        claim(),
        take(b"t1", 9),
        trim(*_EVERYTHING),
    ],
    "ghosts are trimmed when they are none any more": [
        push(task(b"1", by=b"x"), task(b"2", by=b"x")),
        withdraw(b"cancelled", b"1", b"2"),
        trim(*_EVERYTHING, later=1_000_000),
        Step(AT, "purge", (1,)),
        trim(*_EVERYTHING, later=2_000_000),
        Step(AT, "purge", (9,)),
        trim(*_EVERYTHING, later=2_000_000),
    ],
    "a ghost is retried when it has left the line": [
        push(task(b"1"), task(b"2")),
        withdraw(b"cancelled", b"1"),
        claim(),
        take(b"t1"),
        retry(b"1", record=b"sealed again"),
        take(b"t2"),
    ],
    "a reset with a ghost in it": [
        push(task(b"1", by=b"x")),
        withdraw(b"cancelled", b"1"),
        Step(AT, "reset"),
        Step(AT, "reset"),
        Step(AT, "forget"),
    ],
    "a hundred ghosts, and one": [
        push(*(task(b"%d" % number) for number in range(102))),
        withdraw(b"cancelled", *(b"%d" % number for number in range(101))),
        claim(),
        take(b"t1"),
        take(b"t2"),
    ],
    "what is scheduled is withdrawn, and what has ended": [
        push(task(b"1", due=-5000), task(b"2", due=-5000), task(b"3"), task(b"4")),
        prepare(task(b"5")),
        claim(),
        take(b"t1", 2),
        end(b"3", b"complete", keep=1),
        end(b"4", b"fail"),
        withdraw(b"cancelled", b"1", b"3", b"4", b"5"),
        withdraw(b"archived", b"1", b"2", b"3", b"4", b"5"),
        withdraw(b"cancelled", b"2"),
        retry(b"1", b"2", b"3", b"4"),
        trim(*_EVERYTHING),
    ],
}

MARKS: Final = {
    "what is marked ends when it is settled": [
        *_parent(_ONE, _TWO),
        end(b"p", b"complete", after=_AFTER),
        withdraw(b"cancelled", b"1"),
        withdraw(b"cancelled", b"1", forced=1),
        withdraw(b"archived", b"2", forced=1),
        Step(AT, "beat", (b"one", b"1-c-one")),
        end(b"1", b"complete", after=(packed(b"x"), b"")),
        end(b"2", b"release"),
        Step(AT, "beat", (b"one", b"1-c-one")),
        retry(b"1", b"2"),
        take(b"t3"),
        end(b"1", b"complete", 2),
    ],
    "what is marked does not begin": [
        push(task(b"1"), task(b"2")),
        claim(),
        take(b"t1", 2),
        Step(AT, "begin", (b"1", 1, b"start")),
        withdraw(b"cancelled", b"1", b"2", forced=1),
        Step(AT, "begin", (b"1", 1, b"start")),
        Step(AT, "begin", (b"2", 1, b"start")),
        Step(AT, "note", (b"1", 1, b"report", b"sealed")),
    ],
    "what is marked ends when it is given back": [
        *_parent(_ONE, _TWO),
        end(b"p", b"complete", after=_AFTER),
        Step(AT, "begin", (b"1", 1, b"start")),
        withdraw(b"cancelled", b"1", forced=1),
        again(),
        take(b"t3")._replace(arguments=(b"one", b"2-c-again", b"t3", 9, 10**6)),
        again(begins=0)._replace(arguments=(b"one", b"c-third", b"host", 1, b"boot", b"1", 0, b"*", b"")),
    ],
    "marks of another's, and none of a queue that was emptied": [
        push(task(b"1"), task(b"2")),
        claim(),
        take(b"t1", 2),
        withdraw(b"cancelled", b"1", forced=1),
        claim(b"two"),
        Step(AT, "beat", (b"two", b"1-c-two")),
        end(b"2", b"complete"),
        Step(AT, "reset"),
        Step(AT, "beat", (b"one", b"1-c-one")),
    ],
    "what is stuck is restarted": [
        push(task(b"1"), task(b"2"), task(b"3"), task(b"4", due=-5000), task(b"5")),
        claim(),
        take(b"t1", 4),
        Step(AT, "begin", (b"1", 1, b"start")),
        withdraw(b"cancelled", b"3", forced=1),
        Step(AT, "restart", (b"somebody", b"1", b"2", b"3", b"4", b"5")),
        Step(AT, "write", (b"DEL", b":reserved:one")),
        Step(AT, "write", (b"HDEL", b":records", b"5")),
        Step(AT, "restart", (b"somebody", b"5", b"3", b"1", b"2", b"1")),
    ],
}

LOGS: Final = {
    "a record that is kept is there to be retried": [
        *_parent(_ONE),
        end(b"p", b"complete", keep=1, response=b"sealed"),
        end(b"1", b"fail"),
        retry(b"p"),
        take(b"t3"),
        end(b"p", b"complete", 2, keep=1),
        withdraw(b"archived", b"p"),
    ],
    "released, and lost, and released": [
        push(task(b"1")),
        claim(),
        take(b"t1"),
        end(b"1", b"release"),
        take(b"t2", later=1_000_000),
        end(b"1", b"release", 2, delay=1000, later=2_000_000),
        Step(AT + 4_000_000, "due", (60_000,)),
        take(b"t3", later=4_000_000),
        again()._replace(clock=AT + 5_000_000),
    ],
    "a trim says which of the forgotten have files": [
        push(task(b"1", by=b"x"), task(b"2", by=b"x"), task(b"3", by=b"y")),
        claim(),
        take(b"t1", 3),
        Step(AT, "note", (b"1", 1, b"report", b"sealed", b"files", b"sealed")),
        Step(AT, "note", (b"2", 1, b"report", b"sealed")),
        Step(AT, "note", (b"3", 2, b"report", b"sealed")),
        end(b"1", b"complete"),
        end(b"2", b"fail"),
        Step(AT, "note", (b"2", 1, b"files", b"sealed")),
        trim(*_EVERYTHING),
    ],
    "what waits for its time is hastened, in the order given": [
        push(*(task(b"%d" % number, due=-5000 * number) for number in range(4))),
        Step(AT, "hasten", (b"somebody", b"3", b"1", b"0", b"unknown", b"3")),
        Step(AT, "hasten", (b"somebody", b"3")),
        claim(),
        take(b"t1", 9),
    ],
}

LOG_SEQUENCES: Final[dict[str, list[Step]]] = FAMILIES | FOLLOWING | GHOSTS | MARKS | LOGS
