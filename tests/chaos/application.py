"""The application of a chaos run: a view that is a task, one that adds tasks, and those of families.

As a process of its own (``python -m tests.chaos.application PORT BUILD``) it is the target of consumers that replay
over HTTP; ``--app tests.chaos.application:make_app`` runs the same inside a consumer. Where the queues are comes from
the usual variables, and the ledger is in the current directory.
"""

import asyncio
import random
import sys
from pathlib import Path
from typing import Final

from aiohttp import web

import taskqueue
from taskqueue.middleware.aiohttp import setup
from tests.chaos import builds
from tests.chaos.ledger import Ledger

LEDGER: Final = Path("ledger")
# Seconds that a task takes at most.
LONGEST: Final = 0.06
CHILDREN: Final = 3
# Which part of the children fails.
FAILING: Final = 0.2


def make_app(role: str = "inside") -> web.Application:
    """Return the application; ``role`` is how its ledger tells where it ran."""
    ledger = Ledger(LEDGER, role)
    tq = taskqueue.TaskQueue()

    async def work(request: web.Request) -> web.Response:
        task = taskqueue.current_task()
        assert task is not None
        key = request.match_info["key"]
        ledger.note("started", key, task.delivery, task.attempt)
        await asyncio.sleep(random.random() * LONGEST)
        ledger.note("finished", key, task.delivery)
        return web.Response()

    async def enter(request: web.Request) -> web.Response:
        for key in (await request.text()).split():
            taskqueue.add(f"/job/{key}", "POST", payload=None)
        if "abort" in request.query:
            raise web.HTTPConflict
        return web.Response()

    async def close(_app: web.Application) -> None:
        ledger.close()

    app = web.Application()
    app.router.add_post("/job/{key}", work)
    app.router.add_post("/enter", enter)
    _add_families(app, ledger)
    setup(app, tq)
    app.on_cleanup.append(close)
    return app


def _add_families(app: web.Application, ledger: Ledger) -> None:
    """Add the views of a parent that has children, of a child that may fail, and of what follows from an end."""

    async def member(request: web.Request) -> web.Response:
        task = taskqueue.current_task()
        assert task is not None
        ledger.note("ran", task.id, request.path)
        if request.path == "/parent":
            for _ in range(CHILDREN):
                taskqueue.add("/child", "POST", child=True, on_success="/after", on_failure="/after")
        await asyncio.sleep(random.random() * LONGEST)
        if request.path == "/child" and random.random() < FAILING:
            raise web.HTTPBadRequest
        return web.Response()

    for path in ("/parent", "/child", "/after"):
        app.router.add_post(path, member)


def main(port: str, build: str) -> None:
    """Serve until told to stop (TERM), then end what runs."""
    builds.apply(build)
    web.run_app(make_app("target"), host="127.0.0.1", port=int(port), access_log=None, print=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
