"""Reports as values and as JSON: what may be in them, and what is shown where there is none."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskqueue.errors import InvalidReport
from taskqueue.reporting import MAX_BYTES, MAX_LEVELS, MAX_NODES, Report, instead, parse


def chain(levels: int) -> Report:
    """Return a report of so many levels."""
    made = Report("info", "deepest")
    for _ in range(levels - 1):
        made = Report("info", "level", children=[made])
    return made


def test_a_tree_is_what_was_added() -> None:
    root = Report("success", "imported", {"rows": [1, 2]})
    child = root.add("warning", "row 2")
    child.add("info", "is empty")
    root.attach(Report("info", "done"))
    assert [node.message for node in root.walk()] == ["imported", "row 2", "is empty", "done"]
    assert root.children == (child, Report("info", "done"))
    assert root == Report.decode(root.encode()) == parse(root.encode())
    assert root != Report("success", "imported", {"rows": [1, 2]})
    assert repr(root) == "Report('success', 'imported', 2 below)"


def test_data_is_copied() -> None:
    data: dict[str, Any] = {"rows": [1]}
    made = Report("info", "x", data)
    data["rows"].append(2)
    assert made.data == {"rows": [1]}


@pytest.mark.parametrize(
    ("types", "worst"),
    [
        (["info"], "info"),
        (["success", "info"], "success"),
        (["info", "success"], "success"),
        (["success", "info", "warning", "success"], "warning"),
        (["success", "warning", "error", "info"], "error"),
    ],
)
def test_the_worst_counts_at_any_depth(types: list[str], worst: str) -> None:
    made = node = Report(types[0], "x")
    for kind in types[1:]:
        node = node.add(kind, "x")
    assert made.worst == worst


# ---- templates


@pytest.mark.accept("TA55")
def test_template_and_values_are_kept_beside_the_text() -> None:
    made = Report("error", "{count} rows of {file} {{wrong}}", count=3, file="a.csv")
    assert json.loads(made.encode()) == {
        "type": "error",
        "message": "3 rows of a.csv {wrong}",
        "data": None,
        "template": "{count} rows of {file} {{wrong}}",
        "interpolation": {"count": 3, "file": "a.csv"},
        "children": [],
    }
    german = {made.template: "{count} Zeilen von {file} sind falsch"}
    assert parse(made.encode()).translated(german.__getitem__) == "3 Zeilen von a.csv sind falsch"


def test_a_text_without_values_is_no_template() -> None:
    made = Report("info", "as {it} is")
    assert (made.message, made.template, "template" in made.as_json()) == ("as {it} is", "", False)
    assert made.translated({"as {it} is": "wie {es} ist"}.__getitem__) == "wie {es} ist"


def test_a_translation_with_a_name_that_has_no_value_is_not_used() -> None:
    assert Report("info", "{a} x", a=1).translated(lambda _: "{b} y") == "1 x"


def test_any_name_may_be_interpolated_but_those_of_the_parameters() -> None:
    made = Report("info", "{kind} {message} {self}", kind=1, message=None, self=True)
    assert made.message == "1 None True"


@pytest.mark.parametrize("template", ["{b}", "{}", "{", "}", "{a.real}", "{a[0]}", "{a!r}", "{a:9999999999}"])
def test_a_template_has_plain_names_only(template: str) -> None:
    with pytest.raises(InvalidReport, match="has no value"):
        Report("info", template, a=1)


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Report("fatal", "x"), "'fatal' must be one of info, success, warning, error"),
        (lambda: Report("info", ""), "message: a text is needed, not nothing"),
        (lambda: Report("info", 1), "message: a text is needed, not int"),  # type: ignore[arg-type]
        (lambda: Report("info", "\ud800"), "must be what JSON can say"),
        (lambda: Report("info", "x", object()), "data: it must be what JSON can say"),
        (lambda: Report("info", "x", math.nan), "data: it must be what JSON can say"),
        (lambda: Report("info", "{a}", a=[1]), "a: text, a number, a bool or None"),  # type: ignore[arg-type]
        (lambda: Report("info", "x", children=["y"]), "str is no taskqueue.Report"),  # type: ignore[list-item]
    ],
)
def test_what_is_no_report(make: Callable[[], Report], says: str) -> None:
    with pytest.raises(InvalidReport, match=says):
        make()


def test_a_report_has_one_place() -> None:
    root = Report("info", "root")
    child = root.add("info", "child")
    for wrong in (root, child):
        with pytest.raises(InvalidReport, match="one place"):
            root.attach(wrong)
    with pytest.raises(InvalidReport, match="one place"):
        Report("info", "another").attach(child)


def test_a_closed_tree_takes_nothing_anywhere() -> None:
    root = Report("info", "root")
    child = root.add("info", "child")
    root.close("the answer has begun")
    for node in (root, child):
        with pytest.raises(InvalidReport, match="the answer has begun"):
            node.add("info", "late")


# ---- limits


def test_twenty_levels() -> None:
    made = chain(MAX_LEVELS)
    assert parse(made.encode()) == made
    with pytest.raises(InvalidReport, match="21 levels, over the limit of 20"):
        Report("info", "one more", children=[made])
    deepest = list(chain(MAX_LEVELS).walk())[-1]
    with pytest.raises(InvalidReport, match="21 levels"):
        deepest.add("info", "one more")


def test_a_thousand_nodes() -> None:
    made = Report("info", "root")
    for _ in range(MAX_NODES - 1):
        made.add("info", "x")
    assert parse(made.encode()) == made
    with pytest.raises(InvalidReport, match="1001 nodes, over the limit of 1000"):
        made.add("info", "one more")


def test_sixty_four_kib() -> None:
    made = Report("info", "x", "y" * 40_000)
    with pytest.raises(InvalidReport, match="bytes as JSON, over the limit of 65536"):
        made.add("info", "x", "y" * 40_000)
    assert made.children == ()
    with pytest.raises(InvalidReport, match="bytes as JSON"):
        Report("info", "y" * MAX_BYTES)


def test_what_stands_around_others_counts_for_no_limit() -> None:
    around = Report.around("Running task {task}", task="id-1")
    around.attach(chain(MAX_LEVELS))
    for _ in range(MAX_NODES - MAX_LEVELS):
        around.add("info", "x")
    assert Report.decode(around.encode()) == around
    with pytest.raises(InvalidReport, match="1001 nodes"):
        around.add("info", "one more")


TREES = st.recursive(
    st.builds(
        Report,
        st.sampled_from(["info", "error"]),
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=5),
        st.none() | st.integers() | st.lists(st.booleans()),
    ),
    lambda below: st.builds(
        lambda parts: Report("success", "{n} below", children=[parse(one.encode()) for one in parts], n=len(parts)),
        st.lists(below, max_size=3),
    ),
    max_leaves=8,
)


@settings(max_examples=40)
@given(TREES)
def test_what_is_counted_is_what_is_encoded(tree: Report) -> None:
    encoded = len(tree.encode())
    nodes = len(list(tree.walk()))
    assert tree._tally.nodes == nodes
    assert encoded <= tree._tally.bytes <= encoded + 2 * nodes
    assert parse(tree.encode()) == tree


# ---- somebody else's JSON


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"x",
        b"null",
        b"[]",
        b'"text"',
        b"\xff",
        b'{"type":"info"}',
        b'{"message":"x"}',
        b'{"type":"fatal","message":"x"}',
        b'{"type":["info"],"message":"x"}',
        b'{"type":"info","message":""}',
        b'{"type":"info","message":1}',
        b'{"type":"info","message":"x","more":1}',
        b'{"type":"info","type":"info","message":"x"}',
        b'{"type":"info","message":"x","data":NaN}',
        b'{"type":"info","message":"x","data":"\\ud800"}',
        b'{"type":"info","message":"x","children":{}}',
        b'{"type":"info","message":"x","children":["y"]}',
        b'{"type":"info","message":"x","template":1}',
        b'{"type":"info","message":"x","interpolation":[]}',
        b'{"type":"info","message":"x","interpolation":{"a":[]}}',
        b'{"type":"info","message":"x","data":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"type":"info","message":"x","children":[' * 3000 + b"]}" * 3000,
        b'{"type":"info","message":"' + b"x" * MAX_BYTES + b'"}',
    ],
    ids=lambda raw: raw[:60].decode(errors="replace"),
)
def test_what_is_no_report_as_json(raw: bytes) -> None:
    with pytest.raises(InvalidReport):
        parse(raw)


def test_json_of_others_may_leave_out_what_is_empty() -> None:
    assert parse(b' {"message": "x", "type": "info"} ') == Report("info", "x")


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_a_report_or_refused(raw: bytes) -> None:
    try:
        parse(raw)
    except InvalidReport:
        pass
    else:
        pytest.fail("so short a text is no report")


# ---- where there is none


@pytest.mark.accept("TA20")
def test_what_is_shown_of_a_completed_task_that_reported_nothing() -> None:
    assert instead("completed") == Report("info", "The task completed and reported nothing.")


@pytest.mark.accept("TA18")
def test_what_is_shown_of_a_failed_task_that_reported_nothing() -> None:
    shown = instead("failed", "exhausted", 500)
    assert shown is not None
    assert (shown.type, shown.message) == ("error", "The task failed (exhausted, status 500).")


@pytest.mark.parametrize("state", ["queued", "running", "scheduled", "cancelled", "archived"])
def test_nothing_is_shown_before_the_end(state: str) -> None:
    assert instead(state) is None
