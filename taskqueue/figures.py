"""Figures about many tasks: how many are at which stage, and how long they ran."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .inspector import QueueStats
from .query import STAGE_OF, STAGES, Stage, ran
from .task import StateName, TaskState


def stages_of(stats: QueueStats) -> dict[Stage, int]:
    """Return how many tasks of a queue are at each stage."""
    return {stage: sum(_count(stats, state) for state in states) for stage, states in STAGES.items()}


def _count(stats: QueueStats, state: StateName) -> int:
    # What runs is counted with what is reserved.
    return 0 if state == "running" else int(getattr(stats, state))


def stages(tasks: Iterable[TaskState]) -> dict[Stage, int]:
    """Return how many of these tasks are at each stage."""
    found = Counter(STAGE_OF[task.state] for task in tasks)
    return {stage: found[stage] for stage in STAGES}


@dataclass(frozen=True, slots=True)
class Spread:
    """How long tasks ran, in seconds; half of them no longer than ``p50``, 95 % no longer than ``p95``."""

    name: str
    count: int
    min: float
    p50: float
    p95: float
    max: float


def spread(name: str, seconds: Sequence[float]) -> Spread:
    """Return the figures of one or more."""
    sizes = sorted(seconds)

    def of(part: float) -> float:
        return sizes[math.ceil(part * len(sizes)) - 1]

    return Spread(name, len(sizes), sizes[0], of(0.5), of(0.95), sizes[-1])


def spreads(tasks: Iterable[TaskState]) -> list[Spread]:
    """Return the figures by route, or by path where a task has none; first what took the longest altogether."""
    named: dict[str, list[float]] = {}
    for task in tasks:
        named.setdefault(task.route or task.path, []).append(ran(task))
    return [spread(name, seconds) for name, seconds in sorted(named.items(), key=_longest)]


def _longest(named: tuple[str, Sequence[float]]) -> tuple[float, str]:
    name, seconds = named
    return -sum(seconds), name


def total(each: Iterable[Mapping[Stage, int]]) -> dict[Stage, int]:
    """Return the sums over several queues."""
    listed = list(each)
    return {stage: sum(one[stage] for one in listed) for stage in STAGES}
