"""Ceilings: what counts as above, how often is looked, what is said, and where they cannot be had."""

import logging
from pathlib import Path

import pytest

from taskqueue import ceilings as module
from taskqueue.ceilings import Ceilings, Limits, Readings, above, ceilings
from taskqueue.errors import ConfigError


@pytest.mark.parametrize(
    ("limits", "readings", "told"),
    [
        (Limits(own=512), Readings(own=512), None),
        (Limits(own=512), Readings(own=513), "this process has 513 MiB of memory, above 512 (--max-memory)"),
        (Limits(used=0.9), Readings(used=0.9, own=9999), None),
        (Limits(used=0.9), Readings(used=0.95), "95% of the machine's memory is in use, above 90% (--max-memory)"),
        (Limits(load=1.5), Readings(load=1.5), None),
        (Limits(load=1.5), Readings(load=1.75), "the load per core is 1.75, above 1.5 (--max-load)"),
        (Limits(), Readings(own=9999, used=1.0, load=99), None),
    ],
)
def test_only_what_has_a_ceiling_can_be_above_it(limits: Limits, readings: Readings, told: str | None) -> None:
    assert above(limits, readings) == told


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_it_is_read_once_a_second_and_told_once_when_it_begins_and_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, loads, read = Clock(), [2.0, 3.0, 0.5, 0.5], list[float]()
    monkeypatch.setattr(module, "time", clock)
    caplog.set_level(logging.WARNING)

    def reading() -> Readings:
        read.append(clock.now)
        return Readings(load=loads[len(read) - 1])

    held = Ceilings(Limits(load=1.0), reading)
    answers = []
    for tick in range(8):
        clock.now = 100 + tick / 2
        answers.append(held.may_start())
    assert read == [100, 101, 102, 103]
    assert answers == [False] * 4 + [True] * 4
    assert [record.message for record in caplog.records] == [
        "no task is started, those that run go on: the load per core is 2.00, above 1 (--max-load)",
        "tasks are started again: no ceiling is passed any more",
    ]


def test_this_machine_is_read() -> None:
    assert ceilings(None, None) is None
    low, high, part = ceilings("1", None), ceilings("100000", 1000.0), ceilings("99%", None)
    assert low
    assert high
    assert part
    assert (low.may_start(), high.may_start(), part.may_start()) == (False, True, True)


def test_its_numbers_are_read_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 200 kB\nHugePages_Total: 0\n")
    monkeypatch.setattr(module, "PROC", tmp_path)
    for percent, allowed in (("81%", True), ("79%", False)):
        held = ceilings(percent, None)
        assert held
        assert held.may_start() is allowed


@pytest.mark.parametrize("ceiling", ["512", "90%"])
def test_where_memory_cannot_be_read_the_option_is_refused(
    ceiling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROC", tmp_path)
    with pytest.raises(ConfigError, match="max_memory: it cannot be read here"):
        ceilings(ceiling, None)


def test_where_the_load_cannot_be_read_the_option_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.getloadavg")
    with pytest.raises(ConfigError, match="max_load: it cannot be read here"):
        ceilings(None, 1.0)
