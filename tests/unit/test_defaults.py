"""What a view declares of its tasks counts where ``add`` does not say otherwise."""

from collections.abc import Callable
from typing import Any

import pytest

import taskqueue
from taskqueue.task import Task


@pytest.fixture
def tq() -> taskqueue.TaskQueue:
    return taskqueue.TaskQueue(queues=["default", "slow", "mail"])


def added(tq: taskqueue.TaskQueue, url: str, **options: Any) -> Task:
    with taskqueue.capture() as tasks, taskqueue.transaction(tq):
        taskqueue.add(url, **options)
    return tasks[0]


def said(task: Task) -> tuple[str, float | None, int | None]:
    return task.queue, task.timeout, task.retry_max_count


def test_a_view_stays_as_it_is(tq: taskqueue.TaskQueue) -> None:
    def view() -> None: ...

    assert tq.defaults("/reports/build", queue="slow", timeout=60)(view) is view
    assert said(added(tq, "/reports/build?year=2026")) == ("slow", 60.0, None)
    assert said(added(tq, "/reports")) == ("default", None, None)


def test_what_add_says_wins(tq: taskqueue.TaskQueue) -> None:
    tq.defaults("/build", queue="slow", timeout=60, retry_max_count=3)
    assert said(added(tq, "/build", queue="mail", timeout=5, retry_max_count=0)) == ("mail", 5.0, 0)
    assert said(added(tq, "/build", queue="mail")) == ("mail", 60.0, 3)


@pytest.mark.parametrize("path", ["/years/{year}/v\xe9lo", "/years/{year:int}/v\xe9lo", "/years/<int:year>/v\xe9lo"])
def test_parameters_are_written_as_routers_write_them(tq: taskqueue.TaskQueue, path: str) -> None:
    tq.defaults(path, queue="slow")
    found = ["/years/2026/v%C3%A9lo", "/years/a%20b/v%c3%a9lo", "/years/2026/v%C3%A9lo?x=/y"]
    assert {added(tq, url).queue for url in found} == {"slow"}
    others = [
        "/years//v%C3%A9lo",
        "/years/1/2/v%C3%A9lo",
        "/years/1/v%C3%A9lo/",
        "/x/years/1/v%C3%A9lo",
        "/years/1/velo",
    ]
    assert {added(tq, url).queue for url in others} == {"default"}


def test_a_path_without_parameters_wins_then_the_first(tq: taskqueue.TaskQueue) -> None:
    tq.defaults("/{name}", timeout=1)
    tq.defaults("/{other}", timeout=2)
    tq.defaults("/build", timeout=3)
    assert [added(tq, url).timeout for url in ("/build", "/mail")] == [3, 1]


def test_a_dot_is_no_wild_card(tq: taskqueue.TaskQueue) -> None:
    tq.defaults("/a.b/{c}", queue="slow")
    assert [added(tq, url).queue for url in ("/a.b/c", "/axb/c")] == ["slow", "default"]


def test_an_unknown_queue_is_found_out_when_a_task_is_added(tq: taskqueue.TaskQueue) -> None:
    tq.defaults("/build", queue="other")
    with pytest.raises(taskqueue.UnknownQueue, match="'other' is not one of default, mail, slow"):
        added(tq, "/build")


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda tq: tq.defaults("build", timeout=1), "path: 'build' must be the path of a view"),
        (lambda tq: tq.defaults("/build?x=1", timeout=1), "must be the path of a view"),
        (lambda tq: tq.defaults(None, timeout=1), "path: None must be"),
        (lambda tq: tq.defaults("/build"), "nothing is said of '/build'"),
        (lambda tq: tq.defaults("/build", timeout=0), "timeout: 0 must be seconds above 0"),
        (lambda tq: tq.defaults("/build", retry_max_count=-1), "retry_max_count: -1 must be a whole number"),
        (lambda tq: tq.defaults("/build", queue="Slow One"), "'slow-one' would do"),
        (lambda tq: [tq.defaults("/build", timeout=1) for _ in range(2)], "are declared twice"),
        (lambda tq: [tq.defaults("/{build}", timeout=1) for _ in range(2)], "are declared twice"),
    ],
)
def test_what_is_wrong_is_said_at_the_view(
    tq: taskqueue.TaskQueue, declare: Callable[[taskqueue.TaskQueue], object], message: str
) -> None:
    with pytest.raises(taskqueue.TaskQueueError, match=message):
        declare(tq)
