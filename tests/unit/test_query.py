"""Which tasks are meant: every operator, every kind of value, and what people write."""

import time
from dataclasses import replace
from typing import Any, get_args

import pytest

from taskqueue.errors import UsageError
from taskqueue.query import (
    FIELDS,
    STAGE_LABELS,
    STAGE_OF,
    STATES,
    Query,
    Sort,
    Term,
    moment_of,
    parse,
    parse_sort,
    ran,
    value_of,
)
from taskqueue.task import StateName, TaskState
from tests.unit.test_story import ADDED, NEW

NOW = 1_800_000_000_000
HOUR = 3_600_000


def terms(text: str) -> list[Term]:
    return parse(text, now=NOW, owners=lambda user: [f"{user}-1", f"{user}-2"])


def takes(text: str, **fields: Any) -> bool:
    return Query(terms=tuple(terms(text))).takes(replace(NEW, **fields))


# TAO's categories of a status, which are our stages of a state.


@pytest.mark.accept("TA17")
def test_each_state_has_a_stage_and_each_stage_a_label() -> None:
    assert set(STATES) == set(get_args(StateName))
    assert {state: STAGE_LABELS[stage] for state, stage in STAGE_OF.items()} == {
        "queued": "Queued",
        "scheduled": "Queued",
        "prepared": "Queued",
        "reserved": "In Progress",
        "running": "In Progress",
        "waiting": "In Progress",
        "completed": "Completed",
        "failed": "Failed",
        "archived": "Archived",
        "cancelled": "Cancelled",
    }


# The operators.


@pytest.mark.accept("TA33")
@pytest.mark.parametrize(
    ("text", "fields", "holds"),
    [
        ("state = failed", {"state": "failed"}, True),
        ("state = failed", {"state": "queued"}, False),
        ("state != failed", {"state": "queued"}, True),
        ("state != failed", {"state": "failed"}, False),
        ("attempt < 3", {"attempt": 2}, True),
        ("attempt < 3", {"attempt": 3}, False),
        ("attempt <= 3", {"attempt": 3}, True),
        ("attempt <= 3", {"attempt": 4}, False),
        ("status > 499", {"status": 500}, True),
        ("status > 500", {"status": 500}, False),
        ("status >= 500", {"status": 500}, True),
        ("status >= 500", {"status": 499}, False),
        ("path LIKE /reports/%", {"path": "/reports/2026"}, True),
        ("path LIKE /reports/%", {"path": "/report"}, False),
        ("path NOT LIKE /reports/%", {"path": "/report"}, True),
        ("path NOT LIKE /reports/%", {"path": "/reports/2026"}, False),
        ("state IN failed, cancelled", {"state": "cancelled"}, True),
        ("state IN failed, cancelled", {"state": "archived"}, False),
        ("state NOT IN failed, cancelled", {"state": "archived"}, True),
        ("state NOT IN failed, cancelled", {"state": "failed"}, False),
        ("stage = in_progress", {"state": "waiting"}, True),
        ("stage IN created", {"state": "waiting"}, False),
        ("state = failed AND reason = exhausted", {"state": "failed", "reason": "exhausted"}, True),
        ("state = failed AND reason = exhausted", {"state": "failed", "reason": "gone"}, False),
    ],
)
def test_each_operator(text: str, fields: dict[str, Any], *, holds: bool) -> None:
    assert takes(text, **fields) is holds


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("%", "", True),
        ("a%", "a", True),
        ("a%c", "abbbc", True),
        ("a%c", "abbbcd", False),
        ("%b%", "abc", True),
        ("%b%b%", "abc", False),
        ("_", "", False),
        ("a_c", "abc", True),
        ("a_c", "ac", False),
        (r"100\%", "100%", True),
        (r"100\%", "1000", False),
        (r"a\_c", "abc", False),
        ("a.c", "abc", False),
        ("A%", "abc", False),
        ("%", "two\nlines", True),
        ("%" + "a%" * 30 + "b", "a" * 5000, False),
    ],
)
def test_a_pattern(pattern: str, text: str, *, fits: bool) -> None:
    assert Term("label", "LIKE", (pattern,)).holds(text) is fits


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_has_a_value(field: str) -> None:
    assert isinstance(value_of(NEW, field), str | int | float)


def test_a_user_is_known_by_each_index_they_may_have() -> None:
    assert terms("owner = ada") == [Term("owner", "IN", ("ada-1", "ada-2"))]
    assert terms("owner IN ada, bob") == [Term("owner", "IN", ("ada-1", "ada-2", "bob-1", "bob-2"))]
    assert terms("owner != ada") == [Term("owner", "NOT IN", ("ada-1", "ada-2"))]
    assert terms("owner = ''") == [Term("owner", "IN", ("",))]


def test_a_time_that_has_not_come_is_in_no_term() -> None:
    for text in ("due < 1h", "due != 1h", "due NOT IN 1h"):
        assert not takes(text, due=0)
        assert takes(text, due=1)


def test_how_long_a_task_ran() -> None:
    done = replace(NEW, state="completed", reserved=ADDED + 100, begun=ADDED + 200, changed=ADDED + 1700)
    assert ran(done) == 1.5
    assert ran(replace(done, begun=0)) == 1.6
    assert ran(replace(done, state="running")) == 0
    assert ran(replace(NEW, state="failed", changed=ADDED + 9)) == 0
    assert Query(terms=tuple(terms("seconds > 1.4"))).takes(done)


# What people write.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path=/a", [Term("path", "=", ("/a",))]),
        ("  path   =   /a  ", [Term("path", "=", ("/a",))]),
        ("LABEL = 'two words'", [Term("label", "=", ("two words",))]),
        ('label = "it\'s"', [Term("label", "=", ("it's",))]),
        ("label = ''", [Term("label", "=", ("",))]),
        ("path = /a=b,c(d)", [Term("path", "=", ("/a=b,c(d)",))]),
        ("path not like /%", [Term("path", "NOT LIKE", ("/%",))]),
        ("label IN a,b", [Term("label", "IN", ("a", "b"))]),
        ("label IN (a, 'b c' , \"d,e\")", [Term("label", "IN", ("a", "b c", "d,e"))]),
        ("label NOT IN(a)", [Term("label", "NOT IN", ("a",))]),
        ("label IN (a, b) AND attempt > 2", [Term("label", "IN", ("a", "b")), Term("attempt", ">", (2.0,))]),
        ("label IN a, b and attempt > 2", [Term("label", "IN", ("a", "b")), Term("attempt", ">", (2.0,))]),
        ("label = AND", [Term("label", "=", ("AND",))]),
        ("label = 'x AND y' AND path = /a", [Term("label", "=", ("x AND y",)), Term("path", "=", ("/a",))]),
        ("added > 2h", [Term("added", ">", (NOW - 2 * HOUR,))]),
    ],
)
def test_a_term_as_it_is_written(text: str, expected: list[Term]) -> None:
    assert terms(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "FIELD OPERATOR VALUE"),
        ("= 3", "FIELD OPERATOR VALUE"),
        ("colour = red", "'colour' is no field; the fields are id, queue"),
        ("path", "after path one of ="),
        ("path is /a", "after path one of ="),
        ("path =", "a value is expected"),
        ("path = 'open", "a value is expected"),
        ("path = /a /b", "AND or the end is expected"),
        ("path = /a AND", "FIELD OPERATOR VALUE"),
        ("path = /a OR path = /b", "AND or the end is expected"),
        ("state = faild", "'faild' is no state; there are queued"),
        ("stage IN created, done", "'done' is no stage; there are created"),
        ("state IN", "values with commas between them"),
        ("state IN failed,", "values with commas between them"),
        ("state IN (failed", "never closed"),
        ("attempt = many", "attempt is a number, 'many' is none"),
        ("attempt LIKE 3%", "attempt is no text"),
        ("added LIKE 2026%", "added is no text"),
        ("owner LIKE a%", "owner is kept as an index"),
        ("owner < a", "owner is kept as an index"),
        ("added > yesterday", "'yesterday' is no time"),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        terms(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("90s", NOW - 90_000),
        ("1.5h", NOW - 5_400_000),
        ("7d", NOW - 7 * 24 * HOUR),
        ("0s", NOW),
        ("+2m", NOW + 120_000),
        ("2026-01-31T12:00:00Z", 1_769_860_800_000),
        ("2026-01-31T13:00+01:00", 1_769_860_800_000),
    ],
)
def test_a_time(text: str, ms: int) -> None:
    assert moment_of(text, now=NOW) == ms


def test_a_date_without_a_zone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert moment_of("2026-01-31", now=NOW) == moment_of("2026-01-30T15:00Z", now=NOW)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["2", "2 hours", "h", "-2h", "31.1.2026", "9999999999d", ""])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        moment_of(text, now=NOW)


def test_an_order() -> None:
    assert parse_sort("-added") == Sort("added", descending=True)
    assert parse_sort("path") == Sort("path", descending=False)
    with pytest.raises(UsageError, match="'colour' is no field"):
        parse_sort("-colour")


# What a store is asked for.


def test_a_query_knows_in_which_states_and_queues_its_tasks_can_be() -> None:
    assert Query().states == list(STATES)
    assert Query(terms=tuple(terms("stage = in_progress AND state != waiting"))).states == ["reserved", "running"]
    assert Query(terms=tuple(terms("state = failed AND stage = completed"))).states == []
    assert Query(terms=tuple(terms("queue LIKE m%"))).queues(["default", "mail"]) == ["mail"]


def test_a_query_knows_which_times_its_tasks_can_have() -> None:
    query = Query(terms=tuple(terms("changed > 3h AND changed >= 2h AND changed < 1h AND due > 1h")))
    assert query.bounds("changed") == (NOW - 2 * HOUR, NOW - HOUR)
    assert query.bounds("due") == (NOW - HOUR, None)
    assert query.bounds("added") == (None, None)


def test_a_query_knows_among_which_values_a_field_must_be() -> None:
    query = Query(terms=tuple(terms("label IN a, b, a AND route = /x AND path LIKE /%")))
    assert (query.among("label"), query.among("route"), query.among("path")) == (["a", "b"], ["/x"], None)


def test_tasks_are_in_order_by_id_where_nothing_else_decides() -> None:
    tasks: list[TaskState] = [replace(NEW, id=task_id, attempt=attempt) for task_id, attempt in (("b", 1), ("a", 1))]
    assert [task.id for task in sorted(tasks, key=Sort("attempt", descending=False).key)] == ["a", "b"]
