"""The benchmarks work: each way to do the work is gone once, at a target that looks, and everything is written down.

How fast anything is stands in docs/performance.md; nothing here depends on it. Other queues are not installed here:
`make bench` proves of each of them, before it measures, that it does the same work.
"""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks.__main__ import MARK, PAGE
from benchmarks.figures import Goal, Key, Reached, goals, judged, spreads
from benchmarks.plan import full, quick, smoke
from benchmarks.report import COLUMNS, markdown, rounds_of, svg
from benchmarks.run import run, write
from benchmarks.suites import SMALL, percentile

PEERS: Final = ("arq", "taskiq")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run has written."""
    path = tmp_path_factory.mktemp("benchmarks") / "results.json"
    write(run(smoke([]), rounds=1, sizes=replace(SMALL, scale=0.05), nginx=False, tell=lambda _: None), path)
    written: dict[str, Any] = json.loads(path.read_text())
    return written


@pytest.mark.timeout(180)
def test_each_way_does_the_work_and_every_figure_is_there(results: dict[str, Any]) -> None:
    (measured,) = rounds_of(results)
    assert list(measured) == [Key(cell.suite, cell.contender, cell.case) for cell in smoke([])]
    assert [key for key, figures in measured.items() if figures.get("wrong")] == []
    assert [key for key, figures in measured.items() if not figures.get("done", figures.get("tasks", 1))] == []
    for suite, columns in COLUMNS.items():
        names = {name for key, figures in measured.items() if key.suite == suite for name in figures}
        assert {name for name, _, _ in columns} <= names, suite
    assert {"redis", "http-taskqueue"} <= results["versions"]["ours"].keys()
    assert results["machine"]["cores"] > 0


@pytest.mark.timeout(180)
def test_what_people_read_names_every_cell(results: dict[str, Any]) -> None:
    page, plot = markdown(results), svg(results)
    for cell in smoke([]):
        assert f"\n| {cell.contender} {cell.case} | " in page
    bars = [text.text for text in ET.fromstring(plot).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314  our own
    assert {"ours http 10", "loop http 10", "ours one", "lpush one"} <= set(bars)


def test_every_goal_is_about_a_cell_that_is_measured() -> None:
    cells = {Key(cell.suite, cell.contender, cell.case) for cell in full(PEERS)}
    needed = {
        Key(goal.suite, contender, case)
        for goal in goals(PEERS)
        for contender, case in [("ours", goal.case), *((other, goal.other_case or goal.case) for other in goal.others)]
    }
    assert needed <= cells
    assert len(quick(PEERS)) < len(cells)


def test_a_ratio_is_made_within_a_round_to_the_best_of_the_others() -> None:
    rate = [(100.0, 50.0, 20.0), (10.0, 1.0, 5.0), (90.0, 30.0, 10.0)]
    rounds = [
        {Key("drain", name, "http 10"): {"rate": value} for name, value in zip(("ours", *PEERS), each, strict=True)}
        for each in rate
    ]
    first = judged(rounds, PEERS)[0]
    assert first.rounds == [2.0, 2.0, 3.0]
    assert first.reached is False
    assert spreads(rounds)[Key("drain", "ours", "http 10")]["rate"] == (10.0, 90.0, 100.0)


def test_every_goal_is_listed_also_what_was_not_measured(results: dict[str, Any]) -> None:
    rows = [line for line in markdown(results).partition("### Drain")[0].splitlines() if line.startswith("| ")][1:]
    listed = goals([])
    assert [row.split(" | ")[0] for row in rows] == [f"| {goal.what}" for goal in listed]
    missing = {goal.what for goal, row in zip(listed, rows, strict=True) if row.endswith("| not measured |")}
    assert missing >= {goal.what for goal in listed if "best peer" in goal.what or "1,000,000" in goal.what}
    assert "drain over HTTP, limit 10, to the bare aiohttp loop" not in missing


@pytest.mark.parametrize(
    ("bound", "at_least", "reached"),
    [(2.0, True, True), (2.1, True, False), (2.0, False, True), (1.9, False, False), (None, True, None)],
)
def test_a_goal_is_judged_by_its_median(bound: float | None, at_least: bool, reached: bool | None) -> None:  # noqa: FBT001
    goal = Goal("", "drain", "", "rate", bound, at_least=at_least)
    assert Reached(goal, [1.0, 2.0, 9.0]).reached is reached


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(1, 201)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (100.0, 198.0, 7.0)


def test_the_page_says_how_and_has_a_place_for_the_figures() -> None:
    page = PAGE.read_text()
    assert page.count(MARK) == 1
    assert re.search(r"^## Method$", page, re.MULTILINE)


def test_a_peer_is_kept_in_one_file_with_its_reasons_and_pinned() -> None:
    folder = Path(PAGE.parents[1], "benchmarks")
    for name in (*PEERS, "saq", "docket", "celery"):
        assert (folder / "contenders" / f"{name}.py").read_text().startswith('"""')
        lines = (folder / "requirements" / f"{name}.txt").read_text().split()
        assert lines
        assert all("==" in line for line in lines)
