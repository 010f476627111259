"""The doors of ASGI and Django on real servers with two workers each: what was captured is let in nowhere again."""

import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

import taskqueue
from tests.deliveries import signed, with_value
from tests.doors import fetch
from tests.house import tree
from tests.mutations import WireRequest
from tests.nginx import NGINX, nginx
from tests.servers import RedisServer, free_port
from tests.tasks import KEYRING, SECRET
from tests.waiting import until
from tests.wire import captured, send

APP: Final = "tests.acceptance.asgi_app:app"
DJANGO: Final = "tests.acceptance.django_app"
BIND: Final = "127.0.0.1:{port}"
SERVERS: Final = {
    "uvicorn": ["uvicorn", APP, "--port", "{port}", "--workers", "2", "--proxy-headers"],
    "hypercorn": ["hypercorn", APP, "--bind", BIND, "--workers", "2"],
    "gunicorn-uvicorn": ["gunicorn", APP, "-b", BIND, "-w", "2", "-k", "uvicorn.workers.UvicornWorker"],
    "gunicorn": ["gunicorn", APP, "-b", BIND, "-w", "2", "-k", "asgi"],
    "gunicorn-django-sync": ["gunicorn", f"{DJANGO}:wsgi", "-b", BIND, "-w", "2"],
    "gunicorn-django-gthread": ["gunicorn", f"{DJANGO}:wsgi", "-b", BIND, "-w", "2", "-k", "gthread", "--threads", "2"],
    "uvicorn-django": ["uvicorn", f"{DJANGO}:asgi", "--port", "{port}", "--workers", "2", "--proxy-headers"],
}
PROXIED: Final = {"Host": "shop.example.org", "X-Forwarded-Proto": "https"}


@contextmanager
def started(command: list[str], log: Path, **variables: str) -> Iterator[None]:
    """Run a command; its output goes into the log."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=tree.ROOT, env={"PATH": "/usr/bin:/bin", **variables}, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def serving(server: str, url: str, log: Path, *options: str) -> Iterator[str]:
    """Serve the application with two workers; yield its base address."""
    port = free_port()
    command = [sys.executable, "-m", *(word.format(port=port) for word in SERVERS[server]), *options]
    if server.startswith("gunicorn"):
        command.append("--no-control-socket")
    with started(command, log, TASKQUEUE_URL=url, TASKQUEUE_SECRET=SECRET):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def tq(any_server: RedisServer) -> AsyncIterator[taskqueue.TaskQueue]:
    queue = taskqueue.TaskQueue(any_server.url, secret=SECRET)
    yield queue
    await queue.aclose()


async def _answers(base: str) -> None:
    async def answers() -> bool:
        try:
            return (await fetch("GET", base + "/pid", headers=PROXIED)).status > 0
        except OSError:
            return False

    await until(answers, "the server answers")


def refusers(log: Path) -> set[str]:
    """Return the processes that have refused a captured delivery."""
    return set(re.findall(r"process (\d+): refused \(replayed\)", log.read_text()))


def altered(request: WireRequest) -> list[WireRequest]:
    """Return the request to another path, with another host, user or body, and with an older signature."""
    return [
        replace(request, target="/pid"),
        replace(request, target=request.target.replace("2026", "2027")),
        with_value(request, "Host", lambda _: "other.example.org"),
        with_value(request, "X-Task-User-Id", lambda _: "mallory"),
        replace(request, body=request.body.replace(b"form", b"norm")),
        with_value(request, "Signature-Input", lambda value: re.sub(r"created=(\d+)", _later, value)),
    ]


def _later(match: re.Match[str]) -> str:
    return f"created={int(match[1]) + 61}"


@pytest.mark.parametrize("server", SERVERS)
async def test_no_worker_starts_a_captured_delivery_again(
    any_server: RedisServer, tq: taskqueue.TaskQueue, tmp_path: Path, server: str
) -> None:
    log = tmp_path / "log"
    with serving(server, any_server.url, log) as base:
        await _answers(base)
        headers = {**PROXIED, "Content-Type": "application/x-www-form-urlencoded"}
        await tq.push("/build?year=2026", method="POST", payload=b"form=1", user_id="ada", headers=headers)
        request = await captured(tq, base)
        for other in altered(request):
            answer = await send(base, other)
            assert (answer.status, answer.headers.get("x-task-refused")) == (403, "signature")
        old = signed(target="/build", authority="shop.example.org", keys=KEYRING.current, created=int(time.time()) - 62)
        assert (await send(base, old)).headers["x-task-refused"] == "skew"

        first = await send(base, request)
        assert first.status == 200
        assert json.loads(first.body) == ["https://shop.example.org/build?year=2026", "ADA", 6]

        async def both_refused() -> bool:
            answer = await send(base, request)
            assert (answer.status, answer.headers["x-task-refused"]) == (403, "replayed")
            return len(refusers(log)) == 2

        await until(both_refused, "both workers have refused it")
    assert "Traceback" not in log.read_text()


@pytest.mark.accept("CT19")
@pytest.mark.skipif(NGINX is None, reason="no nginx on this machine")
@pytest.mark.parametrize(("prefix", "through"), [("", "nginx"), ("/shop", "nginx"), ("/shop", "nothing")])
async def test_behind_nginx_a_task_comes_back_as_the_public_request(
    any_server: RedisServer, tq: taskqueue.TaskQueue, tmp_path: Path, prefix: str, through: str
) -> None:
    """A task's path is one of the consumer's target: the proxy, which takes the prefix off, or the server behind it."""
    log = tmp_path / "log"
    with (
        serving("uvicorn", any_server.url, log, "--root-path", prefix) as inner,
        nginx(tmp_path, inner) as ways,
    ):
        await _answers(inner)
        outer = ways["below a prefix" if prefix else "as it came"]
        for name in ("X-Task-User-Id", "x_task_id"):
            assert (await fetch("GET", f"{outer}{prefix}/pid", headers={name: "mallory"})).status == 403
        form = {"file": "x" * 200_000, "path": "" if through == "nginx" else "/build"}
        assert (await fetch("POST", f"{outer}{prefix}/order", data=form, headers=PROXIED)).status == 200
        target = outer if through == "nginx" else inner
        request = await captured(tq, target)
        answer = await send(target, request)
        assert answer.status == 200
        seen = [f"https://shop.example.org{prefix}/build?year=2026", "ADA", len(request.body)]
        assert json.loads(answer.body) == seen
        assert (await send(target, request)).headers["x-task-refused"] == "replayed"
