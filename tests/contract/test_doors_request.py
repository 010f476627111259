"""Which request a task becomes, in every framework: parameters, headers and method."""

import pytest

import taskqueue
from taskqueue.policy import Answered
from tests.doors import KINDS, METHODS, Consumer, Reply, View, adding, fetch, serving

pytestmark = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.accept("CT07")
async def test_parameters_are_joined_to_the_url(kind: str, tq: taskqueue.TaskQueue) -> None:
    seen: list[str] = []

    async def build(view: View) -> Reply:
        seen.append(view.query)
        return Reply()

    add = adding("/build?a=1", params={"b": 2, "c": ["x y", "é"], "d": True})
    async with serving(kind, {"/": add, "/build": build}, tq) as base:
        assert (await fetch("GET", base + "/")).status == 200
        _, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted) == (200, True)
    assert seen == ["a=1&b=2&c=x+y&c=%C3%A9&d=true"]


@pytest.mark.accept("CT08")
async def test_headers_are_copied_and_overridden_in_any_spelling(kind: str, tq: taskqueue.TaskQueue) -> None:
    seen: list[dict[str, str]] = []
    own = {"x-TOKEN": "own", "ACCEPT-language": "de"}

    async def build(view: View) -> Reply:
        seen.append({name.lower(): value for name, value in view.headers.items()})
        return Reply()

    browser = {
        "Host": "shop.example.org",
        "Cookie": "session=1",
        "Accept-Language": "en",
        "X-Token": "copied",
        "X-Other": "copied too",
        "User-Agent": "Mozilla/5.0",
        "If-None-Match": '"1"',
        "Range": "bytes=0-1",
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "1",
    }
    async with serving(kind, {"/": adding("/build", headers=own), "/build": build}, tq) as base:
        assert (await fetch("GET", base + "/", headers=browser)).status == 200
        task, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted) == (200, True)
    assert own == {"x-TOKEN": "own", "ACCEPT-language": "de"}
    (headers,) = seen
    expected = {"host": "shop.example.org", "cookie": "session=1", "accept-language": "de", "x-token": "own"}
    assert (expected | {"x-other": "copied too", "x-task-id": task.id}).items() <= headers.items()
    assert headers["user-agent"].startswith("taskqueue/")
    assert not {"if-none-match", "range", "x-hop"} & headers.keys()


@pytest.mark.accept("CT13")
async def test_a_task_has_its_method_and_only_those_that_views_have(kind: str, tq: taskqueue.TaskQueue) -> None:
    seen: list[str] = []

    async def order(_view: View) -> Reply:
        for method in METHODS:
            taskqueue.add("/build", method=method)
        taskqueue.add("/build")
        taskqueue.add("/build", payload=b"body")
        for refused in ("get", "OPTIONS", "CONNECT", "TRACE", ""):
            with pytest.raises(taskqueue.InvalidTask, match="method"):
                taskqueue.add("/build", method=refused)
        return Reply()

    async def build(view: View) -> Reply:
        seen.append(view.method)
        return Reply()

    async with serving(kind, {"/": order, "/build": build}, tq) as base:
        assert (await fetch("GET", base + "/")).status == 200
        consumer = Consumer(tq)
        for _ in range(len(METHODS) + 2):
            _, outcome = await consumer.replay(base)
            assert isinstance(outcome, Answered)
            assert (outcome.status, outcome.receipted) == (200, True)
    assert seen == [*METHODS, "GET", "POST"]
