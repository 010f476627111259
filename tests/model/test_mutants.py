"""A sample of the mutants; ``make mutants`` tries them all."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.conftest import KINDS
from tests.model.equivalent import EQUIVALENT
from tests.model.mutants import Bench, Mutant, mutants, sample
from tests.servers import find_binaries

SAMPLE: Final = sample(40, seed=2)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench(find_binaries()[KINDS[0]]) as bench:
        yield bench


def test_the_scripts_as_they_are_survive(bench: Bench) -> None:
    assert bench.sound()


@pytest.mark.parametrize("mutant", SAMPLE, ids=str)
def test_a_fault_is_seen(bench: Bench, mutant: Mutant) -> None:
    assert bench.fate(mutant) != "survived"


def test_an_endless_loop_is_a_fault_too(bench: Bench) -> None:
    line = "commits[#commits + 1], first = {first, last}, last + 1"
    (mutant,) = (one for one in mutants() if one.key == ("_together", line, ""))
    assert bench.fate(mutant) in {"endless", "killed"}  # it may fill the memory first
    assert bench.sound(steps=1000)


def test_each_line_and_each_condition_has_its_mutants() -> None:
    texts = {str(mutant).partition(": ")[2] for mutant in mutants()}
    assert "if queued > 0 then redis.call('PUBLISH', base, '') end  =>  (left out)" in texts
    assert (
        "if queued > 0 then redis.call('PUBLISH', base, '') end  =>  "
        "if not (queued > 0) then redis.call('PUBLISH', base, '') end"
    ) in texts
    assert (
        "if queued > 0 then redis.call('PUBLISH', base, '') end  =>  "
        "if queued >= 0 then redis.call('PUBLISH', base, '') end"
    ) in texts
    assert "for i = 1, #ARGV, 2 do  =>  for i = (1 - 1), #ARGV, 2 do" in texts


def test_no_reason_outlives_its_line() -> None:
    assert set(EQUIVALENT) <= {mutant.key for mutant in mutants()}
