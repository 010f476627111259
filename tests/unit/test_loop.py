"""What a consumer asks of the garbage collector once it is ready to work."""

import gc
from collections.abc import Iterator

import pytest

from taskqueue import loop


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ((700, 10, 10), (loop.YOUNG, 10, 10)),
        ((50_000, 5, 1000), (50_000, 5, 1000)),
        ((0, 10, 10), (0, 10, 10)),
    ],
    ids=["usual", "more seldom already", "off"],
)
def test_it_looks_less_often_unless_that_was_asked_for(given: tuple[int, int, int], then: tuple[int, int, int]) -> None:
    gc.set_threshold(*given)
    loop.settled_in()
    assert gc.get_threshold() == then
    assert gc.get_freeze_count() > 0
