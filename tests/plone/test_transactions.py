"""A task is there if the ZODB has committed, and only then."""

from urllib.parse import urlencode

import pytest

from tests.plone.instance import Instance
from tests.servers import RedisServer
from tests.waiting import wait_until


def do(plone: Instance, **form: object) -> tuple[int, str]:
    """Change a value and add a task in one request; return its status and text."""
    asked = {"url": "/Plone/@@see", **form}
    response = plone.fetch(f"/Plone/@@do?{urlencode(asked)}")
    return response.status, response.text


def value(plone: Instance) -> str:
    return plone.fetch("/Plone/@@value").text


def stored(store: RedisServer) -> dict[str, int]:
    """Return how many tasks wait, are voted, have failed, and have a record."""
    client, queue = store.client(), "taskqueue:{default}"
    return {
        "waiting": client.llen(queue),
        "prepared": client.zcard(f"{queue}:prepared"),
        "failed": client.zcard(f"{queue}:failed"),
        "records": client.hlen(f"{queue}:records"),
    }


ONE = {"waiting": 1, "prepared": 0, "failed": 0, "records": 1}
NONE = dict.fromkeys(ONE, 0)


@pytest.mark.parametrize("kind", ["conflicts", "objections"])
def test_a_conflict_that_is_tried_again_leaves_one_task(plone: Instance, store: RedisServer, kind: str) -> None:
    status, _ = do(plone, value=kind, **{kind: 2})
    assert (status, value(plone), stored(store)) == (200, kind, ONE)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["conflicts", "objections"])
def test_conflicts_without_an_end_leave_none(plone: Instance, store: RedisServer, kind: str) -> None:
    before = value(plone)
    status, _ = do(plone, value=f"endless {kind}", **{kind: 9})
    assert status >= 500
    assert (value(plone), stored(store)) == (before, NONE)


@pytest.mark.parametrize("end", ["fail", "doom"])
def test_an_abort_leaves_none(plone: Instance, store: RedisServer, end: str) -> None:
    before = value(plone)
    do(plone, value=f"aborted by {end}", **{end: "at once"})
    assert (value(plone), stored(store)) == (before, NONE)


def test_what_plone_protect_takes_back_leaves_none(plone: Instance, store: RedisServer) -> None:
    before = value(plone)
    plone.fetch("/Plone/@@do?url=/Plone/@@see&value=forged", user="maria")  # without a token
    assert (value(plone), stored(store)) == (before, NONE)


def test_a_savepoint_takes_back_what_came_after_it(plone: Instance, store: RedisServer) -> None:
    do(plone, value="kept", savepoint=1)
    assert (value(plone), stored(store)) == ("kept", ONE)


def test_a_store_that_is_frozen_at_the_vote_aborts_the_database(plone: Instance, store: RedisServer) -> None:
    do(plone, value="before")
    store.pause()
    try:
        response = plone.fetch("/Plone/@@do?url=/Plone/@@see&value=never")
    finally:
        store.resume()
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert value(plone) == "before"
    _works_again(plone)
    wait_until(lambda: stored(store)["prepared"] == 0, "nothing is in the balance")


def test_a_store_that_is_down_aborts_the_database(plone: Instance, store: RedisServer) -> None:
    do(plone, value="before")
    store.stop()
    try:
        statuses = {do(plone, value="never")[0] for _ in range(3)}
    finally:
        store.start()
    assert (statuses, value(plone)) == ({503}, "before")
    _works_again(plone)


def _works_again(plone: Instance) -> None:
    wait_until(lambda: do(plone, value="after")[0] == 200, "tasks are taken again")
    assert value(plone) == "after"


SCRIPT = """\
import sys
import taskqueue, transaction

taskqueue.add("/Plone/@@note", user_id="bob")
if {commit}:
    transaction.commit()
else:
    transaction.abort()
"""

IN_A_REQUEST = """\
from AccessControl.SecurityManagement import newSecurityManager
from Testing.makerequest import makerequest
from zope.globalrequest import setRequest
import io, taskqueue, transaction

body = b"text=from+a+script"
environ = {{"REQUEST_METHOD": "POST", "HTTP_HOST": "plone.example", "CONTENT_LENGTH": str(len(body)),
           "CONTENT_TYPE": "application/x-www-form-urlencoded", "HTTP_ACCEPT_LANGUAGE": "de"}}
request = makerequest(app.aq_base, environ=environ).REQUEST
request.stdin = io.BytesIO(body)
request.processInputs()
setRequest(request)
newSecurityManager(None, app.Plone.acl_users.getUserById("bob"))
taskqueue.add("/Plone/@@send", method="POST")
transaction.commit()
"""


def script(plone: Instance, text: str) -> None:
    """Run a script in Zope, outside its web server."""
    (plone.home / "script.py").write_text(text)
    plone.run("Zope2.utilities.zconsole", "run", "zope.conf", "script.py")


def test_a_script_adds_with_its_own_transaction(plone: Instance, store: RedisServer) -> None:
    script(plone, SCRIPT.format(commit=False))
    assert stored(store) == NONE
    script(plone, SCRIPT.format(commit=True))
    assert stored(store) == ONE


def test_a_request_that_came_through_no_door_is_found(plone: Instance) -> None:
    script(plone, IN_A_REQUEST.format())
    with plone.consumer("over http"):
        (effect,) = plone.done(1)
    assert (effect["user"], effect["mail"]) == ("bob", "from a script")
