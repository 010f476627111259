"""Who adds sees its own transaction and no other: in tasks, branches, savepoints, threads and child processes."""

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread
import pytest

import taskqueue
from taskqueue import portal
from taskqueue.errors import BodyUnavailable, BrokerUnavailable, CommitUncertain, InvalidTask, NoTransaction
from taskqueue.request import CurrentRequest, CurrentTask
from taskqueue.target import Limits
from taskqueue.testing import Tasks
from taskqueue.transaction import Entry, Transaction, bound
from tests.house import tree


class Boom(Exception):
    """What goes wrong in a handler."""


@dataclass(frozen=True)
class Body:
    """The body of a request, whole already."""

    content: bytes
    declared: int | None = None

    def fetch(self) -> None:
        pass

    async def finish(self, limit: int) -> bytes:
        return self.content


REQUEST = CurrentRequest(
    headers=(("Cookie", "a=1"), ("Content-Type", "text/plain")),
    host="www.example.org",
    scheme="https",
    body=Body(b"the body"),
    user_id=lambda: "ada",
)


def queue(**options: Any) -> taskqueue.TaskQueue:
    """Return a TaskQueue that reaches no broker."""
    return taskqueue.TaskQueue(queues=["default", "mail"], public_url="https://example.org", **options)


@pytest.fixture
def tq() -> taskqueue.TaskQueue:
    return queue()


@pytest.fixture
def tasks() -> Iterator[Tasks]:
    with taskqueue.capture() as tasks:
        yield tasks


# One transaction.


@pytest.mark.accept("CT02")
async def test_tasks_are_handed_over_at_commit_and_not_before(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    async with tq.transaction() as transaction:
        ids = [tq.add("/a"), taskqueue.add("/b")]
        assert tasks == []
        assert len(transaction) == 2
    assert [task.id for task in tasks] == ids
    assert transaction.state == "committed"


@pytest.mark.accept("CT02")
def test_synchronous_code_commits_too(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    with taskqueue.transaction(tq):
        tq.add("/a")
        assert tasks == []
    assert tasks.paths == ["/a"]


@pytest.mark.accept("CT03")
async def test_an_exception_forgets_everything(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    with suppress(Boom):
        async with tq.transaction():
            tq.add("/a")
            raise Boom
    assert tasks == []


@pytest.mark.accept("CT03")
def test_an_exception_forgets_everything_in_synchronous_code_too(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    with suppress(Boom), tq.transaction():
        tq.add("/a")
        raise Boom
    assert tasks == []


async def test_what_went_wrong_is_not_hidden(tq: taskqueue.TaskQueue) -> None:
    async def handler() -> None:
        async with tq.transaction():
            raise Boom

    def view() -> None:
        with tq.transaction():
            raise Boom

    with pytest.raises(Boom):
        await handler()
    with pytest.raises(Boom):
        await asyncio.to_thread(view)


async def test_a_cancelled_handler_forgets_everything(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    async def handler() -> None:
        async with tq.transaction():
            tq.add("/a")
            await asyncio.Event().wait()

    with anyio.move_on_after(0.01):
        await handler()
    assert tasks == []


async def test_a_refused_add_leaves_the_others_alone(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    async with tq.transaction() as transaction:
        tq.add("/a")
        with pytest.raises(InvalidTask):
            tq.add("b")
        assert len(transaction) == 1
        tq.add("/c")
    assert tasks.paths == ["/a", "/c"]


async def test_a_transaction_without_tasks_reaches_no_broker() -> None:
    async with queue(url="redis://127.0.0.1:1").transaction():
        pass


async def test_what_was_given_up_by_hand_is_not_committed(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    async with tq.transaction() as transaction:
        tq.add("/a")
        transaction.abort()
    assert tasks == []


async def test_push_queues_at_once_whatever_becomes_of_the_request(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    with suppress(Boom):
        async with tq.transaction():
            tq.add("/forgotten")
            task_id = await tq.push("/now", queue="mail")
            assert tasks.find("/now", queue="mail").id == task_id
            raise Boom
    assert tasks.paths == ["/now"]


def test_push_sync_is_push_for_synchronous_code(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    assert tq.push_sync("/now") == tasks.find("/now").id


# Savepoints.


@pytest.mark.accept("CT04")
async def test_a_savepoint_forgets_only_its_own(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    async with tq.transaction():
        tq.add("/before")
        with suppress(Boom):
            async with tq.transaction():
                tq.add("/inside")
                async with tq.transaction():
                    tq.add("/deeper")
                raise Boom
        tq.add("/after")
    assert tasks.paths == ["/before", "/after"]


@pytest.mark.accept("CT04")
def test_a_savepoint_in_synchronous_code_forgets_only_its_own(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    with tq.transaction():
        tq.add("/before")
        with suppress(Boom), tq.transaction():
            tq.add("/inside")
            raise Boom
        with tq.transaction():
            tq.add("/kept")
    assert tasks.paths == ["/before", "/kept"]


@pytest.mark.accept("CT04")
async def test_savepoints_go_with_the_transaction_around_them(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    with suppress(Boom):
        async with tq.transaction():
            async with tq.transaction():
                tq.add("/inside")
            raise Boom
    assert tasks == []


async def test_the_order_is_that_of_the_adds_across_savepoints(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    turns = [asyncio.Event() for _ in range(6)]

    async def branch(*steps: int) -> None:
        async with tq.transaction():
            for step in steps:
                await turns[step].wait()
                tq.add(f"/{step}")
                if step + 1 < len(turns):
                    turns[step + 1].set()

    turns[0].set()
    async with tq.transaction():
        await asyncio.gather(branch(0, 3), branch(1, 4), branch(2, 5))
    assert tasks.paths == ["/0", "/1", "/2", "/3", "/4", "/5"]


@pytest.mark.accept("CT04")
async def test_a_branch_of_gather_that_fails_takes_no_other_with_it(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    async def branch(name: str, *, fails: bool) -> None:
        async with tq.transaction():
            tq.add(f"/{name}")
            await asyncio.sleep(0)
            if fails:
                raise Boom

    async with tq.transaction():
        results = await asyncio.gather(
            branch("a", fails=False), branch("b", fails=True), branch("c", fails=False), return_exceptions=True
        )
    assert [type(result) for result in results] == [type(None), Boom, type(None)]
    assert tasks.paths == ["/a", "/c"]


async def test_branches_may_add_without_savepoints(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    async def branch(name: str) -> None:
        await asyncio.sleep(0)
        taskqueue.add(f"/{name}")

    async with tq.transaction():
        await asyncio.gather(*(branch(name) for name in "abc"))
    assert sorted(tasks.paths) == ["/a", "/b", "/c"]


async def test_a_savepoint_knows_the_request_even_if_nothing_was_added_before(
    tq: taskqueue.TaskQueue, tasks: Tasks
) -> None:
    transaction = Transaction(tq, request=REQUEST)
    with bound(transaction):
        async with tq.transaction():
            tq.add("/first", "POST")
        async with tq.transaction(independent=True):
            tq.add("/apart")
        tq.add("/last")
    await transaction.commit()
    assert tasks.paths == ["/apart", "/first", "/last"]
    assert {task.user_id for task in tasks} == {"ada"}
    assert {task.host for task in tasks} == {"www.example.org"}
    assert tasks.find("/first").body == b"the body"
    assert dict(tasks.find("/first").headers) == {"cookie": "a=1", "content-type": "text/plain"}


def test_a_synchronous_savepoint_may_stand_in_a_running_loop(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    async def handler() -> None:
        async with tq.transaction():
            with tq.transaction():
                tq.add("/a")
            with pytest.raises(NoTransaction, match="would block the event loop"), tq.transaction(independent=True):
                raise AssertionError
            with pytest.raises(NoTransaction, match=r"await tq.push\(...\)"):
                tq.push_sync("/b")
        with pytest.raises(NoTransaction, match=r"async with taskqueue\.transaction"), tq.transaction():
            raise AssertionError

    asyncio.run(handler())
    assert tasks.paths == ["/a"]


# Several TaskQueues, and tasks wanted in any case.


async def test_each_task_queue_has_its_own_transaction(tasks: Tasks) -> None:
    one, other = queue(), queue()
    async with one.transaction() as first:
        one.add("/one")
        with pytest.raises(NoTransaction):
            other.add("/other")
        with suppress(Boom):
            async with other.transaction():
                other.add("/forgotten")
                one.add("/one-again")
                taskqueue.add("/innermost-forgotten")
                async with one.transaction() as savepoint:
                    assert savepoint.outer is first
                    taskqueue.add("/innermost")
                raise Boom
        async with other.transaction():
            other.add("/other")
        assert tasks.paths == ["/other"]
    assert tasks.paths == ["/other", "/one", "/one-again", "/innermost"]


async def test_an_independent_transaction_survives_the_one_around_it(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    with suppress(Boom):
        async with tq.transaction():
            tq.add("/forgotten")
            async with taskqueue.transaction(independent=True):
                tq.add("/audit")
            assert tasks.paths == ["/audit"]
            tq.add("/forgotten-too")
            raise Boom
    assert tasks.paths == ["/audit"]


async def test_an_independent_transaction_may_fail_alone(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    async with tq.transaction():
        with suppress(Boom):
            async with tq.transaction(independent=True):
                tq.add("/forgotten")
                raise Boom
        tq.add("/kept")
    assert tasks.paths == ["/kept"]


# Where there is none, or none any more.


def test_outside_a_transaction_the_remedies_are_named(tq: taskqueue.TaskQueue) -> None:
    for add in (tq.add, taskqueue.add):
        with pytest.raises(NoTransaction) as caught:
            add("/a")
        message = str(caught.value)
        remedies = (
            "middleware",
            "copy_context().run",
            "async with taskqueue.transaction(tq)",
            "tq.push(",
            "tq.push_sync",
        )
        assert [remedy for remedy in remedies if remedy not in message] == []
    with pytest.raises(NoTransaction, match="transaction: no TaskQueue is bound here"):
        taskqueue.transaction()


@dataclass
class Line:
    """Where a transaction delivers to: notes what comes, and fails when told."""

    failure: BaseException | None = None
    delivered: int = 0
    said: list[str] = field(default_factory=list)

    async def deliver(self, entries: Sequence[Entry], request: CurrentRequest | None) -> None:
        self.delivered += len(entries)
        if self.failure is not None:
            raise self.failure

    def deliver_sync(self, entries: Sequence[Entry], request: CurrentRequest | None) -> None:
        asyncio.run(self.deliver(entries, request))

    async def vote(self, entries: Sequence[Entry], request: CurrentRequest | None) -> "Line":
        await self.deliver(entries, request)
        return self

    def vote_sync(self, entries: Sequence[Entry], request: CurrentRequest | None) -> "Line":
        return asyncio.run(self.vote(entries, request))

    def run_sync(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return asyncio.run(_awaited(call))

    async def finish(self) -> None:
        self.said.append("finish")

    async def discard(self) -> None:
        self.said.append("discard")


async def _awaited(call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()


TASK = taskqueue.Task(id="id-1", queue="default", method="GET", target="/")


def append(transaction: Transaction) -> None:
    """Add a task without a TaskQueue."""
    transaction.append(TASK, copies_body=False, copies_user=False)


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        (None, "committed"),
        (BrokerUnavailable("gone"), "aborted"),
        (Boom(), "aborted"),
        (CommitUncertain(["id-1"]), "uncertain"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("sync", [False, True])
def test_an_ended_transaction_takes_and_commits_nothing_more(failure: Exception | None, state: str, sync: bool) -> None:  # noqa: FBT001
    line = Line(failure)
    transaction = Transaction(line)
    savepoint = Transaction(line, outer=transaction)
    append(transaction)
    commit = transaction.commit_sync if sync else lambda: asyncio.run(transaction.commit())
    if failure is None:
        commit()
    else:
        with pytest.raises(type(failure)):
            commit()
    assert (transaction.state, len(transaction)) == (state, 0)
    for ended in (transaction, savepoint):
        with pytest.raises(
            NoTransaction, match=rf"add: the transaction .* has ended \({state}\).*independent=True.*tq.push"
        ):
            append(ended)
        with pytest.raises(NoTransaction, match=rf"commit: .* has ended \({state}\)"):
            ended.commit_sync()
    transaction.abort()
    assert transaction.state == state
    assert line.delivered == 1


Step = Callable[[Transaction, str], None]


def _now(transaction: Transaction, verb: str) -> None:
    getattr(transaction, f"{verb}_sync")()


def _awaiting(transaction: Transaction, verb: str) -> None:
    asyncio.run(getattr(transaction, verb)())


@pytest.mark.parametrize("step", [_now, _awaiting])
class TestAVote:
    def test_is_followed_by_its_finish(self, step: Step) -> None:
        line = Line()
        transaction = Transaction(line)
        append(transaction)
        step(transaction, "vote")
        assert (transaction.state, line.delivered, line.said, transaction.pending) == ("voted", 1, [], True)
        with pytest.raises(NoTransaction, match=r"add: the transaction .* has ended \(voted\)"):
            append(transaction)
        step(transaction, "finish")
        step(transaction, "finish")
        assert (transaction.state, line.said, transaction.pending) == ("committed", ["finish"], False)
        step(transaction, "discard")
        assert (transaction.state, line.said) == ("committed", ["finish"])

    def test_or_by_its_discard(self, step: Step) -> None:
        line = Line()
        transaction = Transaction(line)
        append(transaction)
        step(transaction, "vote")
        transaction.abort()
        assert transaction.state == "voted", "only who may speak with the broker can abort this"
        step(transaction, "discard")
        step(transaction, "finish")
        assert (transaction.state, line.said, transaction.pending) == ("aborted", ["discard"], False)

    def test_that_fails_has_aborted(self, step: Step) -> None:
        line = Line(BrokerUnavailable("gone"))
        transaction = Transaction(line)
        append(transaction)
        with pytest.raises(BrokerUnavailable):
            step(transaction, "vote")
        assert transaction.state == "aborted"
        step(transaction, "discard")
        assert line.said == []

    def test_on_nothing_asks_nobody(self, step: Step) -> None:
        line = Line(Boom())
        transaction = Transaction(line)
        step(transaction, "vote")
        step(transaction, "finish")
        assert (transaction.state, line.delivered, line.said) == ("committed", 0, [])

    def test_that_never_comes_is_an_abort(self, step: Step) -> None:
        line = Line()
        transaction = Transaction(line)
        append(transaction)
        step(transaction, "discard")
        assert (transaction.state, line.delivered, line.said) == ("aborted", 0, [])


def test_what_was_added_since_a_mark_is_rolled_back_in_blocks_under_way_too() -> None:
    transaction = Transaction(Line())
    append(transaction)
    block = Transaction(transaction.tq, outer=transaction)
    append(block)
    mark = transaction.mark()
    append(transaction)
    append(block)
    transaction.rollback(mark)
    append(block)
    block.commit_sync()
    assert [entry.sequence for entry in transaction._entries] == [0, 1, 6]
    assert transaction.used


def test_an_answer_waits_for_a_transaction_that_was_begun_meanwhile() -> None:
    line = Line()
    outer, other = Transaction(line), Transaction(line)
    outer.attach(other)
    assert not outer.pending
    append(other)
    assert outer.pending
    other.vote_sync()
    assert outer.pending
    other.finish_sync()
    assert not outer.pending


def test_of_those_that_run_the_one_begun_last_is_meant(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    found: list[Transaction] = []
    tq.enlist(lambda: found[0] if found else None)
    with pytest.raises(NoTransaction):
        taskqueue.add("/nobody")
    with tq.transaction():
        found.append(tq.begin())
        taskqueue.add("/database")
        with tq.transaction():  # a savepoint of the database's transaction
            taskqueue.add("/savepoint")
        with tq.transaction(independent=True):
            taskqueue.add("/independent")
        assert tasks.paths == ["/independent"]
        first = found.pop()
        taskqueue.add("/request")
    assert tasks.paths == ["/independent", "/request"]
    found.append(first)
    taskqueue.add("/alone")
    found.pop().commit_sync()
    assert tasks.paths == ["/independent", "/request", "/database", "/savepoint", "/alone"]


async def test_a_task_that_outlives_its_request_cannot_add_to_it(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    ended = asyncio.Event()

    async def background() -> None:
        await ended.wait()
        with pytest.raises(NoTransaction, match="ended"):
            tq.add("/late")
        with pytest.raises(NoTransaction, match=r"transaction: .* has ended"):
            async with tq.transaction():
                raise AssertionError
        async with tq.transaction(independent=True):
            tq.add("/own")

    async with tq.transaction():
        tq.add("/a")
        running = asyncio.create_task(background())
    ended.set()
    await running
    assert tasks.paths == ["/a", "/own"]


async def test_a_savepoint_that_outlives_its_transaction_is_told(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    opened, ended = asyncio.Event(), asyncio.Event()

    async def background() -> None:
        async with tq.transaction():
            tq.add("/late")
            opened.set()
            await ended.wait()

    async with tq.transaction():
        running = asyncio.create_task(background())
        await opened.wait()
    ended.set()
    with pytest.raises(NoTransaction, match="commit: the transaction this code belongs to has ended"):
        await running
    assert tasks == []


async def test_a_scope_is_entered_once(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    scope = tq.transaction()
    async with scope:
        tq.add("/a")
        with pytest.raises(NoTransaction, match="entered before"):
            await scope.__aenter__()
    with pytest.raises(NoTransaction, match="entered before"):
        await scope.__aenter__()
    with pytest.raises(NoTransaction, match="never entered"):
        await tq.transaction().__aexit__(None, None, None)
    assert tasks.paths == ["/a"]


async def test_a_scope_belongs_where_it_is_entered_not_where_it_was_made(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    scope = tq.transaction()
    with suppress(Boom):
        async with tq.transaction():
            async with scope:
                tq.add("/savepoint")
            raise Boom
    assert tasks == []


def test_a_scope_may_be_entered_and_left_in_two_copies_of_a_context(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    scope = tq.transaction()

    def enter() -> None:
        scope.__enter__()
        tq.add("/a")

    contextvars.copy_context().run(enter)
    contextvars.copy_context().run(scope.__exit__, None, None, None)
    assert tasks.paths == ["/a"]
    with pytest.raises(NoTransaction):
        tq.add("/b")


# Requests side by side.


async def test_requests_in_one_loop_never_see_each_other(tasks: Tasks) -> None:
    shared = queue()
    gate = asyncio.Barrier(50)

    async def request(number: int) -> list[str]:
        async with shared.transaction():
            ids = []
            for step in range(4):
                await gate.wait()
                ids.append(shared.add(f"/{number}/{step}"))
            await gate.wait()
            if number % 2:
                raise Boom
        return ids

    results = await asyncio.gather(*(request(number) for number in range(50)), return_exceptions=True)
    kept = [task_id for result in results if isinstance(result, list) for task_id in result]
    assert len(kept) == 100
    assert sorted(task.id for task in tasks) == sorted(kept)
    for number in range(0, 50, 2):
        own = [path for path in tasks.paths if path.startswith(f"/{number}/")]
        assert own == [f"/{number}/{step}" for step in range(4)]


@pytest.mark.parametrize("in_thread", [asyncio.to_thread, anyio.to_thread.run_sync])
async def test_a_thread_with_the_context_adds_to_its_request(
    tq: taskqueue.TaskQueue, tasks: Tasks, in_thread: Callable[..., Awaitable[object]]
) -> None:
    def view() -> None:
        tq.add("/plain")
        with taskqueue.transaction():
            taskqueue.add("/savepoint")
        with suppress(Boom), tq.transaction():
            tq.add("/forgotten")
            raise Boom
        tq.push_sync("/now")

    async with tq.transaction():
        await in_thread(view)
        assert tasks.paths == ["/now"]
    assert tasks.paths == ["/now", "/plain", "/savepoint"]


async def test_a_pool_without_the_context_is_refused_rather_than_pushed_early(
    tq: taskqueue.TaskQueue, tasks: Tasks
) -> None:
    with ThreadPoolExecutor(1) as pool:
        async with tq.transaction():
            for add in (tq.add, taskqueue.add):
                with pytest.raises(NoTransaction, match=r"contextvars.copy_context\(\).run"):
                    pool.submit(add, "/a").result()
            pool.submit(contextvars.copy_context().run, tq.add, "/b").result()
    assert tasks.paths == ["/b"]


def test_threads_of_a_synchronous_server_never_mix(tasks: Tasks) -> None:
    shared = queue()
    gate = threading.Barrier(16)

    def request(number: int) -> list[str]:
        ids = []
        for turn in range(5):
            with shared.transaction():
                gate.wait()
                first, second = shared.add(f"/{number}/{turn}/a"), shared.add(f"/{number}/{turn}/b")
                gate.wait()
                if (number + turn) % 2:
                    shared.add(f"/{number}/{turn}/c")
                    continue
            ids += [first, second]
            with suppress(Boom), shared.transaction():
                shared.add("/forgotten")
                raise Boom
        return ids

    with ThreadPoolExecutor(16) as pool:
        alone = [task_id for ids in pool.map(request, range(16)) for task_id in ids]
    by_transaction: dict[str, list[str]] = {}
    for task in tasks:
        by_transaction.setdefault(task.path.rpartition("/")[0], []).append(task.path[-1])
    assert len(alone) == 16 * 5
    assert len(by_transaction) == 16 * 5
    assert all(names == ["a", "b", *(["c"] if len(names) > 2 else [])] for names in by_transaction.values())
    assert {task.id for task in tasks if len(by_transaction[task.path.rpartition("/")[0]]) == 2} == set(alone)
    assert "/forgotten" not in tasks.paths


# What the commit fills in.


async def test_the_body_and_the_awaited_user_are_filled_in_at_commit(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    asked = 0

    async def later() -> str | None:
        nonlocal asked
        asked += 1
        return "grace"

    request = CurrentRequest(headers=(), host="h", scheme="http", body=Body(b"the body"), user_id_later=later)
    transaction = Transaction(tq, request=request)
    with bound(transaction):
        tq.add("/copy", "POST")
        tq.add("/own", payload=b"own", user_id="bob")
        tq.add("/nobody", user_id=None)
        tq.add("/plain")
    assert asked == 0
    await transaction.commit()
    assert asked == 1
    assert [(task.path, task.body, task.user_id) for task in tasks] == [
        ("/copy", b"the body", "grace"),
        ("/own", b"own", "bob"),
        ("/nobody", b"", None),
        ("/plain", b"", "grace"),
    ]


async def test_an_awaited_user_that_is_no_id_aborts_everything(tq: taskqueue.TaskQueue, tasks: Tasks) -> None:
    async def later() -> str | None:
        return ""

    transaction = Transaction(tq, request=CurrentRequest(headers=(), host="h", scheme="http", user_id_later=later))
    with bound(transaction):
        tq.add("/a")
        tq.add("/b", user_id="bob")
    with pytest.raises(InvalidTask, match="user_id: it is empty"):
        await transaction.commit()
    assert (tasks, transaction.state) == ([], "aborted")


def test_the_transaction_has_a_limit_which_savepoints_share(tasks: Tasks) -> None:
    small = queue(limits=Limits(transaction=3 * 1000))
    with small.transaction() as transaction:
        with small.transaction():
            small.add("/a", payload=b"x" * 998)
        with suppress(Boom), small.transaction():
            small.add("/b", payload=b"x" * 998)
            raise Boom
        with small.transaction() as savepoint:
            with pytest.raises(
                InvalidTask, match="payload: this transaction would hold 3001 bytes, over the limit of 3000"
            ):
                small.add("/c", payload=b"x" * 999)
            assert len(savepoint) == 0
            small.add("/c", payload=b"x" * 998)
            assert savepoint.total_bytes == transaction.total_bytes == 3000
        with pytest.raises(InvalidTask, match="pass a reference"):
            small.add("/")
    assert tasks.paths == ["/a", "/c"]
    small.push_sync("/d", payload=b"x" * 2998)


async def test_copies_of_the_body_count_too(tasks: Tasks) -> None:
    for limit, fits in ((3 * 1002, True), (3 * 1002 - 1, False)):
        small = queue(limits=Limits(transaction=limit))
        request = CurrentRequest(headers=(), host="h", scheme="http", body=Body(b"x" * 1000))
        transaction = Transaction(small, request=request)
        with bound(transaction):
            for path in ("/a", "/b", "/c"):
                small.add(path, "POST")
        if fits:
            await transaction.commit()
            continue
        with pytest.raises(
            BodyUnavailable, match=r"3 task\(s\) copy the current request's body of 1000 bytes"
        ) as caught:
            await transaction.commit()
        assert caught.value.status == 413
    assert tasks.paths == ["/a", "/b", "/c"]


def test_a_delivery_knows_its_task(tq: taskqueue.TaskQueue) -> None:
    task = CurrentTask(
        id="id-1",
        queue="default",
        user_id="ada",
        user=None,
        attempt=1,
        delivery=1,
        max_attempts=11,
        enqueued_at=0,
        deadline=0,
    )
    assert taskqueue.current_task() is None
    with bound(Transaction(tq)):
        assert taskqueue.current_task() is None
    with bound(Transaction(tq, request=CurrentRequest(headers=(), host="", scheme="", task=task))):
        assert taskqueue.current_task() is task
        with tq.transaction():
            assert taskqueue.current_task() is task


# The background loop of a process.


def run(program: str) -> str:
    """Run a program in which every warning is an error; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        cwd=tree.ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    # That a step took more than 0.1 s says something of the machine alone.
    told = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, told) == (0, [])
    return done.stdout


def test_synchronous_code_leaves_nothing_open_when_the_process_ends() -> None:
    program = """
import taskqueue
tq = taskqueue.TaskQueue(queues=["default"], public_url="http://example.org")
with taskqueue.capture() as tasks:
    tq.push_sync("/a")
print(tasks.paths)
"""
    assert run(program) == "['/a']\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_gets_a_background_loop_of_its_own_and_leaves_its_parents_alone() -> None:
    # Forking where threads run is what pre-forking servers do; newer Pythons warn of it.
    program = """
import os, sys, threading, warnings
import taskqueue
from taskqueue import portal
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
tq = taskqueue.TaskQueue(queues=["default"], public_url="http://example.org")
held, forked = threading.Event(), threading.Event()

def hold():
    with portal._background._lock:  # as a thread does that uses the loop just now
        held.set()
        forked.wait()

with taskqueue.capture() as tasks:
    tq.push_sync("/parent")
    threading.Thread(target=hold).start()
    held.wait()
    child = os.fork()
    forked.set()
    tq.push_sync("/child" if child == 0 else "/parent")
    print(tasks.paths, flush=True)
    if child == 0:
        sys.exit(7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status
    tq.push_sync("/after")
print(tasks.paths)
"""
    lines = run(program).splitlines()
    assert sorted(lines[:2]) == ["['/parent', '/child']", "['/parent', '/parent']"]
    assert lines[2:] == ["['/parent', '/parent', '/after']"]


def test_a_background_loop_that_cannot_start_is_told_and_tried_again(
    tq: taskqueue.TaskQueue, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    background = portal._Background()
    monkeypatch.setattr(portal, "_background", background)

    def no_loop(*_: object) -> None:
        raise OSError("too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(anyio, "run", no_loop)
        with pytest.raises(OSError, match="too many open files"):
            tq.push_sync("/lost")
    tq.push_sync("/kept")
    background.stop()
    assert tasks.paths == ["/kept"]
