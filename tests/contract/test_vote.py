"""A vote stores tasks and queues none; what comes after it, or never comes, decides. On every server."""

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
from tests.invariants import assert_invariants
from tests.servers import RedisServer
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


def states(client: Any) -> set[str]:
    """Return the ids of all that is stored."""
    return {task_id.decode() for found in assert_invariants(client).values() for task_id in found.states}


async def test_what_was_voted_is_stored_and_runs_once_it_is_finished(redis_server: RedisServer) -> None:
    client, broker = redis_server.client(), Tripping(redis_server.url)
    transaction, ids = voting(broker)
    await transaction.vote()
    assert (states(client), queued(client)) == (set(ids), set())
    await transaction.finish()
    assert queued(client) == set(ids)
    assert broker.calls == ["prepare", "prepare", "promote", "promote"]
    await broker.aclose()


async def test_what_is_discarded_leaves_nothing(redis_server: RedisServer) -> None:
    client, broker = redis_server.client(), Tripping(redis_server.url)
    transaction, _ = voting(broker)
    await transaction.vote()
    await transaction.discard()
    assert states(client) == set()
    await broker.aclose()


def test_synchronous_code_votes_too(redis_server: RedisServer) -> None:
    client = redis_server.client()
    tq = queue_at(redis_server.url)
    for verb in ("finish", "discard"):
        transaction = tq.begin()
        with bound(transaction):
            task_id = tq.add("/a")
        transaction.vote_sync()
        assert queued(client) == set()
        getattr(transaction, f"{verb}_sync")()
        assert queued(client) == ({task_id} if verb == "finish" else set())
        client.flushall()


@pytest.mark.accept("CT05")
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_vote_that_fails_leaves_nothing_that_runs(redis_server: RedisServer, fault: Fault) -> None:
    client = redis_server.client()
    for at in range(2):
        client.flushall()
        broker = Tripping(redis_server.url, at, trip(fault))
        transaction, _ = voting(broker)
        with pytest.raises(ConfigError if fault == "misconfigured" else BrokerUnavailable) as raised:
            await transaction.vote()
        assert not isinstance(raised.value, ReplyLost)
        assert transaction.state == "aborted"
        assert states(client) == set()
        await broker.aclose()


async def test_a_cancelled_vote_leaves_nothing(redis_server: RedisServer) -> None:
    client = redis_server.client()
    for at in range(2):
        jobs: list[asyncio.Task[None]] = []

        async def cancel(carry_out: Any, jobs: list[asyncio.Task[None]] = jobs) -> None:
            jobs[0].cancel()
            await carry_out()

        broker = Tripping(redis_server.url, at, cancel)
        transaction, _ = voting(broker)
        jobs.append(asyncio.create_task(transaction.vote()))
        with pytest.raises(asyncio.CancelledError):
            await jobs[0]
        assert states(client) == set()
        await broker.aclose()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_finish_that_could_not_be_told_is_told_with_the_next(
    redis_server: RedisServer, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    client = redis_server.client()
    for at in (2, 3):
        client.flushall()
        caplog.clear()
        broker = Tripping(redis_server.url, at, trip(fault))
        transaction, ids = voting(broker)
        await transaction.vote()
        await transaction.finish()
        assert transaction.state == "committed", "the database has committed, whatever the broker says"
        assert "did not confirm that 6 task(s)" in caplog.text
        assert ids[0] in caplog.text
        assert set(ids) >= queued(client)
        assert states(client) == set(ids), "nothing is lost"
        other, more = voting(broker, count=1)
        await other.vote()
        await other.finish()
        assert queued(client) == {*ids, *more}
        await broker.aclose()


async def test_a_cancelled_finish_ends_first(redis_server: RedisServer) -> None:
    jobs: list[asyncio.Task[None]] = []

    async def cancel(carry_out: Any) -> None:
        jobs[0].cancel()
        await carry_out()

    broker = Tripping(redis_server.url, 2, cancel)
    transaction, ids = voting(broker)
    await transaction.vote()
    jobs.append(asyncio.create_task(transaction.finish()))
    with pytest.raises(asyncio.CancelledError):
        await jobs[0]
    assert queued(redis_server.client()) == set(ids)
    await broker.aclose()


async def test_what_nobody_has_decided_is_set_aside_and_both_words_still_count_then(redis_server: RedisServer) -> None:
    client = redis_server.client()
    for verb in ("finish", "discard"):
        client.flushall()
        broker = Tripping(redis_server.url)
        transaction, ids = voting(broker)
        await transaction.vote()
        for queue in QUEUES:
            await broker.script("due", queue, lambda: (-1,), deadline=time.monotonic() + 10)  # a minute later
        for task_id in ids:
            queue = QUEUES[ids.index(task_id) % 2]
            state = await broker.get(queue, task_id, deadline=time.monotonic() + 10)
            assert state is not None
            assert (state.state, state.reason) == ("failed", "in-doubt")
        await getattr(transaction, verb)()
        assert queued(client) == (set(ids) if verb == "finish" else set())
        assert states(client) == queued(client)
        await broker.aclose()


async def test_a_discard_leaves_alone_what_has_failed_otherwise(redis_server: RedisServer) -> None:
    client, broker = redis_server.client(), Tripping(redis_server.url)
    transaction, ids = voting(broker)
    await transaction.vote()
    await Voted(broker, {"default": ids[::2]}, 10).finish()
    await transaction.discard()
    assert states(client) == queued(client) == set(ids[::2])
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
