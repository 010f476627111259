"""Processes that take part, seen from outside: their CPU and their memory, children included (Linux)."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PEERS: Final = ("arq", "taskiq", "saq", "docket", "celery")
"""Other queues; each has an environment of its own, because what they need of redis-py differs."""
WRK: Final = shutil.which("wrk")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def python_of(contender: str) -> Path | None:
    """Return the interpreter of a contender: its own, this one if it asks for nothing more, None if it is not there."""
    own = ROOT / f".venv-bench-{contender}" / "bin" / "python"
    if own.exists():
        return own
    return None if contender in PEERS else Path(sys.executable)


def tree(pid: int) -> list[int]:
    """Return this process and all below it."""
    found = [pid]
    for parent in found:
        for thread in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def cpu(pid: int) -> float:
    """Return the CPU seconds, user and system, that it and those below it have had."""
    return sum(_thread_cpu(thread) for each in tree(pid) for thread in Path(f"/proc/{each}/task").iterdir())


def _thread_cpu(thread: Path) -> float:
    with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        # Nanoseconds, where stat has ticks of 10 ms: more than some windows cost.
        return int((thread / "schedstat").read_text().split()[0]) / 1e9
    return 0.0


def resident(pid: int) -> int:
    """Return the bytes that it and those below it hold."""
    return sum(int(_stat(each)[21]) for each in tree(pid)) * PAGE


def peak(pid: int) -> int:
    """Return the most bytes that it and those below it have held, each at a time of its own."""
    found = (Path(f"/proc/{each}/status").read_text() for each in tree(pid))
    return sum(int(text.partition("VmHWM:")[2].split()[0]) * 1024 for text in found)


def _stat(pid: int) -> list[str]:
    # The name, in brackets, may hold anything; what comes after it is numbered from 0 here, from 3 in proc(5).
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@contextmanager
def running(command: Sequence[str | Path], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process meanwhile; kill it, and what it has started, at the end."""
    process = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            below = tree(process.pid)[1:]
            os.killpg(process.pid, signal.SIGKILL)
            for each in below:  # one may have a process group of its own
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
        process.wait()
