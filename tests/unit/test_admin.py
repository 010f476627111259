"""Finding out who consumes; what a filter means; queueing again."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Final

import pytest

from taskqueue import finding
from taskqueue.admin import Admin, Filter, gone, unserved
from taskqueue.broker import Broker, Lease
from taskqueue.inspector import ConsumerInfo, QueueStats
from taskqueue.keys import Keyring
from taskqueue.seal import NONCE_BYTES, seal, unseal
from taskqueue.task import Settlement, Verdict
from tests.stores import Inspectable
from tests.tasks import KEYRING, opaque, sealed, task


def soon() -> float:
    return time.monotonic() + 10


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


async def test_filters_look_at_everything(broker: Broker, lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "PAGE", 2)
    paths = ["/a", "/reports/1", "/b", "/reports/2", "/c"]
    tasks = [replace(opaque(f"t{number}"), path=path) for number, path in enumerate(paths)]
    await broker.push("default", tasks, deadline=soon())
    admin = Admin(broker, ["default"])
    reports = Filter(path="/reports/*")
    await fail(broker, lease, [f"t{number}" for number in range(5)])
    assert [task.id for task in await admin.failed(reports)] == ["t1", "t3"]
    assert [task.id for task in await admin.failed(Filter(path="/a"))] == ["t0"]
    assert await admin.failed(Filter(reason="auth")) == []
    assert len(await admin.failed(Filter(reason="exhausted"))) == 5


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
