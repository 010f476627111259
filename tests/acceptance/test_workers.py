"""``--workers``: several consumers from one command, and what becomes of them when one dies, or all are to.

Once with real consumers; what the process above them does is tried with children that only note what they hear.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from taskqueue import TaskQueue, workers
from taskqueue.workers import Supervisor
from tests.acceptance.test_cli import SECRET, Consumer
from tests.acceptance.test_signals import OK, begun, reached
from tests.servers import RedisServer
from tests.waiting import until, wait_until

# Notes every signal in the file ``heard`` and tells what TELL says; ends with CODE, at once or at a TERM.
CHILD: Final = """
import os, signal
number, channel = os.environ["NUMBER"], int(os.environ["CHANNEL"])
signals = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
def note(words):
    with open("heard", "a") as file:
        print(number, words, file=file, flush=True)
note(f"is {os.getpid()}")
os.write(channel, os.environ["TELL"].encode())
while number not in os.environ.get("AT_ONCE", ""):
    heard = signal.sigwait(signals)
    note(heard.name)
    if heard == signal.SIGTERM:
        break
raise SystemExit(int(os.environ["CODE"]))
"""


def lives(pid: int) -> bool:
    """Tell whether this process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_that_dies_is_started_again_and_all_die_with_the_process_above(
    any_server: RedisServer, tmp_path: Path
) -> None:
    tq = TaskQueue(any_server.url, secret=SECRET)
    with socket.create_server(("127.0.0.1", 0)) as application:
        application.settimeout(20)
        target = f"http://127.0.0.1:{application.getsockname()[1]}"
        options = ("--no-receipt", "--stop-grace=86400", "--poll-max=0.05", "--workers=2")
        above = Consumer(tmp_path, "--name=i", "--target", target, "--url", tq.url, *options)

        def consuming(name: str) -> list[int]:
            starts = [entry for entry in above.entries() if entry["message"] == "starting"]
            return [int(str(entry["pid"])) for entry in starts if entry["consumer"] == name]

        try:
            above.says("consuming as i-1")
            above.says("consuming as i-2")
            (first,), (second,) = consuming("i-1"), consuming("i-2")
            os.kill(first, signal.SIGKILL)
            above.says("worker 1 was killed by signal 9: started again in 1 s")
            # Before it consumes, what stops it ends it without a word.
            above.says("consuming as i-1", times=2)
            third = consuming("i-1")[1]
            assert lives(second)
            task_id = tq.push_sync("/slow")
            with begun(application) as connection:
                above.process.kill()
                above.says("the process above the workers is gone: stopping")
                wait_until(lambda: lives(second) + lives(third) == 1, "the one without a task has ended")
                connection.sendall(OK)
                reached(tq, task_id, "completed")  # It stops as at a TERM.
            wait_until(lambda: not lives(second) and not lives(third), "both have ended")
        finally:
            above.process.kill()
            above.process.wait()
    assert {entry.get("consumer") for entry in above.entries() if entry["message"] == "stopped"} == {"i-1", "i-2"}


class Above:
    """A process above two children."""

    def __init__(self, supervisor: Supervisor, told: list[str], job: "asyncio.Task[int]") -> None:
        self.supervisor, self.told, self.job = supervisor, told, job

    def heard(self, number: int) -> list[str]:
        """Return what this child has noted: who it is, and signals."""
        lines = Path("heard").read_text().splitlines() if Path("heard").exists() else []
        return [words for who, _, words in (line.partition(" ") for line in lines) if who == str(number)]

    async def hears(self, number: int, *words: str) -> None:
        """Wait until this child has noted exactly this, beside who it is."""

        async def there() -> bool:
            return [word for word in self.heard(number) if not word.startswith("is ")] == list(words)

        await until(there, f"child {number} hears {words}, not {self.heard(number)}")

    def pids(self, number: int) -> list[int]:
        """Return the processes that this child has been."""
        return [int(words[3:]) for words in self.heard(number) if words.startswith("is ")]

    async def met(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until this holds."""

        async def there() -> bool:
            return condition()

        await until(there, what)


@asynccontextmanager
async def above(*, burst: bool = False, watchdog: float | None = None, **variables: str) -> AsyncIterator[Above]:
    """Run two children; those that live in the end are killed."""
    told: list[str] = []

    def environment(number: int, channel: int) -> Mapping[str, str]:
        own = {"NUMBER": str(number), "CHANNEL": str(channel)}
        return {"TELL": "READY=1\nWATCHDOG=1\n", "CODE": "0"} | variables | own

    command = [sys.executable, "-I", "-S", "-c", CHILD]
    supervisor = Supervisor(command, environment, count=2, burst=burst, tell=told.append, watchdog=watchdog)
    one = Above(supervisor, told, asyncio.create_task(supervisor.run()))
    try:
        yield one
    finally:
        for number in (1, 2):
            for pid in filter(lives, one.pids(number)):
                os.kill(pid, signal.SIGKILL)
        supervisor.stop(signal.SIGTERM)
        await one.job


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


async def test_signals_reach_all_of_them_and_a_new_one_is_paused_like_the_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "pause", lambda _failures: 0.0)
    async with above() as one:
        await one.met(lambda: "READY=1" in "\n".join(one.told), "both are ready")
        send(signal.SIGUSR1)
        send(signal.SIGUSR2)
        for number in (1, 2):
            await one.met(lambda number=number: len(one.heard(number)) == 3, "it has heard both")  # type: ignore[misc]
            assert set(one.heard(number)[1:]) == {"SIGUSR1", "SIGUSR2"}
        os.kill(one.pids(1)[0], signal.SIGKILL)
        await one.met(lambda: len(one.pids(1)) == 2, "it is started again")
        await one.met(lambda: one.heard(1)[-1] == "SIGUSR2", "the new one is paused")
        send(signal.SIGINT)
        await one.met(lambda: one.heard(1)[-1] == one.heard(2)[-1] == "SIGINT", "both hear the first")
        assert not one.job.done()
        send(signal.SIGTERM)
        assert await one.job == 0
        assert one.told[-1].startswith("STATUS=") or "STOPPING=1" in one.told
        assert one.told.count("STOPPING=1") == 1


async def test_what_would_be_wrong_again_ends_them_all_with_its_code() -> None:
    async with above(CODE="3", AT_ONCE="1") as one:
        assert await one.job == 3
        assert len(one.pids(1)) == 1


async def test_after_a_burst_none_is_started_again() -> None:
    async with above(burst=True, AT_ONCE="12") as one:
        assert await one.job == 0
        assert [len(one.pids(number)) for number in (1, 2)] == [1, 1]


async def test_one_that_is_silent_starves_the_watchdog_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async with above(watchdog=0.1) as one:
        await one.met(lambda: any("2 of 2 workers ready" in words for words in one.told), "both are ready")
        assert "WATCHDOG=1" in "\n".join(one.told)
        # The children were heard once, and never again.
        await one.met(lambda: all("WATCHDOG=1" not in words for words in one.told[-3:]), "systemd is told no more")
    assert "\n".join(one.told).count("READY=1") == 1
