"""Which cells a run has: what is measured of whom, in which order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .figures import Round
from .processes import WRK
from .scene import Scene
from .several import several
from .suites import Figures, Sizes, alone, drain, enqueue, half_load, large, latency, memory
from .waiting import waiting

LIMITS: Final = (1, 10, 100)
# Tasks a second that a contender will hardly exceed, by limit: so many are queued for each second of a drain.
ROOM: Final = {1: 4_000, 10: 12_000, 100: 12_000}
ROOM_OF_PEERS: Final = 4_000
ROOM_IN_PROCESS: Final = 20_000
SOME_TASKS: Final = 20_000
MANY_TASKS: Final = 1_000_000
FEW_TASKS: Final = 1_000
LARGE_TASKS: Final = 40

# What was measured earlier in the round comes third.
Measure = Callable[[Scene, Sizes, Round], Figures]


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement: its suite, of whom, which case of it, and how."""

    suite: str
    contender: str
    case: str
    measure: Measure


def quick(peers: Sequence[str]) -> list[Cell]:
    """Return the cells of ``make bench``."""
    return [*_enqueue(peers), *_drain(peers), *_latency(peers), _memory(SOME_TASKS), _alone()]


def full(peers: Sequence[str]) -> list[Cell]:
    """Return the cells of ``make bench-full``: as above, and what takes long."""
    return [
        *quick(peers),
        _several("1 consumer", ["http"]),
        *(_several(f"{count} consumers", ["http"] * count) for count in (4, 16)),
        _several("2 workers", ["workers2"]),
        _large(),
        *(_waiting(tasks) for tasks in (FEW_TASKS, MANY_TASKS)),
        _memory(MANY_TASKS),
    ]


def smoke(peers: Sequence[str]) -> list[Cell]:
    """Return the cells that show that every contender does the work, each way once."""
    some = [cell for cell in quick(peers) if cell.case not in ("http 1", "http 100")]
    by_case = {(cell.suite, cell.contender, cell.case.split()[0]): cell for cell in some}
    return [*by_case.values(), _several("3 consumers", ["http", "workers2"]), _large(), _waiting(FEW_TASKS)]


def _enqueue(peers: Sequence[str]) -> Iterator[Cell]:
    def cell(contender: str, how: str) -> Cell:
        return Cell("enqueue", contender, how, lambda scene, sizes, _: enqueue(scene, sizes, contender, how))

    for how in ("one", "concurrent"):
        for contender in ("ours", "lpush", *peers):
            yield cell(contender, how)
    yield cell("ours", "bulk")


def _drain(peers: Sequence[str]) -> Iterator[Cell]:
    def cell(contender: str, variant: str, limit: int, room: int) -> Cell:
        return Cell(
            "drain",
            contender,
            f"{variant} {limit}",
            lambda scene, sizes, _: drain(scene, sizes, contender, variant, limit, room),
        )

    for limit in LIMITS:
        yield cell("ours", "http", limit, ROOM[limit])
        yield cell("loop", "http", limit, 0)
        if WRK:
            yield cell("wrk", "http", limit, 0)
        for peer in peers:
            yield cell(peer, "http", limit, ROOM_OF_PEERS)
        yield cell("ours", "door", limit, ROOM[1])
    yield cell("ours", "keep", 100, ROOM[100])
    for variant in ("bare", "with_door", "starlette", "fastapi"):
        yield cell("ours", variant, 100, ROOM_IN_PROCESS)


def _latency(peers: Sequence[str]) -> Iterator[Cell]:
    def idle(contender: str) -> Cell:
        return Cell("latency", contender, "idle", lambda scene, sizes, _: latency(scene, sizes, contender))

    def half(contender: str) -> Cell:
        how: Measure = lambda scene, sizes, earlier: half_load(scene, sizes, contender, earlier)  # noqa: E731  one of a row of them
        return Cell("latency", contender, "half load", how)

    for cell in (idle, half):
        yield from (cell(contender) for contender in ("ours", *peers))


def _memory(tasks: int) -> Cell:
    return Cell("memory", "ours", f"{tasks:,}", lambda scene, sizes, _: memory(scene, sizes, "ours", tasks))


def _large() -> Cell:
    return Cell("memory", "ours", "2 MiB", lambda scene, sizes, _: large(scene, sizes, LARGE_TASKS))


def _several(case: str, variants: Sequence[str]) -> Cell:
    return Cell("several", "ours", case, lambda scene, sizes, _: several(scene, sizes, variants))


def _waiting(tasks: int) -> Cell:
    return Cell("waiting", "ours", f"{tasks:,}", lambda scene, sizes, _: waiting(scene, sizes, tasks))


def _alone() -> Cell:
    return Cell("alone", "ours", "1 KiB", lambda _scene, sizes, _: alone(sizes))
