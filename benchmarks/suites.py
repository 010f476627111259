"""What is measured: one function a suite, each a cell of one contender in one round, which returns figures by name.

Rates are per second, times of CPU are milliseconds per 1,000 tasks, latencies milliseconds, sizes bytes.
"""

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.waiting import wait_until

from . import micro, processes
from .figures import Key, Round
from .scene import Scene
from .targets import Target, running_plain

START_SECONDS: Final = 60.0
LONG_SECONDS: Final = 1800.0
# A window ends when so much of what was queued has gone, so that no tail is in it.
MOST: Final = 0.8
WARM_TASKS: Final = 20
LARGE_KIB: Final = 2048

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long and how much.

    Seconds: ``window``; ``warm``, from the first request to the window, so that connections are open and code is warm;
    ``watch``, for commands; ``idle``. ``samples`` of latency, ``calls`` of what is measured alone. ``scale``: the
    tasks queued for a drain, in parts of what the fastest could take.
    """

    window: float = 1.2
    warm: float = 0.5
    watch: float = 0.3
    idle: float = 1.0
    samples: int = 200
    calls: int = 5000
    scale: float = 1.0


SMALL: Final = Sizes(window=0.2, warm=0.1, watch=0.1, idle=0.1, samples=5, calls=50, scale=0.2)
"""Enough to see that everything works, and for nothing else."""


@dataclass(frozen=True, slots=True)
class Look:
    """What can be seen at one moment from outside: CPU in seconds."""

    at: float
    count: int
    consumer: float
    target: float
    redis: float


class Consumption:
    """Consumers at work, and the target to which they send."""

    def __init__(self, scene: Scene, target: Target, *processes: subprocess.Popen[bytes]) -> None:
        self._scene, self._target, self._processes = scene, target, processes
        self._begun, self._wrong = target.count(), target.wrong()

    def done(self) -> int:
        """Return how many tasks have come to the target."""
        return self._target.count() - self._begun

    def wrong(self) -> int:
        """Return how many of them were not the work."""
        return self._target.wrong() - self._wrong

    def look(self) -> Look:
        """Look at all of them."""
        cpu = sum(processes.cpu(process.pid) for process in self._processes)
        return Look(time.monotonic(), self.done(), cpu, self._target.cpu(), self._scene.store.cpu())

    def wait(self, condition: Callable[[], bool], what: str, *, limit: float = START_SECONDS) -> None:
        """Wait for this; raises AssertionError if a consumer ends, or at the limit."""

        def ended() -> list[int]:
            return [code for code in (process.poll() for process in self._processes) if code is not None]

        wait_until(lambda: condition() or bool(ended()), what, limit=limit)
        if ended():
            raise AssertionError(f"a consumer has ended ({ended()}) before: {what}")

    def commands(self, seconds: float) -> Figures:
        """Return the commands per task of the consumer, of the door of its target, and inside the scripts of both."""
        before = self.done()
        seen = self._scene.store.commands(seconds)
        tasks = max(1, self.done() - before)
        return {
            "commands": seen["over TCP"] / tasks,
            "door_commands": seen["over the socket"] / tasks,
            "script_commands": seen["inside scripts"] / tasks,
        }


def enqueue(scene: Scene, sizes: Sizes, contender: str, how: str) -> Figures:
    """Queue for some seconds: ``one`` at a time, ``concurrent`` (100), ``bulk`` (1,000 in one go)."""
    scene.store.empty()
    told = scene.produce(contender, how, sizes.window)
    count = told["count"]
    return {"tasks": count, "rate": count / told["seconds"], "producer_cpu": told["cpu"] * 1e6 / max(1, count)}


def drain(scene: Scene, sizes: Sizes, contender: str, variant: str, limit: int, room: int) -> Figures:
    """Queue enough for ``room`` tasks a second, then consume in a window of some seconds. 0: nothing is queued."""
    scene.store.empty()
    queued, figures = round(sizes.scale * room * (sizes.window + sizes.warm + sizes.watch)), Figures()
    if queued:
        before = scene.store.memory()
        scene.produce(contender, "fill", queued)
        figures["stored_bytes"] = (scene.store.memory() - before) / queued
    with scene.target(variant) as target, scene.consumer(contender, limit, variant, target) as process:
        consumption = Consumption(scene, target, process)
        figures |= between(*window(consumption, sizes, 0, round(queued * MOST)))
        if queued:
            figures |= consumption.commands(sizes.watch)
        figures |= {
            "resident": processes.resident(process.pid),
            "done": consumption.done(),
            "wrong": consumption.wrong(),
        }
    return figures


def window(consumption: Consumption, sizes: Sizes, before: int, most: int) -> tuple[Look, Look]:
    """Return what was seen at both ends of the window.

    ``before``: so many had come before there was anything to see; ``most``: end it after so many more, 0: never.
    """

    def over(since: float, seconds: float, most: float) -> bool:
        return time.monotonic() - since >= seconds or bool(most and consumption.done() - before >= most)

    consumption.wait(lambda: consumption.done() > before, "the first request has come")
    started = time.monotonic()
    consumption.wait(lambda: over(started, sizes.warm, most / 2), "it is warm")
    first = consumption.look()
    consumption.wait(lambda: over(first.at, sizes.window, most), "the window is over", limit=sizes.window + 60)
    return first, consumption.look()


def between(first: Look, last: Look) -> Figures:
    """Return what was done between two looks: rates, and CPU per 1,000 tasks."""
    tasks, seconds = last.count - first.count, last.at - first.at
    thousands = max(1, tasks) / 1000
    return {
        "tasks": tasks,
        "seconds": seconds,
        "rate": tasks / seconds,
        "consumer_cpu": (last.consumer - first.consumer) * 1000 / thousands,
        "target_cpu": (last.target - first.target) * 1000 / thousands,
        "redis_cpu": (last.redis - first.redis) * 1000 / thousands,
    }


def latency(scene: Scene, sizes: Sizes, contender: str) -> Figures:
    """Queue one task every 10 ms for a consumer with limit 10 that has nothing else to do, and clock its arrival."""
    scene.store.empty()
    with scene.consumer(contender, 10, "http", scene.plain) as process:
        consumption = Consumption(scene, scene.plain, process)
        scene.produce(contender, "fill", WARM_TASKS)
        consumption.wait(lambda: consumption.done() >= WARM_TASKS, "it is warm")
        first = consumption.look()
        consumption.wait(lambda: time.monotonic() - first.at >= sizes.idle, "it was idle")
        last = consumption.look()
        resident = processes.resident(process.pid)
        told = scene.produce(contender, "latency", sizes.samples)
        consumption.wait(lambda: consumption.done() > WARM_TASKS + sizes.samples, "all have come")
        wrong = consumption.wrong()
    return {
        **_taken(scene.plain.arrivals()[-sizes.samples :], told["starts"], told["calls"]),
        "wrong": wrong,
        "idle_cpu": (last.consumer - first.consumer) / (last.at - first.at) * 100,
        "resident": resident,
    }


def half_load(scene: Scene, sizes: Sizes, contender: str, earlier: Round) -> Figures:
    """Queue half as many tasks a second as it drains with limit 10, and clock their arrival.

    What it drains was measured ``earlier`` in the round, or is measured now. The first part of the tasks is left out.
    """
    drained = earlier.get(Key("drain", contender, "http 10")) or drain(scene, sizes, contender, "http", 10, 4_000)
    scene.store.empty()
    with scene.consumer(contender, 10, "http", scene.plain) as process:
        consumption = Consumption(scene, scene.plain, process)
        scene.produce(contender, "fill", WARM_TASKS)
        consumption.wait(lambda: consumption.done() >= WARM_TASKS, "it is warm")
        told = scene.produce(contender, "paced", drained["rate"] / 2, sizes.warm + sizes.window)
        starts = told["starts"]
        consumption.wait(lambda: consumption.done() > WARM_TASKS + len(starts), "all have come")
        wrong = consumption.wrong()
    arrivals = scene.plain.arrivals()[-len(starts) :]
    cold = sum(start < starts[0] + sizes.warm for start in starts)
    return {
        **_taken(arrivals[cold:], starts[cold:], told["calls"][cold:]),
        "wrong": wrong,
        "arriving": (len(starts) - 1) / (starts[-1] - starts[0]),
    }


def _taken(arrivals: Sequence[float], starts: Sequence[float], calls: Sequence[float]) -> Figures:
    """Return what tasks took, in milliseconds; the first that came is taken for the first that was queued."""
    taken = [(came - went) * 1000 for came, went in zip(arrivals, starts, strict=True)]
    return {
        "tasks": len(taken),
        "p50": statistics.median(taken),
        "p99": percentile(taken, 0.99),
        "call_p50": statistics.median(calls) * 1000,
    }


def memory(scene: Scene, sizes: Sizes, contender: str, tasks: int) -> Figures:
    """Give an idle consumer with limit 100 so many tasks; return what it holds before, after, and how much more."""
    scene.store.empty()
    tasks = round(tasks * sizes.scale)
    with scene.consumer(contender, 100, "http", scene.http) as process:
        consumption = Consumption(scene, scene.http, process)
        scene.produce(contender, "fill", WARM_TASKS)
        consumption.wait(lambda: consumption.done() >= WARM_TASKS, "it is warm")
        idle = processes.resident(process.pid)
        scene.produce(contender, "fill", tasks)
        consumption.wait(lambda: consumption.done() >= WARM_TASKS + tasks, "all have come", limit=LONG_SECONDS)
        resident = processes.resident(process.pid)
    return {"tasks": tasks, "idle": idle, "resident": resident, "grown": resident - idle}


def large(scene: Scene, sizes: Sizes, tasks: int) -> Figures:
    """Give an idle consumer with limit 10 so many tasks of 2 MiB; return what it holds before, and at most."""
    scene.store.empty()
    tasks = max(1, round(tasks * sizes.scale))
    with running_plain(LARGE_KIB) as target, scene.consumer("ours", 10, "http", target) as process:
        consumption = Consumption(scene, target, process)
        consumption.wait(lambda: scene.store.consumers() > 0, "it is there")
        idle = processes.resident(process.pid)
        scene.produce("ours", "fill", tasks, kib=LARGE_KIB)
        consumption.wait(lambda: consumption.done() >= tasks, "all have come")
        peak = processes.peak(process.pid)
        wrong = consumption.wrong()
    return {"tasks": tasks, "wrong": wrong, "idle": idle, "resident": peak, "grown": peak - idle}


def alone(sizes: Sizes) -> Figures:
    """Return what sealing, signing and packing cost one by one, in microseconds."""
    return micro.micro(sizes.calls)


def percentile(values: list[float], part: float) -> float:
    """Return the value that this part of all does not exceed: the nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -int(-part * len(ordered) // 1) - 1)]
