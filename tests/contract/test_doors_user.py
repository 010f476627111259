"""Whose a task is when it is added, and what of the request travels with it, in every framework."""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

import taskqueue
from tests.doors import KINDS, Consumer, Reply, View, adding, fetch, serving

pytestmark = pytest.mark.parametrize("kind", KINDS)


@dataclass
class User:
    id: str
    is_authenticated = True


USERS = {"ada": User("ada"), "Grete Müller": User("Grete Müller")}


async def load_user(user_id: str) -> User | None:
    await asyncio.sleep(0)
    return USERS.get(user_id)


async def awaited_user(_request: object) -> str:
    await asyncio.sleep(0)
    return "ada"


@pytest.mark.parametrize("user_id", [awaited_user, lambda _request: "ada"])
async def test_the_user_is_who_user_id_names(kind: str, tq: taskqueue.TaskQueue, user_id: Any) -> None:
    async def handler(_view: View) -> Reply:
        taskqueue.add("/own")
        taskqueue.add("/other", user_id="grete")
        taskqueue.add("/nobody", user_id=None)
        return Reply()

    async with serving(kind, {"/": handler}, tq, user_id=user_id) as base:
        await fetch("GET", base + "/")
        tasks = await Consumer(tq).tasks()
    assert [task.user_id for task in tasks] == ["ada", "grete", None]


async def test_a_user_id_that_must_be_awaited_says_so(
    kind: str, tq: taskqueue.TaskQueue, caplog: pytest.LogCaptureFixture
) -> None:
    plain = partial(lambda later, request: later(request), awaited_user)  # no coroutine function, but returns one
    async with serving(kind, {"/": adding("/build")}, tq, user_id=plain) as base:
        assert (await fetch("GET", base + "/")).status == 500
        assert await tq.size() == 0
    assert "write it as `async def`" in caplog.text


@pytest.mark.parametrize(
    ("door", "travel"),
    [
        ({}, True),
        ({"load_user": load_user}, False),
        ({"load_user": load_user, "credentials": "copy"}, True),
        ({"credentials": "drop"}, False),
    ],
)
async def test_credentials_travel_only_where_they_are_needed(
    kind: str,
    tq: taskqueue.TaskQueue,
    door: dict[str, Any],
    travel: bool,  # noqa: FBT001
) -> None:
    async with serving(kind, {"/": adding("/build")}, tq, **door) as base:
        await fetch("GET", base + "/", headers={"Cookie": "session=1", "Authorization": "Bearer x", "X-Mine": "1"})
        (task,) = await Consumer(tq).tasks()
    names = {name for name, _ in task.headers}
    assert "x-mine" in names
    assert ({"cookie", "authorization"} <= names, "cookie" in names) == (travel, travel)


async def test_a_host_that_is_none_is_not_recorded(kind: str, tq: taskqueue.TaskQueue) -> None:
    async with serving(kind, {"/": adding("/build")}, tq) as base:
        for host in ("example.org:8080", "user@evil"):
            await fetch("GET", base + "/", headers={"Host": host})
        assert [task.host for task in await Consumer(tq).tasks()] == ["example.org:8080", ""]
