"""A vote stores tasks and queues none; what comes after it, or never comes, decides. In every store."""

import asyncio
import logging
import time
from typing import Any

import pytest

import taskqueue
from taskqueue.ballot import Voted
from taskqueue.errors import BrokerUnavailable, ConfigError, ReplyLost
from taskqueue.testing import capture
from taskqueue.transaction import Transaction, bound
from tests.contract.test_commit import FAULTS, Fault, Tripping, queue_at, queued, trip
from tests.servers import RedisServer
from tests.stores import Inspectable
from tests.waiting import until

QUEUES = ("default", "mail")


def voting(broker: Tripping, *, count: int = 3, deadline: float = 10) -> tuple[Transaction, list[str]]:
    """Return a transaction with that many tasks for each queue, and their ids."""
    tq = queue_at("", commit_deadline=deadline)
    tq.__dict__["broker"] = broker
    transaction = Transaction(tq)
    with bound(transaction):
        ids = [tq.add(f"/{number}", queue=queue) for number in range(count) for queue in QUEUES]
    return transaction, ids


def states(store: Inspectable) -> set[str]:
    """Return the ids of all that is stored."""
    return {task_id.decode() for found in store.queues().values() for task_id in found.states}


async def test_what_was_voted_is_stored_and_runs_once_it_is_finished(store: Inspectable) -> None:
    broker = Tripping(store.open())
    transaction, ids = voting(broker)
    await transaction.vote()
    assert (states(store), queued(store)) == (set(ids), set())
    await transaction.finish()
    assert queued(store) == set(ids)
    assert broker.calls == ["prepare", "prepare", "promote", "promote"]
    await broker.aclose()


async def test_what_is_discarded_leaves_nothing(store: Inspectable) -> None:
    broker = Tripping(store.open())
    transaction, _ = voting(broker)
    await transaction.vote()
    await transaction.discard()
    assert states(store) == set()
    await broker.aclose()


def test_synchronous_code_votes_too(store: Inspectable) -> None:
    tq = queue_at(store.url)
    for verb in ("finish", "discard"):
        transaction = tq.begin()
        with bound(transaction):
            task_id = tq.add("/a")
        transaction.vote_sync()
        assert queued(store) == set()
        getattr(transaction, f"{verb}_sync")()
        assert queued(store) == ({task_id} if verb == "finish" else set())
        store.lose()


@pytest.mark.accept("CT05")
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_vote_that_fails_leaves_nothing_that_runs(store: Inspectable, fault: Fault) -> None:
    for at in range(2):
        store.lose()
        broker = Tripping(store.open(), at, trip(fault))
        transaction, _ = voting(broker)
        with pytest.raises(ConfigError if fault == "misconfigured" else BrokerUnavailable) as raised:
            await transaction.vote()
        assert not isinstance(raised.value, ReplyLost)
        assert transaction.state == "aborted"
        assert states(store) == set()
        await broker.aclose()


async def test_a_cancelled_vote_leaves_nothing(store: Inspectable) -> None:
    for at in range(2):
        jobs: list[asyncio.Task[None]] = []

        async def cancel(carry_out: Any, jobs: list[asyncio.Task[None]] = jobs) -> None:
            jobs[0].cancel()
            await carry_out()

        broker = Tripping(store.open(), at, cancel)
        transaction, _ = voting(broker)
        jobs.append(asyncio.create_task(transaction.vote()))
        with pytest.raises(asyncio.CancelledError):
            await jobs[0]
        assert states(store) == set()
        await broker.aclose()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_finish_that_could_not_be_told_is_told_with_the_next(
    store: Inspectable, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    for at in (2, 3):
        store.lose()
        caplog.clear()
        broker = Tripping(store.open(), at, trip(fault))
        transaction, ids = voting(broker)
        await transaction.vote()
        await transaction.finish()
        assert transaction.state == "committed", "the database has committed, whatever the broker says"
        assert "did not confirm that 6 task(s)" in caplog.text
        assert ids[0] in caplog.text
        assert set(ids) >= queued(store)
        assert states(store) == set(ids), "nothing is lost"
        other, more = voting(broker, count=1)
        await other.vote()
        await other.finish()
        assert queued(store) == {*ids, *more}
        await broker.aclose()


async def test_a_cancelled_finish_ends_first(store: Inspectable) -> None:
    jobs: list[asyncio.Task[None]] = []

    async def cancel(carry_out: Any) -> None:
        jobs[0].cancel()
        await carry_out()

    broker = Tripping(store.open(), 2, cancel)
    transaction, ids = voting(broker)
    await transaction.vote()
    jobs.append(asyncio.create_task(transaction.finish()))
    with pytest.raises(asyncio.CancelledError):
        await jobs[0]
    assert queued(store) == set(ids)
    await broker.aclose()


async def test_what_nobody_has_decided_is_set_aside_and_both_words_still_count_then(store: Inspectable) -> None:
    for verb in ("finish", "discard"):
        store.lose()
        broker = Tripping(store.open())
        transaction, ids = voting(broker)
        await transaction.vote()
        inside = store.open()
        for queue in QUEUES:
            store.backdate("prepared", dict.fromkeys(ids, store.clock() - 60_001), queue=queue)
            await inside.due(queue, deadline=time.monotonic() + 10)
        for task_id in ids:
            queue = QUEUES[ids.index(task_id) % 2]
            state = await inside.get(queue, task_id, deadline=time.monotonic() + 10)
            assert state is not None
            assert (state.state, state.reason) == ("failed", "in-doubt")
        await getattr(transaction, verb)()
        assert queued(store) == (set(ids) if verb == "finish" else set())
        assert states(store) == queued(store)
        await inside.aclose()
        await broker.aclose()


async def test_a_discard_leaves_alone_what_has_failed_otherwise(store: Inspectable) -> None:
    broker = Tripping(store.open())
    transaction, ids = voting(broker)
    await transaction.vote()
    inside = store.open()
    await Voted(inside, {"default": ids[::2]}, 10).finish()
    await inside.aclose()
    await transaction.discard()
    assert states(store) == queued(store) == set(ids[::2])
    await broker.aclose()


@pytest.mark.parametrize("verb", ["finish", "discard"])
async def test_a_capture_gets_what_is_finished_and_nothing_else(verb: str) -> None:
    tq = taskqueue.TaskQueue(queues=["default", "mail"])
    with capture() as tasks:
        transaction = tq.begin()
        with bound(transaction):
            tq.add("/a")
        await transaction.vote()
        assert tasks == []
        await getattr(transaction, verb)()
        assert tasks.paths == (["/a"] if verb == "finish" else [])


@pytest.mark.parametrize("voted", [True, False])
async def test_add_tells_at_once_that_the_broker_is_down(private_server: RedisServer, voted: bool) -> None:  # noqa: FBT001
    tq = queue_at(private_server.url, commit_deadline=0.5)
    await tq.push("/first")
    private_server.kill()

    async def attempt() -> None:
        transaction = tq.begin()
        with bound(transaction):
            tq.add("/a")
        await (transaction.vote() if voted else transaction.commit())

    with pytest.raises(BrokerUnavailable, match="did not confirm"):
        await attempt()
    transaction = tq.begin()
    with bound(transaction), pytest.raises(BrokerUnavailable, match=r"add: the broker is down.*try again"):
        tq.add("/b")
    assert len(transaction) == 0
    with capture() as tasks, bound(transaction):
        tq.add("/in-a-test")
    assert tasks == []
    private_server.restart()
    # Somebody is let through a second later, and finds it well again.
    await until(lambda: _works(attempt), "adding works again")
    assert tq.broker.trouble is None
    await tq.aclose()


async def _works(attempt: Any) -> bool:
    try:
        await attempt()
    except BrokerUnavailable as error:
        logging.getLogger(__name__).info("%s", error)
        return False
    return True
