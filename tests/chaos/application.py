"""The application of a chaos run: one view that is a task, and one that adds tasks.

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
    setup(app, tq)
    app.on_cleanup.append(close)
    return app


def main(port: str, build: str) -> None:
    """Serve until told to stop (TERM), then end what runs."""
    builds.apply(build)
    web.run_app(make_app("target"), host="127.0.0.1", port=int(port), access_log=None, print=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
