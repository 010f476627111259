"""What every door promises, in every framework: tasks live and die with their request, bodies arrive as they came."""

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import anyio.to_thread
import pytest

import taskqueue
from taskqueue.transaction import Transaction, innermost
from tests.doors import KINDS, Consumer, Handler, Reply, View, adding, fetch, serving
from tests.waiting import until

pytestmark = pytest.mark.parametrize("kind", KINDS)


# ---- commit and abort


@pytest.mark.accept("CT02")
async def test_a_task_is_queued_when_its_request_has_succeeded_not_before(kind: str, tq: taskqueue.TaskQueue) -> None:
    sizes: list[int] = []

    async def handler(_view: View) -> Reply:
        task_id = taskqueue.add("/later")
        sizes.append(await tq.size())
        return Reply(text=task_id)

    async with serving(kind, {"/": handler}, tq) as base:
        response = await fetch("GET", base + "/")
        assert (response.status, sizes) == (200, [0])
        assert [task.id for task in await Consumer(tq).tasks()] == [response.text]


async def fails(_view: View) -> Reply:
    taskqueue.add("/later")
    raise RuntimeError("on purpose")


@pytest.mark.accept("CT03")
@pytest.mark.parametrize(
    ("handler", "status"),
    [
        (fails, 500),
        (adding("/later", reply=Reply(500, "no")), 500),
        (adding("/later", reply=Reply(404, "no")), 404),
        (adding("/later", reply=Reply(400, "no")), 400),
    ],
)
async def test_a_request_that_fails_queues_nothing(
    kind: str, tq: taskqueue.TaskQueue, handler: Handler, status: int
) -> None:
    async with serving(kind, {"/": handler}, tq) as base:
        assert (await fetch("GET", base + "/")).status == status
        assert await tq.size() == 0


@pytest.mark.parametrize("status", [302, 303])
async def test_a_redirect_is_a_success(kind: str, tq: taskqueue.TaskQueue, status: int) -> None:
    reply = Reply(302 if kind == "aiohttp" else status, location="/elsewhere")
    async with serving(kind, {"/": adding("/later", reply=reply)}, tq) as base:
        response = await fetch("GET", base + "/")
        assert (response.status, response.headers["Location"]) == (reply.status, "/elsewhere")
        assert await tq.size() == 1


@pytest.mark.accept("CT04")
async def test_a_savepoint_rolled_back_takes_only_its_own(kind: str, tq: taskqueue.TaskQueue) -> None:
    async def handler(_view: View) -> Reply:
        taskqueue.add("/before")
        with suppress(LookupError):
            async with taskqueue.transaction():
                taskqueue.add("/inside")
                raise LookupError
        with taskqueue.transaction():
            taskqueue.add("/kept")
        taskqueue.add("/after")
        return Reply()

    async with serving(kind, {"/": handler}, tq) as base:
        assert (await fetch("GET", base + "/")).status == 200
    assert [task.path for task in await Consumer(tq).tasks()] == ["/before", "/kept", "/after"]


async def test_what_is_independent_stays_when_the_request_fails(kind: str, tq: taskqueue.TaskQueue) -> None:
    async def handler(_view: View) -> Reply:
        taskqueue.add("/dropped")
        async with taskqueue.transaction(independent=True):
            taskqueue.add("/wanted")
        await tq.push("/at-once")
        raise RuntimeError("on purpose")

    async with serving(kind, {"/": handler}, tq) as base:
        assert (await fetch("GET", base + "/")).status == 500
        assert [task.path for task in await Consumer(tq).tasks()] == ["/wanted", "/at-once"]


# ---- requests beside each other


async def test_requests_beside_each_other_keep_their_tasks_apart(kind: str, tq: taskqueue.TaskQueue) -> None:
    both = asyncio.Barrier(50)

    async def handler(view: View) -> Reply:
        number = int(view.headers["x-number"])
        await both.wait()
        taskqueue.add("/first", params={"n": number})
        await both.wait()
        taskqueue.add("/second", params={"n": number})
        return Reply(500 if number % 5 == 0 else 200)

    async def ask(base: str, number: int) -> None:
        response = await fetch("GET", base + "/", headers={"x-number": str(number)})
        assert response.status == (500 if number % 5 == 0 else 200)

    async with serving(kind, {"/": handler}, tq) as base:
        await asyncio.gather(*(ask(base, number) for number in range(50)))
        targets = {task.target for task in await Consumer(tq).tasks()}
    assert targets == {f"/{which}?n={number}" for number in range(50) if number % 5 for which in ("first", "second")}


async def test_branches_of_a_gather_have_savepoints_of_their_own(kind: str, tq: taskqueue.TaskQueue) -> None:
    async def branch(number: int) -> None:
        async with taskqueue.transaction():
            taskqueue.add("/branch", params={"n": number})
            await asyncio.sleep(0)
            if number % 2:
                raise LookupError

    async def handler(_view: View) -> Reply:
        await asyncio.gather(*(branch(number) for number in range(6)), return_exceptions=True)
        return Reply()

    async with serving(kind, {"/": handler}, tq) as base:
        assert (await fetch("GET", base + "/")).status == 200
    assert [task.target for task in await Consumer(tq).tasks()] == [f"/branch?n={number}" for number in (0, 2, 4)]


async def test_a_thread_sees_the_transaction_only_with_the_context(kind: str, tq: taskqueue.TaskQueue) -> None:
    async def handler(_view: View) -> Reply:
        await anyio.to_thread.run_sync(partial(taskqueue.add, "/from-anyio"))
        await asyncio.to_thread(taskqueue.add, "/from-asyncio")
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(taskqueue.NoTransaction, match="copy_context"):
                await loop.run_in_executor(pool, taskqueue.add, "/lost")
            context = contextvars.copy_context()
            await loop.run_in_executor(pool, lambda: context.run(taskqueue.add, "/from-pool"))
        return Reply()

    async with serving(kind, {"/": handler}, tq) as base:
        assert (await fetch("GET", base + "/")).status == 200
    assert [task.path for task in await Consumer(tq).tasks()] == ["/from-anyio", "/from-asyncio", "/from-pool"]


async def test_what_outlives_its_request_cannot_add(kind: str, tq: taskqueue.TaskQueue) -> None:
    ended, late = asyncio.Event(), asyncio.Event()
    caught: list[str] = []

    async def straggler() -> None:
        await ended.wait()
        try:
            taskqueue.add("/too-late")
        except taskqueue.NoTransaction as error:
            caught.append(str(error))
        late.set()

    jobs: list[asyncio.Task[None]] = []
    running: list[Transaction | None] = []

    async def handler(_view: View) -> Reply:
        running.append(innermost())
        jobs.append(asyncio.create_task(straggler()))
        return Reply()

    async def over() -> bool:
        return running[0] is not None and running[0].state != "open"

    async with serving(kind, {"/": handler}, tq) as base:
        assert (await fetch("GET", base + "/")).status == 200
        await until(over, "the transaction has ended")  # without tasks the client need not wait for it
        ended.set()
        await late.wait()
        assert "has ended (committed)" in caught[0]
        assert await tq.size() == 0
    await asyncio.gather(*jobs)
