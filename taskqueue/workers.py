"""Several consumers from one command: a process that starts them, passes signals on, and starts anew what dies.

Each worker is the same command again in a process group of its own, so that nobody but this process signals it. A
socket leads from each to here: it tells how the worker is, as it would tell systemd, and its end tells the worker that
this process is gone. Then it stops as at a TERM.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from .notify import ALIVE, INTERVAL, READY, STOPPING, Send

log = logging.getLogger("taskqueue.workers")

# Exit codes that would be the same the next time: all workers end with one.
FINAL: Final = frozenset((2, 3, 78))
# From the least to the worst.
CODES: Final = (0, 69, 75, 1, 3, 2, 78)
# Seconds: the longest pause before another start, and how long a worker runs that has started well.
LONGEST_PAUSE: Final = 30.0
STEADY: Final = 10.0
STOPS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
PASSED: Final = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)


def worst(codes: Sequence[int]) -> int:
    """Return the worst of these exit codes; one that is not of ours, or a signal's, is 1."""
    ranks = [CODES.index(code if code in CODES else 1) for code in codes]
    return CODES[max(ranks, default=0)]


def pause(failures: int) -> float:
    """Return how many seconds to wait after so many quick deaths in a row."""
    return min(LONGEST_PAUSE, 2.0 ** (failures - 1)) if failures else 0.0


@dataclass(slots=True, eq=False)
class _Worker:
    number: int
    process: asyncio.subprocess.Process
    started: float
    heard: bool = False
    ready: bool = False
    alive: float | None = None  # when it last said so


class Supervisor:
    """Keeps so many workers running until it is told to stop, or they are done."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Callable[[int, int], Mapping[str, str]],
        *,
        count: int,
        burst: bool,
        tell: Send | None,
        watchdog: float | None,
    ) -> None:
        """Take the command of a worker, and what makes its environment of its number and the descriptor of its socket.

        ``burst``: a worker that exits with 0 is done. ``tell`` and ``watchdog``: see Notices, for all workers together.
        """
        self._command, self._environment = command, environment
        self._count, self._burst, self._tell, self._watchdog = count, burst, tell, watchdog
        self._living: dict[int, _Worker] = {}
        self._codes: dict[int, int] = {}
        self._stopping = asyncio.Event()
        self._paused = self._told_ready = False

    async def run(self) -> int:
        """Run the workers; return the worst of their last exit codes."""
        loop = asyncio.get_running_loop()
        for which in STOPS:
            loop.add_signal_handler(which, self.stop, which)
        for which in PASSED:
            loop.add_signal_handler(which, self._pass_on, which)
        log.info("starting %d workers", self._count)
        telling = asyncio.create_task(self._keep_telling())
        async with asyncio.TaskGroup() as group:
            for number in range(1, self._count + 1):
                group.create_task(self._keep(number))
        telling.cancel()
        code = worst(list(self._codes.values()))
        log.info("all workers have ended: exit code %d", code)
        return code

    def stop(self, number: signal.Signals) -> None:
        """Pass a stop on: the first lets running tasks end, a second one gives them back."""
        log.info("stopping %d worker(s)", len(self._living))
        if self._tell and not self._stopping.is_set():
            self._tell(STOPPING)
        self._stopping.set()
        for worker in self._living.values():
            _signal(worker, number)

    def _pass_on(self, number: signal.Signals) -> None:
        if number != signal.SIGUSR1:
            self._paused = number == signal.SIGUSR2
        for worker in self._living.values():
            if worker.heard:  # Before that, its process has no handler, and would die of it.
                _signal(worker, number)

    async def _keep(self, number: int) -> None:
        failures = 0
        while not self._stopping.is_set():
            code, seconds = await self._once(number)
            self._codes[number] = code
            if self._stopping.is_set() or (self._burst and code == 0):
                return
            if code in FINAL:
                log.critical("worker %d ended with exit code %d: it would again, so all end", number, code)
                self.stop(signal.SIGTERM)
                return
            failures = 0 if seconds >= STEADY else failures + 1
            wait = pause(failures)
            log.error("worker %d %s: started again in %.0f s", number, _how(code), wait)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stopping.wait()

    async def _once(self, number: int) -> tuple[int, float]:
        """Run one worker to its end; return its exit code and how many seconds it lived."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment(number, theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        worker = self._living[number] = _Worker(number, process, time.monotonic())
        log.info("worker %d started: process %d", number, process.pid)
        if self._stopping.is_set():
            _signal(worker, signal.SIGTERM)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        hearing = asyncio.create_task(self._hear(worker, reader))
        code = await process.wait()
        hearing.cancel()
        writer.close()
        del self._living[number]
        if self._stopping.is_set() and -code in STOPS:
            code = 0  # It was told so before it could listen.
        return code, time.monotonic() - worker.started

    async def _hear(self, worker: _Worker, reader: asyncio.StreamReader) -> None:
        async for line in reader:
            if not worker.heard and self._paused:
                _signal(worker, signal.SIGUSR2)
            worker.heard = True
            word = line.decode().rstrip()
            if word == ALIVE:
                worker.alive = time.monotonic()
            elif word == READY:
                worker.ready = True
                self._report()

    def _report(self) -> None:
        """Tell the service manager how all of them are together."""
        if self._tell is None:
            return
        ready, now = sum(worker.ready for worker in self._living.values()), time.monotonic()
        words = [f"STATUS={ready} of {self._count} workers ready"]
        if ready == self._count and not self._told_ready:
            self._told_ready = True
            words.append(READY)
        silent = [one for one in self._living.values() if one.alive and now - one.alive > (self._watchdog or now)]
        if self._watchdog and not silent:
            words.append(ALIVE)
        self._tell("\n".join(words))

    async def _keep_telling(self) -> None:
        while True:
            self._report()
            await asyncio.sleep(self._watchdog / 2 if self._watchdog else INTERVAL)


def _how(code: int) -> str:
    return f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"


def _signal(worker: _Worker, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # It has just ended.
        worker.process.send_signal(number)


class Above:
    """The way from a worker to the process above it."""

    def __init__(self, channel: int) -> None:
        """Take the descriptor that it was given."""
        self._socket = socket.socket(fileno=channel)
        self._socket.setblocking(False)
        self._socket.set_inheritable(False)

    def tell(self, words: str) -> None:
        """Send these lines."""
        with suppress(OSError):  # It is gone, see watch.
            self._socket.sendall(f"{words}\n".encode())

    async def watch(self) -> None:
        """Wait until that process has ended, however it did, and then stop as at a TERM."""
        loop = asyncio.get_running_loop()
        try:
            while await loop.sock_recv(self._socket, 64):
                pass
            log.critical("the process above the workers is gone: stopping")
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            self._socket.close()


def same_command() -> list[str]:
    """Return the command line of this process."""
    return [sys.executable, *sys.orig_argv[1:]]
