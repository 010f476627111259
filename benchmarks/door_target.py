"""A target with our door: an aiohttp application that verifies each delivery, begins it and gives a receipt.

``python -m benchmarks.door_target PORT``. ``GET /-/seen`` tells what it has seen.
"""

import sys
from typing import Final

from aiohttp import web

from taskqueue import TaskQueue
from taskqueue.middleware.aiohttp import setup

from . import work

DAY: Final = 86400.0
"""Seconds: whoever asks what was seen does so after any pause."""

seen: Final = {"count": 0, "wrong": 0}


async def view(request: web.Request) -> web.Response:
    """Check the work, answer 204."""
    seen["count"] += 1
    headers = request.headers
    right = await request.read() == work.BODY and all(headers.get(name) == text for name, text in work.HEADERS.items())
    seen["wrong"] += not right
    return web.Response(status=204)


async def tell(_: web.Request) -> web.Response:
    """Tell what was seen."""
    return web.json_response(seen)


if __name__ == "__main__":
    app = web.Application()
    app.router.add_post(work.PATH, view)
    app.router.add_get("/-/seen", tell)
    setup(app, TaskQueue())
    port = int(sys.argv[1])
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, keepalive_timeout=DAY)
