"""``taskqueue list``, ``show``, ``log``, ``stats`` and ``times``: tasks are found, and what became of them is told."""

import json
import secrets
from dataclasses import replace
from typing import Any, Final

import pytest

from taskqueue.seal import NONCE_BYTES, seal_note
from taskqueue.task import CHILD, MASTER, Verdict
from tests.tasks import KEYRING, SECRET, opaque, opaque_tasks, sealed, task
from tests.work import Doing, Work, soon

DONE: Final = Verdict("complete", status=200)


def ids(taskqueue: Any, *arguments: str) -> list[str]:
    return [one["id"] for one in taskqueue("list", "--json", *arguments).document["tasks"]]


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch, taskqueue: Any) -> None:
    """The command knows the secret."""
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)


@pytest.fixture
def shop(store: Doing) -> dict[str, str]:
    """Tasks of two users; the one completed, another failed, the rest waits."""
    made = {
        "done": task("/reports/1?token=hush", label="nightly", route="/reports/{n}", user_id="ada"),
        "lost": task("/reports/2", label="nightly", route="/reports/{n}", user_id="bob"),
        "next": task("/mail", user_id="ada"),
        "late": task("/mail", "POST", user_id="ada", due=-3_600_000),
    }

    @store
    async def _(work: Work) -> None:
        await work.push(sealed(made["done"]), sealed(made["lost"]))
        done, lost = await work.take(2)
        await work.end([done], DONE)
        await work.end([lost], Verdict("fail", "not-found", 404))
        await work.push(sealed(made["next"]), sealed(made["late"]))

    return {name: one.id for name, one in made.items()}


# list


@pytest.mark.accept("TA33", "TA42")
@pytest.mark.usefixtures("secret")
def test_list_takes_terms_flags_an_order_and_a_page(taskqueue: Any, shop: dict[str, str]) -> None:
    assert set(ids(taskqueue, "--where", "state IN failed, queued")) == {shop["lost"], shop["next"]}
    assert ids(taskqueue, "--where", "state IN failed, queued AND path LIKE /m%") == [shop["next"]]
    assert ids(taskqueue, "--where", "path LIKE /reports/%", "--where", "status = 404") == [shop["lost"]]
    assert set(ids(taskqueue, "--owner", "ada")) == {shop["done"], shop["next"], shop["late"]}
    assert ids(taskqueue, "--label", "nightly", "--route", "/reports/{n}", "--sort", "path") == [
        shop["done"],
        shop["lost"],
    ]
    assert ids(taskqueue, "--label", "nightly", "--sort", "-path", "--limit", "1", "--offset", "1") == [shop["done"]]
    assert ids(taskqueue, "--path", "/mail", "--sort", "due") == [shop["next"], shop["late"]]
    assert ids(taskqueue, "--until", "1h") == []
    assert len(ids(taskqueue, "--since", "1h")) == 4
    document = taskqueue("list", "--json", "--label", "nightly", "--sort", "-added", "--limit", "1").document
    assert [document[name] for name in ("offset", "limit", "more", "total", "complete")] == [0, 1, True, 2, True]


@pytest.mark.accept("TA31")
@pytest.mark.usefixtures("secret")
def test_the_command_line_sees_all_and_with_an_owner_theirs_only(taskqueue: Any, shop: dict[str, str]) -> None:
    assert set(ids(taskqueue)) == set(shop.values())
    assert ids(taskqueue, "--owner", "bob") == [shop["lost"]]
    assert ids(taskqueue, "--owner", "nobody") == []


def test_a_star_in_a_path_stands_for_anything_and_nothing_else_does(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(replace(opaque("a"), path="/a_b%c/1"), replace(opaque("b"), path="/aXbYc/1"))

    assert ids(taskqueue, "--path", "/a_b%c/*") == ["a"]


def test_columns_are_chosen(taskqueue: Any, shop: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = taskqueue("list", "--state", "failed", "--columns", "id,stage,route,status,seconds,begun,outcome").lines
    assert lines[0] == ["ID", "STAGE", "ROUTE", "STATUS", "SECONDS", "BEGUN", "OUTCOME"]
    assert [lines[1][place] for place in (0, 1, 2, 3, -2, -1)] == [
        *(shop["lost"], "Failed", "/reports/{n}", "404", "404", "not-found"),
    ]
    (one,) = taskqueue("list", "--state", "failed", "--columns", "id,stage,status", "--json").document["tasks"]
    assert one == {"id": shop["lost"], "stage": "failed", "status": 404}


def test_more_than_can_be_sorted_is_said(taskqueue: Any, store: Doing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskqueue.finding.MOST_SORTED", 3)

    @store
    async def _(work: Work) -> None:
        await work.push(*opaque_tasks(4))

    ran = taskqueue("list", "--sort", "path")
    assert (ran.code, len(ran.lines)) == (0, 4)
    assert "others may belong here" in ran.err
    assert taskqueue("list", "--sort", "path", "--json").document["complete"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--where", "colour = red"), "--where: 'colour = red': 'colour' is no field"),
        (("--where", "state IN faild"), "--where: 'state IN faild': 'faild' is no state"),
        (("--since", "yesterday"), "--since: 'yesterday' is no time"),
        (("--sort", "-colour"), "--sort: 'colour' is no field"),
        (("--columns", "id,colour"), "--columns: 'colour' is none"),
        (("--offset", "-1"), "--offset: -1 must be 0 or more"),
    ],
)
def test_what_is_wrong_is_said_with_the_flag(taskqueue: Any, arguments: tuple[str, ...], words: str) -> None:
    ran = taskqueue("list", *arguments)
    assert (ran.code, ran.out, words in ran.err) == (2, "", True), ran.err


def test_an_owner_cannot_be_named_without_the_secret(taskqueue: Any) -> None:
    for arguments in (("list", "--owner", "ada"), ("list", "--where", "owner = ada"), ("stats", "--owner", "ada")):
        ran = taskqueue(*arguments)
        assert (ran.code, ran.out, "TASKQUEUE_SECRET" in ran.err) == (78, "", True)


# show and log


@pytest.mark.accept("TA16", "TA42")
def test_the_log_tells_every_state_in_order_and_who_did_what(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(opaque("t"))
        await work.end(await work.take(), Verdict("fail", "exhausted", 500))
        await work.broker.inspector.retry("default", [("t", b"")], actor="ada@desk", deadline=soon())
        await work.end(await work.take(), DONE)

    document = taskqueue("log", "t", "--json").document
    assert [(step["what"], step["actor"]) for step in document["log"]] == [
        ("added", ""),
        ("reserved", "one"),
        ("begun", "one"),
        ("failed", "one"),
        ("retried", "ada@desk"),
        ("reserved", "one"),
        ("begun", "one"),
        ("completed", "one"),
    ]
    times = [step["at"] for step in document["log"]]
    assert None not in times
    assert times == sorted(times)
    head, *lines = taskqueue("log", "t").lines
    assert head == ["TIME", "AFTER", "WHAT", "DELIVERY", "BY", "DETAIL"]
    assert [line[-1] for line in lines if "completed" in line] == ["200"]


def test_the_log_of_an_unknown_task_fails(taskqueue: Any) -> None:
    ran = taskqueue("log", "nobody")
    assert (ran.code, ran.out, "no task 'nobody' in default" in ran.err) == (1, "", True)


def test_a_withdrawn_task_tells_by_whom(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(opaque("t"))
        for word in ("cancelled", "archived"):
            await work.broker.withdraw("default", ["t"], word, actor="ada@desk", force=False, deadline=soon())

    steps = taskqueue("log", "t", "--json").document["log"]
    assert [(step["what"], step["actor"]) for step in steps[1:]] == [
        ("cancelled", "ada@desk"),
        ("archived", "ada@desk"),
    ]
    shown = taskqueue("show", "t").lines
    assert ["stage", "Archived"] in shown


def test_show_tells_of_parents_and_children(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(replace(opaque("parent"), flags=MASTER))
        (parent,) = await work.take()
        children = [replace(opaque(name), parent="parent", flags=CHILD) for name in ("bad", "good", "late")]
        await work.push(*children)
        bad, _ = await work.take(2)
        await work.end([bad], Verdict("fail", "exhausted", 500))
        assert parent.id == "parent"

    assert "2 open, 1 failed, which do not change its end" in taskqueue("show", "parent").out
    assert ["parent", "parent,", "which", "waits", "for", "it"] in taskqueue("show", "late").lines
    assert taskqueue("show", "parent", "--json").document["task"]["spoilt"] == 1
    assert taskqueue("log", "late", "--json").document["log"][0]["actor"] == "parent"


DEEP: Final[dict[str, Any]] = {"type": "info", "message": "deep", "data": None, "children": []}
REPORT: Final = {
    "type": "success",
    "message": "Imported",
    "data": {"rows": 3},
    "children": [
        {"type": "warning", "message": "row 2\x1b[2J", "data": None, "children": []},
        {"type": "info", "message": "done", "data": None, "children": [DEEP]},
    ],
}
SAID: Final = {
    "report": json.dumps(REPORT),
    "progress": json.dumps({"done": 3, "total": 4, "message": "rows"}),
    "redirect": "/reports/7",
    "output": "rows.csv",
    "files": json.dumps([{"name": "rows.csv", "size": 12, "content_type": "text/csv"}]),
}


@pytest.fixture
def told(store: Doing) -> str:
    """A task that has said everything of itself, and completed."""
    made = task("/import")

    @store
    async def _(work: Work) -> None:
        await work.push(sealed(made))
        (taken,) = await work.take()
        notes = {
            name: seal_note(KEYRING, "default", made.id, name, text.encode(), nonce=secrets.token_bytes(NONCE_BYTES))
            for name, text in SAID.items()
        }
        assert await work.broker.note("default", made.id, taken.delivery, notes, deadline=soon())
        await work.end([taken], DONE)

    return made.id


def test_show_full_tells_what_a_task_has_said_of_itself(
    taskqueue: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = taskqueue("show", told)
    assert "Imported" not in plain.out
    assert ["sealed", "files,", "output,", "progress,", "redirect,", "report", "(--full)"] in plain.lines
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)
    shown = taskqueue("show", told, "--full")
    assert "\x1b" not in shown.out
    assert shown.out.splitlines()[-4:] == [
        'success: Imported  {"rows": 3}',
        "  warning: row 2\\x1b[2J",
        "  info: done",
        "    info: deep",
    ]
    assert ["redirect", "/reports/7"] in shown.lines
    document = taskqueue("show", told, "--full", "--json").document
    assert (document["report"], document["progress"]["done"], document["output"]) == (REPORT, 3, "rows.csv")
    assert document["files"] == [{"name": "rows.csv", "size": 12, "content_type": "text/csv"}]
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET[::-1])
    assert not SAID.keys() & taskqueue("show", told, "--full", "--json").document.keys()


@pytest.mark.usefixtures("secret")
def test_show_full_says_when_nothing_was_reported(taskqueue: Any, shop: dict[str, str]) -> None:
    words = "The task completed and reported nothing."
    assert taskqueue("show", shop["done"], "--full").out.splitlines()[-1] == f"info: {words}"
    document = taskqueue("show", shop["done"], "--full", "--json").document
    assert (document["report"]["type"], document["report"]["message"]) == ("info", words)
    assert "report" not in taskqueue("show", shop["next"], "--full", "--json").document
    failed = taskqueue("show", shop["lost"], "--full", "--json").document["report"]
    assert (failed["type"], failed["message"]) == ("error", "The task failed (not-found, status 404).")


@pytest.mark.usefixtures("secret")
def test_owner_and_route_are_shown_and_the_user_is_not(taskqueue: Any, shop: dict[str, str]) -> None:
    document = taskqueue("show", shop["done"], "--json").document
    assert len(document["task"]["owner"]) == 11
    assert document["task"]["route"] == "/reports/{n}"
    assert "ada" not in taskqueue("show", shop["done"]).out


# stats


@pytest.mark.accept("TA32", "TA42")
@pytest.mark.usefixtures("secret")
def test_stats_of_a_user_count_by_stage_and_what_is_queued_is_seen(taskqueue: Any, shop: dict[str, str]) -> None:
    document = taskqueue("stats", "--owner", "ada", "--json").document
    stages = {"created": 2, "in_progress": 0, "completed": 1, "failed": 0, "archived": 0, "cancelled": 0}
    assert document == {"queues": [{"queue": "default", "stages": stages}], "stages": stages}
    assert taskqueue("stats", "--owner", "ada").lines == [
        ["QUEUE", "QUEUED", "IN", "PROGRESS", "COMPLETED", "FAILED", "ARCHIVED", "CANCELLED"],
        ["default", "2", "0", "1", "0", "0", "0"],
    ]


@pytest.mark.accept("TA32")
def test_stats_count_what_runs_waits_and_was_withdrawn(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(opaque("parent"), opaque("kept"))
        parent, _ = await work.take(2)
        await work.push(replace(opaque("child"), parent="parent", flags=CHILD), *opaque_tasks(3))
        await work.end([parent], DONE)
        waiting = [
            one.id for one in await work.broker.inspector.tasks("default", "queued", limit=9, offset=0, deadline=soon())
        ]
        await work.broker.withdraw("default", waiting[1:2], "cancelled", actor="", force=False, deadline=soon())
        await work.broker.withdraw("default", waiting[2:3], "archived", actor="", force=False, deadline=soon())

    document = taskqueue("stats", "--json").document
    assert document["stages"] == document["queues"][0]["stages"]
    assert document["stages"] == {
        "created": 2,
        "in_progress": 2,
        "completed": 0,
        "failed": 0,
        "archived": 1,
        "cancelled": 1,
    }
    head, row = taskqueue("stats").lines[:2]
    shown = dict(zip(head, row, strict=False))
    assert {name: shown[name] for name in ("QUEUED", "RESERVED", "WAITING", "ARCHIVED", "CANCELLED")} == {
        "QUEUED": "2",
        "RESERVED": "1",
        "WAITING": "1",
        "ARCHIVED": "1",
        "CANCELLED": "1",
    }


# times


@pytest.mark.accept("TA34")
def test_times_are_told_of_each_task_in_a_range_and_together(taskqueue: Any, shop: dict[str, str]) -> None:
    document = taskqueue("times", "--since", "1h", "--json").document
    (one,) = document["times"]
    assert (one["id"], one["path"], one["route"]) == (shop["done"], "/reports/1", "/reports/{n}")
    assert 0 <= one["seconds"] < 60
    (together,) = document["by"]
    assert (together["name"], together["count"], together["max"]) == ("/reports/{n}", 1, one["seconds"])
    assert taskqueue("times", "--until", "1h", "--json").document == {"times": [], "by": []}
    assert taskqueue("times", "--route", "elsewhere", "--json").document["times"] == []
    assert taskqueue("times", "--path", "/reports/*").lines[1][:2] == ["/reports/{n}", "1"]


@pytest.mark.accept("TA53")
@pytest.mark.usefixtures("secret")
def test_label_and_parameters_are_kept_and_asked_for_again(taskqueue: Any, store: Doing) -> None:
    made = task("/reports?year=2026", "POST", label="yearly", body=b"format=pdf", user_id="ada")

    @store
    async def _(work: Work) -> None:
        await work.push(sealed(made))
        await work.end(await work.take(), DONE, keep=True)

    head, row = taskqueue("list", "--state", "completed").lines
    assert row[head.index("LABEL")] == "yearly"

    def request(task_id: str) -> Any:
        return taskqueue("show", task_id, "--full", "--json").document["request"]

    (again,) = taskqueue("rerun", made.id, "--json").document["tasks"]
    for task_id in (made.id, again["id"]):
        assert [request(task_id)[name] for name in ("target", "body", "user_id")] == [
            *("/reports?year=2026", "format=pdf", "ada"),
        ]
    assert ids(taskqueue, "--label", "yearly", "--state", "queued") == [again["id"]]
