"""What a running task says of itself, behind every door: stored before its answer leaves, and told by the receipt."""

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

import taskqueue
from taskqueue.policy import Answered, Rules, decide, report_of
from taskqueue.replay import Delivery, signed_headers
from taskqueue.reporting import MEDIA_TYPE
from taskqueue.task import Verdict
from tests.doors import KINDS, Consumer, Handler, Reply, View, adding, fetch, serving
from tests.mutations import WireRequest
from tests.notes import Kept, keeping
from tests.tasks import KEYRING, task
from tests.waiting import until
from tests.wire import send

pytestmark = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def kept(tq: taskqueue.TaskQueue) -> Kept:
    return keeping(tq)


def verdict(outcome: Answered) -> Verdict:
    """Return what a consumer makes of this at the first attempt."""
    rules = Rules()
    return decide(outcome, attempt=1, rules=rules, anonymous=True, target_known=True, now=0.0, jitter=random.random())


async def delivered(kind: str, tq: taskqueue.TaskQueue, handler: Handler) -> tuple[str, Answered]:
    """Run a task through this view; return its id and what came of it."""
    async with serving(kind, {"/": adding("/build"), "/build": handler}, tq) as base:
        await fetch("GET", base + "/")
        task, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    return task.id, outcome


# ---- a report


async def test_a_report_is_kept_and_told(kind: str, tq: taskqueue.TaskQueue, kept: Kept) -> None:
    async def handler(_view: View) -> Reply:
        node = taskqueue.report("success", "built", {"pages": 3})
        node.add("warning", "{count} pages are empty", count=1)
        return Reply(text="done")

    task_id, outcome = await delivered(kind, tq, handler)
    assert (outcome.status, outcome.receipted, outcome.reported) == (200, True, "warning")
    assert verdict(outcome).kind == "complete"
    ((noted, delivery, fields),) = kept.notes
    assert (noted, delivery, set(fields)) == (task_id, 1, {"report"})
    assert kept.report.as_json() == {
        "type": "success",
        "message": "built",
        "data": {"pages": 3},
        "children": [
            {
                "type": "warning",
                "message": "1 pages are empty",
                "data": None,
                "template": "{count} pages are empty",
                "interpolation": {"count": 1},
                "children": [],
            }
        ],
    }
    assert all(b"built" not in raw for raw in kept.raw)


@pytest.mark.accept("TA19")
async def test_an_error_at_any_depth_fails_the_task(kind: str, tq: taskqueue.TaskQueue, kept: Kept) -> None:
    async def handler(_view: View) -> Reply:
        taskqueue.report("success", "imported").add("info", "row 1").add("error", "no such column")
        taskqueue.add("/mail")
        return Reply()

    _, outcome = await delivered(kind, tq, handler)
    assert (outcome.status, outcome.receipted, outcome.reported) == (200, True, "error")
    assert verdict(outcome) == Verdict("fail", "reported", 200)
    assert kept.report.children[0].children[0].message == "no such column"


async def test_several_reports_stand_side_by_side(kind: str, tq: taskqueue.TaskQueue, kept: Kept) -> None:
    async def handler(_view: View) -> Reply:
        taskqueue.report("success", "one")
        taskqueue.report("success", "two")
        return Reply()

    task_id, outcome = await delivered(kind, tq, handler)
    assert outcome.reported == "success"
    assert (kept.report.type, kept.report.message) == ("info", f"Running task {task_id}")
    assert [child.message for child in kept.report.children] == ["one", "two"]


async def test_a_task_that_reports_nothing_says_nothing(kind: str, tq: taskqueue.TaskQueue, kept: Kept) -> None:
    async def handler(_view: View) -> Reply:
        return Reply(headers={"X-Task-Report": "error"})

    _, outcome = await delivered(kind, tq, handler)
    assert (outcome.receipted, outcome.reported, kept.notes) == (True, "", [])
    assert verdict(outcome).kind == "complete"


@pytest.mark.parametrize("status", [404, 500])
async def test_what_fails_is_reported_too(kind: str, tq: taskqueue.TaskQueue, kept: Kept, status: int) -> None:
    async def handler(_view: View) -> Reply:
        taskqueue.report("error", "no such file")
        return Reply(status)

    _, outcome = await delivered(kind, tq, handler)
    assert (outcome.status, outcome.receipted, outcome.reported) == (status, True, "error")
    assert kept.report.message == "no such file"


async def test_what_was_reported_before_a_view_raised_is_kept(kind: str, tq: taskqueue.TaskQueue, kept: Kept) -> None:
    async def handler(_view: View) -> Reply:
        taskqueue.report("info", "read 3 rows")
        raise ValueError("the secret detail")

    _, outcome = await delivered(kind, tq, handler)
    assert (outcome.status, outcome.receipted, outcome.reported) == (500, True, "info")
    assert kept.report.message == "read 3 rows"
    assert "the secret detail" not in str(kept.fields)


@pytest.mark.parametrize(("adds", "status"), [(["/mail"], 200), ([], 200), ([], 404)])
async def test_an_answer_is_not_told_whose_report_cannot_be_kept(
    kind: str,
    tq: taskqueue.TaskQueue,
    kept: Kept,
    caplog: pytest.LogCaptureFixture,
    adds: list[str],
    status: int,
) -> None:
    kept.down = True

    async def handler(_view: View) -> Reply:
        for url in adds:
            taskqueue.add(url)
        taskqueue.report("success", "built")
        return Reply(status, "done")

    async with serving(kind, {"/": adding("/build"), "/build": handler}, tq) as base:
        await fetch("GET", base + "/")
        consumer = Consumer(tq)
        task, outcome = await consumer.replay(base)
        assert isinstance(outcome, Answered)
        assert (outcome.status, outcome.receipted, outcome.retry_after) == (503, True, "1")
        assert verdict(outcome).kind == "retry"
        assert await consumer.tasks() == []
    assert f"what task {task.id} says of itself could not be stored" in caplog.text


async def test_a_stream_tells_what_was_reported_before_it(kind: str, tq: taskqueue.TaskQueue, kept: Kept) -> None:
    raised: list[Exception] = []

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        try:
            taskqueue.report("error", "too late")
        except taskqueue.InvalidReport as error:
            raised.append(error)
        yield b"last"

    async def handler(_view: View) -> Reply:
        taskqueue.report("warning", "half of it")
        return Reply(stream=pieces)

    _, outcome = await delivered(kind, tq, handler)
    assert (outcome.status, outcome.receipted, outcome.reported) == (200, True, "warning")
    assert (kept.report.type, len(raised)) == ("warning", 1)
    assert "the answer of this task has begun" in str(raised[0])


async def test_the_answer_itself_may_be_the_report(kind: str, tq: taskqueue.TaskQueue) -> None:
    report = taskqueue.Report("success", "built", children=[taskqueue.Report("error", "but not page 3")])

    async def handler(_view: View) -> Reply:
        return Reply(text=report.encode().decode(), headers={"Content-Type": MEDIA_TYPE})

    _, outcome = await delivered(kind, tq, handler)
    assert report_of(outcome, Rules()) == report
    assert verdict(outcome) == Verdict("fail", "reported", 200)


async def test_an_answer_that_is_no_report_is_logged(
    kind: str, tq: taskqueue.TaskQueue, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(_view: View) -> Reply:
        return Reply(text=json.dumps({"type": "fatal", "message": "x"}), headers={"Content-Type": MEDIA_TYPE})

    with caplog.at_level(logging.WARNING, "taskqueue.server"):
        task_id, outcome = await delivered(kind, tq, handler)
    assert (report_of(outcome, Rules()), verdict(outcome).kind) == (None, "complete")
    assert f"task {task_id}: its answer calls itself a report: type: 'fatal' must be one of" in caplog.text


async def test_outside_a_task_nothing_is_kept(kind: str, tq: taskqueue.TaskQueue, kept: Kept) -> None:
    async def handler(_view: View) -> Reply:
        taskqueue.progress(1, 2)
        node = taskqueue.report("error", "for nobody")
        return Reply(text=node.message)

    async with serving(kind, {"/": handler}, tq) as base:
        response = await fetch("GET", base + "/")
    assert (response.status, response.text, kept.notes) == (200, "for nobody", [])
    assert "x-task-report" not in {name.lower() for name in response.headers}


# ---- progress


async def test_progress_is_seen_while_the_task_runs(kind: str, tq: taskqueue.TaskQueue, kept: Kept) -> None:
    async def noted() -> bool:
        return len(kept.notes) > 0

    async def handler(_view: View) -> Reply:
        for done in range(1000):
            taskqueue.progress(done, 2000, "reading")
        await until(noted, "the progress is stored")
        taskqueue.progress(2000, 2000)
        return Reply()

    await delivered(kind, tq, handler)
    seen = [json.loads(fields["progress"]) for _, _, fields in kept.notes]
    assert seen[0] == {"done": 999, "total": 2000, "message": "reading"}
    assert seen[-1] == {"done": 2000, "total": 2000, "message": ""}
    assert len(seen) == 2


# ---- files, the place of the result, and what a task knows of itself


@pytest.mark.accept("TA57")
async def test_a_task_saves_files_that_are_found_by_its_report(kind: str, tq: taskqueue.TaskQueue, kept: Kept) -> None:
    async def handler(_view: View) -> Reply:
        await asyncio.to_thread(taskqueue.storage.save, "rows.csv", b"a,b\n" * 50_000, "text/csv", output=True)
        taskqueue.storage.save("log.txt", "fine")
        taskqueue.redirect_to("/reports/7")
        return Reply()

    task_id, outcome = await delivered(kind, tq, handler)
    assert outcome.status == 200
    assert json.loads(kept.fields["files"]) == [
        {"name": "rows.csv", "size": 200_000, "content_type": "text/csv"},
        {"name": "log.txt", "size": 4, "content_type": "application/octet-stream"},
    ]
    assert (kept.fields["output"], kept.fields["redirect"]) == (b"rows.csv", b"/reports/7")
    with tq.storage.open(task_id, kept.fields["output"].decode()) as file:
        assert (file.content_type, file.read()) == ("text/csv", b"a,b\n" * 50_000)


@pytest.mark.accept("TA56")
async def test_a_task_knows_who_and_what_it_is(kind: str, tq: taskqueue.TaskQueue) -> None:
    seen: list[taskqueue.CurrentTask | None] = []

    async def build(_view: View) -> Reply:
        seen.append(taskqueue.current_task())
        taskqueue.add("/mail")
        return Reply()

    async def mail(_view: View) -> Reply:
        seen.append(taskqueue.current_task())
        return Reply()

    handlers = {"/": adding("/build", user_id="ada"), "/build": build, "/mail": mail}
    async with serving(kind, handlers, tq) as base:
        consumer = Consumer(tq)
        first = (await fetch("GET", base + "/")).text
        await consumer.replay(base)
        second, _ = await consumer.replay(base)
    known = [(one.id, one.user_id, one.parent, one.queue, one.attempt) for one in seen if one is not None]
    assert known == [(first, "ada", None, "default", 1), (second.id, "ada", first, "default", 1)]


async def test_what_a_person_runs_by_hand_leaves_all_as_it_is(kind: str, tq: taskqueue.TaskQueue, kept: Kept) -> None:
    async def handler(_view: View) -> Reply:
        saved = taskqueue.storage.save("rows.csv", b"a,b", "text/csv", output=True)
        taskqueue.report("success", "built")
        return Reply(text=saved.name)

    made = task("/build")
    delivery = Delivery(task=made, delivery=0, attempt=3, max_attempts=11, timeout=60)
    async with serving(kind, {"/build": handler}, tq, allow_manual=True) as base:
        headers = signed_headers(delivery, urlsplit(base).netloc, KEYRING.current, manual=True)
        answer = await send(base, WireRequest("GET", "/build", tuple(headers), b""))
    assert (answer.status, answer.headers["x-task-report"]) == (200, "success")
    assert b"rows.csv" in answer.body
    assert (kept.notes, tq.storage.names(made.id)) == ([], [])
