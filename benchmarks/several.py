"""Several consumers of one queue, each a process with a name of its own: what they do together, what waking costs."""

import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final

from . import processes
from .scene import Scene
from .suites import MOST, Consumption, Figures, Sizes, between, window

LIMIT: Final = 10
ROOM: Final = 12_000
TRICKLE: Final = 100.0
"""Tasks a second for consumers that have nothing else to do: each of them is news to all."""


def several(scene: Scene, sizes: Sizes, variants: Sequence[str]) -> Figures:
    """Start a consumer for each of the variants, and return what they do together.

    First tasks trickle: how many commands does each cost, if all of them wait for it? Then they drain.
    """
    count = sum(2 if variant == "workers2" else 1 for variant in variants)
    scene.store.empty()
    with ExitStack() as stack:
        started = [stack.enter_context(scene.consumer("ours", LIMIT, variant, scene.http)) for variant in variants]
        consumption = Consumption(scene, scene.http, *started)
        consumption.wait(lambda: scene.store.consumers() >= count, "all consumers have come")
        figures = {"trickle_commands": _trickle(scene, sizes, consumption)}
        for process in started:
            process.send_signal(signal.SIGUSR2)  # pauses: what is queued now waits for all of them
        queued = round(sizes.scale * ROOM * (sizes.window + sizes.warm + sizes.watch))
        scene.produce("ours", "fill", queued)
        before = consumption.done()
        for process in started:
            process.send_signal(signal.SIGCONT)
        figures |= between(*window(consumption, sizes, before, round(queued * MOST)))
        figures |= consumption.commands(sizes.watch)
        return figures | {
            "resident": sum(processes.resident(process.pid) for process in started),
            "done": consumption.done(),
            "wrong": consumption.wrong(),
        }


def _trickle(scene: Scene, sizes: Sizes, consumption: Consumption) -> float:
    """Return the commands per task of all consumers while tasks come one by one."""
    seconds = sizes.warm + sizes.window
    with ThreadPoolExecutor(1) as beside:
        # By another way to the store than the consumers', so that its commands are not taken for theirs.
        telling = beside.submit(scene.produce, "ours", "paced", TRICKLE, seconds, redis=scene.store.socket_url)
        consumption.wait(lambda: consumption.done() > 1, "tasks trickle")
        seen = consumption.commands(sizes.window)
        queued = 1 + len(telling.result()["starts"])
    consumption.wait(lambda: consumption.done() >= queued, "all have come")
    return seen["commands"]
