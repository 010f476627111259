"""What no producer has decided is decided by who knows, on every server."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping

import pytest

from taskqueue.broker import Broker
from taskqueue.brokers.redis import RedisBroker
from taskqueue.doubts import Doubt, Doubts, Resolve
from tests.tasks import opaque_tasks
from tests.waiting import until
from tests.work import Work


def soon() -> float:
    """Return a deadline that no healthy server misses."""
    return time.monotonic() + 10


@pytest.fixture
async def broker(redis_url: str) -> AsyncIterator[RedisBroker]:
    broker = RedisBroker(redis_url, namespace="taskqueue")
    yield broker
    await broker.aclose()


async def doubted(broker: RedisBroker, count: int = 1) -> list[str]:
    """Have tasks voted, and a minute pass."""
    tasks = opaque_tasks(count)
    await broker.prepare("default", tasks, deadline=soon())
    for _ in range(0, count, 100):  # so many at once
        await broker.script("due", "default", lambda: (-1,), deadline=soon())
    return [task.id for task in tasks]


async def state(broker: Broker, task_id: str) -> str:
    """Return where a task is, ``forgotten`` if it is nowhere."""
    found = await broker.get("default", task_id, deadline=soon())
    return "forgotten" if found is None else found.state


def answering(answers: Mapping[str, object]) -> tuple[Resolve, list[Doubt]]:
    """Return a resolver with these answers by id, and what it was asked."""
    asked: list[Doubt] = []

    def resolve(doubt: Doubt) -> bool | None:
        asked.append(doubt)
        return answers[doubt.id]  # type: ignore[return-value]  # some are what they must not be

    return resolve, asked


async def test_each_answer_is_carried_out(broker: RedisBroker) -> None:
    committed, aborted, unknown = await doubted(broker, 3)
    resolve, asked = answering({committed: True, aborted: False, unknown: None})
    doubts = Doubts(broker, ["default"], resolve)
    await doubts.look()
    assert [await state(broker, one) for one in (committed, aborted, unknown)] == ["queued", "forgotten", "failed"]
    assert {(one.id, one.queue, one.path) for one in asked} == {
        (one, "default", "/path") for one in (committed, aborted, unknown)
    }
    asked.clear()
    await doubts.look()
    assert [one.id for one in asked] == [unknown], "what is not known yet is asked again"


async def test_what_has_failed_otherwise_is_no_doubt(broker: RedisBroker) -> None:
    work = Work(broker)
    await work.fail(*opaque_tasks(1))
    resolve, asked = answering({})
    await Doubts(broker, ["default"], resolve).look()
    assert asked == []


async def test_what_a_person_or_its_producer_has_decided_meanwhile_is_asked_no_more(broker: RedisBroker) -> None:
    (task_id,) = await doubted(broker)
    resolve, asked = answering({task_id: None})
    doubts = Doubts(broker, ["default"], resolve)
    await doubts.look()
    await broker.promote("default", [task_id], deadline=soon())
    await doubts.look()
    assert len(asked) == 1


async def test_all_of_many_are_found_and_later_ones_too(broker: RedisBroker) -> None:
    first = await doubted(broker, 205)
    resolve, asked = answering(dict.fromkeys(first))
    doubts = Doubts(broker, ["default"], resolve)
    await doubts.look()
    assert {one.id for one in asked} == set(first)
    (later,) = await doubted(broker)
    doubts._resolve, asked = answering(dict.fromkeys([*first, later]))
    await doubts.look()
    assert later in {one.id for one in asked}


@pytest.mark.parametrize("answer", ["yes", 1, ZeroDivisionError("the resolver's own fault")])
async def test_what_is_no_answer_changes_nothing_and_is_logged(
    broker: RedisBroker, answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    (task_id,) = await doubted(broker)

    async def resolve(_: Doubt) -> bool | None:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]  # as somebody without a checker would

    await Doubts(broker, ["default"], resolve).look()
    assert await state(broker, task_id) == "failed"
    assert task_id in caplog.text
    assert "resolve" in caplog.text


async def test_it_watches_until_it_is_cancelled(broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskqueue.doubts.INTERVAL", 0.01)
    watching = asyncio.create_task(Doubts(broker, ["default"], lambda _: False).watch())
    (task_id,) = await doubted(broker)

    async def forgotten() -> bool:
        return await state(broker, task_id) == "forgotten"

    await until(forgotten, "the aborted task is forgotten")
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
