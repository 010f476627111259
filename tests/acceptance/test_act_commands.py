"""``taskqueue cancel | archive | run-now | rerun | stuck``: what an operator does to tasks."""

from dataclasses import replace
from typing import Any

import pytest

from taskqueue.seal import unseal
from taskqueue.task import Verdict
from tests.servers import RedisServer
from tests.tasks import KEYRING, SECRET, opaque, opaque_tasks, sealed, task
from tests.work import Doing, Work

HOUR = -3_600_000


def states(taskqueue: Any) -> dict[str, str]:
    return {one["id"]: one["state"] for one in taskqueue("list", "--json", "--limit", "1000").document["tasks"]}


@pytest.mark.accept("TA22")
def test_what_waits_is_cancelled_and_never_runs_and_what_runs_only_with_force(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(opaque("a"), opaque("b"), opaque("c"), opaque("d", due=HOUR))
        await work.take()

    ran = taskqueue("cancel", "a", "b", "d", "e")
    assert (ran.code, ran.out) == (1, "2 of 4 task(s) cancelled\n")
    assert "task a is running; --force ends it all the same" in ran.err
    assert "task e is unknown here" in ran.err
    assert states(taskqueue) == {"a": "running", "b": "cancelled", "c": "queued", "d": "cancelled"}
    assert taskqueue("stats", "--json").document["queues"][0]["queued"] == 1
    forced = taskqueue("cancel", "a", "--force", "--json")
    assert (forced.code, forced.document) == (0, {"success": True, "cancelled": [], "marked": ["a"], "refused": []})

    @store
    async def _(work: Work) -> None:
        (taken,) = await work.take()
        assert taken.id == "c"
        assert await work.broker.size("default", deadline=1e12) == 0


@pytest.mark.accept("TA23")
def test_what_has_ended_is_archived_and_what_is_archived_does_not_run(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.fail(opaque("failed"))
        await work.push(*opaque_tasks(1), opaque("waits"))
        await work.end(await work.take(), Verdict("complete", status=204))
        await work.push(opaque("later", due=HOUR))

    assert taskqueue("archive", "failed", "waits", "later").out == "3 of 3 task(s) archived\n"
    assert {states(taskqueue)[name] for name in ("failed", "waits", "later")} == {"archived"}

    @store
    async def _(work: Work) -> None:
        await work.take(0)
        await work.push(opaque("runs"))
        await work.take()

    refused = taskqueue("archive", "runs", "--json")
    assert (refused.code, refused.document["success"]) == (1, False)
    assert refused.document["refused"] == [{"id": "runs", "state": "running"}]
    assert taskqueue("archive", "runs", "--force").out.startswith("0 of 1 task(s) archived\n1 under way")


@pytest.mark.accept("TA24")
def test_many_are_withdrawn_by_list_by_filter_or_all(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(*opaque_tasks(600))
        await work.push(*(replace(opaque(due=HOUR), path="/other") for _ in range(3)))
        await work.take(4)

    assert taskqueue("cancel", "--path", "/other", "--yes").out == "3 of 3 task(s) cancelled\n"
    assert taskqueue("cancel", "--all", "--yes").out == "596 of 596 task(s) cancelled\n"
    assert taskqueue("archive", "--all", "--yes").out == "599 of 599 task(s) archived\n"
    forced = taskqueue("cancel", "--all", "--force", "--yes", "--json").document
    assert (len(forced["cancelled"]), len(forced["marked"]), forced["success"]) == (0, 4, True)
    counts = taskqueue("stats", "--json").document["queues"][0]
    assert {name: counts[name] for name in ("queued", "scheduled", "cancelled", "archived", "reserved")} == {
        "queued": 0,
        "scheduled": 0,
        "cancelled": 0,
        "archived": 599,
        "reserved": 4,
    }


@pytest.mark.parametrize("verb", ["cancel", "archive"])
@pytest.mark.parametrize("arguments", [(), ("a", "--all"), ("a", "--path", "x")])
def test_they_want_to_know_exactly_which(taskqueue: Any, verb: str, arguments: tuple[str, ...]) -> None:
    assert taskqueue(verb, *arguments).code == 2


def test_many_are_not_withdrawn_without_anybodys_word(taskqueue: Any) -> None:
    ran = taskqueue("cancel", "--all")
    assert ran.code == 2
    assert "give --yes" in ran.err


@pytest.mark.accept("TA45")
def test_what_waits_for_its_time_runs_now_and_first(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(opaque("first"), opaque("late", due=HOUR), opaque("later", due=HOUR))

    assert taskqueue("run-now", "late", "later").out == "2 of 2 task(s) queued now\n"
    ran = taskqueue("run-now", "first", "nobody", "--json")
    assert (ran.code, ran.document) == (1, {"asked": 2, "queued": 0})
    assert "task first is queued; only what is scheduled waits for its time" in ran.err

    @store
    async def _(work: Work) -> None:
        assert [one.id for one in await work.take(3)] == ["late", "later", "first"]


@pytest.mark.accept("TA45")
def test_a_task_is_run_again_as_a_new_one(taskqueue: Any, store: Doing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)
    made = task("/reports?year=2026", "POST", body=b"all", user_id="ada", label="yearly")

    @store
    async def _(work: Work) -> None:
        await work.fail(sealed(made))

    (new,) = taskqueue("rerun", made.id).out.split()
    assert new != made.id

    @store
    async def _(work: Work) -> None:
        (taken,) = await work.take()
        assert taken.id == new
        again = unseal(KEYRING, queue="default", task_id=new, record=taken.record)
        assert replace(again, id=made.id, created=made.created, expires=made.expires) == made

    ran = taskqueue("rerun", "nobody", "--json")
    assert (ran.code, ran.document) == (1, {"asked": 1, "tasks": []})
    ran = taskqueue("rerun", "nobody")
    assert (ran.code, ran.out) == (1, "")


def test_without_the_secret_nothing_is_run_again(taskqueue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASKQUEUE_SECRET", raising=False)
    ran = taskqueue("rerun", "id")
    assert (ran.code, "the secret is needed" in ran.err) == (2, True)


def stuck(taskqueue: Any, *arguments: str) -> dict[str, str]:
    return {one["id"]: one["why"] for one in taskqueue("stuck", *arguments, "--json").document["tasks"]}


@pytest.mark.accept("TA43")
def test_what_gets_nowhere_is_told(taskqueue: Any, store: Doing, any_server: RedisServer) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(opaque("runs"), opaque("held"), opaque("waits"), opaque("gone"))
        await work.push(replace(opaque("other"), path="/other"))
        await work.take(2)

    client = any_server.client()
    client.lrem("taskqueue:{default}", 1, "gone")
    client.lrem("taskqueue:{default}:reserved:one", 1, "held")
    assert stuck(taskqueue, "--age", "3600") == {"held": "lost"}
    assert stuck(taskqueue, "--age", "0") == {"held": "lost", "gone": "lost", "waits": "waits", "other": "waits"}
    assert stuck(taskqueue, "--age", "0", "--path", "/other") == {"other": "waits"}
    shown = taskqueue("stuck", "--age", "0")
    assert (shown.code, shown.lines[0]) == (1, ["ID", "QUEUE", "STATE", "WHY", "FOR", "PATH", "CONSUMER"])
    assert "2 task(s) are lost: --restart queues them again" in shown.err


@pytest.mark.accept("TA44")
def test_what_is_lost_is_started_again_and_the_totals_are_told(
    taskqueue: Any, store: Doing, any_server: RedisServer
) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(opaque("runs"), opaque("held"), opaque("gone"))
        await work.take(2)

    client = any_server.client()
    client.lrem("taskqueue:{default}", 1, "gone")
    client.lrem("taskqueue:{default}:reserved:one", 1, "held")
    ran = taskqueue("stuck", "--age", "0", "--restart")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "total 2, lost 2, restarted 2, errors 0")
    assert states(taskqueue) == {"runs": "running", "held": "queued", "gone": "queued"}


def test_nothing_stuck(taskqueue: Any) -> None:
    assert taskqueue("stuck").out == "nothing is stuck\n"
