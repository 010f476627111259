"""What a consumer meets when very many tasks wait: how soon it starts, what a task costs, how long scripts take."""

import time
from typing import Final

from . import processes
from .scene import Scene
from .suites import MOST, Consumption, Figures, Sizes, between, window

LIMIT: Final = 10


def waiting(scene: Scene, sizes: Sizes, tasks: int) -> Figures:
    """Let so many tasks wait, start a consumer, and look at it in a window; twice more for the slowest script.

    ``start``: seconds from the start of its process to its first request. The others are milliseconds of the slowest
    script that it calls, 0 below one. SLOWLOG has them by the clock, which runs on while another process has the CPU:
    ``slowest`` is with a CPU left to the store, ``slowest_shared`` where all share them, ``slowest_rewriting`` where
    the store rewrites its file besides. ``slowest_add``: while they are queued, 1,000 at a time.
    """
    tasks = round(tasks * sizes.scale)
    store = scene.store
    store.empty()
    store.watch_slow()
    scene.produce("ours", "fill", tasks)
    slowest_add = store.slowest()
    # So much at once makes it rewrite its file. Whether it is still at it would be chance.
    store.await_rewritten()
    figures = _consumed(scene, sizes, tasks)
    _queue_again(scene, figures)
    with processes.apart(store.pid):
        alone = _consumed(scene, sizes, tasks)
    _queue_again(scene, alone)
    store.rewrite()
    rewriting = _consumed(scene, sizes, tasks)
    return figures | {
        "cost": figures["consumer_cpu"] + figures["redis_cpu"],
        "wrong": figures["wrong"] + alone["wrong"] + rewriting["wrong"],
        "slowest": alone["slowest"],
        "slowest_shared": figures["slowest"],
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


def _queue_again(scene: Scene, figures: Figures) -> None:
    # Not all: of what was done the killed consumer has not settled the last, and the queue may hold a million.
    scene.produce("ours", "fill", figures["done"] // 2)
