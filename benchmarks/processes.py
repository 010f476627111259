"""Processes that take part, seen from outside: their CPU and their memory, children included (Linux)."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
PEERS: Final = ("arq", "taskiq", "saq", "docket", "celery")
"""Other queues; each has an environment of its own, because what they need of redis-py differs."""
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
    return sum(sum(map(int, _stat(each)[11:13])) for each in tree(pid)) * TICK


def resident(pid: int) -> int:
    """Return the bytes that it and those below it hold."""
    return sum(int(_stat(each)[21]) for each in tree(pid)) * PAGE


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
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
