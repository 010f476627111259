"""Tasks among the resources of the transaction package: with all of them or not at all, and never before them."""

import itertools
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import transaction
from transaction.interfaces import ISavepointDataManager, TransientError

import taskqueue
from taskqueue.configured import instances
from taskqueue.errors import BrokerUnavailable
from taskqueue.middleware.transaction import TaskDataManager, bind, transaction_of
from taskqueue.portal import in_portal
from taskqueue.testing import capture
from taskqueue.transaction import bound
from tests.contract.test_commit import queued
from tests.contract.test_vote import states
from tests.doors import Consumer, Handler, Reply, View, adding, fetch, serving, task_queue
from tests.resources import PHASES, Failed, Rows, rows
from tests.servers import RedisServer
from tests.stores import RedisStore

KEYS = ["/var/Data.fs:1", "rows", "~sqlalchemy:9", "~zope.sendmail", "~~taskqueue"]
BEFORE, AFTER = "rows", "~~~"


@pytest.fixture(autouse=True)
def nothing_left_over() -> Iterator[None]:
    yield
    transaction.abort()


@pytest.fixture
def captured() -> Iterator[taskqueue.TaskQueue]:
    with capture():
        yield bound_to()


def bound_to(url: str | None = None, manager: Any = transaction.manager, **options: Any) -> taskqueue.TaskQueue:
    implicit = options.pop("implicit", False)
    tq = task_queue(url, **options) if url else taskqueue.TaskQueue(queues=["default", "mail"])
    bind(tq, manager, implicit=implicit)
    return tq


@pytest.fixture
def tq(any_server: RedisServer) -> Iterator[taskqueue.TaskQueue]:
    made = bound_to(any_server.url)
    yield made
    in_portal(made, made.aclose, made.aclose)


@pytest.fixture(autouse=True)
def nothing_bound_left() -> Iterator[None]:
    """Let no TaskQueue of a test, kept by its own references, be found by `add` in another one."""
    yield
    for made in tuple(instances):
        made._enlisted.clear()


@pytest.fixture
def store(any_server: RedisServer) -> RedisStore:
    return RedisStore(any_server)


# ---- commit and abort


def test_tasks_are_queued_in_order_once_the_transaction_has_committed(
    tq: taskqueue.TaskQueue, store: RedisStore
) -> None:
    with transaction.manager:
        ids = [taskqueue.add(f"/{number}") for number in range(12)]
        assert states(store) == set()
    assert [found.decode() for found in reversed(store.queue().waiting)] == ids
    with transaction.manager:
        more = tq.add("/next")
    assert queued(store) == {*ids, more}


def test_an_abort_a_doom_and_a_failure_leave_nothing(tq: taskqueue.TaskQueue, store: RedisStore) -> None:
    transaction.begin()
    tq.add("/aborted")
    transaction.abort()
    foreign = transaction.begin()
    foreign.doom()
    tq.add("/doomed")
    with pytest.raises(transaction.interfaces.DoomedTransaction):
        transaction.commit()
    transaction.abort()
    with pytest.raises(Failed), transaction.manager:  # noqa: PT012 - what is tried is the block
        tq.add("/failed")
        raise Failed
    with transaction.manager:
        pass
    assert states(store) == set()


@pytest.mark.parametrize("key", [BEFORE, AFTER])
@pytest.mark.parametrize("phase", PHASES)
def test_whatever_fails_in_another_resource_nothing_runs_that_it_has_not_finished(
    tq: taskqueue.TaskQueue, store: RedisStore, tmp_path: Path, phase: str, key: str
) -> None:
    transaction.begin()
    task_id = tq.add("/later")
    Rows(tmp_path / "rows", transaction.manager, key=key, fails_in=phase).write(task_id)
    with pytest.raises(Failed):
        transaction.commit()
    # After ours only a finish is too late: both had voted for it.
    assert states(store) == queued(store) == ({task_id} if (phase, key) == ("tpc_finish", AFTER) else set())
    with pytest.raises(taskqueue.NoTransaction, match="has ended"):
        tq.add("/into-the-failed-one")
    transaction.abort()
    finished = queued(store)
    with transaction.manager:
        again = tq.add("/again")
    assert queued(store) == {*finished, again}


@pytest.mark.accept("CT05")
@pytest.mark.parametrize("key", ["rows", "~sqlalchemy:9"])
@pytest.mark.parametrize("phase", ["tpc_vote", "tpc_finish"])
def test_a_broker_that_is_down_leaves_the_applications_data_unchanged(
    private_server: RedisServer, tmp_path: Path, phase: str, key: str
) -> None:
    tq = bound_to(private_server.url, commit_deadline=0.2)

    def order(number: int) -> str:
        with transaction.manager:
            task_id = tq.add(f"/{number}")
            Rows(tmp_path / "rows", transaction.manager, key=key, commits_in=phase).write(task_id)
            if number:
                private_server.kill()
        return task_id

    first = order(0)
    with pytest.raises(BrokerUnavailable):
        order(1)
    transaction.abort()
    assert rows(tmp_path / "rows") == {first}
    in_portal(tq, tq.aclose, tq.aclose)


def test_its_key_stands_behind_all_others_in_the_order_of_the_first_adds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys.modules["taskqueue.transaction"], "_serials", itertools.count(95)
    )  # a number gets a digit more
    foreign = transaction.begin()
    with capture() as tasks:
        queues = [bound_to() for _ in range(12)]
        for number in (3, 11, *range(12)):
            queues[number].add(f"/{number}")
        others = [Rows(tmp_path / f"rows{number}", transaction.manager, key=key) for number, key in enumerate(KEYS)]
        ours = [found for found in foreign._resources if isinstance(found, TaskDataManager)]
        assert len(ours) == len(queues), "one for each TaskQueue, not for each task"
        assert all(ISavepointDataManager.providedBy(found) for found in ours)
        assert max(other.sortKey() for other in others) < min(own.sortKey() for own in ours)
        transaction.commit()
    first = [3, 11, *(number for number in range(12) if number not in (3, 11))]
    assert list(dict.fromkeys(tasks.paths)) == [f"/{number}" for number in first]


@pytest.mark.parametrize("how", ["attempts", "run"])
def test_a_conflict_that_is_retried_leaves_one_set_of_tasks(
    tq: taskqueue.TaskQueue, store: RedisStore, how: str
) -> None:
    ids: list[list[str]] = []

    class Conflicting(Rows):
        def tpc_vote(self, _foreign: Any) -> None:
            if len(ids) < 3:
                raise TransientError

    def work() -> None:
        ids.append([tq.add("/one"), tq.add("/two")])
        Conflicting(Path(":memory:"), transaction.manager, commits_in="")

    if how == "run":
        transaction.manager.run(work)
    else:
        for attempt in transaction.manager.attempts():
            with attempt:
                work()
    assert len(ids) == 3
    assert states(store) == queued(store) == set(ids[-1])


# ---- savepoints


@pytest.mark.accept("CT04")
def test_a_savepoint_rolled_back_forgets_what_was_added_since(tq: taskqueue.TaskQueue, store: RedisStore) -> None:
    foreign = transaction.begin()
    empty = foreign.savepoint()
    tq.add("/joined-after-the-savepoint")
    empty.rollback()
    kept = [tq.add("/before")]
    savepoint = foreign.savepoint()
    tq.add("/after")
    with tq.transaction():
        tq.add("/in-a-block")
        savepoint.rollback()
        kept.append(tq.add("/later-in-the-block"))
    with tq.transaction():
        kept.append(tq.add("/in-a-block-around-it"))
        foreign.savepoint().rollback()
    transaction.commit()
    assert states(store) == queued(store) == set(kept)


def test_a_block_whose_surroundings_were_rolled_back_says_so(captured: taskqueue.TaskQueue) -> None:
    early = transaction.begin().savepoint()
    with pytest.raises(taskqueue.NoTransaction, match="has ended"), captured.transaction():
        early.rollback()


class Walk:
    """A transaction at random, and beside it a list: of each task its number, and the blocks it was added in."""

    def __init__(self, tq: taskqueue.TaskQueue, chance: random.Random, number: int) -> None:
        self.tasks: list[tuple[int, tuple[int, ...]]] = []
        self.number = number  # of the next task
        self._tq, self._chance, self._foreign = tq, chance, transaction.begin()
        self._blocks: tuple[int, ...] = ()
        self._joined = False
        self._savepoints: list[tuple[Any, int, bool]] = []  # with the next number, and whether it came before us

    def steps(self) -> None:
        for _ in range(self._chance.randrange(12)):
            self._chance.choice([self._add, self._add, self._add, self._savepoint, self._rollback, self._block])()

    def _add(self) -> None:
        self._tq.add(f"/{self.number}")
        self.tasks.append((self.number, self._blocks))
        self._joined = True
        self.number += 1

    def _savepoint(self) -> None:
        self._savepoints.append((self._foreign.savepoint(), self.number, not self._joined))

    def _rollback(self) -> None:
        choice = [one for one in self._savepoints if one[0].valid and not (one[2] and self._blocks)]
        if choice:
            savepoint, number, early = self._chance.choice(choice)
            savepoint.rollback()
            self.tasks = [task for task in self.tasks if task[0] < number]
            self._joined = self._joined and not early

    def _block(self) -> None:
        before, mine = self._blocks, self._chance.randrange(10**9)
        fails = len(before) > 2 or self._chance.random() < 0.3
        with suppress(Failed), self._tq.transaction():
            self._joined, self._blocks = True, (*before, mine)
            if len(before) < 3:
                self.steps()
            if fails:
                raise Failed
        if fails:
            self.tasks = [task for task in self.tasks if mine not in task[1]]
        self._blocks = before


@pytest.mark.parametrize("seed", range(8))
def test_random_savepoints_blocks_and_aborts_do_what_a_list_does(seed: int) -> None:
    chance = random.Random(seed)
    with capture() as tasks:
        tq, number, kept = bound_to(), 0, list[int]()
        for _ in range(40):
            walk = Walk(tq, chance, number)
            walk.steps()
            number = walk.number
            if chance.random() < 0.7:
                transaction.commit()
                kept += [task for task, _ in walk.tasks]
            else:
                transaction.abort()
    assert [int(path[1:]) for path in tasks.paths] == kept
    assert len(kept) > 50


# ---- whose transaction it is


def test_without_a_transaction_add_raises_and_begins_none(captured: taskqueue.TaskQueue) -> None:
    with pytest.raises(taskqueue.NoTransaction, match="no transaction is running"):
        captured.add("/nowhere")
    explicit = transaction.TransactionManager(explicit=True)
    tq = bound_to(manager=explicit)
    with pytest.raises(taskqueue.NoTransaction):
        tq.add("/nowhere")
    with explicit:
        tq.add("/here")
        with pytest.raises(taskqueue.NoTransaction):
            captured.add("/nowhere")
    assert transaction_of(captured, transaction.manager) is None


def test_where_one_runs_always_the_first_task_begins_it() -> None:
    with capture() as tasks:
        tq = bound_to(implicit=True)
        for number in range(2):
            tq.add(f"/{number}")
            transaction.commit()
        assert tasks.paths == ["/0", "/1"]
        tq.add("/aborted")
        transaction.abort()
        explicit = transaction.TransactionManager(explicit=True)
        assert transaction_of(tq, explicit, implicit=True) is None
    assert tasks.paths == ["/0", "/1"]


def test_each_thread_has_its_own(tq: taskqueue.TaskQueue, store: RedisStore) -> None:
    both = threading.Barrier(2)
    ids: dict[str, str] = {}

    def work(name: str) -> None:
        with transaction.manager as foreign:
            ids[name] = tq.add(f"/{name}")
            both.wait(20)
            if name == "aborted":
                foreign.abort()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("kept", "aborted")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert states(store) == queued(store) == {ids["kept"]}


def test_a_block_around_it_ends_by_itself(captured: taskqueue.TaskQueue) -> None:
    with capture() as tasks:
        with captured.transaction():
            captured.add("/around")
            with transaction.manager:
                captured.add("/inside")
                with captured.transaction(independent=True):
                    captured.add("/at-once")
                assert tasks.paths == ["/at-once"]
            assert tasks.paths == ["/at-once", "/inside"]
        assert tasks.paths == ["/at-once", "/inside", "/around"]


def test_the_answer_of_a_request_waits_for_it(captured: taskqueue.TaskQueue) -> None:
    around = captured.begin()
    with bound(around), transaction.manager:
        captured.add("/later")
        assert around.pending
    assert not around.pending
    assert len(around) == 0


def test_hooks_add_before_the_commit_and_not_after(captured: taskqueue.TaskQueue) -> None:
    refused: list[str] = []

    def late(_committed: bool) -> None:  # noqa: FBT001 - see addAfterCommitHook
        try:
            captured.add("/late")
        except taskqueue.NoTransaction as error:
            refused.append(str(error))
        captured.push_sync("/pushed")

    for first in (True, False):
        with capture() as tasks, transaction.manager as foreign:
            if first:
                foreign.addBeforeCommitHook(captured.add, ("/before",))
            foreign.addAfterCommitHook(late)
        assert tasks.paths == [*(["/before"] if first else []), "/pushed"]
    assert [error.count("has ended") for error in refused] == [1, 1]


# ---- a process that dies


def test_a_process_that_dies_in_between_leaves_its_tasks_in_doubt(any_server: RedisServer) -> None:
    script = """
        import os, sys, transaction
        from taskqueue.middleware.transaction import bind
        from tests.doors import task_queue
        from tests.resources import Rows
        from pathlib import Path

        class Dying(Rows):
            def tpc_finish(self, foreign):
                os._exit(9)

        tq = task_queue(sys.argv[1])
        bind(tq)
        with transaction.manager:
            print(tq.add("/later"), flush=True)
            Dying(Path(":memory:"), transaction.manager)
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), any_server.url]
    died = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert died.returncode == 9, died.stderr
    task_id = died.stdout.strip()
    store = RedisStore(any_server)
    assert (states(store), queued(store)) == ({task_id}, set())
    tq = task_queue(any_server.url)

    async def in_doubt() -> str | None:
        script = tq.broker.script("due", "default", lambda: (-1,), deadline=time.monotonic() + 10)  # type: ignore[attr-defined]
        await script  # a minute later
        state = await tq.get(task_id)
        return None if state is None else state.reason

    assert in_portal(tq, tq.aclose, in_doubt) == "in-doubt"
    in_portal(tq, tq.aclose, tq.aclose)


# ---- asynchronous code


@pytest.fixture
async def served(any_server: RedisServer) -> AsyncIterator[taskqueue.TaskQueue]:
    made = task_queue(any_server.url)
    yield made
    await made.aclose()


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
async def test_a_body_that_only_the_loop_can_read_must_be_read_first(
    served: taskqueue.TaskQueue,
    kind: str,
    reads: bool,  # noqa: FBT001
) -> None:
    manager = transaction.TransactionManager(explicit=True)
    bind(served, manager)
    said: list[str] = []

    async def handler(view: View) -> Reply:
        if reads:
            await view.body()
        try:
            with manager:
                taskqueue.add("/copy", method="POST")
        except taskqueue.InvalidTask as error:
            said.append(str(error))
            manager.abort()
        return Reply(text=(await view.body()).decode() if not reads else "")

    async with serving(kind, {"/": handler}, served) as base:
        response = await fetch("POST", base + "/", data=b"the body")
    assert response.status == 200
    bodies = [task.body for task in await Consumer(served).tasks()]
    if kind == "asgi" and not reads:
        assert (bodies, response.text) == ([], "the body")
        assert "read it first, or give payload=" in said[0]
    else:
        assert (bodies, said) == ([b"the body"], [])


async def test_other_requests_use_their_own_transaction(served: taskqueue.TaskQueue) -> None:
    manager = transaction.TransactionManager(explicit=True)
    bind(served, manager)
    plain: Handler = adding("/plain")
    async with serving("asgi", {"/": plain}, served) as base:
        assert (await fetch("GET", base + "/")).status == 200
    assert [task.path for task in await Consumer(served).tasks()] == ["/plain"]
