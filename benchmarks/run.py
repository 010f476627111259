"""Runs the rounds and writes down everything: each figure of each cell in each round, in one JSON file."""

import datetime as dt
import json
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from tests.nginx import NGINX

from . import processes
from .figures import Key
from .plan import Cell
from .scene import Scene, running_scene
from .suites import SMALL, Figures, Sizes

VERSIONS: Final = """
import importlib.metadata, json, sys
print(json.dumps({each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}))
"""
# What takes part in the work, in whichever environment it is.
PACKAGES: Final = (
    *("aiohttp", "arq", "celery", "cryptography", "fastapi", "hiredis", "http-taskqueue", "msgpack", "orjson"),
    *("pydocket", "redis", "saq", "starlette", "taskiq", "taskiq-redis", "urllib3", "uvloop"),
)


def run(
    cells: Sequence[Cell],
    *,
    rounds: int,
    sizes: Sizes,
    nginx: bool = True,
    store: str = "",
    tell: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Measure each cell once a round, one after the other; tell each; return all that a report needs.

    Raises AssertionError for a contender that does not do the work.
    """
    contenders = sorted({cell.contender for cell in cells})
    with running_scene(nginx=nginx, store=store) as scene:
        if scene.http is not scene.plain:
            _prove(scene, cells, tell)
        return {
            "begun": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "machine": _machine(),
            "servers": {"store": scene.store.version, "target": _nginx() if nginx and NGINX else "plain_target"},
            "versions": {contender: _versions(contender) for contender in contenders},
            "peers": [contender for contender in contenders if contender in processes.PEERS],
            "sizes": asdict(sizes),
            "rounds": [_round(scene, cells, sizes, number, tell) for number in range(1, rounds + 1)],
            "load_at_end": os.getloadavg(),
        }


def write(results: dict[str, Any], path: Path) -> None:
    """Write the results, readable and fit for a diff."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def _round(
    scene: Scene, cells: Sequence[Cell], sizes: Sizes, number: int, tell: Callable[[str], object]
) -> list[dict[str, Any]]:
    measured = dict[Key, Figures]()
    for cell in cells:
        figures = cell.measure(scene, sizes, measured)
        _require_work(cell, figures)
        shown = " ".join(f"{name}={_short(value)}" for name, value in figures.items())
        tell(f"round {number}  {cell.suite:8} {cell.contender:7} {cell.case:14} {shown}")
        measured[Key(cell.suite, cell.contender, cell.case)] = figures
    return [{**key._asdict(), "figures": figures} for key, figures in measured.items()]


def _prove(scene: Scene, cells: Sequence[Cell], tell: Callable[[str], object]) -> None:
    """Let each contender consume at a target that looks at every request; in the rounds nginx only counts them."""
    looking = replace(scene, http=scene.plain)
    for cell in {
        cell.contender: cell for cell in cells if cell.suite == "drain" and cell.case.startswith("http")
    }.values():
        _require_work(cell, cell.measure(looking, SMALL, {}))
        tell(f"proved   {cell.contender:7} sends the requests that it should")


def _require_work(cell: Cell, figures: Figures) -> None:
    """Raise AssertionError for a contender that has done nothing, or something else."""
    done, wrong = figures.get("done", figures.get("tasks", 1)), figures.get("wrong", 0)
    assert done, f"{cell.suite} {cell.contender} {cell.case}: nothing was done"
    assert not wrong, f"{cell.suite} {cell.contender} {cell.case}: of {done} requests {wrong} were wrong"


def _short(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": os.getloadavg(),
    }


def _nginx() -> str:
    done = subprocess.run([str(NGINX), "-v"], capture_output=True, text=True, check=True)
    return done.stderr.strip().rpartition(" ")[2]


def _versions(contender: str) -> dict[str, str]:
    if contender == "wrk":
        told = subprocess.run([str(processes.WRK), "-v"], capture_output=True, text=True, check=False)  # exits with 1
        return {"wrk": (told.stdout + told.stderr).split()[1]}
    command = [str(processes.python_of(contender)), "-c", VERSIONS]
    found: dict[str, str] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return {name: found[name] for name in PACKAGES if name in found}
