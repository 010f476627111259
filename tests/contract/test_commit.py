"""A commit is the promise: what it says of a task is true, whatever fails, is lost or is cancelled on the way.

Tried on every store there is. The faults come from a broker that trips over its n-th call, for every n; and from a
server that is frozen.
"""

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import anyio
import pytest

import taskqueue
from taskqueue import commit as commit_module
from taskqueue.broker import Broker
from taskqueue.errors import BrokerUnavailable, CommitUncertain, ConfigError, InvalidTask, ReplyLost, UnknownQueue
from taskqueue.keys import Keyring
from taskqueue.request import CurrentRequest
from taskqueue.seal import unseal
from taskqueue.task import SealedTask
from taskqueue.transaction import Transaction, bound
from tests.house import tree
from tests.servers import RedisServer
from tests.stores import Inspectable, RedisStore
from tests.tasks import SECRET
from tests.waiting import wait_until

MIB: Final = 1024 * 1024
CarryOut = Callable[[], Awaitable[None]]
Trip = Callable[[CarryOut], Awaitable[None]]
Fault = Literal["refused", "misconfigured", "lost unsent", "lost done"]
FAULTS: Final[tuple[Fault, ...]] = ("refused", "misconfigured", "lost unsent", "lost done")


def queue_at(url: str, **options: Any) -> taskqueue.TaskQueue:
    """Return a TaskQueue of three queues."""
    queues = ["default", "mail", "mailhost"]
    return taskqueue.TaskQueue(
        url, secret=SECRET, queues=queues, namespace="taskqueue", public_url="https://example.org", **options
    )


@pytest.fixture
async def tq(store: Inspectable) -> AsyncIterator[taskqueue.TaskQueue]:
    tq = queue_at(store.url, commit_deadline=10)
    yield tq
    await tq.aclose()
    store.queues()


@pytest.fixture
def frozen(private_server: RedisServer) -> RedisStore:
    """What the server that is to be frozen holds."""
    return RedisStore(private_server)


def waiting(store: Inspectable, queue: str = "default") -> list[str]:
    """Return the ids in line, the front first."""
    return [task_id.decode() for task_id in reversed(store.queue(queue).waiting)]


def queued(store: Inspectable) -> set[str]:
    """Return the ids of all tasks that will run."""
    queues = store.queues().values()
    return {task_id.decode() for found in queues for task_id in found.waiting} | {
        task_id.decode() for found in queues for task_id in found.indexes.get("scheduled", {})
    }


class Tripping:
    """A broker that notes the calls of a commit, and at its n-th one trips as told."""

    trouble = None

    def __init__(self, broker: Broker, at: int = -1, trip: Trip | None = None) -> None:
        self.calls: list[str] = []
        self.deadlines: set[float] = set()
        self.aclose, self.routes = broker.aclose, broker.routes
        self._broker, self._at, self._trip = broker, at, trip

    async def _call(self, name: str, deadline: float, carry_out: CarryOut) -> None:
        self.calls.append(name)
        self.deadlines.add(deadline)
        if self._trip is not None and len(self.calls) - 1 == self._at:
            await self._trip(carry_out)
        else:
            await carry_out()

    async def push(self, queue: str, tasks: Sequence[SealedTask], *, deadline: float) -> None:
        await self._call("push", deadline, lambda: self._broker.push(queue, tasks, deadline=deadline))

    async def prepare(self, queue: str, tasks: Sequence[SealedTask], *, deadline: float) -> None:
        await self._call("prepare", deadline, lambda: self._broker.prepare(queue, tasks, deadline=deadline))

    async def promote(self, queue: str, ids: Sequence[str], *, deadline: float) -> None:
        await self._call("promote", deadline, lambda: self._broker.promote(queue, ids, deadline=deadline))

    async def discard(self, queue: str, ids: Sequence[str], *, deadline: float) -> None:
        await self._call("discard", deadline, lambda: self._broker.discard(queue, ids, deadline=deadline))


async def committed(
    broker: Tripping, queues: Sequence[str] = ("default",), *, count: int = 3, deadline: float = 10
) -> tuple[list[str], BaseException | None]:
    """Commit that many tasks to each queue through this broker; return their ids, and what was raised."""
    tq = queue_at("", commit_deadline=deadline)
    tq.__dict__["broker"] = broker
    transaction = Transaction(tq)
    with bound(transaction):
        ids = [tq.add(f"/{number}", queue=queue) for number in range(count) for queue in queues]
    raised: BaseException | None = None
    try:
        await transaction.commit()
    except (taskqueue.TaskQueueError, asyncio.CancelledError) as error:
        raised = error
    with anyio.CancelScope(shield=True):
        await broker.aclose()
    return ids, raised


def ids_of(ids: Sequence[str], queues: Sequence[str], queue: str) -> set[str]:
    """Return which of the ids of ``committed`` are of this queue."""
    return set(ids[list(queues).index(queue) :: len(queues)])


# One push, or two phases.


@pytest.mark.accept("CT01", "CT02")
async def test_an_id_is_in_line_after_the_commit_and_not_before(tq: taskqueue.TaskQueue, store: Inspectable) -> None:
    async with tq.transaction():
        task_id = tq.add("/a")
        assert await tq.size() == 0
        assert await tq.get(task_id) is None
    assert await tq.size() == 1
    assert waiting(store) == [task_id]
    assert str(uuid.UUID(task_id, version=4)) == task_id
    state = await tq.get(task_id)
    assert state is not None
    assert (state.id, state.queue, state.state, state.attempt) == (task_id, "default", "queued", 0)
    assert (state.method, state.path, state.status, state.reason) == ("GET", "/a", 0, "")


@pytest.mark.accept("CT02")
def test_synchronous_code_commits_too(store: Inspectable) -> None:
    tq = queue_at(store.url)
    with tq.transaction():
        task_id = tq.add("/a", queue="mail")
        assert tq.size_sync("mail") == 0
    state = tq.get_sync(task_id)
    assert state is not None
    assert (state.state, tq.size_sync("mail"), tq.size_sync()) == ("queued", 1, 0)
    tq.reset_sync("mail")
    assert tq.get_sync(task_id) is None


@pytest.mark.accept("CT03")
async def test_an_aborted_transaction_leaves_nothing(tq: taskqueue.TaskQueue, store: Inspectable) -> None:
    async def handler() -> None:
        async with tq.transaction():
            tq.add("/a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await handler()
    assert await tq.size() == 0
    assert store.everything() == {}


@pytest.mark.parametrize(
    ("count", "queues", "calls"),
    [
        (1, ("default",), ["push"]),
        (200, ("mail",), ["push"]),
        (201, ("default",), ["prepare", "prepare", "promote"]),
        (500, ("default",), ["prepare", "prepare", "prepare", "promote"]),
        (1, ("mail", "default"), ["prepare", "prepare", "promote", "promote"]),
    ],
)
async def test_what_is_small_travels_in_one_call_and_what_is_not_in_two_phases(
    store: Inspectable, count: int, queues: Sequence[str], calls: list[str]
) -> None:
    broker = Tripping(store.open())
    ids, raised = await committed(broker, queues, count=count)
    assert raised is None
    assert broker.calls == calls
    for queue in queues:
        assert waiting(store, queue) == [task_id for task_id in ids if task_id in ids_of(ids, queues, queue)]
    assert queued(store) == set(ids)


async def test_what_is_heavy_travels_in_pieces(tq: taskqueue.TaskQueue, store: Inspectable) -> None:
    broker = Tripping(store.open())
    tq.__dict__["broker"] = broker
    sizes = (600_000, 600_000, 300_000, 3 * MIB, 1)
    async with tq.transaction():
        ids = [tq.add("/a", payload=bytes(size)) for size in sizes]
    assert broker.calls == ["prepare", "prepare", "prepare", "prepare", "promote"]
    assert waiting(store) == ids
    broker.calls.clear()
    await tq.push("/b", payload=bytes(MIB - 1000))
    assert broker.calls == ["push"]


@pytest.mark.accept("CT06")
async def test_the_order_in_line_is_that_of_the_adds(tq: taskqueue.TaskQueue, store: Inspectable) -> None:
    async with tq.transaction():
        ids = [tq.add(f"/{number}") for number in range(1000)]
    assert waiting(store) == ids


async def test_requests_that_commit_at_once_share_the_line_whole(tq: taskqueue.TaskQueue, store: Inspectable) -> None:
    async def request() -> list[str]:
        async with tq.transaction():
            return [tq.add("/a"), tq.add("/b"), tq.add("/c")]

    rows = await asyncio.gather(*(request() for _ in range(50)))
    line = waiting(store)
    assert len(line) == 150
    assert sorted(rows) == sorted(line[at : at + 3] for at in range(0, 150, 3))


async def test_what_is_stored_opens_to_what_was_recorded(tq: taskqueue.TaskQueue, store: Inspectable) -> None:
    body = os.urandom(taskqueue.Limits().body)
    options: dict[str, Any] = {
        "headers": {"Cookie": "a=1"},
        "user_id": "ada",
        "label": "big",
        "timeout": 5,
        "retry_max_count": 1,
    }
    with taskqueue.capture() as captured:
        await tq.push("/a?b=1", payload=body, **options)
    task_id = await tq.push("/a?b=1", payload=body, **options)
    record = await tq.broker.inspector.record("default", task_id, deadline=asyncio.get_running_loop().time() + 10)
    assert record is not None
    stored = unseal(Keyring([SECRET]), queue="default", task_id=task_id, record=record)
    expected = captured.find("/a")
    assert stored.body == body
    for name in ("method", "target", "host", "scheme", "headers", "user_id", "label", "timeout", "retry_max_count"):
        assert getattr(stored, name) == getattr(expected, name), name


async def test_a_body_over_the_limit_is_refused(tq: taskqueue.TaskQueue, store: Inspectable) -> None:
    with pytest.raises(InvalidTask, match="10485761 bytes are over the limit of 10485760"):
        await tq.push("/a", payload=bytes(10 * MIB + 1))
    assert store.everything() == {}


async def test_a_delay_counts_from_the_commit_and_an_eta_is_a_time(tq: taskqueue.TaskQueue, store: Inspectable) -> None:
    eta = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    later, at, over = (
        await tq.push("/later", delay=3600),
        await tq.push("/at", eta=eta),
        await tq.push("/over", eta=eta - timedelta(hours=3)),
    )
    states = await asyncio.gather(*(tq.get(task_id) for task_id in (later, at, over)))
    assert [state.state for state in states if state] == ["scheduled", "scheduled", "queued"]
    delayed, timed, _ = states
    assert delayed is not None
    assert delayed.due - delayed.added == 3_600_000
    assert timed is not None
    assert timed.due == round(eta.timestamp() * 1000)
    assert waiting(store) == [over]
    assert await tq.size() == 1, "what is delayed does not wait in line"


# Looking and emptying.


@pytest.mark.accept("CT39")
async def test_the_size_is_what_waits_and_reset_empties_one_queue(tq: taskqueue.TaskQueue) -> None:
    for queue in ("mail", "mail", "mail", "mailhost"):
        task_id = await tq.push("/a", queue=queue)
    deadline = asyncio.get_running_loop().time() + 10
    lease, _ = await tq.broker.claim("mail", "one", begins=True, deadline=deadline)
    await tq.broker.exchange(lease, [], token="t", want=1, room=MIB, deadline=deadline)
    assert [await tq.size(queue) for queue in ("mail", "mailhost", "default", None)] == [2, 1, 0, 0]
    await tq.reset("mail")
    assert [await tq.size(queue) for queue in ("mail", "mailhost")] == [0, 1]
    assert await tq.get(task_id) is not None
    for ask in (tq.size, tq.reset):
        with pytest.raises(UnknownQueue, match="default, mail, mailhost"):
            await ask("nowhere")


async def test_an_unknown_id_is_none(tq: taskqueue.TaskQueue) -> None:
    assert await tq.get(str(uuid.uuid4())) is None
    assert await tq.get("") is None


def test_each_loop_has_a_connection_of_its_own(store: Inspectable) -> None:
    tq = queue_at(store.url)

    async def one() -> int:
        await tq.push("/a")
        size = await tq.size()
        await tq.aclose()
        return size

    assert [asyncio.run(one()), asyncio.run(one()), tq.size_sync()] == [1, 2, 2]


async def test_a_captured_commit_reaches_no_server(tq: taskqueue.TaskQueue, store: Inspectable) -> None:
    with taskqueue.capture() as tasks:
        await tq.push("/captured")
    await tq.push("/queued")
    assert tasks.paths == ["/captured"]
    assert len(waiting(store)) == 1


# What fails.


@pytest.fixture
def small_pushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two tasks be as many as a push may hold."""
    monkeypatch.setattr(commit_module, "PUSH_TASKS", 2)


def trip(fault: Fault) -> Trip:
    """Return how a call fails: before Redis has it, or after."""

    async def tripped(carry_out: CarryOut) -> None:
        if fault == "lost done":
            await carry_out()
        errors = {"refused": BrokerUnavailable, "misconfigured": ConfigError}
        raise errors.get(fault, ReplyLost)(fault)

    return tripped


@pytest.mark.usefixtures("small_pushes")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("queues", [("default",), ("mail", "default", "mailhost")], ids=len)
async def test_whichever_call_fails_what_is_said_is_true(
    store: Inspectable, queues: Sequence[str], fault: Fault
) -> None:
    calls = 3 * len(queues)  # two prepares and a promote for each
    for at in range(calls):
        store.lose()
        broker = Tripping(store.open(), at, trip(fault))
        ids, raised = await committed(broker, queues)
        call = broker.calls[at]
        done = [queue for queue, _ in zip(queues, range(at - 2 * len(queues)), strict=False)]
        lost = [queues[len(done)]] if call == "promote" and fault.startswith("lost") else []
        may_run = set().union(*(ids_of(ids, queues, queue) for queue in (*done, *lost)))
        if may_run:
            assert isinstance(raised, CommitUncertain), (at, raised)
            assert set(raised.ids) == may_run, at
            assert len(raised.ids) == len(may_run)
        else:
            assert isinstance(raised, ConfigError if fault == "misconfigured" else BrokerUnavailable), (at, raised)
            assert not isinstance(raised, ReplyLost)
        runs = set().union(*(ids_of(ids, queues, queue) for queue in (*done, *(lost if fault == "lost done" else []))))
        assert queued(store) == runs, at
        states = {task_id.decode() for found in store.queues().values() for task_id in found.states}
        assert states == runs, "what will not run has been discarded"
        assert len(broker.deadlines) == 1, "nothing goes on after the deadline"


@pytest.mark.usefixtures("small_pushes")
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_discard_that_fails_hides_nothing_and_lets_nothing_run(store: Inspectable, fault: Fault) -> None:
    refusal = trip("refused")

    class Clumsy(Tripping):
        async def discard(self, queue: str, ids: Sequence[str], *, deadline: float) -> None:
            await trip(fault)(lambda: Tripping.discard(self, queue, ids, deadline=deadline))

    for at in (1, 3):
        store.lose()
        _, raised = await committed(Clumsy(store.open(), at, refusal), count=4, queues=("default", "mail"))
        assert type(raised) is BrokerUnavailable
        assert str(raised) == "refused"
        assert queued(store) == set()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_push_that_fails_says_whether_it_may_run(store: Inspectable, fault: Fault) -> None:
    ids, raised = await committed(Tripping(store.open(), 0, trip(fault)))
    if fault.startswith("lost"):
        assert isinstance(raised, CommitUncertain)
        assert list(raised.ids) == ids
    else:
        assert not isinstance(raised, CommitUncertain | None)
    assert queued(store) == (set(ids) if fault == "lost done" else set())


# What is cancelled.

CANCELS: Final = ("before", "after", "twice", "before a refusal")


@pytest.mark.usefixtures("small_pushes")
@pytest.mark.parametrize("when", CANCELS)
@pytest.mark.parametrize("count", [1, 3])
async def test_a_cancelled_commit_ends_first_and_then_tells_the_truth(
    store: Inspectable, when: str, count: int
) -> None:
    queues = ("default",) if count == 1 else ("mail", "default")
    for at in range(1 if count == 1 else 6):
        store.lose()
        committing: list[asyncio.Task[tuple[list[str], BaseException | None]]] = []

        async def cancel(
            carry_out: CarryOut,
            committing: list[asyncio.Task[tuple[list[str], BaseException | None]]] = committing,
        ) -> None:
            if when == "after":
                await carry_out()
            for _ in range(2 if when == "twice" else 1):
                committing[0].cancel()
                await asyncio.sleep(0)
            if when == "before a refusal":
                raise BrokerUnavailable("refused")
            if when != "after":
                await carry_out()

        committing.append(asyncio.create_task(committed(Tripping(store.open(), at, cancel), queues, count=count)))
        ids, raised = await committing[0]
        if isinstance(raised, CommitUncertain):
            assert queued(store) == set(raised.ids) <= set(ids), at
            assert when != "before a refusal" or len(raised.ids) < len(ids), at
        else:
            assert isinstance(raised, asyncio.CancelledError), (at, raised)
            assert when == "before a refusal"
            assert queued(store) == set(), at


@pytest.mark.usefixtures("small_pushes")
async def test_a_cancel_scope_waits_for_the_commit(store: Inspectable) -> None:
    for at in range(6):
        store.lose()
        with anyio.CancelScope() as scope:

            async def cancel(carry_out: CarryOut, scope: anyio.CancelScope = scope) -> None:
                scope.cancel()
                await asyncio.sleep(0)
                await carry_out()

            ids, raised = await committed(Tripping(store.open(), at, cancel), ("mail", "default"))
            assert raised is None, at
            assert queued(store) == set(ids), at


async def test_a_loop_that_is_closed_in_the_midst_is_a_doubt(store: Inspectable) -> None:
    async def cancel(carry_out: CarryOut) -> None:
        await carry_out()
        raise asyncio.CancelledError

    ids, raised = await committed(Tripping(store.open(), 0, cancel))
    assert isinstance(raised, CommitUncertain)
    assert set(raised.ids) == set(ids) == queued(store)


# A server that is frozen.


def impatient(tq: taskqueue.TaskQueue) -> taskqueue.TaskQueue:
    """Return a TaskQueue on the same connection that gives up soon, and has just read the rules."""
    soon = queue_at(tq.url, commit_deadline=0.2)
    soon.__dict__["broker"] = tq.broker
    soon._read_at = time.monotonic()
    return soon


@pytest.mark.parametrize("count", [1, 300])
@pytest.mark.parametrize("before", ["connected", "unconnected"])
async def test_what_a_frozen_server_comes_to_too_late_never_runs(
    private_server: RedisServer, frozen: RedisStore, before: str, count: int
) -> None:
    client = private_server.client()
    tq = queue_at(private_server.url, commit_deadline=10)
    if before == "connected":
        # The server has to know the script, or it would ask for it first.
        async with tq.transaction():
            for _ in range(count):
                tq.add("/before")
        client.flushall()
    soon = impatient(tq)
    transaction = Transaction(soon)
    with bound(transaction):
        ids = [soon.add("/a") for _ in range(count)]
    private_server.pause()
    with pytest.raises((CommitUncertain, BrokerUnavailable)) as caught:
        await transaction.commit()
    private_server.resume()
    if before == "connected" and count == 1:
        assert isinstance(caught.value, CommitUncertain), "it was sent, and only the server knows"
        assert (list(caught.value.ids), transaction.state) == (ids, "uncertain")
    else:
        assert type(caught.value) is BrokerUnavailable, "it was not sent, or only the vote was"
        assert transaction.state == "aborted"
    # All that the frozen server was sent stands in sockets that the commit has given up: they are read, then closed.
    await asyncio.to_thread(wait_until, lambda: len(client.client_list()) == 1, "the connections given up are gone")
    assert client.keys("*") == [], "what came too late was not even prepared"
    await tq.push("/again")
    assert len(waiting(frozen)) == 1
    await tq.aclose()


@pytest.mark.usefixtures("small_pushes")
async def test_a_server_that_freezes_between_the_phases_is_a_doubt_about_that_queue(
    private_server: RedisServer, frozen: RedisStore
) -> None:
    async def freeze(carry_out: CarryOut) -> None:
        private_server.pause()
        await carry_out()

    client = private_server.client()
    ids, raised = await committed(Tripping(frozen.open(), 4, freeze), ("mail", "default"), deadline=1)
    private_server.resume()
    assert isinstance(raised, CommitUncertain)
    assert set(raised.ids) == ids_of(ids, ("mail", "default"), "mail")
    await asyncio.to_thread(wait_until, lambda: len(client.client_list()) == 1, "the connections given up are gone")
    assert queued(frozen) <= set(raised.ids)
    assert waiting(frozen, "default") == []


def test_synchronous_code_is_told_within_the_deadline_too(private_server: RedisServer) -> None:
    tq = queue_at(private_server.url, commit_deadline=10)
    tq.push_sync("/before")
    private_server.pause()
    with pytest.raises(CommitUncertain):
        impatient(tq).push_sync("/a")
    private_server.resume()
    client = private_server.client()
    tq.push_sync("/after")
    wait_until(lambda: len(client.client_list()) == 2, "the connection given up is gone")
    assert tq.size_sync() == 2


async def test_a_server_that_is_not_there_is_no_doubt(private_server: RedisServer) -> None:
    tq = queue_at(private_server.url, commit_deadline=0.2)
    private_server.stop()
    with pytest.raises(BrokerUnavailable) as caught:
        await tq.push("/a")
    assert not isinstance(caught.value, ReplyLost)
    await tq.aclose()


# What may be read in the store.


def contents(client: Any, key: bytes) -> bytes:
    """Return a key with all that is in it; nothing there is compressed, as it would be in a dump."""
    readers: dict[bytes, Callable[[], Any]] = {
        b"hash": lambda: [part for pair in client.hgetall(key).items() for part in pair],
        b"list": lambda: client.lrange(key, 0, -1),
        b"zset": lambda: client.zrange(key, 0, -1),
        b"set": lambda: client.smembers(key),
        b"string": lambda: [client.get(key)],
    }
    return b"\n".join([key, *readers[client.type(key)]()])


async def test_nothing_in_the_store_or_its_file_shows_cookie_body_query_or_user(redis_server: RedisServer) -> None:
    tq = queue_at(redis_server.url)
    request = CurrentRequest(
        headers=(
            ("Cookie", "session=canary-cookie"),
            ("Authorization", "Bearer canary-token"),
            ("X-A", "canary-header"),
        ),
        host="canary-host.example.org",
        scheme="https",
        user_id=lambda: "canary-user",
    )
    transaction = Transaction(tq, request=request)
    with bound(transaction):
        tq.add("/shown/path?secret=canary-query", payload=b"canary-body", label="shown-label")
        tq.add("/shown/two", queue="mail", payload="canary-body" * 5000)
    await transaction.commit()
    await tq.aclose()
    client: Any = redis_server.client()
    stored = b"\n".join(contents(client, key) for key in client.keys("*"))
    written = b"".join(path.read_bytes() for path in redis_server.directory.rglob("*.aof"))
    for place in (stored, written):
        assert b"/shown/path" in place
        assert b"shown-label" in place
        assert b"canary" not in place
        assert SECRET.encode() not in place


# Processes.


def run(program: str, url: str) -> str:
    """Run a program in which every warning is an error; return what it prints."""
    head = f"""
import atexit, os, sys, warnings
atexit.register(lambda: at_the_very_end())
def at_the_very_end(): pass
import taskqueue
tq = taskqueue.TaskQueue({url!r}, secret={SECRET!r}, queues=["default"], namespace="taskqueue", public_url="http://e")
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", head + program],
        cwd=tree.ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    told = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]  # a slow first import
    assert (done.returncode, told) == (0, [])
    return done.stdout


def test_a_process_that_ends_leaves_nothing_open(any_server: RedisServer) -> None:
    program = """
import asyncio
def at_the_very_end():
    print(len(tq.broker._links), "open")
async def main():
    await tq.push('/b')
    print(await tq.size())
    await tq.aclose()
asyncio.run(main())
print(tq.size_sync())
"""
    assert run(program, any_server.url) == "1\n1\n0 open\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(("in_child", "size"), [("pass", 2), ("tq.push_sync('/child')", 3)])
def test_a_child_that_ends_does_not_cut_off_its_parent(any_server: RedisServer, in_child: str, size: int) -> None:
    program = f"""
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
tq.push_sync("/parent")
child = os.fork()
if child == 0:
    {in_child}
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
tq.push_sync("/parent")
print(tq.size_sync())
"""
    assert run(program, any_server.url) == f"{size}\n"
