"""A chaos run: load, faults at random moments, and a verdict from the ledger.

``python -m tests.chaos.run chaos --tasks 20000 --kills 20`` or ``... pauses --pauses 1000``; the seed it prints repeats
the order of the faults. Exit code 1 if anything that was promised was not kept.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Final

from taskqueue.tables import write_table
from tests.chaos.builds import BUILDS
from tests.chaos.checker import Verdict, check, percentile
from tests.chaos.ledger import read
from tests.chaos.nemesis import Nemesis, plan
from tests.chaos.scene import LEASE, Scene

# Whether each of the first consumers has the application inside, or is one over HTTP.
CONSUMERS: Final = (False, False, False, True)
# Of a run of pauses: consumers that are never paused, tasks a second, how many of the paused lose their name.
WATCHERS: Final = 2
LOAD: Final = 60
USURPED: Final = 0.3
LANES: Final = 10


def chaos(folder: Path, *, tasks: int, faults: Sequence[str], seed: str, build: str = "sound") -> Verdict:
    """Run these faults under load, ``tasks`` in all; return the verdict."""
    chance = random.Random(seed)
    with Scene(folder, seed=seed, build=build) as scene:
        for inside in CONSUMERS:
            name = scene.new_name()
            scene.start_consumer(name, inside=inside)
        for consumer in scene.consumers.values():
            scene.wait_for_claim(consumer)
        nemesis = Nemesis(scene, chance)
        portion, rest = divmod(tasks, len(faults) + 1)
        for fault in faults:
            scene.order(portion)
            nemesis.wait(0.2, 0.8)
            nemesis.strike(fault)
        scene.order(portion + rest)
        scene.end_orders()
        scene.settle()
        scene.close_books()
    return check(read(scene.events))


def pauses(folder: Path, *, count: int, lanes: int, seed: str, build: str = "sound") -> Verdict:
    """Freeze consumers beyond their lease so many times, ``lanes`` side by side, under load; return the verdict."""
    chance = random.Random(seed)
    with Scene(folder, seed=seed, build=build) as scene:
        names = [scene.new_name() for _ in range(lanes + WATCHERS)]
        for number, name in enumerate(names):
            scene.start_consumer(name, inside=number % 3 == 1)
        for consumer in scene.consumers.values():
            scene.wait_for_claim(consumer)
        nemesis = Nemesis(scene, chance)
        left = iter(range(count))  # shared by the lanes

        def lane(name: str) -> None:
            for _ in left:
                nemesis.wait(0, 0.5)
                nemesis.pause(scene.consumers[name], usurp=chance.random() < USURPED)

        with ThreadPoolExecutor(lanes) as pool:
            working = [pool.submit(lane, name) for name in names[WATCHERS:]]
            while not all(job.done() for job in working):
                scene.order(LOAD)
                nemesis.wait(1, 1)
            for job in working:
                job.result()
        scene.end_orders()
        scene.settle()
        scene.close_books()
    return check(read(scene.events))


def rows(verdict: Verdict) -> list[tuple[str, str, str]]:
    """Return the table: what, how much, and what it may be."""
    kills = max(verdict.repeats_per_kill, default=(0, 0))
    faults = ", ".join(f"{count} {name}" for name, count in sorted(verdict.faults.items())) or "none"
    return [
        ("faults", faults, ""),
        ("acknowledged", str(verdict.acknowledged), ""),
        ("aborted, refused, uncertain", f"{verdict.aborted}, {verdict.refused}, {verdict.uncertain}", ""),
        *((name, _named(names), limit) for name, names, limit in (
            ("lost", verdict.lost, "0"),
            ("phantom", verdict.phantom, "0"),
            ("stranded at the end", verdict.stranded, "0"),
            ("started twice in one delivery", verdict.doubly_started, "0"),
            ("starts accepted from a fenced consumer", verdict.fenced_starts, "0"),
            ("changes by a fenced consumer", verdict.fenced_changes, "0"),
            ("fenced consumers that did not exit 75", verdict.fenced_exits, "0"),
            ("invariants broken at the end", verdict.broken, "0"),
            ("failed", verdict.failed, ""),
        )),
        ("repeated starts", str(verdict.repeated_starts), ""),
        ("repeated starts that no fault explains", _named(verdict.unexplained), "0"),
        ("repeated completions", str(verdict.repeated_completions), ""),
        ("most repeated starts after one kill", f"{kills[0]} of {kills[1]} in flight", "those in flight"),
        ("attempts spent without a start", str(verdict.unstarted_attempts), "0"),
        ("recovery, same name, from its start", _seconds(verdict.same_name), "p99 2 s"),
        ("... until the new process had the name", _seconds(verdict.claiming), ""),
        ("recovery, other name", _seconds(verdict.other_name), f"p99 {LEASE + 1:g} s"),
        ("resumed after Redis came back", _seconds(verdict.after_redis), "2 s"),
        ("resumed after the target came back", _seconds(verdict.after_target), "1 s"),
    ]  # fmt: skip


def _named(names: Sequence[str]) -> str:
    return " ".join((str(len(names)), *names[:3], *(["..."] if len(names) > 3 else [])))


def _seconds(times: Sequence[float]) -> str:
    if not times:
        return "-"
    figures = (percentile(times, 0.5), percentile(times, 0.99), max(times))
    return "p50 {:.2f}  p99 {:.2f}  max {:.2f} s  ({} times)".format(*figures, len(times))


def main(arguments: Sequence[str]) -> int:
    """Run as told on the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="tests.chaos.run", description="Nothing lost: the proof under faults.")
    parser.add_argument("what", choices=("chaos", "pauses"))
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pauses", type=int, default=1000)
    parser.add_argument("--seed", default=str(time.time_ns()))
    parser.add_argument("--build", default="sound", choices=BUILDS, help="a fault to be found: see builds.py")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the ledger and the logs")
    chosen = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="tq-chaos-"))
    print(f"seed {chosen.seed}, ledger and logs in {folder}", file=sys.stderr)  # noqa: T201
    began = time.monotonic()
    if chosen.what == "chaos":
        faults = plan(chosen.kills, random.Random(chosen.seed))
        verdict = chaos(folder, tasks=chosen.tasks, faults=faults, seed=chosen.seed, build=chosen.build)
    else:
        lanes = min(LANES, chosen.pauses)
        verdict = pauses(folder, count=chosen.pauses, lanes=lanes, seed=chosen.seed, build=chosen.build)
    if chosen.json:
        print(json.dumps(asdict(verdict), indent=2))  # noqa: T201
    else:
        write_table(("what", "found", "limit"), rows(verdict))
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)  # noqa: T201
    if verdict.sound and not chosen.keep:
        shutil.rmtree(folder)
    return 0 if verdict.sound else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
