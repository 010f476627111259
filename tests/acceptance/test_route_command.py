"""``taskqueue route``: rules that every process follows, and the queues that they make known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskqueue.routes import Route
from taskqueue.showing import Known
from taskqueue.task import CHOSEN_SHIFT, Chosen, TaskState
from tests.tasks import opaque
from tests.work import Doing, Ran, Work

Command = Callable[..., Ran]


@pytest.mark.accept("TA09")
def test_a_rule_for_a_new_queue_makes_it_known(taskqueue: Command, store: Doing) -> None:
    ran = taskqueue("route", "/reports/*", "slow", "--category", "export", "--hidden")
    assert (ran.code, ran.out) == (0, "/reports/* = slow (category export, hidden)\n")
    assert "queue slow: nobody consumes" in ran.err
    assert taskqueue("route").lines == [
        ["ROUTE", "QUEUE", "CATEGORY", "HIDDEN", "WHERE"],
        ["/reports/*", "slow", "export", "yes", "broker"],
    ]

    @store
    async def _(work: Work) -> None:
        await work.push(opaque("t", queue="slow"))

    assert [line[0] for line in taskqueue("queues").lines] == ["QUEUE", "default", "slow"]
    assert [(one["queue"], one["queued"]) for one in taskqueue("stats", "--json").document["queues"]] == [
        ("default", 0),
        ("slow", 1),
    ]
    # Whoever operates sees all, hidden or not.
    assert [line[0] for line in taskqueue("list").lines[1:]] == ["t"]
    assert taskqueue("show", "t").code == 0
    assert taskqueue("show", "u").err.startswith("taskqueue: no task 'u' in default, slow:")
    assert taskqueue("list", "--queue", "default").lines[1:] == []


def test_a_rule_takes_the_place_of_the_one_before(taskqueue: Command) -> None:
    taskqueue("route", "/a", "slow", "--hidden")
    assert taskqueue("route", "/a", "--category", "export", "--json").document == {
        "route": {"route": "/a", "queue": None, "category": "export", "hidden": None, "where": "broker"}
    }
    assert [one["category"] for one in taskqueue("route", "--json").document["routes"]] == ["export"]
    assert [one["queue"] for one in taskqueue("stats", "--json").document["queues"]] == ["default"]


def test_a_rule_can_be_removed(taskqueue: Command) -> None:
    taskqueue("route", "/a", "default")
    assert taskqueue("route", "remove", "/a") == Ran(0, "/a removed\n", "")
    ran = taskqueue("route", "remove", "/a", "--json")
    assert (ran.code, ran.document) == (1, {"removed": False})
    assert "the broker keeps no rule of '/a'" in ran.err


def test_rules_of_the_file_stand_beside_them(taskqueue: Command, tmp_path: Path) -> None:
    (tmp_path / "taskqueue.toml").write_text("[[route]]\npath = '/filed'\nqueue = 'filed'\n")
    taskqueue("route", "/kept", "kept")
    assert taskqueue("route").lines[1:] == [["/kept", "kept", "broker"], ["/filed", "filed", "file"]]
    assert [line[0] for line in taskqueue("queues").lines[1:]] == ["default", "filed", "kept"]
    assert "route" in taskqueue("config", "show").out
    assert taskqueue("config", "show", "--json").document["routes"] == ["/filed = filed"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("a", "slow"), "path: 'a' must be the path of a view"),
        (("/a",), "/a: nothing is said of it"),
        (("/a", "Slow One"), "'slow-one' would do"),
        (("/a", "slow", "--category", "a b"), "category: 'a b' must be one word"),
        (("--hidden",), "route: name the path that is meant"),
    ],
)
def test_what_it_does_not_take(taskqueue: Command, arguments: tuple[str, ...], told: str) -> None:
    ran = taskqueue("route", *arguments)
    assert ran.code in (2, 78)
    assert told in ran.err
    assert taskqueue("route", "--json").document == {"routes": []}


def test_the_doctor_finds_a_queue_that_a_rule_names_and_nobody_consumes(taskqueue: Command) -> None:
    taskqueue("route", "/reports/*", "slow")
    (found,) = (
        one for one in taskqueue("doctor", "--json").document["findings"] if one["check"] == "consumers of slow"
    )
    assert found["level"] == "warning"
    assert found["what"] == "there has never been one, and the rule of /reports/* names this queue"
    assert "--queue slow" in found["remedy"]


@pytest.mark.accept("TA08")
@pytest.mark.parametrize(
    ("who", "words"), [(Chosen.VIEW, "the view's defaults"), (Chosen.BROKER, "a rule in the broker")]
)
def test_show_tells_who_has_chosen_the_queue(capsys: pytest.CaptureFixture[str], who: Chosen, words: str) -> None:
    state = TaskState(
        *("t", "slow", "queued"), *(0,) * 9, "", "", "GET", "/a", "", route="/{x}", flags=who << CHOSEN_SHIFT
    )
    Known(state, []).write()
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["route", "/{x}"] in lines
    assert any(words in " ".join(line) and line[0] == "queue" for line in lines if line)


def test_a_rule_reads_as_it_is_written() -> None:
    assert str(Route("/a", hidden=True)) == "/a (hidden)"
    shown: Any = Route("/a", "slow", "export")
    assert str(shown) == "/a = slow (category export)"
