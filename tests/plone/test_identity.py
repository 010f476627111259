"""As whom a task runs: as the user who added it, and as nobody else."""

from urllib.parse import urlencode

import pytest

import taskqueue
from taskqueue.task import TaskState
from tests.plone.instance import Instance
from tests.waiting import wait_until


def ended(tq: taskqueue.TaskQueue, task_id: str) -> TaskState:
    """Wait until a task has ended, well or not; return how."""

    def found() -> TaskState | None:
        return tq.get_sync(task_id)

    wait_until(lambda: (state := found()) is not None and state.state in ("completed", "failed"), "the task has ended")
    state = found()
    assert state is not None
    return state


def added(plone: Instance, url: str, user: str | None = None, **form: str) -> str:
    """Have a task added by a user; return its id."""
    response = plone.fetch(f"/Plone/@@do?{urlencode({'url': url, **form})}", user=user)
    assert response.status == 200, response
    return response.text


def users(plone: Instance, **form: str) -> None:
    """Add or remove a user."""
    assert plone.fetch(f"/Plone/@@users?{urlencode(form)}").text == "done"


@pytest.mark.accept("CT16", "CT17")
def test_a_task_runs_as_who_added_it_with_that_user_s_roles(consumed: Instance, tq: taskqueue.TaskQueue) -> None:
    for user in ("maria", "root", "bob", None):
        added(consumed, "/Plone/@@note", user)
        added(consumed, "/Plone/@@note-for-managers", user)
    wait_until(lambda: tq.size_sync() == 0, "all are taken")
    effects = consumed.done(6)
    wait_until(lambda: all(ended(tq, effect["id"]) for effect in effects), "all have ended")
    seen = sorted(str(effect["user"]) for effect in consumed.effects())
    assert seen == ["None", "bob", "maria", "maria", "root", "root"]


@pytest.mark.parametrize("user", ["bob", None])
def test_what_the_user_may_not_do_has_failed_and_sent_nobody_to_a_login_form(
    consumed: Instance, tq: taskqueue.TaskQueue, user: str | None
) -> None:
    outside = ended(tq, added(consumed, "/Plone/@@note-for-managers", user))
    assert (outside.state, outside.status) == ("failed", 401)
    inside = ended(tq, added(consumed, "/Plone/@@note?secret=1", user))
    assert (inside.state, inside.status) == ("failed", 401)
    assert consumed.effects() == []


def test_a_task_of_a_user_who_is_gone_is_refused(consumed: Instance, tq: taskqueue.TaskQueue) -> None:
    users(consumed, folder="acl_users", add="gone-soon")
    ids = [tq.push_sync(url, user_id="gone-soon", delay=3600) for url in ("/Plone/@@note", "/Plone/page")]
    users(consumed, folder="acl_users", remove="gone-soon")
    ids += [tq.push_sync(url, user_id="gone-soon") for url in ("/Plone/@@note", "/Plone/page", "/Plone/@@note?x=1")]
    for task_id in ids[2:]:
        state = ended(tq, task_id)
        assert (state.state, state.reason) == ("failed", "user-gone")
    assert consumed.effects() == []


def test_where_there_is_nothing_a_task_of_nobody_known_is_told_so(consumed: Instance, tq: taskqueue.TaskQueue) -> None:
    state = ended(tq, tq.push_sync("/Plone/nothing-here", user_id="gone-long-ago"))
    assert (state.state, state.status) == ("failed", 404)


def test_a_user_of_the_same_id_in_another_folder_is_somebody_else(consumed: Instance, tq: taskqueue.TaskQueue) -> None:
    users(consumed, folder="acl_users", add="twin")
    users(consumed, folder="/acl_users", add="twin", role="Manager")
    try:
        state = ended(tq, added(consumed, "/Plone/@@note-for-managers", "twin"))
        assert (state.state, state.status) == ("failed", 401)
        assert ended(tq, added(consumed, "/Plone/@@note", "twin")).state == "completed"
        assert [effect["user"] for effect in consumed.effects()] == ["twin"]
    finally:
        users(consumed, folder="acl_users", remove="twin")
        users(consumed, folder="/acl_users", remove="twin")


def test_nobody_can_say_from_which_folder_they_are(consumed: Instance, tq: taskqueue.TaskQueue) -> None:
    users(consumed, folder="acl_users", add="twin")
    users(consumed, folder="/acl_users", add="twin", role="Manager")
    try:
        response = consumed.fetch(
            "/Plone/@@do?url=/Plone/@@note-for-managers", user="twin", headers={"X-Zope-User-Folder": "/acl_users"}
        )
        assert ended(tq, response.text).state == "failed"
        assert consumed.effects() == []
    finally:
        users(consumed, folder="acl_users", remove="twin")
        users(consumed, folder="/acl_users", remove="twin")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Task-Id": "1"},
        {"X-Task-User-Id": "maria"},
        {"X-Task-Id": "1", "X-Task-User-Id": "maria", "Signature": "t=:AAAA:", "Signature-Input": 't=("@method")'},
    ],
)
def test_what_only_says_to_be_a_task_is_refused(consumed: Instance, headers: dict[str, str]) -> None:
    response = consumed.fetch("/Plone/@@note", headers=headers)
    assert (response.status, response.headers["x-task-refused"]) == (403, "signature")
    assert consumed.effects() == []


def test_a_browser_changes_nothing_without_a_token_but_a_task_does(consumed: Instance, tq: taskqueue.TaskQueue) -> None:
    before = consumed.fetch("/Plone/@@value").text
    consumed.fetch("/Plone/@@write?value=browser", user="maria")
    assert consumed.fetch("/Plone/@@value").text == before
    assert ended(tq, tq.push_sync("/Plone/@@write", params={"value": "task"}, user_id="maria")).state == "completed"
    wait_until(lambda: consumed.fetch("/Plone/@@value").text == "task", "the task has written")
