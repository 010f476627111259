"""Deliveries through nginx: what it must leave as it is, in front of each kind of server, and what happens if not."""

import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

import taskqueue
from taskqueue.policy import Answered
from tests.acceptance import proxied_app
from tests.doors import Consumer, fetch, serving_aiohttp, serving_asgi
from tests.house import tree
from tests.nginx import NGINX, nginx
from tests.servers import RedisServer, Servers, free_port
from tests.tasks import SECRET
from tests.waiting import wait_until
from tests.wire import captured, send

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine")

SERVERS: Final = ("uvicorn", "gunicorn", "aiohttp")
HOST: Final = "shop.example.org"
# Paths that `add` takes, and what any of them may hold.
TARGETS: Final = (
    "/",
    "/build?year=2026&name=%C3%A9&x=%2F%3F?&&y=+",
    "/b%C3%BCild/50%25/a%20b",
    "/a+b;v=1,2/~x!$&'()*:@=-._",
    "/caf%C3%A9//twice//",
    "/%FF%E2%82",
    "/%22%3C%3E%5B%5D%5E%60%7B%7C%7D",
)


@pytest.fixture(scope="module")
def gunicorn(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The application on gunicorn, for all tests here."""
    port, log = free_port(), tmp_path_factory.mktemp("gunicorn") / "log"
    command = [sys.executable, "-m", "gunicorn", "tests.acceptance.proxied_app:wsgi_app", "--bind", f"127.0.0.1:{port}"]
    environ = {"PATH": "/usr/bin:/bin", "TASKQUEUE_URL": servers.clean("valkey9").url, "TASKQUEUE_SECRET": SECRET}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--threads", "2", "--no-control-socket"],
            cwd=tree.ROOT,
            env=environ,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: "Booting worker" in log.read_text(), "gunicorn has started")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@dataclass(frozen=True)
class Proxied:
    """A kind of server, and its addresses behind nginx."""

    server: str
    ways: Mapping[str, str]


@pytest.fixture(params=SERVERS)
async def proxied(request: pytest.FixtureRequest, tq: taskqueue.TaskQueue, tmp_path: Path) -> AsyncIterator[Proxied]:
    """Each kind of server in turn; uvicorn knows of the prefix, the others cannot."""
    async with AsyncExitStack() as stack:
        if request.param == "gunicorn":
            base = request.getfixturevalue("gunicorn")
        elif request.param == "uvicorn":
            app = proxied_app.asgi_app(tq)
            base = await stack.enter_async_context(serving_asgi(app, root_path="/shop", proxy_headers=True))
        else:
            base = await stack.enter_async_context(serving_aiohttp(proxied_app.aiohttp_app(tq)))
        yield Proxied(request.param, stack.enter_context(nginx(tmp_path, base)))


@pytest.fixture
async def tq(any_server: RedisServer) -> AsyncIterator[taskqueue.TaskQueue]:
    queue = taskqueue.TaskQueue(any_server.url, secret=SECRET)
    yield queue
    await queue.aclose()


async def replayed(tq: taskqueue.TaskQueue, base: str, target: str, host: str = HOST) -> Answered:
    """Add a task with this target and replay it to this address."""
    await tq.reset()
    await tq.push(target, user_id="ada", headers={"Host": host})
    _, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    return outcome


async def test_what_is_handed_on_as_it_came_is_let_in(proxied: Proxied, tq: taskqueue.TaskQueue) -> None:
    tried = [("as it came", target) for target in TARGETS] + [("without the port", target) for target in TARGETS[:3]]
    if proxied.server == "uvicorn":
        tried += [("below a prefix", f"/shop{target}") for target in TARGETS[:3]]
    for way, target in tried:
        outcome = await replayed(tq, proxied.ways[way], target)
        assert (outcome.status, outcome.receipted, outcome.logged_in) == (200, True, True), (way, target)


@pytest.mark.parametrize(
    ("way", "target", "host"),
    [
        ("without the port", "/", f"{HOST}:8443"),
        ("another host", "/", HOST),
        ("normalised", "/a//b", HOST),
        ("normalised", "/%5B1%5D", HOST),
        ("below a prefix", "/shop/build", HOST),
    ],
)
async def test_what_is_changed_on_the_way_is_refused(
    proxied: Proxied, tq: taskqueue.TaskQueue, way: str, target: str, host: str
) -> None:
    outcome = await replayed(tq, proxied.ways[way], target, host)
    if way == "below a prefix" and proxied.server == "uvicorn":
        assert outcome.receipted, "it knows of the prefix"
    else:
        assert (outcome.status, outcome.refused, outcome.receipted) == (403, "signature", False)


@pytest.mark.accept("CT19")
async def test_a_task_is_the_public_request_once_and_nobody_can_claim_to_be_one(
    proxied: Proxied, tq: taskqueue.TaskQueue
) -> None:
    base, body = proxied.ways["as it came"], random.Random(1).randbytes(3_000_000)
    headers = {"Host": HOST, "Content-Type": "application/octet-stream"}
    await tq.push("/build?x=%2F", method="POST", payload=body, user_id="ada", headers=headers)
    request = await captured(tq, base)
    first, again = await send(base, request), await send(base, request)
    assert (first.status, again.status, again.headers["x-task-refused"]) == (200, 403, "replayed")
    mount = "/shop" if proxied.server == "uvicorn" else ""
    assert json.loads(first.body) == [f"https://{HOST}{mount}/build?x=%2F", "ADA", sha256(body).hexdigest()]

    for names in (["X-Task-User-Id"], ["x-task-id", "X-Task-Id"], ["X_TASK_USER_ID"]):
        spoofing = await fetch("GET", base + "/", headers=[(name, "ada") for name in names])
        if proxied.server == "gunicorn" and "_" in names[0]:
            assert json.loads(spoofing.body)[1] is None, "gunicorn drops such names"
        else:
            assert (spoofing.status, spoofing.headers["X-Task-Refused"]) == (403, "signature")
