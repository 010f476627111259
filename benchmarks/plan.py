"""Which cells a run has: what is measured of whom, in which order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .scene import Scene
from .suites import Figures, Sizes, alone, drain, enqueue, latency, memory

LIMITS: Final = (1, 10, 100)
# Tasks a second that a contender will hardly exceed, by limit: so many are queued for each second of a drain.
ROOM: Final = {1: 4_000, 10: 12_000, 100: 12_000}
ROOM_OF_PEERS: Final = 4_000
ROOM_IN_PROCESS: Final = 20_000
SOME_TASKS: Final = 20_000
MANY_TASKS: Final = 1_000_000

Measure = Callable[[Scene, Sizes], Figures]


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
    return [*quick(peers), _memory(MANY_TASKS)]


def smoke(peers: Sequence[str]) -> list[Cell]:
    """Return the cells that show that every contender does the work, each way once."""
    by_case = {(cell.suite, cell.contender, cell.case.split()[0]): cell for cell in quick(peers)}
    return list(by_case.values())


def _enqueue(peers: Sequence[str]) -> Iterator[Cell]:
    def cell(contender: str, how: str) -> Cell:
        return Cell("enqueue", contender, how, lambda scene, sizes: enqueue(scene, sizes, contender, how))

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
            lambda scene, sizes: drain(scene, sizes, contender, variant, limit, room),
        )

    for limit in LIMITS:
        yield cell("ours", "http", limit, ROOM[limit])
        yield cell("loop", "http", limit, 0)
        for peer in peers:
            yield cell(peer, "http", limit, ROOM_OF_PEERS)
        yield cell("ours", "door", limit, ROOM[1])
    for variant in ("bare", "with_door", "starlette", "fastapi"):
        yield cell("ours", variant, 100, ROOM_IN_PROCESS)


def _latency(peers: Sequence[str]) -> Iterator[Cell]:
    def cell(contender: str) -> Cell:
        return Cell("latency", contender, "idle", lambda scene, sizes: latency(scene, sizes, contender))

    yield from (cell(contender) for contender in ("ours", *peers))


def _memory(tasks: int) -> Cell:
    return Cell("memory", "ours", f"{tasks:,}", lambda scene, sizes: memory(scene, sizes, "ours", tasks))


def _alone() -> Cell:
    return Cell("alone", "ours", "1 KiB", alone)
