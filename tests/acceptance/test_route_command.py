"""``taskqueue route``: rules that every process follows, and the queues that they make known."""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from taskqueue import TaskQueue, cli, settings
from taskqueue.routes import Route
from tests.servers import RedisServer
from tests.tasks import SECRET, opaque
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
    assert taskqueue("route", "/path", "slow", "--hidden").code == 0
    assert [line[0] for line in taskqueue("list").lines[1:]] == ["t"]
    shown = taskqueue("list", "--visible")
    assert (shown.code, shown.lines[1:]) == (0, [])
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
    assert found["what"] == "none runs, and the rule of /reports/* names this queue"
    assert "--queue slow" in found["remedy"]


@pytest.mark.accept("TA08")
def test_show_tells_who_has_chosen_the_queue(
    taskqueue: Command, any_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQUEUE_QUEUES", "default,mail")
    (tmp_path / "taskqueue.toml").write_text("[[route]]\npath = '/filed'\nqueue = 'filed'\n")
    taskqueue("route", "/reports/*", "slow")
    taskqueue("route", "/other", "--category", "export")
    tq = TaskQueue(any_server.url, secret=SECRET)
    tq.defaults("/{viewed}.pdf", queue="mail")

    async def added() -> list[str]:
        ids = [await tq.push(path) for path in ("/reports/1", "/a.pdf", "/filed", "/other")]
        ids.append(await tq.push("/reports/1", queue="mail"))
        await tq.aclose()
        return ids

    told = []
    for task_id in asyncio.run(added()):
        first, _, _ = taskqueue("show", task_id).out.partition("\n\n")
        pairs = dict(re.split(r" {2,}", line, maxsplit=1) for line in first.splitlines())
        told.append((pairs["queue"], pairs["route"], pairs["queue chosen by"]))
        document = taskqueue("show", task_id, "--json").document["task"]
        assert (document["route"], document["chosen"]) == told[-1][1:]
    assert told == [
        ("slow", "/reports/*", "a rule in the broker"),
        ("mail", "/{viewed}.pdf", "the view's defaults"),
        ("filed", "/filed", "a rule in the file"),
        ("default", "/other", "no rule: the default queue"),
        ("mail", "/reports/*", "add itself"),
    ]


def test_a_rule_reads_as_it_is_written() -> None:
    assert str(Route("/a", hidden=True)) == "/a (hidden)"
    shown: Any = Route("/a", "slow", "export")
    assert str(shown) == "/a = slow (category export)"


@pytest.mark.accept("TA09")
async def test_a_consumer_without_queues_of_its_own_serves_what_rules_name(
    any_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taskqueue.toml").write_text("[[route]]\npath = '/filed'\nqueue = 'filed'\n")
    flags = {"url": any_server.url, "name": "one", "target": "http://127.0.0.1:1"}

    async def served(**more: object) -> Sequence[str]:
        chosen = settings.load({**flags, **more}, environ={"TASKQUEUE_SECRET": SECRET}, directory=tmp_path)
        server, tq = await cli._server(chosen, None)
        await tq.broker.route("/a", Route("/a", "slow").pack(), deadline=time.monotonic() + 10)
        await tq.aclose()
        return tuple(server.queues)

    assert await served() == ("default", "filed")
    assert await served() == ("default", "filed", "slow")
    assert await served(queues=["default"]) == ("default",)
