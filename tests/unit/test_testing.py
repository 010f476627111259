"""Captured tasks are easy to ask for, and a wrong guess says what comes nearest."""

import threading

import pytest

import taskqueue
from taskqueue.testing import Tasks


@pytest.fixture
def tq() -> taskqueue.TaskQueue:
    return taskqueue.TaskQueue(queues=["default", "mail"], public_url="https://example.org")


@pytest.fixture
def tasks(tq: taskqueue.TaskQueue) -> Tasks:
    with taskqueue.capture() as tasks, tq.transaction():
        tq.add("/reports", json={"year": 2026}, label="report")
        tq.add("/mail?to=ada", queue="mail", user_id="ada")
        tq.add("/mail?to=bob", queue="mail", user_id="bob")
    return tasks


def test_no_broker_and_no_secret_are_needed(tasks: Tasks) -> None:
    assert [type(task) for task in tasks] == [taskqueue.Task] * 3
    assert tasks.paths == ["/reports", "/mail", "/mail"]
    assert tasks[0].body == b'{"year":2026}'


def test_what_is_left_of_a_capture_stays(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    with taskqueue.capture() as later:
        tq.push_sync("/later")
    assert later.paths == ["/later"]
    assert len(tasks) == 3


def test_some_or_one_are_found_by_path_and_fields(tasks: Tasks) -> None:
    assert tasks.select() == tasks
    assert tasks.select("/mail").select(user_id="ada") == [tasks[1]]
    assert tasks.select("/nowhere") == []
    assert tasks.find("/reports") is tasks[0]
    assert tasks.find(user_id="bob", queue="mail") is tasks[2]
    assert tasks.find(target="/mail?to=bob") is tasks[2]


def test_a_wrong_guess_is_answered_with_the_nearest(tasks: Tasks) -> None:
    with pytest.raises(AssertionError) as caught:
        tasks.find("/mail", user_id="bob", queue="default")
    assert str(caught.value) == (
        "no task has path='/mail', user_id='bob', queue='default'; nearest is GET /mail with queue='mail';"
        " all: POST /reports, GET /mail, GET /mail"
    )
    with pytest.raises(AssertionError, match="no task has path='/x'; nearest is POST /reports with path='/reports'"):
        tasks.find("/x")
    with pytest.raises(AssertionError, match="2 tasks, not one, have path='/mail': GET /mail, GET /mail"):
        tasks.find("/mail")
    with pytest.raises(AssertionError, match="3 tasks, not one, have any fields"):
        tasks.find()
    with pytest.raises(AssertionError, match="no task has path='/x': none was committed"):
        Tasks().find("/x")


def test_a_long_list_and_a_long_value_are_cut(tq: taskqueue.TaskQueue) -> None:
    with taskqueue.capture() as tasks, tq.transaction():
        for number in range(30):
            tq.add(f"/{number}", payload=b"x" * 1000)
    with pytest.raises(AssertionError) as caught:
        tasks.find("/x", body=b"y" * 1000)
    assert str(caught.value).endswith("POST /19 ...")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("tasks", [Tasks(), Tasks([taskqueue.Task(id="a", queue="q", method="GET", target="/")])])
def test_a_field_that_no_task_has_is_a_mistake_of_the_test(tasks: Tasks) -> None:
    for ask in (tasks.find, tasks.select):
        with pytest.raises(TypeError, match="'user' is no field of a Task"):
            ask(user="ada")


def test_captures_nest_and_end_in_any_order(tq: taskqueue.TaskQueue) -> None:
    outer, inner = taskqueue.capture(), taskqueue.capture()
    first = outer.__enter__()
    second = inner.__enter__()
    tq.push_sync("/inner")
    outer.__exit__(None, None, None)
    tq.push_sync("/inner-still")
    inner.__exit__(None, None, None)
    assert (first.paths, second.paths) == ([], ["/inner", "/inner-still"])


def test_a_capture_ends_with_an_exception_too(tq: taskqueue.TaskQueue) -> None:
    with taskqueue.capture() as around:
        with pytest.raises(ZeroDivisionError), taskqueue.capture():
            raise ZeroDivisionError
        tq.push_sync("/a")
    assert around.paths == ["/a"]


def test_every_thread_is_captured(tq: taskqueue.TaskQueue) -> None:
    with taskqueue.capture() as tasks:
        thread = threading.Thread(target=tq.push_sync, args=("/thread",))
        thread.start()
        thread.join()
    assert tasks.paths == ["/thread"]
