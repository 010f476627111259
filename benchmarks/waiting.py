"""What a consumer meets when very many tasks wait: how soon it starts, what a task costs, how long scripts take."""

import time
from typing import Final

from .scene import Scene
from .suites import MOST, Consumption, Figures, Sizes, between, window

LIMIT: Final = 10


def waiting(scene: Scene, sizes: Sizes, tasks: int) -> Figures:
    """Let so many tasks wait, start a consumer, and look at it in a window.

    ``start``: seconds from the start of its process to its first request. ``slowest``: milliseconds of the slowest
    script that it calls; ``slowest_add``: while they are queued, 1,000 at a time. Both are 0 below one millisecond.
    """
    tasks = round(tasks * sizes.scale)
    scene.store.empty()
    scene.store.watch_slow()
    scene.produce("ours", "fill", tasks)
    figures: Figures = {"slowest_add": scene.store.slowest()}
    scene.store.watch_slow()
    scene.plain.arrivals()
    begun = time.monotonic()
    with scene.consumer("ours", LIMIT, "http", scene.plain) as process:
        consumption = Consumption(scene, scene.plain, process)
        figures |= between(*window(consumption, sizes, 0, round(tasks * MOST)))
        figures |= {"done": consumption.done(), "wrong": consumption.wrong()}
    return figures | {
        "start": scene.plain.arrivals()[0] - begun,
        "slowest": scene.store.slowest(),
        "cost": figures["consumer_cpu"] + figures["redis_cpu"],
    }
