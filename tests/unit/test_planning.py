"""From where tasks are read: the source in which the fewest have to be looked at."""

from typing import Any, get_args

import pytest

from taskqueue.inspector import By, QueueStats
from taskqueue.planning import Counts, named, plan
from taskqueue.query import Query, parse, parse_sort

NOTHING: dict[str, Any] = {"queued": 0, "scheduled": 0, "prepared": 0, "reserved": 0, "failed": 0, "completed": 0}


def read(text: str, *, sort: str = "-changed", need: float = 21, by: Any = (), **counted: Any) -> list[tuple[str, str]]:
    """Return the sources of a plan, what they are of and whether they are read in their order."""
    query = Query(terms=tuple(parse(text, now=0, owners=lambda user: [user])) if text else (), sort=parse_sort(sort))
    stats = QueueStats(queue="default", oldest=0, slowed=0, consumers=(), **{**NOTHING, **counted})
    counts: dict[tuple[By, str], int] = {(key, value): dict(by).get(key, 0) for key, value in named(query)}
    found = plan(query, Counts(stats, counts), need=need)
    return [(source.by or source.value, "ordered" if source.ordered else "sorted") for source in found.sources]


MANY: dict[str, Any] = {"completed": 1_000_000, "failed": 1000, "queued": 50}


@pytest.mark.parametrize(
    ("text", "sort", "by", "sources"),
    [
        ("", "-changed", {}, [("queued", "sorted"), ("completed", "ordered"), ("failed", "ordered")]),
        ("state = failed", "-changed", {}, [("failed", "ordered")]),
        ("state = failed", "changed", {}, [("failed", "ordered")]),
        ("state = failed AND changed > 1h", "changed", {}, [("failed", "sorted")]),
        ("state = failed", "-added", {}, [("failed", "sorted")]),
        ("owner = ada", "-changed", {"owner": 200}, [("owner", "sorted")]),
        ("owner = ada", "-added", {"owner": 500_000}, [("owner", "ordered")]),
        ("owner = ada AND state = completed", "-changed", {"owner": 500_000}, [("completed", "ordered")]),
        ("owner = ada AND state = failed", "path", {"owner": 500_000}, [("failed", "sorted")]),
        ("owner = ada AND state = failed", "path", {"owner": 900}, [("owner", "sorted")]),
        ("owner = ada AND label = l", "path", {"owner": 900, "label": 800}, [("label", "sorted")]),
        ("owner = nobody", "-changed", {}, []),
        ("label != l AND state = failed", "-changed", {}, [("failed", "ordered")]),
        ("label = '' AND state = failed", "-changed", {}, [("failed", "ordered")]),
        ("state = running", "-changed", {}, []),
    ],
)
def test_the_cheapest_source_is_read(text: str, sort: str, by: dict[str, int], sources: list[tuple[str, str]]) -> None:
    assert read(text, sort=sort, by=by, **MANY) == sources


def test_where_everything_is_wanted_the_smallest_index_is_read() -> None:
    assert read("owner = ada", need=float("inf"), by={"owner": 500_000}, **MANY) == [("owner", "sorted")]


def test_what_is_due_is_the_order_of_what_is_scheduled() -> None:
    assert read("state = scheduled", sort="due", scheduled=9) == [("scheduled", "ordered")]
    assert read("state = scheduled", scheduled=9) == [("scheduled", "sorted")]


def test_every_index_by_value_is_a_field() -> None:
    assert set(get_args(By)) == {"owner", "label", "route"}
