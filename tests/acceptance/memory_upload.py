"""How much memory a door adds to a streamed upload of 1 GiB, which its application reads piece by piece.

$ make memory-upload

A report for people, on Linux and macOS; tests/contract/test_doors_upload.py asserts it in small. The bar: 1 MiB. The
limit of the body is above its size, so that all of it is copied, onto the disk.
"""

import http.client
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.house import tree
from tests.servers import free_port
from tests.waiting import wait_until

SIZE: Final = 1024 * 1024 * 1024
PIECE: Final = bytes(64 * 1024)
BAR: Final = 1.0

COMMON: Final = """
import resource, sys
import taskqueue
UNIT = 1 if sys.platform == "linux" else 1024
def report(size):
    return f"{size} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // UNIT}"
QUEUE = taskqueue.TaskQueue("redis://127.0.0.1:1/0", limits=taskqueue.Limits(body=2 << 30, transaction=2 << 30))
"""
STARLETTE: Final = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from taskqueue.middleware.asgi import TaskQueueMiddleware
async def upload(request):
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return PlainTextResponse(report(size))
app = Starlette(routes=[Route("/", upload, methods=["POST"])])
door = TaskQueueMiddleware(app, QUEUE)
"""
AIOHTTP: Final = """
from aiohttp import web
from taskqueue.middleware.aiohttp import setup
async def upload(request):
    size = 0
    async for piece in request.content.iter_any():
        size += len(piece)
    return web.Response(text=report(size))
def app(argv):
    made = web.Application()
    made.add_routes([web.post("/", upload)])
    return made
def door(argv):
    made = app(argv)
    setup(made, QUEUE)
    return made
"""
WSGI: Final = """
from taskqueue.middleware.wsgi import TaskQueueMiddleware
def app(environ, start_response):
    size = 0
    while piece := environ["wsgi.input"].read(65536):
        size += len(piece)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [report(size).encode()]
door = TaskQueueMiddleware(app, QUEUE)
"""
WAYS: Final = {
    "Starlette on uvicorn": (STARLETTE, ["uvicorn", "upload:{app}", "--port", "{port}", "--log-level", "error"]),
    "aiohttp": (AIOHTTP, ["aiohttp.web", "-H", "127.0.0.1", "-P", "{port}", "upload:{app}"]),
    "WSGI on gunicorn": (WSGI, ["gunicorn", "upload:{app}", "-b", "127.0.0.1:{port}", "--no-control-socket"]),
}


def pieces(size: int) -> Iterator[bytes]:
    """Give a body of this size."""
    for _ in range(size // len(PIECE)):
        yield PIECE


def peak_after(port: int, size: int) -> int:
    """Upload that many bytes; return the most memory that the process has had by then, in KiB."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/", pieces(size), {"Content-Length": str(size)})
    response = connection.getresponse()
    arrived, peak = response.read().split()
    assert (response.status, int(arrived)) == (200, size)
    connection.close()
    return int(peak)


def answers(port: int) -> bool:
    """Return whether the server takes an upload."""
    try:
        return peak_after(port, len(PIECE)) > 0
    except OSError:
        return False


def growth(way: str, app: str) -> float:
    """Return by how many MiB the process's peak grows with the upload."""
    source, command = WAYS[way]
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "upload.py").write_text(COMMON + source)
        line = [sys.executable, "-m", *(word.format(app=app, port=port) for word in command)]
        env = {"PYTHONPATH": f"{folder}:{tree.ROOT}", "PATH": "/usr/bin:/bin"}
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(line, cwd=folder, env=env, stdout=quiet, stderr=quiet)
        try:
            wait_until(lambda: answers(port), f"{way} answers")
            before = peak_after(port, 64 * len(PIECE))
            return (peak_after(port, SIZE) - before) / 1024
        finally:
            process.terminate()
            process.wait(20)


if __name__ == "__main__":
    print(f"{'MiB by which the peak grows':28} {'alone':>8} {'door':>8} {'the bar':>8}")  # noqa: T201
    for each in WAYS:
        alone, behind = growth(each, "app"), growth(each, "door")
        print(f"{each:28} {alone:8.2f} {behind:8.2f} {alone + BAR:8.2f}")  # noqa: T201
