"""What an application pays for importing its door: no broker, consumer or command line before it is asked for."""

import subprocess
import sys
from typing import Final

import pytest

from tests.house import tree

HEAVY: Final = {"aiohttp", "cyclopts", "redis", "rich", "taskqueue.brokers", "taskqueue.replay", "taskqueue.server"}
DOORS: Final = sorted(f"taskqueue.middleware.{path.stem}" for path in tree.MIDDLEWARE.glob("[!_]*.py"))


ASKED: Final = """
import asyncio, sys
import taskqueue
from taskqueue.middleware.asgi import TaskQueueMiddleware

async def app(scope, receive, send):
    await receive()

async def receive():
    print(*sys.modules)
    return {"type": "lifespan.startup"}

async def send(message):
    pass

door = TaskQueueMiddleware(app, taskqueue.TaskQueue("redis://127.0.0.1:1", secret="x" * 32), consume=%s)
asyncio.run(door({"type": "lifespan"}, receive, send))
"""


@pytest.mark.parametrize("consume", [False, True])
def test_a_door_brings_the_server_only_when_asked_to(consume: bool) -> None:  # noqa: FBT001
    program = ASKED % consume
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tree.ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    assert ("taskqueue.server" in done.stdout.split()) is consume, done.stderr


@pytest.mark.parametrize("module", ["taskqueue", "taskqueue.middleware", *DOORS])
def test_an_import_brings_only_what_it_needs(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tree.ROOT, capture_output=True, text=True, check=True)
    name = module.rpartition(".")[2]
    own = {name, name.partition("_")[0]}  # the framework that this door is about
    assert (HEAVY - own) & set(done.stdout.split()) == set()
