"""The verdict over a chaos run: pure, from the ledger alone.

What it knows of tasks are their keys, which the producer has chosen. A start that was accepted spends an attempt, so
the attempt of the next start tells whether the delivery before it had begun when it was taken from its consumer: one
that began after that shows as a start that spent nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from tests.chaos.ledger import Event

# Seconds in which the answer of a task that has just finished may still be on its way.
ANSWERING: Final = 0.1
FENCED_CODE: Final = "75"


class Start(NamedTuple):
    """One start of a task, in the application."""

    at: float
    delivery: int
    attempt: int


@dataclass
class Verdict:
    """What a run has shown. Names of tasks where there should be none, numbers of those there may be, seconds."""

    acknowledged: int = 0
    refused: int = 0
    aborted: int = 0
    uncertain: int = 0
    lost: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    stranded: list[str] = field(default_factory=list)
    doubly_started: list[str] = field(default_factory=list)
    fenced_starts: list[str] = field(default_factory=list)
    fenced_changes: list[str] = field(default_factory=list)
    fenced_exits: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    repeated_starts: int = 0
    repeated_completions: int = 0
    unstarted_attempts: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    repeats_per_kill: list[tuple[int, int]] = field(default_factory=list)
    same_name: list[float] = field(default_factory=list)
    claiming: list[float] = field(default_factory=list)
    other_name: list[float] = field(default_factory=list)
    after_redis: list[float] = field(default_factory=list)
    after_target: list[float] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether everything that was promised was kept. Speed is no part of that."""
        return not (
            self.lost
            or self.phantom
            or self.stranded
            or self.doubly_started
            or self.fenced_starts
            or self.fenced_changes
            or self.fenced_exits
            or self.broken
        )


def check(events: Sequence[Event]) -> Verdict:
    """Take what happened, by time, and judge."""
    return _Check(events).verdict


class _Check:
    def __init__(self, events: Sequence[Event]) -> None:
        self._events = events
        self._keys: defaultdict[str, set[str]] = defaultdict(set)
        self._starts: defaultdict[str, list[Start]] = defaultdict(list)
        self._finished: defaultdict[str, dict[int, float]] = defaultdict(dict)
        completions = 0
        for event in events:
            if event.word == "started":
                key, delivery, attempt = event.about
                self._starts[key].append(Start(event.at, int(delivery), int(attempt)))
            elif event.word == "finished":
                key, delivery = event.about
                self._finished[key][int(delivery)] = event.at
                completions += 1
            elif event.word in ("adding", "acknowledged", "refused", "aborted", "uncertain", "stranded"):
                self._keys[event.word].update(event.about)
            elif event.word == "failed":
                self._keys["failed"].add(event.about[0])
        self.verdict = Verdict(
            repeated_starts=sum(len(starts) - 1 for starts in self._starts.values()),
            repeated_completions=completions - len(self._finished),
        )
        self._count_tasks()
        self._judge_starts()
        self._judge_fences()
        self._time_recoveries()

    def _count_tasks(self) -> None:
        verdict, keys = self.verdict, self._keys
        told = keys["acknowledged"] | keys["refused"] | keys["aborted"]
        verdict.acknowledged, verdict.refused = len(keys["acknowledged"]), len(keys["refused"])
        verdict.aborted, verdict.uncertain = len(keys["aborted"]), len(keys["adding"] - told)
        verdict.lost = sorted(keys["acknowledged"] - set(self._finished) - keys["failed"])
        # What was in doubt may run; so may what its producer did not live to hear of.
        may_run = keys["acknowledged"] | (keys["adding"] - told)
        verdict.phantom = sorted(set(self._starts) - may_run)
        verdict.stranded = sorted(keys["stranded"])
        verdict.failed = [":".join(event.about) for event in self._of("failed")]
        verdict.broken = [" ".join(event.about) for event in self._of("broken")]
        for event in self._of("killed", "fenced", "redis-killed", "target-killed", "target-stopped"):
            verdict.faults[event.word] = verdict.faults.get(event.word, 0) + 1

    def _of(self, *words: str) -> Iterable[Event]:
        return (event for event in self._events if event.word in words)

    def _judge_starts(self) -> None:
        verdict = self.verdict
        explained = {delivery for event in self._of("killed", "fenced") for delivery in event.about[1:]}
        for event in self._of("target-killed"):
            explained |= self._in_flight(event.at)
        begun = {f"{key}:{start.delivery}" for key, starts in self._starts.items() for start in starts}
        explained_of: defaultdict[str, set[str]] = defaultdict(set)
        for name in explained:
            explained_of[name.partition(":")[0]].add(name)
        for key, starts in self._starts.items():
            starts.sort(key=lambda start: start.delivery)
            # One that was taken from its consumer between begin and its first line here has spent an attempt too.
            taken = len(explained_of[key] - begun)
            verdict.unstarted_attempts += max(0, starts[-1].attempt - len(starts) - taken)
            for start, following in pairwise(starts):
                name = f"{key}:{start.delivery}"
                if following.delivery == start.delivery:
                    verdict.doubly_started.append(name)
                elif following.attempt <= start.attempt:
                    verdict.fenced_starts.append(name)
                elif name not in explained:
                    verdict.unexplained.append(name)

    def _in_flight(self, at: float) -> set[str]:
        """Return what had started by then and not been answered for sure."""
        return {
            f"{key}:{start.delivery}"
            for key, starts in self._starts.items()
            for start in starts
            if start.at < at < self._finished[key].get(start.delivery, at + 1) + ANSWERING
        }

    def _judge_fences(self) -> None:
        verdict = self.verdict
        for event in self._of("fenced"):
            for held in event.about[1:]:
                key, _, delivery = held.partition(":")
                # Given back, so it must have been handed out again, whatever the fenced one said of it.
                latest = max((start.delivery for start in self._starts[key]), default=0)
                if latest <= int(delivery) and key not in self._keys["failed"]:
                    verdict.fenced_changes.append(held)
        for event in self._of("ended"):
            if event.about[1] != FENCED_CODE:
                verdict.fenced_exits.append(":".join(event.about))

    def _time_recoveries(self) -> None:
        verdict = self.verdict
        killed: dict[str, Event] = {}
        returned = 0.0
        for event in self._events:
            if event.word == "killed":
                killed[event.about[0]] = event
                again = [held for held in event.about[1:] if self._started_after(held) is not None]
                began = [held for held in again if self._began(held)]
                verdict.repeats_per_kill.append((len(began), len(event.about) - 1))
            elif event.word == "returned":
                returned = event.at
                self._time(verdict.same_name, killed[event.about[0]], returned)
            elif event.word == "claimed":
                verdict.claiming.append(event.at - returned)
            elif event.word == "taken-over":
                self._time(verdict.other_name, killed[event.about[0]], killed[event.about[0]].at)
            elif event.word == "redis-back":
                self._time_next(verdict.after_redis, event.at, "")
            elif event.word == "target-back":
                self._time_next(verdict.after_target, event.at, "target")
        del verdict.after_target[:1]  # the first start of the application is no restart

    def _began(self, held: str) -> bool:
        key, _, delivery = held.partition(":")
        return any(start.delivery == int(delivery) for start in self._starts[key])

    def _started_after(self, held: str) -> float | None:
        """Return when a later delivery of this task started."""
        key, _, delivery = held.partition(":")
        return min((start.at for start in self._starts[key] if start.delivery > int(delivery)), default=None)

    def _time(self, times: list[float], killed: Event, since: float) -> None:
        """Add how long it took until the first of the tasks that a dead consumer held ran again."""
        started = [at for held in killed.about[1:] if (at := self._started_after(held)) is not None]
        if started:
            times.append(min(started) - since)

    def _time_next(self, times: list[float], since: float, role: str) -> None:
        following = (e.at for e in self._of("started") if e.at > since and e.source.startswith(role))
        if (at := next(iter(following), None)) is not None:
            times.append(at - since)


def percentile(times: Sequence[float], share: float) -> float:
    """Return the smallest of these that so great a share of them does not exceed."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
