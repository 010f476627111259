"""How a limit follows what is measured: a table of moves, and what holds for every sequence of them."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqueue.adaptive import MOST, PATIENCE, Adaptive, Sample
from taskqueue.errors import ConfigError
from taskqueue.gauge import REQUESTS, Gauge, rank

CALM: Final = Sample(lag=0.001, latency=0.010, running=1)
IDLE: Final = Sample(lag=0.001, latency=0.010, running=0)
LATE: Final = Sample(lag=0.050, latency=0.010, running=1)
SLOW: Final = Sample(lag=0.001, latency=0.030, running=1)

samples: Final = st.builds(
    Sample,
    lag=st.floats(0, 10),
    latency=st.none() | st.floats(0, 100),
    running=st.integers(0, 20),
)


def grown(limit: int, *, most: int = 20) -> Adaptive:
    """Return one that has reached this limit in calm."""
    adaptive = Adaptive(most)
    adaptive.look(IDLE)
    while adaptive.limit < limit:
        adaptive.look(CALM)
    return adaptive


def test_it_begins_with_one_and_grows_by_one() -> None:
    adaptive, limits = Adaptive(4), list[int]()
    for _ in range(5):
        limits.append(adaptive.limit)
        adaptive.look(CALM)
    assert limits == [1, 2, 3, 4, 4]


@pytest.mark.parametrize("risen", [LATE, SLOW], ids=["the loop is late", "requests are slow"])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 1), (7, 3), (8, 4), (20, 10)])
def test_either_rise_halves_it(risen: Sample, before: int, after: int) -> None:
    adaptive = grown(before)
    adaptive.look(risen)
    assert adaptive.limit == after


@pytest.mark.parametrize(
    "sample",
    [
        Sample(lag=0.0029, latency=None, running=8),
        Sample(lag=0.001, latency=0.0129, running=8),
    ],
)
def test_what_nobody_feels_is_no_rise(sample: Sample) -> None:
    adaptive = grown(8)
    adaptive.look(sample)
    assert adaptive.limit == 9


def test_without_tasks_it_learns_what_is_usual_and_changes_nothing() -> None:
    adaptive = grown(8)
    for _ in range(50):
        adaptive.look(Sample(lag=0.030, latency=0.200, running=0))
    assert adaptive.limit == 8
    adaptive.look(Sample(lag=0.030, latency=0.200, running=8))
    assert adaptive.limit == 9, "so it is without tasks, too"


def test_what_many_tasks_cause_never_becomes_usual() -> None:
    adaptive = grown(8)
    for _ in range(500):
        adaptive.look(Sample(lag=0.030, latency=0.200, running=2))
    assert adaptive.limit == 1
    adaptive.look(Sample(lag=0.030, latency=0.200, running=2))
    assert adaptive.limit == 1


def test_what_one_task_at_a_time_cannot_help_becomes_usual_slowly() -> None:
    """Users may have become slower by themselves; the tasks of a backlog that never ends must not wait for ever."""
    adaptive, seconds = grown(1), 0
    while adaptive.limit == 1:
        adaptive.look(Sample(lag=0.001, latency=0.100, running=1))
        seconds += 1
    assert 30 < seconds < 300


def test_the_more_often_it_was_too_much_the_longer_it_waits_for_one_more() -> None:
    """Two at a time are too many, one is not: what users feel of trying that becomes rare."""
    adaptive, gaps, seconds = grown(1), list[int](), 0
    while len(gaps) < 8:
        seconds += 1
        if adaptive.limit == 2:
            gaps.append(seconds)
            seconds = 0
            adaptive.look(SLOW)
        else:
            adaptive.look(CALM)
    assert gaps[1:] == [3, 5, 9, 17, 33, 33, 33]
    assert gaps[-1] == PATIENCE + 1


def test_where_there_is_no_limit_it_has_one_of_its_own() -> None:
    assert Adaptive(0).most == MOST


@given(most=st.integers(0, 30), before=st.lists(samples, max_size=60))
def test_it_is_never_below_one_and_never_above_the_limit_and_recovers(most: int, before: list[Sample]) -> None:
    adaptive = Adaptive(most)
    for sample in before:
        was = adaptive.limit
        adaptive.look(sample)
        assert 1 <= adaptive.limit <= adaptive.most
        assert adaptive.limit in (was, was + 1, max(1, was // 2))
    for _ in range(20 + (PATIENCE + 2) * adaptive.most):
        adaptive.look(Sample(lag=0.0, latency=0.0, running=1))
    assert adaptive.limit == adaptive.most


@pytest.mark.parametrize(
    ("values", "part", "found"), [([3.0], 0.99, 3.0), ([2.0, 1.0], 0.5, 1.0), (list(map(float, range(100))), 0.99, 98)]
)
def test_a_rank_is_one_of_the_values(values: list[float], part: float, found: float) -> None:
    assert rank(values, part) == found


def test_so_few_requests_are_not_judged_and_each_counts_once() -> None:
    gauge = Gauge(20)

    def second(*took: float) -> int:
        for seconds in took:
            gauge.took(seconds)
        gauge._decide(0.001, 1)
        return gauge.limit()

    usual, slow = [0.010] * REQUESTS, [0.030] * REQUESTS
    assert [second(*usual), second(*usual), second(*slow[:-1]), second(0.030)] == [2, 3, 4, 2]
    assert [second(), second(*usual)] == [2, 3], "nothing of the slow ones is left"


def test_a_wrong_consume_says_what_may_be() -> None:
    from taskqueue.consume import Consume, wanted

    assert wanted(True) == Consume()
    assert wanted("one") == Consume(name="one")
    assert wanted(Consume(concurrent_limit=3)).chosen == {"concurrent_limit": 3}
    assert Consume(queues=["b", "a", "b"]).queues == ("b", "a")
    for wrong, told in (
        ("two words", "name: 'two words' is no consumer name"),
        ("", "name: '' is no consumer name"),
        (3, "consume: 3 must be True, a name such as 'instance1', or a taskqueue.Consume"),
    ):
        with pytest.raises(ConfigError, match=told):
            wanted(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="consume: concurrent_limit: -1 must be a whole number from 0 to 10000"):
        Consume(concurrent_limit=-1)
    with pytest.raises(ConfigError, match="queue"):
        Consume(queues=["no queue"])
