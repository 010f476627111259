"""What it costs to find tasks, with 1,000 and with 1,000,000 in the log.

$ make log-cost TASKS=200000

A report for people. The tasks go through the broker's own moves; one owner has the same few at either size, so that
what is asked of her must cost the same, and so must every page in the order of an index. What the store itself took for
its slowest commands is read from its SLOWLOG.
"""

import asyncio
import secrets
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.admin import Admin
from taskqueue.brokers.redis import RedisBroker
from taskqueue.query import Query, parse, parse_sort
from taskqueue.story import story
from taskqueue.task import SealedTask, Settlement, Verdict
from tests.servers import RedisServer, find_binaries

SMALL: Final = 1000
BATCH: Final = 100
ROUNDS: Final = 5
RARE: Final = 20
SLOWER_THAN: Final = 500
"""Microseconds."""
DONE: Final = Verdict("complete", status=200)
LOST: Final = Verdict("fail", "not-found", 404)


def soon() -> float:
    return time.monotonic() + 60


@dataclass(frozen=True)
class Cost:
    """What one question took, in ms, and the store's slowest command in it."""

    name: str
    ms: float
    slowest: float


def made(number: int, of: int) -> SealedTask:
    """Return one of so many tasks: of a hundred owners or more, a few of them ada's; every tenth has the label."""
    owner = "ada" if number % (of // RARE) == 0 else f"user-{number % (of // 10)}"
    path = f"/reports/{number}" if number % 2 else "/mail"
    return SealedTask(
        f"id-{number:07}",
        "default",
        b"sealed" * 20,
        0,
        "POST",
        "/rare" if number == of // 2 else path,
        "nightly" if number % 10 == 0 else "",
        owner=owner,
        route=f"/route/{number % 5}",
    )


async def fill(broker: RedisBroker, count: int) -> None:
    """Log so many tasks: one of twenty fails, the last hundred still wait."""
    lease, _ = await broker.claim("default", "one", begins=False, deadline=soon())
    settled: Sequence[Settlement] = ()
    for start in range(0, count, BATCH):
        await broker.push("default", [made(number, count) for number in range(start, start + BATCH)], deadline=soon())
        want = BATCH if start + BATCH < count else 0
        token = secrets.token_hex(4)
        taken = await broker.exchange(lease, settled, token=token, want=want, room=2**22, deadline=soon())
        settled = [
            Settlement(one.id, one.delivery, LOST if place % 20 == 7 else DONE)
            for place, one in enumerate(taken.reservations)
        ]
    await broker.leave(lease, deadline=soon())


def questions(admin: Admin, count: int, middle: int) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return what is asked, by the words of the command line; ``middle`` is when half of the tasks were done."""

    def listed(text: str = "", sort: str = "-changed", *, offset: int = 0) -> Callable[[], Awaitable[object]]:
        terms = parse(text, now=0, owners=lambda user: [user]) if text else []
        query = Query(terms=tuple(terms), sort=parse_sort(sort), offset=offset)
        return lambda: admin.tasks(query)

    async def each(text: str) -> None:
        query = Query(terms=tuple(parse(text, now=0, owners=lambda user: [user])))
        async for _ in admin.each(query):
            pass

    async def log() -> None:
        task = await admin.find(f"id-{count // 2:07}")
        assert task is not None
        story(task, await admin.log(task))

    def between(field: str) -> str:
        return f"{field} >= '{_iso(middle)}' AND {field} < '{_iso(middle + 20)}'"

    return {
        "show ID, log ID": log,
        "list": listed(),
        "list --where 'id = ...'": listed(f"id = id-{count // 2:07}"),
        "list --state completed": listed("state = completed"),
        "list --state completed --sort changed": listed("state = completed", "changed"),
        "list --state completed, the page in the middle": listed("state = completed", offset=count // 2),
        "list --state completed, 20 ms long ago": listed(f"state = completed AND {between('changed')}"),
        "list --state failed": listed("state = failed"),
        "list --owner ada (20 tasks)": listed("owner = ada"),
        "list --owner ada --state failed": listed("owner = ada AND state = failed"),
        "list --label nightly (every tenth)": listed("label = nightly"),
        "list --label nightly --sort -added": listed("label = nightly", "-added"),
        "list --route /route/1, added in 20 ms": listed(f"route = /route/1 AND {between('added')}", "-added"),
        "list --path '/reports/*' (every other)": listed("path LIKE /reports/%"),
        "stats": admin.stats,
        "stats --owner ada": lambda: each("owner = ada"),
        "times, 20 ms long ago": lambda: each(f"state = completed AND {between('changed')}"),
        "list --sort path (10,000 are sorted)": listed("state = completed", "path"),
        "list --path /rare (no index: reads all)": listed("path = /rare"),
    }


def _iso(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms / 1000)) + f".{ms % 1000:03}+00:00"


async def measure(server: RedisServer, count: int) -> tuple[float, float, list[Cost]]:
    """Return how long it took to log so many tasks, the slowest script meanwhile (ms), and what questions cost."""
    client = server.client()
    client.config_set("slowlog-log-slower-than", SLOWER_THAN)
    broker = RedisBroker(server.url, namespace="taskqueue")
    try:
        started = time.monotonic()
        await fill(broker, count)
        filled = time.monotonic() - started
        slowest = _slowest(client)
        half = await broker.get("default", f"id-{count // 2:07}", deadline=soon())
        assert half is not None
        asked = questions(Admin(broker, ["default"]), count, half.changed)
        return filled, slowest, [await _cost(client, name, ask) for name, ask in asked.items()]
    finally:
        await broker.aclose()


async def _cost(client: Any, name: str, ask: Callable[[], Awaitable[object]]) -> Cost:
    client.slowlog_reset()
    took = []
    for _ in range(ROUNDS):
        started = time.monotonic()
        await ask()
        took.append(time.monotonic() - started)
        if took[-1] > 1:
            break
    return Cost(name, statistics.median(took) * 1000, _slowest(client))


def _slowest(client: Any) -> float:
    """Return how long the slowest command took, in ms; 0 if none took half a millisecond."""
    found = max((entry["duration"] for entry in client.slowlog_get(128)), default=0) / 1000
    client.slowlog_reset()
    return float(found)


def report(counts: Sequence[int]) -> list[str]:
    """Return the report as lines."""
    found = {}
    lines = []
    for count in counts:
        with RedisServer(find_binaries()["valkey9"], "--appendonly", "no", "--slowlog-max-len", "10000") as server:
            filled, slowest, found[count] = asyncio.run(measure(server, count))
            memory = server.client().info("memory")["used_memory"] / 2**20
        lines.append(
            f"{count:,} tasks logged in {filled:.1f} s, {memory:.0f} MiB; the slowest command took {slowest:.1f} ms"
        )
    heads = [f"{count:,}" for count in counts]
    lines += ["", f"{'in ms':<48}" + "".join(f"{head:>12}" for head in heads) + f"{'slowest':>10}"]
    for costs in zip(*found.values(), strict=True):
        figures = "".join(f"{cost.ms:>12.1f}" for cost in costs)
        lines.append(f"{costs[0].name:<48}{figures}{max(cost.slowest for cost in costs):>10.1f}")
    return [*lines, "", f"slowest: a command of the store, ms; 0.0: none took {SLOWER_THAN / 1000} ms"]


if __name__ == "__main__":
    sys.stdout.write("\n".join(report([SMALL, int(sys.argv[1])])) + "\n")
