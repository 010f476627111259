"""What becomes of a worker's end."""

import pytest

from taskqueue.workers import LONGEST_PAUSE, pause, worst


@pytest.mark.parametrize(
    ("codes", "code"),
    [((0, 0), 0), ((0, 69), 69), ((75, 69), 75), ((75, 1), 1), ((-9, 75), 1), ((1, 3), 3), ((78, 2), 78), ((99,), 1)],
)
def test_the_worst_exit_code_counts(codes: tuple[int, ...], code: int) -> None:
    assert worst(codes) == code


def test_pauses_grow_and_have_an_end() -> None:
    assert [pause(failures) for failures in range(5)] == [0, 1, 2, 4, 8]
    assert pause(1000) == LONGEST_PAUSE
