"""Who is dead is told by counters that stand still while somebody looks; who lives beats, however busy it is."""

import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqueue.broker import Beat, Lease, Seen
from taskqueue.errors import BrokerUnavailable, ConfigError, Fenced
from taskqueue.liveness import Heart, Watch, beat_interval
from tests.waiting import until, wait_until

LEASE: Final = 8.0
ONE: Final = Seen("one", "1-a", "0")
# Sixteenths of a second: sums of them are exact.
gaps: Final = st.integers(0, 20 * 16).map(lambda sixteenths: sixteenths / 16)


class TestWatch:
    @given(st.lists(st.tuples(gaps, st.sampled_from(["look", "beat", "beat and look"]))))
    def test_dead_is_who_stood_still_for_a_lease_in_which_nobody_looked_away(
        self, events: list[tuple[float, str]]
    ) -> None:
        watch, now, count, last_beat = Watch(LEASE), 0.0, 0, 0.0
        looks: list[tuple[float, int]] = []
        for gap, what in events:
            now += gap
            if "beat" in what:
                count, last_beat = count + 1, now
            if "look" not in what:
                continue
            looks.append((now, count))
            dead = watch.look([replace(ONE, beat=str(count))], now=now)
            assert not dead or now - last_beat >= LEASE, "it has beaten within the lease"
            # The same told backwards: how far back the looks go that saw this count and lie close together.
            since = now
            for moment, seen in reversed(looks):
                if seen != count or since - moment > LEASE / 4:
                    break
                since = moment
            assert bool(dead) == (now - since >= LEASE)

    @given(st.lists(st.tuples(st.floats(0.001, 30), st.floats(0, 3600), st.booleans()), min_size=1), st.data())
    def test_a_machine_that_sleeps_and_wakes_misjudges_nobody(
        self, days: list[tuple[float, float, bool]], data: st.DataObject
    ) -> None:
        """Owner and watcher on one machine: both sleep, and who comes to itself first is chance."""
        watch, now, count = Watch(LEASE), 0.0, 0
        every = beat_interval(LEASE)
        for awake, asleep, owner_first in days:
            night = now + awake
            while now < night:
                order = ("beat", "look") if owner_first else ("look", "beat")
                for what in order:
                    if what == "beat":
                        count += 1
                    else:
                        assert watch.look([replace(ONE, beat=str(count))], now=now) == []
                now += every
            now += asleep

    @given(st.floats(0, 3600), st.integers(0, 16))
    def test_a_watcher_that_was_paused_has_to_watch_anew(self, paused: float, looks_before: int) -> None:
        watch, now, every = Watch(LEASE), 0.0, beat_interval(LEASE)
        for _ in range(looks_before):
            assert watch.look([ONE], now=now) == []
            now += every
        # Meanwhile the owner has beaten as ever; the last count seen before is the one seen now only if it is dead.
        now += paused
        assert watch.look([replace(ONE, beat="1000")], now=now) == []

    @pytest.mark.parametrize("lease", [2.0, 8.0, 60.0, 3600.0])
    def test_the_dead_are_known_after_a_lease_and_one_look_at_most(self, lease: float) -> None:
        watch, every = Watch(lease), beat_interval(lease)
        first = next(
            number * every for number in range(round(lease / every) + 3) if watch.look([ONE], now=number * every)
        )
        assert lease <= first <= lease + every

    def test_the_found_dead_stay_found_until_somebody_acts(self) -> None:
        watch = Watch(LEASE)
        found = [watch.look([ONE], now=number * 0.5) for number in range(20)]
        assert found == [[]] * 16 + [[ONE]] * 4
        assert watch.look([replace(ONE, beat="1")], now=10.0) == []
        assert watch.look([], now=10.5) == []

    @pytest.mark.parametrize("change", [{"beat": "1"}, {"epoch": "2-b"}])
    def test_a_beat_and_a_new_owner_start_anew(self, change: dict[str, str]) -> None:
        watch = Watch(LEASE)
        for number in range(16):
            watch.look([ONE], now=number * 0.5)
        other = replace(ONE, **change)
        assert [watch.look([other], now=8.0 + number * 0.5) for number in range(16)] == [[]] * 16
        assert watch.look([other], now=16.0) == [other]

    def test_who_is_not_seen_for_a_moment_is_watched_anew(self) -> None:
        watch = Watch(LEASE)
        for number in range(16):
            watch.look([ONE], now=number * 0.5)
        watch.look([], now=8.0)
        assert watch.look([ONE], now=8.5) == []

    def test_each_is_judged_alone(self) -> None:
        watch, two = Watch(LEASE), Seen("two", "1-b", "0")
        found = [watch.look([ONE, replace(two, beat=str(number))], now=number * 0.5) for number in range(17)]
        assert found[-1] == [ONE]


QUICK: Final = 0.2
QUEUES: Final = (Lease("default", "one", "1-a"), Lease("mail", "one", "1-b"))


@dataclass
class Beats:
    """A pulse that notes its beats and does as told."""

    beats: list[str] = field(default_factory=list)
    error: Exception | None = None
    closed: int = 0

    def beat(self, lease: Lease) -> Beat:
        self.beats.append(lease.queue)
        if self.error is not None:
            raise self.error
        return Beat((ONE,))

    def close(self) -> None:
        self.closed += 1


@dataclass
class Listener:
    """What a heart has told."""

    looks: list[tuple[str, Sequence[Seen], float]] = field(default_factory=list)
    fenced: list[tuple[Lease, Fenced]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def heard(self, queue: str, beat: Beat, now: float) -> None:
        self.looks.append((queue, beat.others, now))
        self.threads.add(threading.get_ident())

    def lost(self, lease: Lease, error: Fenced) -> None:
        self.fenced.append((lease, error))


@pytest.fixture
def pulse() -> Beats:
    return Beats()


@pytest.fixture
def listener() -> Listener:
    return Listener()


def heart_of(pulse: Beats, listener: Listener, *, patience: float = 60.0) -> Heart:
    return Heart(pulse, lease=QUICK, patience=lambda: patience, on_beat=listener.heard, on_fenced=listener.lost)


@asynccontextmanager
async def beating(heart: Heart) -> AsyncIterator[None]:
    heart.beat_for(QUEUES)
    try:
        yield
    finally:
        await heart.stop()


OTHERS: Final[set[threading.Thread]] = set()


@pytest.fixture(autouse=True)
def _hearts_of_other_tests() -> None:
    OTHERS.update(threading.enumerate())


def hearts() -> list[threading.Thread]:
    """Return the hearts that beat since this test began."""
    return [found for found in threading.enumerate() if found.name == "taskqueue-heart" and found not in OTHERS]


async def beaten(pulse: Beats, more: int = 4) -> None:
    """Wait for so many beats more."""
    count = len(pulse.beats) + more

    async def enough() -> bool:
        return len(pulse.beats) >= count

    await until(enough, "it beats")


async def seen(pulse: Beats, queue: str) -> bool:
    return queue in pulse.beats


def passed(seconds: float) -> None:
    """Block the event loop for so long, as a view that computes does."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, "the time is over")


def errors(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.levelno == logging.ERROR for record in caplog.records)


class TestHeart:
    async def test_it_beats_for_each_queue_and_tells_the_loop(self, pulse: Beats, listener: Listener) -> None:
        async with beating(heart_of(pulse, listener)):
            await beaten(pulse)
        assert pulse.beats[:4] == ["default", "mail"] * 2
        assert {(queue, tuple(others)) for queue, others, _ in listener.looks} == {
            ("default", (ONE,)),
            ("mail", (ONE,)),
        }
        assert listener.threads == {threading.get_ident()}

    async def test_started_twice_it_is_one_and_stopped_twice_it_is_none(self, pulse: Beats, listener: Listener) -> None:
        heart = heart_of(pulse, listener)
        heart.beat_for(QUEUES[:1])
        heart.beat_for(QUEUES)
        assert len(hearts()) == 1
        await until(lambda: seen(pulse, "mail"), "it beats for the second queue too")
        await heart.stop()
        await heart.stop()
        assert hearts() == []
        assert pulse.closed == 1

    async def test_one_that_never_began_can_be_stopped(self, pulse: Beats, listener: Listener) -> None:
        await heart_of(pulse, listener).stop()
        assert (pulse.beats, hearts()) == ([], [])

    async def test_a_busy_loop_does_not_keep_it_from_beating_nor_its_looks_from_counting(
        self, pulse: Beats, listener: Listener
    ) -> None:
        async with beating(heart_of(pulse, listener)):
            await beaten(pulse)
            before = len(pulse.beats)
            passed(2 * QUICK)
            assert len(pulse.beats) - before >= 8
            assert len(listener.looks) <= before, "told in the loop, which does not turn"
            await beaten(pulse, 1)
        looks = [now for queue, _, now in listener.looks if queue == "default"]
        watch = Watch(QUICK)
        assert any(watch.look([ONE], now=now) for now in looks), "looked often enough while the loop was busy"

    async def test_it_tells_where_the_loop_is_busy_and_only_once(
        self, pulse: Beats, listener: Listener, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with beating(heart_of(pulse, listener)):
            await beaten(pulse)
            passed(3 * QUICK)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "the event loop has not turned" in caplog.text
        assert "in passed" in caplog.text

    async def test_a_loop_that_hangs_is_given_up_and_taken_back(
        self, pulse: Beats, listener: Listener, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with beating(heart_of(pulse, listener, patience=0.1)):
            await beaten(pulse)
            wait_until(lambda: errors(caplog) == 1, "it gives up")
            count = len(pulse.beats)
            passed(QUICK)
            assert len(pulse.beats) == count
            await beaten(pulse)
        assert errors(caplog) == 1
        assert caplog.messages[-1].endswith("no more beats until it does")

    async def test_an_outage_of_the_broker_is_no_hanging_loop(
        self, pulse: Beats, listener: Listener, caplog: pytest.LogCaptureFixture
    ) -> None:
        pulse.error = BrokerUnavailable("away")
        async with beating(heart_of(pulse, listener, patience=0.0)):
            await beaten(pulse, 50)  # for longer than it would wait for a loop that hangs
            assert listener.looks == []
            pulse.error = ConfigError("its disk is full")
            await beaten(pulse)
            pulse.error = None
            await beaten(pulse)
        assert listener.looks != []
        assert caplog.text == ""

    async def test_a_fence_is_told_with_its_lease(self, pulse: Beats, listener: Listener) -> None:
        pulse.error = Fenced("taken over")
        async with beating(heart_of(pulse, listener)):
            await beaten(pulse)
        assert listener.fenced[:2] == [(lease, pulse.error) for lease in QUEUES]
        assert listener.looks == []
