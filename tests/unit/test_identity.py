"""Whether a process is gone is told only where it can be told: on the host and under the boot it ran in."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from taskqueue import identity
from taskqueue.identity import Identity, own
from tests.waiting import wait_until

linux: pytest.MarkDecorator = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only /proc tells")


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def identity_of(pid: int) -> Identity:
    return replace(own(), pid=pid, start=str(identity._start_of(pid)))


def test_this_process_lives_and_stays_the_same() -> None:
    assert own().pid == os.getpid()
    assert not own().gone
    assert own() == own()


@linux
class TestGone:
    def test_another_process_lives_until_it_ends(self, child: "subprocess.Popen[bytes]") -> None:
        it = identity_of(child.pid)
        assert not it.gone
        child.kill()
        child.wait()
        assert it.gone

    def test_a_zombie_is_gone(self, child: "subprocess.Popen[bytes]") -> None:
        it = identity_of(child.pid)
        child.kill()
        wait_until(lambda: it.gone, "it has ended, and nobody has asked how")
        assert Path(f"/proc/{child.pid}").exists()

    def test_a_pid_that_was_used_again_is_another_process(self) -> None:
        assert replace(own(), start="1").gone

    def test_a_name_with_spaces_and_brackets_hides_no_start_time(
        self, child: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        stat = Path(f"/proc/{child.pid}/stat").read_text()
        begins, ends = stat.index("("), stat.rindex(")")
        folder = tmp_path / str(child.pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{stat[:begins]}(a) S 1 (b{stat[ends:]}")
        start = identity._start_of(child.pid)
        monkeypatch.setattr(identity, "PROC", tmp_path)
        assert identity._start_of(child.pid) == start

    @pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"boot": "another:pid:[1]"}, {"boot": ""}])
    def test_elsewhere_it_cannot_be_told(self, elsewhere: dict[str, str]) -> None:
        assert not replace(own(), pid=2**22 + 1, start="1", **elsewhere).gone


def test_where_nothing_tells_of_processes_none_is_called_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(identity, "PROC", tmp_path)
    here = own()
    assert here.boot == ""
    assert not replace(here, pid=2**22 + 1).gone
