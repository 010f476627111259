"""Slots are shared as the weights say, exactly, and none is kept back while anything waits."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqueue.strategy import Strategy, Strict, Weighted

QUEUES = st.lists(st.sampled_from("abcde"), unique=True)
WEIGHTS = st.fixed_dictionaries({name: st.integers(1, 100) for name in "abcde"})


def picks(strategy: Strategy, count: int, promising: Sequence[str], *, at_once: int = 1) -> Counter[str]:
    """Ask for that many slots, so many at a time."""
    found: Counter[str] = Counter()
    for _ in range(count // at_once):
        found.update(strategy.share(at_once, promising))
    return found


@pytest.mark.parametrize("at_once", [1, 3, 10, 100])
def test_weights_of_one_and_two_are_a_third_and_two_thirds(at_once: int) -> None:
    found = picks(Weighted({"a": 1, "b": 2}), 9_900, "ab", at_once=at_once)
    assert found == {"a": 3_300, "b": 6_600}


def test_no_queue_waits_longer_than_it_must() -> None:
    strategy = Weighted({"a": 1, "b": 4})
    order = "".join(next(iter(picks(strategy, 1, "ab") - Counter())) for _ in range(10))
    assert order == "bbabbbbabb"


def test_what_a_queue_has_missed_is_not_made_up_for() -> None:
    strategy = Weighted({"a": 1, "b": 1})
    picks(strategy, 1_000, "a")
    assert picks(strategy, 10, "ab") == {"a": 5, "b": 5}


@pytest.mark.accept("TA06")
def test_strict_serves_the_low_queue_only_when_the_high_one_is_empty() -> None:
    strategy = Strict({"high": 9, "low": 1})
    assert strategy.share(5, ["low", "high"]) == {"high": 5}
    assert strategy.share(5, ["low"]) == {"low": 5}


def test_strict_serves_equals_in_turn() -> None:
    assert picks(Strict({"a": 2, "b": 2, "c": 1}), 100, "abc") == {"a": 50, "b": 50}


@given(WEIGHTS, st.lists(st.tuples(st.integers(0, 20), QUEUES), max_size=30), st.sampled_from([Weighted, Strict]))
def test_all_slots_are_given_to_queues_that_were_named(
    weights: dict[str, int], asked: list[tuple[int, list[str]]], kind: type[Weighted] | type[Strict]
) -> None:
    strategy = kind(weights)
    for free, promising in asked:
        given = strategy.share(free, promising)
        assert set(given) <= set(promising)
        assert min(given.values(), default=0) >= 0
        assert sum(given.values()) == (free if promising else 0)


@given(WEIGHTS, QUEUES.filter(len), st.integers(1, 2_000))
def test_the_parts_are_exact_to_a_slot_or_two(weights: dict[str, int], promising: list[str], count: int) -> None:
    found = picks(Weighted(weights), count, promising)
    total = sum(weights[queue] for queue in promising)
    for queue in promising:
        assert abs(found[queue] - count * weights[queue] / total) <= 2
