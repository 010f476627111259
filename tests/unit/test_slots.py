"""What is started, held and given back, with deliveries that end when a test says so."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from taskqueue import prefetch
from taskqueue.broker import Lease
from taskqueue.delivery import SUSPECT_AFTER, Courier, Prepared
from taskqueue.errors import RecordError
from taskqueue.intake import Intake
from taskqueue.line import Line
from taskqueue.prefetch import Prefetch
from taskqueue.slots import UNSTARTED, Slots
from taskqueue.task import Reservation, Settlement, Verdict

COMPLETE = Verdict("complete", "", 200)


class Ends:
    """A courier whose deliveries end when they are told to."""

    def __init__(self) -> None:
        self.target_down: str | None = None
        self.verdict = COMPLETE
        self.started: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    def prepare(self, reservation: Reservation) -> Prepared:
        self.gates[reservation.id] = asyncio.Event()
        return Prepared(reservation, RecordError("format", "none"))

    async def deliver(self, prepared: Prepared) -> Settlement:
        one = prepared.reservation
        self.started.append(one.id)
        await self.gates[one.id].wait()
        verdict = Verdict("release", "refused") if self.target_down else self.verdict
        return Settlement(one.id, one.delivery, verdict)


class Scene:
    """Slots for two tasks at a time, and the line they are of."""

    def __init__(self) -> None:
        self.courier, self.line = Ends(), Line(Lease("default", "one", "1-a"))
        intake = Intake(cast("Any", None), ["default"])
        self.slots = Slots(cast("Courier", self.courier), intake, lambda: 2, untold=self.untold, wake=lambda: None)

    def untold(self) -> bool:
        return bool(self.line.settlements)

    def take(self, *ids: str, crashes: int = 0) -> None:
        alone = self.slots.is_alone(len(ids))
        for task_id in ids:
            self.slots.take(self.line, Reservation(task_id, "default", b"12345", 1, 1, crashes), alone=alone)
        self.slots.fill()

    async def end(self, task_id: str) -> None:
        self.courier.gates[task_id].set()
        for _ in range(4):  # the gate, the delivery, its end, and the start of what takes its place
            await asyncio.sleep(0)

    @property
    def told(self) -> list[tuple[str, Verdict]]:
        """What is to be told to the broker; it is told at once."""
        told, self.line.settlements = self.line.settlements, []
        return [(one.id, one.verdict) for one in told]


@pytest.fixture(autouse=True)
def three_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Prefetch, "depth", lambda _prefetch, _now: 3)
    monkeypatch.setattr(prefetch, "STALE", 3600.0)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    async with scene.slots.group:
        yield scene
        scene.slots.close()
        scene.slots.jobs.cancel()


async def test_a_slot_that_falls_free_is_filled_at_once(scene: Scene) -> None:
    assert scene.slots.free() == 5
    scene.take("a", "b", "c", "d", "e")
    await asyncio.sleep(0)
    assert (scene.courier.started, scene.slots.free()) == (["a", "b"], 0)
    await scene.end("b")
    assert (scene.courier.started, scene.slots.free()) == (["a", "b", "c"], 1)
    assert scene.told == [("b", COMPLETE)]
    assert scene.slots.room == 64 * 1024 * 1024 - 4 * 5


async def test_closed_it_gives_back_what_is_held_and_starts_nothing(scene: Scene) -> None:
    scene.take("a", "b", "c")
    scene.slots.close()
    scene.take("d")
    assert (scene.told, scene.slots.free()) == ([("c", UNSTARTED), ("d", UNSTARTED)], 0)
    await scene.end("a")
    assert scene.courier.started == ["a", "b"]
    scene.slots.open()
    scene.take("e")
    await asyncio.sleep(0)
    assert scene.courier.started == ["a", "b", "e"]


async def test_what_was_held_for_too_long_is_not_started(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped wakes up with a free slot: what it holds may be somebody else's by now."""
    scene.take("a", "b", "c", "d")
    await asyncio.sleep(0)
    monkeypatch.setattr(prefetch, "STALE", 0.0)
    await scene.end("a")
    assert scene.courier.started == ["a", "b"]
    assert scene.told == [("a", COMPLETE), ("c", UNSTARTED), ("d", UNSTARTED)]


async def test_while_the_target_is_left_alone_nothing_is_started(scene: Scene) -> None:
    scene.take("a", "b", "c")
    await asyncio.sleep(0)
    scene.courier.target_down = "refused"
    await scene.end("a")
    scene.take("d")
    assert [task_id for task_id, _ in scene.told] == ["a", "c", "d"]
    assert (scene.courier.started, scene.slots.free()) == (["a", "b"], 0)
    scene.slots.shut_until = 0.0
    assert scene.slots.free() == 0, "one is tried, and that one runs"
    await scene.end("b")
    scene.slots.shut_until = 0.0
    assert scene.slots.free() == 1


async def test_an_application_that_asks_for_patience_gets_none_of_what_is_held(scene: Scene) -> None:
    scene.take("a", "b", "c")
    await asyncio.sleep(0)
    scene.courier.verdict = Verdict("retry", "busy", 429, delay=60.0, slow=60.0)
    await scene.end("a")
    scene.take("d")  # what an answer brings that was under way meanwhile
    assert [(task_id, verdict.kind) for task_id, verdict in scene.told] == [
        *[("a", "retry"), ("c", "release"), ("d", "release")],
    ]
    assert scene.courier.started == ["a", "b"]
    scene.line.slowed = False  # the broker knows
    scene.take("e")
    await asyncio.sleep(0)
    assert scene.courier.started == ["a", "b", "e"]


async def test_a_suspect_waits_until_nothing_else_is_here(scene: Scene) -> None:
    scene.take("a", "b", "c")
    scene.take("suspect", "d", crashes=SUSPECT_AFTER)
    assert scene.told == [("c", UNSTARTED), ("suspect", UNSTARTED), ("d", UNSTARTED)]
    assert scene.slots.free() == 0
    await scene.end("a")
    await scene.end("b")
    assert (len(scene.told), scene.slots.free()) == (2, 1)
    scene.take("suspect", crashes=SUSPECT_AFTER)
    await asyncio.sleep(0)
    assert (scene.courier.started, scene.slots.free()) == (["a", "b", "suspect"], 0)
    await scene.end("suspect")
    assert (len(scene.told), scene.slots.free()) == (1, 1)
    scene.take("c")
    assert scene.slots.free() == 4


async def test_a_cancelled_one_is_given_back_if_it_is_held(scene: Scene) -> None:
    scene.take("a", "b", "c")
    scene.slots.cancel(["c"])
    assert scene.told == [("c", UNSTARTED)]
    assert len(scene.slots.jobs) == 2
