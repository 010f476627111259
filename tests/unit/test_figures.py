"""Figures about many tasks."""

from dataclasses import replace

from taskqueue.figures import Spread, spread, spreads, stages
from taskqueue.task import TaskState
from tests.unit.test_story import ADDED, NEW


def done(seconds: float, *, path: str = "/a", route: str = "") -> TaskState:
    ended = ADDED + round(1000 * seconds)
    return replace(NEW, state="completed", path=path, route=route, reserved=ADDED, begun=ADDED, changed=ended)


def test_half_and_most_of_them() -> None:
    assert spread("x", [float(number) for number in range(100, 0, -1)]) == Spread("x", 100, 1, 50, 95, 100)
    assert spread("x", [2.0]) == Spread("x", 1, 2, 2, 2, 2)
    assert spread("x", [1.0, 2.0, 9.0]) == Spread("x", 3, 1, 2, 9, 9)


def test_by_route_or_path_and_what_took_longest_altogether_first() -> None:
    tasks = [done(1), done(2, route="/r"), done(1.5, route="/r", path="/b"), done(3, path="/c")]
    assert [(one.name, one.count, one.max) for one in spreads(tasks)] == [("/r", 2, 2), ("/c", 1, 3), ("/a", 1, 1)]
    assert spreads([]) == []


def test_stages_are_all_named() -> None:
    assert stages([NEW, done(1)]) == {
        "created": 1,
        "in_progress": 0,
        "completed": 1,
        "failed": 0,
        "archived": 0,
        "cancelled": 0,
    }
