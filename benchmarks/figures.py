"""From rounds to statements: medians, and ratios within rounds beside the goals. Pure.

This machine and the next may be twice as fast from one minute to the next; contenders that were measured in one round
had the same weather. So a ratio is made within each round, and the median of these is what counts.
"""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

MIB: Final = 1024 * 1024
NO_PEER: Final = ("no peer",)


class Key(NamedTuple):
    """Names a cell."""

    suite: str
    contender: str
    case: str


Round = Mapping[Key, Mapping[str, float]]


class Spread(NamedTuple):
    """One figure over all rounds."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of ours that must be at least, or at most, so much: as it is, or as a ratio to the best of others.

    ``case`` is that of ours, ``other_case`` that of the others where it differs. ``bound`` None: it is only reported.
    """

    what: str
    suite: str
    case: str
    figure: str
    bound: float | None
    at_least: bool
    others: tuple[str, ...] = ()
    other_case: str = ""
    unit: float = 1.0


class Reached(NamedTuple):
    """A goal, and what came of it in each round in which all that it needs was measured."""

    goal: Goal
    rounds: list[float]

    @property
    def reached(self) -> bool | None:
        """Whether the median is on the right side, None where there is no goal or it was not measured."""
        if self.goal.bound is None or not self.rounds:
            return None
        middle = statistics.median(self.rounds)
        return middle >= self.goal.bound if self.goal.at_least else middle <= self.goal.bound


def goals(peers: Sequence[str]) -> list[Goal]:
    """Return all goals, the others being these peers. Without any, a ratio to them is not measured."""
    many = tuple(peers) or NO_PEER

    def drain(limit: int, others: tuple[str, ...], bound: float) -> Goal:
        whom = "the bare aiohttp loop" if others == ("loop",) else "the best peer"
        what = f"drain over HTTP, limit {limit}, to {whom}"
        return Goal(what, "drain", f"http {limit}", "rate", bound, at_least=True, others=others)

    return [
        *(drain(limit, many, 3.5) for limit in (10, 100)),
        *(drain(limit, ("loop",), 0.75) for limit in (10, 100)),
        Goal(
            "drain in process (bare ASGI), to the best peer over HTTP",
            *("drain", "bare 100", "rate", 8),
            at_least=True,
            others=many,
            other_case="http 100",
        ),
        Goal(
            "enqueue, 100 concurrent, to the best peer", "enqueue", "concurrent", "rate", 5, at_least=True, others=many
        ),
        Goal("enqueue one at a time, to LPUSH", "enqueue", "one", "rate", 0.7, at_least=True, others=("lpush",)),
        *(
            Goal(f"latency idle, {part}, to the best peer", "latency", "idle", part, 0.8, at_least=False, others=many)
            for part in ("p50", "p99")
        ),
        Goal(
            "consumer CPU per task, limit 100, to the best peer",
            *("drain", "http 100", "consumer_cpu", 0.3),
            at_least=False,
            others=many,
        ),
        Goal("Redis commands per task, limit 100", "drain", "http 100", "commands", 0.2, at_least=False),
        Goal("Redis bytes per queued task", "drain", "http 100", "stored_bytes", 1600, at_least=False),
        Goal("memory after 20,000 tasks, MiB more", "memory", "20,000", "grown", 10, at_least=False, unit=MIB),
        Goal("memory after 1,000,000 tasks, MiB more", "memory", "1,000,000", "grown", 10, at_least=False, unit=MIB),
        Goal("seal, open, sign and verify, µs", "alone", "1 KiB", "all", 30, at_least=False),
        Goal(
            "drain with door, receipts and begin, limit 100, to the same without",
            *("drain", "door 100", "rate", None),
            at_least=True,
            others=("ours",),
            other_case="http 100",
        ),
        Goal(
            "drain with the full log (keep=all), limit 100, to the same without",
            *("drain", "keep 100", "rate", 0.75),
            at_least=True,
            others=("ours",),
            other_case="http 100",
        ),
        *(
            Goal(
                f"latency at half load of each, {part}, to the best peer",
                *("latency", "half load", part, None),
                at_least=False,
                others=many,
            )
            for part in ("p50", "p99")
        ),
        *_goals_of_many(),
    ]


def _goals_of_many() -> Iterator[Goal]:
    """Return the goals with several consumers, and with many tasks that wait."""

    def beside(what: str, case: str, figure: str, *, at_least: bool) -> Goal:
        one = "1 consumer"
        return Goal(what, "several", case, figure, None, at_least=at_least, others=("ours",), other_case=one)

    for case in ("4 consumers", "16 consumers", "2 workers"):
        yield beside(f"drain, {case}, to one", case, "rate", at_least=True)
    for case in ("4 consumers", "16 consumers"):
        yield beside(f"Redis commands per task, drain, {case}, to one", case, "commands", at_least=False)
        yield beside(f"the same, tasks one by one to {case}", case, "trickle_commands", at_least=False)
    million = "1,000,000"
    yield Goal(f"start with {million} waiting, s", "waiting", million, "start", 2, at_least=False)
    yield Goal(f"slowest script with {million} waiting, ms", "waiting", million, "slowest", 5, at_least=False)
    yield Goal(
        f"CPU per task of consumer and Redis, {million} waiting, to 1,000 waiting",
        *("waiting", million, "cost", 1.25),
        at_least=False,
        others=("ours",),
        other_case="1,000",
    )
    yield Goal(
        "memory with bodies of 2 MiB, limit 10, MiB more", "memory", "2 MiB", "grown", None, at_least=False, unit=MIB
    )


def judged(rounds: Sequence[Round], peers: Sequence[str]) -> list[Reached]:
    """Return what came of each goal; of those that were not measured, no rounds."""
    return [Reached(goal, [value for each in rounds for value in _value(goal, each)]) for goal in goals(peers)]


def _value(goal: Goal, measured: Round) -> Iterable[float]:
    """Return the figure or ratio in one round, or nothing."""
    ours = measured.get(Key(goal.suite, "ours", goal.case), {}).get(goal.figure)
    if ours is None:
        return []
    if not goal.others:
        return [ours / goal.unit]
    keys = (Key(goal.suite, other, goal.other_case or goal.case) for other in goal.others)
    theirs = [measured[key][goal.figure] for key in keys if key in measured]
    best = (max if goal.at_least else min)(theirs, default=0.0)
    return [ours / best] if best else []


def spreads(rounds: Sequence[Round]) -> dict[Key, dict[str, Spread]]:
    """Return the least, median and greatest of every figure, cells in the order they were measured."""
    found: dict[Key, dict[str, Spread]] = {}
    for key in dict.fromkeys(key for each in rounds for key in each):
        values = [each[key] for each in rounds if key in each]
        found[key] = {name: _spread([value[name] for value in values if name in value]) for name in values[0]}
    return found


def _spread(values: Sequence[float]) -> Spread:
    return Spread(min(values), statistics.median(values), max(values))
