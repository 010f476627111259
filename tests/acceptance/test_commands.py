"""``taskqueue list``, ``show`` and ``stats`` as a person or a script meets them."""

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any, Final

import pytest

from taskqueue import finding
from taskqueue.task import Verdict
from tests.servers import free_port
from tests.tasks import SECRET, opaque, opaque_tasks, sealed, task
from tests.work import Doing, Work, soon

RETRY: Final = Verdict("retry", "server", 503)
MINE: Final = "session=not-for-your-eyes"


def of_queue(document: Any, name: str) -> Any:
    return next(queue for queue in document["queues"] if queue["queue"] == name)


def test_whoever_reads_may_stop_reading() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    script = "from taskqueue.cli import main; main()"
    command = [sys.executable, "-c", script, "config", "show"]
    try:
        ended = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, check=False, timeout=50)
    finally:
        os.close(writes)
    assert (ended.returncode, ended.stderr) == (141, b"")


# list


def test_list_is_aligned_text_in_a_pipe(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.fail(opaque("bad"))
        await work.push(opaque("good"), opaque("late", due=-3_600_000))

    head, *rows = taskqueue("list").lines
    assert head == ["ID", "STATE", "QUEUE", "METHOD", "PATH", "LABEL", "ATTEMPT", "AGE", "OUTCOME"]
    assert {tuple(row[:3]) for row in rows} == {
        ("bad", "failed", "default"),
        ("good", "queued", "default"),
        ("late", "scheduled", "default"),
    }
    assert next(row[-2:] for row in rows if row[0] == "bad") == ["500", "exhausted"]
    plain = taskqueue("list").out
    assert "\x1b" not in plain
    assert len({line.index(word) for line, word in zip(plain.splitlines()[1:], ("POST",) * 3, strict=True)}) == 1


def test_list_by_state_path_queue_and_number(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.fail(replace(opaque("bad"), path="/reports/1"), opaque("worse"))
        await work.push(*opaque_tasks(30))
        await work.push(opaque("letter", queue="mail"))

    def ids(*arguments: str) -> list[str]:
        return [one["id"] for one in taskqueue("list", "--json", *arguments).document["tasks"]]

    assert set(ids("--state", "failed")) == {"bad", "worse"}
    assert ids("--path", "/reports/*") == ["bad"]
    assert len(ids()) == 20
    assert len(ids("--limit", "3")) == 3
    assert ids("--queue", "mail") == ["letter"]


def test_list_in_json_tells_times_in_utc(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(opaque("t"))

    (one,) = taskqueue("list", "--json").document["tasks"]
    assert (one["id"], one["state"], one["path"], one["due"], one["attempt"]) == ("t", "queued", "/path", None, 0)
    assert one["added"].endswith("Z")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--state", "faild"), "the states are queued, scheduled"),
        (("--limit", "0"), "--limit"),
        (("--limitt", "3"), "--limit"),
        (("--url", "nonsense"), "--url"),
    ],
)
def test_a_misspelt_flag_or_value_is_a_usage_error(taskqueue: Any, arguments: tuple[str, ...], words: str) -> None:
    ran = taskqueue("list", *arguments)
    assert (ran.code, ran.out, words in ran.err) == (2, "", True)


def test_nothing_moves_the_terminals_cursor(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(replace(opaque("t"), label="\x1b[2J\nforged", path="/\x9b31m"))

    for arguments in (("list",), ("show", "t")):
        out = taskqueue(*arguments).out
        assert "\x1b" not in out
        assert "\x9b" not in out
        assert "\\x1b[2J\\nforged" in out


def test_without_a_store_the_exit_code_says_so(taskqueue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "PATIENCE", 0.2)
    ran = taskqueue("list", "--url", f"redis://127.0.0.1:{free_port()}/0")
    assert (ran.code, ran.out) == (75, "")
    monkeypatch.delenv("TASKQUEUE_URL")
    ran = taskqueue("stats")
    assert (ran.code, "TASKQUEUE_URL" in ran.err) == (78, True)


# show


def test_show_tells_a_life_in_order(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(opaque("t"))
        await work.end(await work.take(), RETRY)
        await work.broker.due("default", deadline=soon())
        await work.end(await work.take(), Verdict("complete", status=204))

    document = taskqueue("show", "t", "--json").document
    assert (document["task"]["state"], document["task"]["status"], document["task"]["attempt"]) == ("completed", 204, 2)
    assert [(step["what"], step["delivery"], step["detail"]) for step in document["life"]] == [
        ("added", 0, "POST /path"),
        ("reserved", 1, "attempt 1"),
        ("begun", 1, ""),
        ("retry", 1, "503 server"),
        ("due", 0, ""),
        ("reserved", 2, "attempt 2"),
        ("begun", 2, ""),
        ("completed", 2, "204"),
    ]
    times = [step["at"] for step in document["life"]]
    assert times == sorted(times)
    assert "request" not in document
    lines = taskqueue("show", "t").lines
    assert ["state", "completed"] in lines
    assert [line[-2:] for line in lines if "retry" in line] == [["503", "server"]]


def test_show_of_an_unknown_task_fails(taskqueue: Any) -> None:
    ran = taskqueue("show", "nobody")
    assert (ran.code, ran.out) == (1, "")
    assert "no task 'nobody' in default" in ran.err


@pytest.fixture
def whole(store: Doing) -> str:
    """A task with everything in it."""
    made = task(
        "/reports?token=querysecret",
        "POST",
        headers=(("cookie", MINE), ("Authorization", f"Bearer {MINE}"), ("content-type", "text/plain")),
        body="grüß\x1b[2J\n".encode() + b"x" * 5000,
        user_id="alice",
    )

    @store
    async def _(work: Work) -> None:
        await work.push(sealed(made))

    return made.id


def test_show_keeps_the_request_to_itself(taskqueue: Any, whole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)
    out = taskqueue("show", whole).out
    assert [word for word in ("querysecret", "alice", "text/plain", MINE) if word in out] == []


def test_show_full_needs_the_secret(taskqueue: Any, whole: str) -> None:
    ran = taskqueue("show", whole, "--full")
    assert (ran.code, ran.out) == (78, "")
    assert "TASKQUEUE_SECRET" in ran.err


def test_show_full_opens_the_record_and_masks_credentials(
    taskqueue: Any, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)
    ran = taskqueue("show", whole, "--full")
    assert MINE not in ran.out
    assert "\x1b" not in ran.out
    assert ["target", "/reports?token=querysecret"] in ran.lines
    assert ["user_id", "alice"] in ran.lines
    assert ["cookie", "***"] in ran.lines
    assert ["Authorization", "***"] in ran.lines
    assert ["grüß\\x1b[2J"] in ran.lines
    assert "--json shows all" in ran.out
    request = taskqueue("show", whole, "--full", "--json").document["request"]
    assert request["headers"] == [["cookie", "***"], ["Authorization", "***"], ["content-type", "text/plain"]]
    assert request["body"].endswith("x" * 5000)
    assert request["expires"].endswith("Z")


def test_show_full_of_what_is_not_text_or_not_there(
    taskqueue: Any, store: Doing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)
    binary, done = task("/b", "PUT", body=b"\xff\x00"), task("/d")

    @store
    async def _(work: Work) -> None:
        await work.push(sealed(done))
        await work.end(await work.take(), Verdict("complete", status=200))
        await work.push(sealed(binary), opaque("garbage"))

    assert taskqueue("show", binary.id, "--full", "--json").document["request"]["body_base64"] == "/wA="
    assert ["body", "2", "bytes"] in taskqueue("show", binary.id, "--full").lines
    assert "no longer stored" in taskqueue("show", done.id, "--full").out
    assert "too few for a seal" in taskqueue("show", "garbage", "--full", "--json").document["request"]


# stats


def test_stats_count_and_name_who_consumes(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.fail(opaque())
        await work.push(*opaque_tasks(4), opaque(due=-3_600_000))
        await work.take()
        await work.broker.prepare("default", [opaque()], deadline=soon())

    document = taskqueue("stats", "--json").document
    found = of_queue(document, "default")
    counts = ("queued", "scheduled", "prepared", "reserved", "failed", "completed")
    assert [found[name] for name in counts] == [3, 1, 1, 1, 1, 0]
    (consumer,) = found["consumers"]
    assert (consumer["name"], consumer["pid"], consumer["holds"]) == ("one", os.getpid(), 1)
    assert document["warnings"] == []
    ran = taskqueue("stats")
    assert ran.lines[1][:7] == ["default", "3", "1", "1", "1", "0", "0"]
    assert ran.lines[-1][:2] == ["default", "one"]
    assert ran.err == ""


def test_stats_warn_when_tasks_wait_and_nobody_consumes(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.push(*opaque_tasks(2))

    words = "queue default: 2 task(s) wait and nobody consumes"
    ran = taskqueue("stats")
    assert words in ran.err
    assert words not in ran.out
    assert [words in warning for warning in taskqueue("stats", "--json").document["warnings"]] == [True]
