"""An append-only file that breaks off anywhere, as after a power cut: each script has happened whole, or not at all."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from taskqueue.brokers.redis import RedisBroker
from taskqueue.task import Settlement, Verdict
from tests.conftest import KINDS
from tests.invariants import assert_invariants
from tests.servers import RedisServer, Servers
from tests.tasks import opaque, opaque_tasks
from tests.work import soon

CUTS: Final = 8
VERDICTS: Final = (
    Verdict("complete", status=200),
    Verdict("retry", "server", 503, 60.0, 1.0),
    Verdict("fail", "client", 422),
    Verdict("release", "stopped"),
)


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, servers: Servers) -> Iterator[RedisServer]:
    with RedisServer(servers.binaries[request.param], "--aof-load-truncated", "yes") as server:
        yield server


async def busy(url: str) -> None:
    """Let every script that changes anything run a few times."""
    broker = RedisBroker(url, namespace="taskqueue")
    for number in range(8):
        await broker.push("default", [*opaque_tasks(3), replace(opaque(), due=-60_000)], deadline=soon())
        prepared = opaque_tasks(4)
        await broker.prepare("default", prepared, deadline=soon())
        await broker.discard("default", [prepared[0].id], deadline=soon())
        await broker.promote("default", [task.id for task in prepared[1:3]], deadline=soon())
        lease, _ = await broker.claim("default", f"c{number % 2}", begins=True, deadline=soon())
        got = await broker.exchange(lease, (), token=str(number), want=5, room=10**6, deadline=soon())
        for one in got.reservations[:2]:
            await broker.begin("default", one.id, one.delivery, deadline=soon())
        ended = [
            Settlement(one.id, one.delivery, verdict, b"sealed")
            for one, verdict in zip(got.reservations, VERDICTS, strict=False)
        ]
        await broker.exchange(lease, ended, token=f"{number}b", want=0, room=0, deadline=soon())
        await broker.due("default", deadline=soon())
    await broker.trim("default", [("finished", 10**9, 2), ("failed", 10**9, 2)], most=100, deadline=soon())
    await broker.aclose()


def growing_file(server: RedisServer) -> Path:
    """Return the part of the append-only file that is written to."""
    return max(server.directory.rglob("*aof*"), key=lambda path: path.stat().st_size if path.is_file() else -1)


async def test_what_is_left_obeys_all_rules(server: RedisServer) -> None:
    await busy(server.url)
    server.kill()
    file = growing_file(server)
    whole = file.read_bytes()
    dice = random.Random(7)
    kept: list[int] = []
    for cut in sorted(dice.sample(range(len(whole) // 4, len(whole)), CUTS)):
        file.write_bytes(whole[:cut])
        server.start()
        client: Any = server.client()
        queues = assert_invariants(client)
        kept.append(len(queues["default"].states))
        server.kill()
    assert len(set(kept)) > 2, "the cuts were at different places"
