"""A task's life in order, from what a store keeps of it: its state, how its deliveries ended, what was done to it.

Of a delivery that completed there is its state alone, and of those that were given back the first time and the last.
Where something must have happened whose time is not kept, the story says so instead of guessing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from .inspector import Ended, Log, Released
from .task import TaskState

_HELD: Final = ("reserved", "running")
_WITHDRAWN: Final = ("cancelled", "archived")
# Where a task comes by what was done to it, and acts after which it may be handed out.
_PLACES: Final = ("queued", "scheduled", *_WITHDRAWN)
_BROUGHT_BACK: Final = ("retried", "hastened", "restarted")


@dataclass(frozen=True, slots=True)
class Step:
    """One moment of a task's life.

    ``at`` is ms of the broker's clock, None where that is not kept; ``what`` is a state, or ``added``, ``due``,
    ``begun``, ``retry``, ``released``, or what somebody did (see Act); ``seconds`` have passed since the last step of
    which the time is known; ``actor`` did it: consumer, operator, the task that added this one; "" if nobody tells.
    """

    at: int | None
    what: str
    delivery: int = 0
    detail: str = ""
    seconds: float | None = None
    actor: str = ""


def story(task: TaskState, log: Log) -> list[Step]:
    """Return the life of a task in order."""
    steps = [Step(task.added, "added", detail=f"{task.method} {task.path}", actor=task.parent)]
    last: Ended | None = None
    for end in log.ended:
        steps += _between(last, end.delivery, log)
        steps += _handed_out(end.delivery, end.attempt, end.reserved, end.begun, end.consumer)
        what = "failed" if end.verdict == "fail" else end.verdict
        steps.append(Step(end.ended, what, end.delivery, outcome(end.status, end.reason), actor=end.consumer))
        last = end
    if task.delivery > (last.delivery if last else 0):
        steps += _between(last, task.delivery, log)
        steps += _handed_out(task.delivery, task.attempt, task.reserved, task.begun, task.holder)
    steps += _now(task, last, log)
    since = task.delivery - (last.delivery if last else 0)
    if _was_due(task, since):
        retried = [place for place, step in enumerate(steps) if last and step.at == last.ended and step.what == "retry"]
        _insert(steps, Step(task.due, "due"), after=retried[-1] if retried else 0, before=("queued", "reserved"))
    for step in _said(task, log):
        before = ("reserved", *_PLACES) if step.what in _BROUGHT_BACK else _PLACES
        _insert(steps, step, after=0, before=before)
    return list(_timed(steps))


def outcome(status: int, reason: str) -> str:
    """Return what a delivery ended with, for people: ``503 server``."""
    return " ".join(part for part in (str(status or ""), reason) if part)


def _insert(steps: list[Step], step: Step, *, after: int, before: Sequence[str]) -> None:
    """Put a step in its place by time, behind the one at ``after``; of the same ms, before steps of these words."""
    at = step.at or 0
    later = (
        place
        for place, one in enumerate(steps)
        if place > after and ((one.at or 0) > at or ((one.at or 0) == at and one.what in before))
    )
    steps.insert(next(later, len(steps)), step)


def _was_due(task: TaskState, since: int) -> bool:
    """Tell whether ``due`` is a time that was waited for: giving a task back writes there when that happened.

    ``since`` counts the deliveries after the last one that is known.
    """
    given_back = since > 1 or (since == 1 and task.state == "queued")
    return task.due > task.added and (task.state == "scheduled" or not given_back)


def _handed_out(delivery: int, attempt: int, reserved: int, begun: int, consumer: str) -> list[Step]:
    steps = [Step(reserved, "reserved", delivery, f"attempt {attempt}", actor=consumer)]
    return steps + ([Step(begun, "begun", delivery, actor=consumer)] if begun else [])


def _between(last: Ended | None, delivery: int, log: Log) -> Iterator[Step]:
    """Yield what must have happened between the last delivery that is known and this one, and is told nowhere else."""
    if last is not None and last.verdict == "fail" and not any(act.what == "retried" for act in log.acts):
        yield Step(None, "queued", detail="again, after it had failed")
    first = last.delivery + 1 if last else 1
    if delivery > first and log.released is None:
        which = f"delivery {first}" if delivery == first + 1 else f"deliveries {first} to {delivery - 1}"
        yield Step(None, "released", detail=f"{which}: given back, or lost with the consumer")


def _said(task: TaskState, log: Log) -> Iterator[Step]:
    """Yield what was done to the task, and when it was given back."""
    if log.released is not None:
        yield from _given_back(log.released)
    for act in log.acts:
        if not (act.what == task.state and act.at == task.changed):
            yield Step(act.at, act.what, detail=_ABOUT.get(act.what, ""), actor=act.actor)


_ABOUT: Final = {
    "marked": "its holder is to end it",
    "hastened": "queued now, in front",
    "retried": "to be queued again, with all its attempts",
    "restarted": "it was stuck",
}


def _given_back(released: Released) -> Iterator[Step]:
    why = "lost with the consumer" if released.reason == "lost" else released.reason
    if released.count > 1:
        yield Step(released.first, "released", detail=f"the first of {released.count} times")
    yield Step(released.last, "released", detail=why, actor=released.actor)


def _now(task: TaskState, last: Ended | None, log: Log) -> Iterator[Step]:
    """Yield the step that brought the task where it is, unless a delivery has told it already."""
    told = last is not None and last.delivery == task.delivery
    if told and last is not None and (last.verdict, task.state) in _SAME:
        return
    if task.state == "completed":
        actor = "" if told else task.holder  # its children have ended it
        yield Step(task.changed, "completed", task.delivery, outcome(task.status, task.reason), actor=actor)
    elif task.state == "failed":
        yield Step(task.changed, "failed", detail=outcome(task.status, task.reason))
    elif task.state in _WITHDRAWN:
        yield from _withdrawn(task, log, told=told)
    elif task.state not in _HELD:
        yield Step(task.changed, task.state, detail=_why(task, last, told=told))


# A delivery's end, and the state that it has brought.
_SAME: Final = {
    ("fail", "failed"),
    ("retry", "scheduled"),
    ("waiting", "waiting"),
    *((word, word) for word in _WITHDRAWN),
}


def _withdrawn(task: TaskState, log: Log, *, told: bool) -> Iterator[Step]:
    """Yield how a task was taken out of the way, and that it had completed before if it must have."""
    back = log.released.count if log.released else 0
    known = any(act.what == "completed" for act in log.acts)
    if task.state == "archived" and not (told or known) and task.delivery > len(log.ended) + back and task.status:
        yield Step(None, "completed", task.delivery, outcome(task.status, task.reason), actor=task.holder)
    said = [act for act in log.acts if act.what == "marked" or (act.what, act.at) == (task.state, task.changed)]
    actor = said[-1].actor if said else ""
    yield Step(task.changed, task.state, actor=actor)


def _why(task: TaskState, last: Ended | None, *, told: bool) -> str:
    if told and last is not None and last.verdict == "fail":
        return "again, after it had failed"
    if not task.delivery or told:
        return ""
    if task.state == "scheduled":
        return f"given back: {task.reason}"
    return "given back" + (f", last reason: {task.reason}" if task.reason else "")


def _timed(steps: Sequence[Step]) -> Iterator[Step]:
    before: int | None = None
    for step in steps:
        if step.at is None or before is None:
            yield step
        else:
            yield replace(step, seconds=(step.at - before) / 1000)
        before = step.at if step.at is not None else before
