"""What a consumer meets when very many tasks wait: how soon it starts, what a task costs, how long scripts take."""

import time
from typing import Final

from .scene import Scene
from .suites import MOST, Consumption, Figures, Sizes, between, window

LIMIT: Final = 10


def waiting(scene: Scene, sizes: Sizes, tasks: int) -> Figures:
    """Let so many tasks wait, start a consumer, and look at it in a window; again while the store rewrites its file.

    ``start``: seconds from the start of its process to its first request. The others are milliseconds of the slowest
    script that it calls, 0 below one: ``slowest``, and ``slowest_rewriting`` in the second window. ``slowest_add``:
    while they are queued, 1,000 at a time. SLOWLOG goes by the clock, so all count when another process has the CPU.
    """
    tasks = round(tasks * sizes.scale)
    store = scene.store
    store.empty()
    store.watch_slow()
    scene.produce("ours", "fill", tasks)
    slowest_add = store.slowest()
    figures = _consumed(scene, sizes, tasks)
    # Not all: of what was done the killed consumer has not settled the last, and the queue may hold a million.
    scene.produce("ours", "fill", figures["done"] // 2)
    # It copies what it writes to meanwhile, hundreds of pages a script, and a process more wants a CPU.
    store.rewrite()
    rewriting = _consumed(scene, sizes, tasks)
    return figures | {
        "cost": figures["consumer_cpu"] + figures["redis_cpu"],
        "wrong": figures["wrong"] + rewriting["wrong"],
        "slowest_rewriting": rewriting["slowest"],
        "slowest_add": slowest_add,
    }


def _consumed(scene: Scene, sizes: Sizes, tasks: int) -> Figures:
    """Return what a consumer did in a window, when it made its first request, and the slowest script until its end."""
    scene.store.watch_slow()
    scene.plain.arrivals()
    begun = time.monotonic()
    with scene.consumer("ours", LIMIT, "http", scene.plain) as process:
        consumption = Consumption(scene, scene.plain, process)
        figures: Figures = between(*window(consumption, sizes, 0, round(tasks * MOST)))
        figures |= {"done": consumption.done(), "wrong": consumption.wrong()}
    return figures | {"start": scene.plain.arrivals()[0] - begun, "slowest": scene.store.slowest()}
