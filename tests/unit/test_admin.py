"""Finding out: a life in order, whatever is known of it; lists by state, filter and number; queueing again."""

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

import pytest

from taskqueue import admin as module
from taskqueue.admin import Admin, Filter, Step, gone, story, unserved
from taskqueue.broker import Broker, Lease
from taskqueue.inspector import ConsumerInfo, Ended, QueueStats
from taskqueue.keys import Keyring
from taskqueue.seal import NONCE_BYTES, seal, unseal
from taskqueue.task import Settlement, TaskState, Verdict
from tests.stores import Inspectable
from tests.tasks import KEYRING, opaque, sealed, task
from tests.waiting import until

ADDED: Final = 1_000_000
NEW: Final = TaskState(
    id="t",
    queue="default",
    state="queued",
    delivery=0,
    attempt=0,
    crashes=0,
    added=ADDED,
    due=0,
    reserved=0,
    begun=0,
    changed=ADDED,
    status=0,
    reason="",
    holder="",
    method="POST",
    path="/reports",
    label="",
)
RETRIED: Final = Ended(1, 1, ADDED + 10, ADDED + 20, ADDED + 520, 503, "server", "one", "retry")
EXHAUSTED: Final = Ended(2, 2, ADDED + 1600, ADDED + 1610, ADDED + 1700, 500, "exhausted", "two", "fail")


def soon() -> float:
    return time.monotonic() + 10


def told(state: TaskState, *ended: Ended) -> list[tuple[str, int]]:
    return [(step.what, step.delivery) for step in story(state, ended)]


def clock_is_past(state: TaskState) -> Callable[[], Awaitable[bool]]:
    async def past() -> bool:
        return time.time() * 1000 > state.changed + 1

    return past


# A life.


def test_a_new_task_was_added_and_is_queued() -> None:
    assert story(NEW, ()) == [
        Step(ADDED, "added", detail="POST /reports"),
        Step(ADDED, "queued", seconds=0.0),
    ]


def test_a_completed_task_tells_who_took_it_and_how_long_it_ran() -> None:
    done = replace(
        NEW,
        state="completed",
        delivery=1,
        attempt=1,
        reserved=ADDED + 10,
        begun=ADDED + 20,
        changed=ADDED + 1520,
        status=204,
        holder="one",
    )
    assert story(done, ()) == [
        Step(ADDED, "added", detail="POST /reports"),
        Step(ADDED + 10, "reserved", 1, "by one, attempt 1", 0.01),
        Step(ADDED + 20, "begun", 1, "", 0.01),
        Step(ADDED + 1520, "completed", 1, "204", 1.5),
    ]


def test_retries_failure_and_times_are_told_in_order() -> None:
    failed = replace(
        NEW, state="failed", delivery=2, due=ADDED + 1500, changed=EXHAUSTED.ended, status=500, reason="exhausted"
    )
    steps = story(failed, (RETRIED, EXHAUSTED))
    assert [(step.what, step.delivery, step.detail) for step in steps] == [
        ("added", 0, "POST /reports"),
        ("reserved", 1, "by one, attempt 1"),
        ("begun", 1, ""),
        ("retry", 1, "503 server"),
        ("due", 0, ""),
        ("reserved", 2, "by two, attempt 2"),
        ("begun", 2, ""),
        ("failed", 2, "500 exhausted"),
    ]
    assert [step.seconds for step in steps] == [None, 0.01, 0.01, 0.5, 0.98, 0.1, 0.01, 0.09]


def test_a_retry_that_waits_ends_with_the_time_it_is_due() -> None:
    waiting = replace(NEW, state="scheduled", delivery=1, due=ADDED + 9000, changed=RETRIED.ended, reason="server")
    assert told(waiting, RETRIED) == [("added", 0), ("reserved", 1), ("begun", 1), ("retry", 1), ("due", 0)]


def test_a_delayed_task_waits_until_it_is_due() -> None:
    assert told(replace(NEW, state="scheduled", due=ADDED + 9000)) == [("added", 0), ("scheduled", 0), ("due", 0)]
    taken = replace(NEW, state="reserved", delivery=1, due=ADDED + 9000, reserved=ADDED + 9500, changed=ADDED + 9500)
    assert told(taken) == [("added", 0), ("due", 0), ("reserved", 1)]


def test_what_happens_within_one_millisecond_is_told_in_order_too() -> None:
    instant = replace(RETRIED, reserved=ADDED, begun=ADDED, ended=ADDED + 1)
    again = replace(NEW, state="running", delivery=2, due=ADDED + 1, reserved=ADDED + 1, begun=ADDED + 1)
    words = [what for what, _ in told(again, instant)]
    assert words == ["added", "reserved", "begun", "retry", "due", "reserved", "begun"]


def test_a_task_given_back_says_so_and_names_no_due_time() -> None:
    back = replace(
        NEW, delivery=1, reserved=ADDED + 10, due=ADDED + 30, changed=ADDED + 30, reason="refused", holder="one"
    )
    assert told(back) == [("added", 0), ("reserved", 1), ("queued", 0)]
    assert story(back, ())[-1].detail == "given back, last reason: refused"


def test_a_task_parked_for_its_record_says_why() -> None:
    parked = replace(
        NEW, state="scheduled", delivery=1, reserved=ADDED + 1, due=ADDED + 60_000, changed=ADDED + 2, reason="key"
    )
    assert told(parked) == [("added", 0), ("reserved", 1), ("scheduled", 0), ("due", 0)]
    assert story(parked, ())[2].detail == "given back: key"


def test_deliveries_of_which_nothing_is_kept_are_counted() -> None:
    later = replace(RETRIED, delivery=4)
    state = replace(NEW, state="scheduled", delivery=4, due=ADDED + 9000, changed=later.ended)
    missing = story(state, (later,))[1]
    assert (missing.at, missing.what) == (None, "released")
    assert missing.detail == "deliveries 1 to 3: given back, or lost with the consumer"
    assert story(replace(NEW, state="running", delivery=2), ())[1].detail.startswith("delivery 1: ")


def test_a_failed_task_that_was_queued_again_says_so() -> None:
    failed = replace(EXHAUSTED, delivery=1)
    again = replace(NEW, delivery=1, changed=ADDED + 5000)
    assert story(again, (failed,))[-1] == Step(
        ADDED + 5000, "queued", detail="again, after it had failed", seconds=(5000 - 1700) / 1000
    )
    taken = replace(again, state="reserved", delivery=2, reserved=ADDED + 6000, changed=ADDED + 6000)
    assert told(taken, failed) == [
        ("added", 0),
        ("reserved", 1),
        ("begun", 1),
        ("failed", 1),
        ("queued", 0),
        ("reserved", 2),
    ]
    assert story(taken, (failed,))[4].at is None


def test_a_task_set_aside_without_delivery_tells_the_reason() -> None:
    aside = replace(NEW, state="failed", changed=ADDED + 60_000, reason="in-doubt")
    assert story(aside, ())[-1] == Step(ADDED + 60_000, "failed", detail="in-doubt", seconds=60.0)


# Who consumes.


def stats(queued: int, *consumers: ConsumerInfo) -> QueueStats:
    return QueueStats("default", queued, 0, 0, 0, 0, 0, 0, 0, consumers)


HERE: Final = ConsumerInfo("one", "here", 4711, 1, 0)


def test_a_consumer_is_gone_only_if_that_is_certain() -> None:
    assert gone(HERE, host="here", runs=lambda pid: False)
    assert not gone(HERE, host="here", runs=lambda pid: pid == 4711)
    assert not gone(HERE, host="elsewhere", runs=lambda pid: False)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (stats(2), "queue default: 2 task(s) wait and nobody consumes; it has never had a consumer"),
        (stats(2, HERE), "queue default: 2 task(s) wait and nobody consumes; its consumers have ended: one"),
        (stats(0), None),
        (stats(0, HERE), None),
        (stats(2, HERE, replace(HERE, host="elsewhere")), None),
    ],
)
def test_waiting_tasks_without_consumer_are_worth_a_warning(found: QueueStats, words: str | None) -> None:
    assert unserved(found, host="here", runs=lambda pid: False) == words


# A real store.


@pytest.fixture
async def broker(place: Inspectable) -> AsyncIterator[Broker]:
    broker = place.open()
    yield broker
    await broker.aclose()
    place.queues()


@pytest.fixture
async def lease(broker: Broker) -> Lease:
    return (await broker.claim("default", "one", begins=True, deadline=soon()))[0]


async def fail(broker: Broker, lease: Lease, ids: Sequence[str], reason: str = "exhausted") -> None:
    """Let a consumer take what waits, which must be these, and fail it in this order."""
    taken = await broker.exchange(lease, (), token=secrets.token_hex(4), want=1000, room=2**20, deadline=soon())
    assert [one.id for one in taken.reservations] == list(ids)
    verdict = Verdict("fail", reason, 500)
    for one in taken.reservations:
        ended = Settlement(one.id, one.delivery, verdict)
        await broker.exchange(lease, (ended,), token=secrets.token_hex(4), want=0, room=0, deadline=soon())


async def test_the_last_in_line_is_the_newest(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    for number in range(7):
        await broker.push("default", [opaque(f"t{number}")], deadline=soon())
    admin = Admin(broker, ["default"])
    assert {task.id for task in await admin.tasks(limit=3)} == {"t6", "t5", "t4"}
    assert {task.id for task in await admin.tasks(["queued"], limit=100)} == {f"t{number}" for number in range(7)}
    assert await admin.tasks(["failed"], limit=100) == []


async def test_of_the_scheduled_those_due_first_come_first(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    for number in (3, 1, 5, 2, 4):
        await broker.push("default", [opaque(f"t{number}", due=-60_000 * number)], deadline=soon())
    found = await Admin(broker, ["default"]).tasks(["scheduled"], limit=3)
    assert [task.id for task in found] == ["t1", "t2", "t3"]


async def test_filters_look_at_everything(broker: Broker, lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    paths = ["/a", "/reports/1", "/b", "/reports/2", "/c"]
    tasks = [replace(opaque(f"t{number}"), path=path) for number, path in enumerate(paths)]
    await broker.push("default", tasks, deadline=soon())
    admin = Admin(broker, ["default"])
    reports = Filter(path="/reports/*")
    assert {task.id for task in await admin.tasks(only=reports, limit=1)} == {"t3"}
    await fail(broker, lease, [f"t{number}" for number in range(5)])
    assert [task.id for task in await admin.failed(reports)] == ["t1", "t3"]
    assert [task.id for task in await admin.failed(Filter(path="/a"))] == ["t0"]
    assert await admin.failed(Filter(reason="auth")) == []
    assert len(await admin.failed(Filter(reason="exhausted"))) == 5


async def test_what_is_held_is_found_behind_what_is_not_asked_for(
    broker: Broker, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    await broker.push("default", [opaque(f"t{number}") for number in range(5)], deadline=soon())
    taken = await broker.exchange(lease, (), token="a", want=5, room=2**20, deadline=soon())
    admin = Admin(broker, ["default"])
    for begun in (taken.reservations[4], taken.reservations[0]):
        await until(clock_is_past((await admin.tasks(limit=1))[0]), "the clock has gone on")
        assert await broker.begin("default", begun.id, begun.delivery, deadline=soon())
    assert [task.id for task in await admin.tasks(["running"], limit=1)] == ["t0"]
    assert len(await admin.tasks(["reserved"], limit=100)) == 3
    held = await broker.inspector.tasks("default", "reserved", limit=100, offset=0, deadline=soon())
    assert [task.id for task in held] == ["t3", "t2", "t1"]
    assert (await admin.tasks(limit=1))[0].id == "t0"


async def test_a_task_is_found_in_any_of_the_queues(broker: Broker) -> None:
    await broker.push("mail", [opaque("m", queue="mail")], deadline=soon())
    found = await Admin(broker, ["default", "mail"]).find("m")
    assert found is not None
    assert (found.queue, found.state) == ("mail", "queued")
    assert await Admin(broker, ["default"]).find("m") is None


async def test_failed_tasks_are_queued_again_in_batches(broker: Broker, lease: Lease) -> None:
    ids = [f"t{number:03}" for number in range(230)]
    await broker.push("default", [opaque(task_id) for task_id in ids], deadline=soon())
    while waiting := await broker.size("default", deadline=soon()):
        first = ids[230 - waiting :][:1000]
        await fail(broker, lease, first)
    admin = Admin(broker, ["default"])
    progress: list[int] = []
    failed = await admin.failed(Filter())
    assert await admin.retry(failed, KEYRING, progress=progress.append) == 230
    assert progress == [100, 200, 230]
    assert await broker.size("default", deadline=soon()) == 230
    assert await admin.retry(failed, KEYRING) == 0  # they wait already


@pytest.mark.parametrize(("keyring", "renewed"), [(KEYRING, True), (None, False)])
async def test_an_expired_record_gets_a_new_term(
    broker: Broker, lease: Lease, keyring: Keyring | None, *, renewed: bool
) -> None:
    now = time.time_ns() // 1_000_000
    old = task("/x?a=1", body=b"all of it", expires=now - 1000)
    await broker.push("default", [sealed(old)], deadline=soon())
    await fail(broker, lease, [old.id], reason="expired")
    admin = Admin(broker, ["default"])
    assert await admin.retry(await admin.failed(Filter()), keyring) == 1
    record = await broker.inspector.record("default", old.id, deadline=soon())
    assert record is not None
    opened = unseal(KEYRING, queue="default", task_id=old.id, record=record)
    assert replace(opened, expires=0) == replace(old, expires=0)
    assert (opened.expires > now + 34 * 24 * 3600 * 1000) is renewed


async def test_a_record_that_cannot_be_opened_or_has_time_left_stays_as_it_is(broker: Broker, lease: Lease) -> None:
    foreign = seal(Keyring(["one-that-nobody-here-has-0123456789-x"]), task(), nonce=secrets.token_bytes(NONCE_BYTES))
    fresh = sealed(task())
    await broker.push("default", [foreign, fresh], deadline=soon())
    await fail(broker, lease, [foreign.id, fresh.id], reason="expired")
    admin = Admin(broker, ["default"])
    assert await admin.retry(await admin.failed(Filter()), KEYRING) == 2
    for one in (foreign, fresh):
        assert await broker.inspector.record("default", one.id, deadline=soon()) == one.record


async def test_every_queue_in_the_store_has_a_name(place: Inspectable, broker: Broker, lease: Lease) -> None:
    await broker.push("mail", [opaque("m", queue="mail")], deadline=soon())
    await broker.claim("never-used", "two", begins=True, deadline=soon())
    assert await broker.size("only-looked-at", deadline=soon()) == 0
    assert await broker.inspector.queues(deadline=soon()) == ["default", "mail", "never-used"]
    other = place.open(namespace="other")
    assert await other.inspector.queues(deadline=soon()) == []
    await other.aclose()
