"""The faults of a chaos run, each from its beginning until the system should have recovered."""

import random
import signal
import time
from collections.abc import Callable, Mapping
from typing import Final

from tests.chaos.scene import PATIENCE, Consumer, Holding, Scene
from tests.waiting import wait_until

# The kinds of faults in groups, and how likely each is within its group: the deaths of consumers, and the others.
DEATHS: Final = {"kill_same": 0.7, "kill_other": 0.3}
OTHERS: Final = ({"pause": 0.7, "usurp": 0.3}, {"crash_redis": 1.0}, {"stop_target": 0.5, "kill_target": 0.5})


def plan(kills: int, chance: random.Random) -> list[str]:
    """Return the faults of a run in random order: so many deaths, and for each four of them one of every other group.

    A group deals out each of its kinds once before it draws at random, so from 8 deaths on a run knows every kind.
    """
    faults = _dealt(kills, DEATHS, chance)
    for group in OTHERS:
        faults += _dealt(kills // 4, group, chance)
    chance.shuffle(faults)
    return faults


def _dealt(count: int, group: Mapping[str, float], chance: random.Random) -> list[str]:
    once = chance.sample(list(group), min(count, len(group)))
    return once + chance.choices(list(group), list(group.values()), k=count - len(once))


class Nemesis:
    """Does harm, and writes down when and to what."""

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        self._scene, self._chance, self._note = scene, chance, scene.ledger.note

    def strike(self, fault: str) -> None:
        """Let this happen."""
        faults: dict[str, Callable[[], None]] = {
            "kill_same": self._kill_same,
            "kill_other": self._kill_other,
            "pause": lambda: self.pause(self._victim(), usurp=False),
            "usurp": lambda: self.pause(self._victim(), usurp=True),
            "crash_redis": self._crash_redis,
            "stop_target": lambda: self._end_target(kill=False),
            "kill_target": lambda: self._end_target(kill=True),
        }
        faults[fault]()

    def wait(self, least: float, most: float) -> None:
        """Let the others work for a random time, in seconds."""
        end = time.monotonic() + self._chance.uniform(least, most)
        wait_until(lambda: time.monotonic() >= end, "time passes", limit=most + PATIENCE)

    def _victim(self) -> Consumer:
        return self._chance.choice(list(self._scene.consumers.values()))

    def _kill(self) -> tuple[Consumer, Holding]:
        victim = self._victim()
        victim.process.kill()
        victim.process.wait()
        held = self._scene.holding(victim.name)
        self._note("killed", victim.name, *held.deliveries)
        return victim, held

    def _kill_same(self) -> None:
        victim, _ = self._kill()
        self._note("returned", victim.name)
        self._scene.wait_for_claim(self._scene.start_consumer(victim.name, inside=victim.inside))
        self._note("claimed", victim.name)

    def _kill_other(self) -> None:
        victim, held = self._kill()
        del self._scene.consumers[victim.name]
        other = self._scene.start_consumer(self._scene.new_name(), inside=victim.inside)
        wait_until(
            lambda: self._scene.holding(victim.name).epoch != held.epoch,
            f"{victim.name} is taken over",
            limit=PATIENCE,
            every=0.03,
        )
        self._note("taken-over", victim.name)
        self._scene.wait_for_claim(other)

    def pause(self, victim: Consumer, *, usurp: bool) -> None:
        """Freeze a consumer until others have taken its tasks, or its name (``usurp``), and let it wake."""
        scene, process = self._scene, victim.process
        process.send_signal(signal.SIGSTOP)
        held = scene.holding(victim.name)
        self._note("paused", victim.name)
        if usurp:
            scene.start_consumer(victim.name, inside=victim.inside)

        def fenced() -> bool:
            nonlocal held
            now = scene.holding(victim.name)
            if now.epoch == held.epoch:
                held = now  # the last look before the fence counts
            return now.epoch != held.epoch

        wait_until(fenced, f"{victim.name} is fenced", limit=PATIENCE, every=0.03)
        self._note("fenced", victim.name, *held.deliveries)
        self.wait(0, 0.3)
        self._note("woken", victim.name)
        process.send_signal(signal.SIGCONT)
        self._note("ended", victim.name, process.wait(PATIENCE))
        if not usurp:
            scene.start_consumer(victim.name, inside=victim.inside)
        scene.wait_for_claim(scene.consumers[victim.name])

    def _crash_redis(self) -> None:
        self._note("redis-killed")
        self._scene.redis.kill()
        self.wait(0, 1)
        self._scene.redis.start()
        self._note("redis-back")

    def _end_target(self, *, kill: bool) -> None:
        self._scene.end_target(kill=kill)
        self.wait(0, 1)
        self._scene.start_target()
