"""From where the tasks that a query means are read: the source in which the fewest have to be looked at.

A source is an index that the store keeps, so that nothing goes through all keys: of one owner, label or route, the last
added first; of one state, what came into it last first (of the scheduled ones, what is due last); or the line of those
that wait, the front first. Where a source's order is the one asked for, no more is read of it than the page needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, get_args

from .inspector import By, QueueStats
from .query import STATES, Query
from .task import StateName, TaskState

_HELD: Final = ("reserved", "running")


@dataclass(frozen=True, slots=True)
class Source:
    """One index of a queue: of a state, or by what stands in it.

    ``count``: so many tasks are in it; ``ghosts`` more ids that are in the line only. ``by`` "" means: of ``value``, a
    state. ``ordered``: read in its own order, or in that turned round, it is in the order asked for.
    """

    queue: str
    by: By | None
    value: str
    count: int
    ghosts: int = 0
    ordered: bool = False

    @property
    def field(self) -> str | None:
        """The time by which it is in order, None for the line and for what is held."""
        if self.by is not None:
            return "added"
        return {"scheduled": "due", "queued": None, "reserved": None, "running": None}.get(self.value, "changed")

    def when(self, task: TaskState) -> int:
        """Return where in that order a task stands."""
        return int(getattr(task, self.field or "changed"))


@dataclass(frozen=True, slots=True)
class Counts:
    """What there is in a queue, and how many tasks of each owner, label and route that a query names."""

    stats: QueueStats
    by: Mapping[tuple[By, str], int]

    def of(self, state: StateName) -> int:
        """Return how many are in a state; of what is held the states are not counted apart."""
        return int(getattr(self.stats, "reserved" if state in _HELD else state))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is read of a queue. ``total``: so many are meant, if all that is in these sources is, else None.

    ``other``: what may be read instead where it turns out that too much of these sources is not meant.
    """

    sources: Sequence[Source]
    total: int | None
    other: Sequence[Source] = ()


def named(query: Query) -> list[tuple[By, str]]:
    """Return the owners, labels and routes of which a query means no others."""
    return [(by, str(value)) for by in get_args(By) for value in query.among(by) or () if value != ""]


def plan(query: Query, counts: Counts, *, need: float) -> Plan:
    """Return from where the first ``need`` tasks that a query means are best read, inf for all of them."""
    states = query.states
    # A task without label, say, is in no index of labels.
    indexed = [by for by in get_args(By) if (values := query.among(by)) is not None and "" not in values]
    sizes = {by: sum(counts.by[key] for key in named(query) if key[0] == by) for by in indexed}
    total = sum(counts.of(state) for state in STATES if state != "running")
    in_states = _in_states(counts, states)
    whole = len(states) == len(STATES)

    of_states = _of_states(query, counts, states)
    found = [(_cost(of_states.sources, need, total, list(sizes.values())), of_states)]
    for by in indexed:
        others = [size for name, size in sizes.items() if name != by] + ([] if whole else [in_states])
        of_index = _of_index(query, counts, by)
        found.append((_cost(of_index.sources, need, total, others), of_index))
    # Of equals the index, in which less can be that is not meant.
    _, best = min(reversed(found), key=lambda one: one[0])
    if best is of_states and indexed:
        smallest = min(indexed, key=sizes.__getitem__)
        if sizes[smallest] < in_states:
            return replace(best, other=_of_index(query, counts, smallest).sources)
    return best


def _in_states(counts: Counts, states: Sequence[StateName]) -> int:
    return sum(counts.of(state) for state in states if state != "running" or "reserved" not in states)


def _cost(sources: Sequence[Source], need: float, total: int, others: Sequence[int]) -> float:
    """Return how many tasks are to be read, if what else is asked for is spread evenly over all tasks."""
    wanted = need * (total / max(1, min(others)) if others else 1)
    return sum(min(source.count, wanted) if source.ordered else source.count for source in sources)


def _of_states(query: Query, counts: Counts, states: Sequence[StateName]) -> Plan:
    queue, sources = counts.stats.queue, []
    for state in states:
        ghosts = counts.stats.ghosts if state == "queued" else 0
        source = Source(queue, None, state, counts.of(state), ghosts)
        if source.count:
            sources.append(_ordered(query, source))
    exact = all(term.field in ("state", "stage", "queue") for term in query.terms)
    exact = exact and ("reserved" in states) is ("running" in states)
    return Plan(sources, _in_states(counts, states) if exact else None)


def _of_index(query: Query, counts: Counts, by: By) -> Plan:
    queue = counts.stats.queue
    keys = [key for key in named(query) if key[0] == by and counts.by[key]]
    sources = [_ordered(query, Source(queue, by, value, counts.by[by, value])) for by, value in keys]
    exact = [term.field for term in query.terms if term.field != "queue"] == [by]
    return Plan(sources, sum(source.count for source in sources) if exact else None)


def _ordered(query: Query, source: Source) -> Source:
    """Return the source as it is read for this query.

    From its end it is read by rank, and nobody knows the rank of a time: then the bounds save more than the order.
    """
    fits = source.field == query.sort.field and source.field is not None
    if not query.sort.descending and source.field is not None:
        fits = fits and query.bounds(source.field) == (None, None)
    return replace(source, ordered=fits)
