"""How much is held ahead, and for how long."""

import math
from dataclasses import replace

import pytest

from taskqueue.broker import Lease
from taskqueue.delivery import Prepared
from taskqueue.errors import RecordError
from taskqueue.line import Line
from taskqueue.prefetch import AHEAD, LOOK, MOST, STALE, Prefetch
from taskqueue.task import Reservation

LINE = Line(Lease("default", "one", "1-a"))


def reservation(task_id: str, record: bytes = b"12345") -> Reservation:
    return Reservation(task_id, "default", record, 1, 1, 0)


def prepared(reservation: Reservation) -> Prepared:
    return Prepared(replace(reservation, record=b""), RecordError("format", "none"))


def kept_up(prefetch: Prefetch, per_second: float, *, looks: int = 20, seconds: float = LOOK) -> int:
    """Let so many deliveries end a second, for some looks; return what is to be held in the end."""
    now, depth = 1000.0, prefetch.depth(1000.0)
    for look in range(looks):
        for _ in range(round(per_second * seconds * (look + 1)) - round(per_second * seconds * look)):
            prefetch.ended()
        now += seconds
        depth = prefetch.depth(now)
    return depth


def test_as_much_is_held_as_is_started_within_moments() -> None:
    assert kept_up(Prefetch(prepared), 5000) == pytest.approx(5000 * AHEAD, abs=2)
    assert kept_up(Prefetch(prepared), 1_000_000) == MOST


@pytest.mark.parametrize("per_second", [0, 1, 50, 90])
def test_nothing_is_held_where_tasks_are_slow(per_second: float) -> None:
    assert kept_up(Prefetch(prepared), per_second, seconds=0.02, looks=100) == 0


def test_nothing_is_held_before_any_has_ended_nor_after_a_pause() -> None:
    prefetch = Prefetch(prepared)
    assert prefetch.depth(5.0) == 0
    assert kept_up(prefetch, 5000) > 0
    assert prefetch.depth(1010.0) < 5000 * AHEAD
    assert [prefetch.depth(1010.0 + second) for second in range(1, 8)][-1] == 0


def test_there_is_plenty_as_long_as_it_is_used_up() -> None:
    prefetch = Prefetch(prepared)
    depth = kept_up(prefetch, 5000)
    for number in range(depth // 2):
        prefetch.hold(LINE, reservation(str(number)), 1000.0)
    assert not prefetch.is_plenty
    prefetch.hold(LINE, reservation("one more"), 1000.0)
    assert prefetch.is_plenty
    for second in range(8):
        prefetch.depth(1001.0 + second)
    assert not prefetch.is_plenty, "none has ended since: what is held must be looked at"


def test_a_short_look_is_no_pace() -> None:
    prefetch = Prefetch(prepared)
    prefetch.depth(1000.0)
    for _ in range(10):
        prefetch.ended()
    assert prefetch.depth(1000.0 + LOOK / 10) == 0


def test_what_came_first_is_started_first_and_grows_stale_first() -> None:
    prefetch = Prefetch(prepared)
    assert prefetch.stale_at == math.inf
    prefetch.hold(LINE, reservation("a"), 1.0)
    prefetch.hold(LINE, reservation("b", b"123"), 2.0)
    assert (len(prefetch), prefetch.bytes, prefetch.stale_at) == (2, 8, 1.0 + STALE)
    prefetch.make_ready()
    held = prefetch.pop()
    assert (held.line, held.prepared.reservation.id, held.size) == (LINE, "a", 5)
    assert (len(prefetch), prefetch.bytes, prefetch.stale_at) == (1, 3, 2.0 + STALE)


def test_cleared_it_holds_nothing_and_has_no_pace() -> None:
    prefetch = Prefetch(prepared)
    assert kept_up(prefetch, 5000) > 0
    prefetch.hold(LINE, reservation("a"), 1.0)
    prefetch.make_ready()
    prefetch.hold(LINE, reservation("b"), 1.0)
    assert [one.id for _, one in prefetch.clear()] == ["a", "b"]
    assert (len(prefetch), prefetch.bytes, prefetch.depth(1000.05)) == (0, 0, 0)
