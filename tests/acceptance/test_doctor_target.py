"""``taskqueue doctor`` looks at the application: one mistake is planted at a time in a real one with a real door."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from aiohttp import web

from taskqueue import Limits, TaskQueue, probe, replay
from taskqueue.doctor import Finding
from taskqueue.keys import Keyring
from taskqueue.middleware import aiohttp as door
from taskqueue.settings import load
from tests.acceptance.test_doctor import OTHER, SECRET, faults, the
from tests.servers import RedisServer, free_port

KEYRING: Final = Keyring([SECRET])

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Wrap = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


class Site:
    """An application with a door, perhaps with something before it; ``ran`` counts requests that got in."""

    def __init__(self, url: str, *, secret: str = SECRET, before: Wrap | None = None, **more: Any) -> None:
        self.ran = 0
        self.app = web.Application(client_max_size=2**30)
        self.app.router.add_route("*", "/{path:.*}", self._view)
        if url:
            limits = more.pop("limits", None)
            self.tq = TaskQueue(url, secret=secret, limits=limits, commit_deadline=1.0)
            door.setup(self.app, self.tq, **more)
        if before is not None:
            self.app.middlewares.insert(0, web.middleware(before))  # type: ignore[arg-type]  # names are ours

    async def _view(self, request: web.Request) -> web.Response:
        self.ran += 1
        return web.Response(text="hello")


@asynccontextmanager
async def served(site: Site) -> AsyncIterator[str]:
    runner = web.AppRunner(site.app, access_log=None)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def asked(target: str, *, public_url: str | None = None, body_limit: int = 100_000) -> list[Finding]:
    findings = await probe.examine(target, KEYRING, queue="default", public_url=public_url, body_limit=body_limit)
    for finding in findings:
        the(findings, finding.check)
    return findings


def answers(status: int, **headers: str) -> Wrap:
    async def before(request: web.Request, handler: Handler) -> web.StreamResponse:
        return web.Response(status=status, headers=headers)

    return before


async def test_all_is_well_and_the_application_has_not_run(any_server: RedisServer) -> None:
    site = Site(any_server.url)
    async with served(site) as target:
        findings = await asked(target, body_limit=10 * 2**20)
    assert [(finding.check, finding.level) for finding in findings] == [
        ("door", "ok"),
        ("secret of the door", "ok"),
        ("body limit", "ok"),
    ]
    assert site.ran == 0


async def test_a_door_that_asks_nobody_is_well_too(any_server: RedisServer) -> None:
    site = Site(any_server.url, replay_guard="process")
    async with served(site) as target:
        findings = await asked(target)
    assert faults(findings) == {}
    assert "replay_guard" in the(findings, "secret of the door").what


async def test_nobody_listens() -> None:
    assert faults(await asked(f"http://127.0.0.1:{free_port()}")) == {"target": "error"}


async def test_a_proxy_without_an_application_behind_it() -> None:
    async with served(Site("", before=answers(502))) as target:
        assert faults(await asked(target)) == {"target": "error"}


async def test_there_is_no_door() -> None:
    async with served(Site("")) as target:
        findings = await asked(target)
    assert faults(findings) == {"door order": "error"}
    assert "outermost" in the(findings, "door order").remedy


@pytest.mark.parametrize(("status", "headers"), [(401, {}), (403, {}), (404, {}), (302, {"Location": "/login"})])
async def test_something_stands_before_the_door(any_server: RedisServer, status: int, headers: dict[str, str]) -> None:
    async with served(Site(any_server.url, before=answers(status, **headers))) as target:
        findings = await asked(target)
    assert faults(findings) == {"door order": "error"}
    assert str(status) in the(findings, "door order").what


async def test_a_guard_against_forged_forms_stands_before_the_door(any_server: RedisServer) -> None:
    async def before(request: web.Request, handler: Handler) -> web.StreamResponse:
        return web.Response(status=403) if request.method == "POST" else await handler(request)

    async with served(Site(any_server.url, before=before)) as target:
        assert faults(await asked(target)) == {"door order": "error"}


@pytest.mark.parametrize("status", [400, 421])
async def test_the_host_is_not_accepted(any_server: RedisServer, status: int) -> None:
    async def before(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await handler(request) if request.host.startswith("127.0.0.1") else web.Response(status=status)

    async with served(Site(any_server.url, before=before)) as target:
        assert faults(await asked(target)) == {}
        findings = await asked(target, public_url="https://shop.example.org")
    assert faults(findings) == {"host": "error"}
    assert "shop.example.org" in the(findings, "host").remedy


@pytest.mark.parametrize("status", [301, 308])
async def test_http_is_sent_on_to_https_before_the_door(any_server: RedisServer, status: int) -> None:
    async def before(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("X-Forwarded-Proto") == "https":
            return await handler(request)
        return web.Response(status=status, headers={"Location": f"https://{request.host}{request.path}"})

    async with served(Site(any_server.url, before=before)) as target:
        findings = await asked(target)
        assert faults(await asked(target, public_url="https://shop.example.org")) == {}
    assert faults(findings) == {"https": "error"}
    assert "X-Forwarded-Proto" in the(findings, "https").remedy


async def test_the_application_has_another_secret(any_server: RedisServer) -> None:
    async with served(Site(any_server.url, secret=OTHER)) as target:
        findings = await asked(target)
    assert faults(findings) == {"secret of the door": "error"}
    assert "TASKQUEUE_SECRET" in the(findings, "secret of the door").remedy


async def test_a_proxy_changes_what_is_signed(any_server: RedisServer) -> None:
    async def before(request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = request.headers.copy()
        headers["Host"] = "backend:8000"
        return await handler(request.clone(headers=headers))

    async with served(Site(any_server.url, before=before)) as target:
        assert faults(await asked(target)) == {"way to the door": "error"}


async def test_the_applications_clock_differs(any_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "time", SimpleNamespace(time=lambda: time.time() - 600))
    async with served(Site(any_server.url)) as target:
        assert faults(await asked(target)) == {"clock of the door": "error"}


async def test_the_door_cannot_reach_its_store() -> None:
    async with served(Site(f"redis://127.0.0.1:{free_port()}/0")) as target:
        assert faults(await asked(target)) == {"broker of the door": "error"}


@pytest.mark.parametrize("who", ["proxy", "door"])
async def test_a_body_that_add_accepts_is_too_large_on_the_way(any_server: RedisServer, who: str) -> None:
    async def before(request: web.Request, handler: Handler) -> web.StreamResponse:
        if who == "proxy" and (request.content_length or 0) > 1000:
            return web.Response(status=413)
        return await handler(request)

    limits = Limits(body=1000) if who == "door" else None
    async with served(Site(any_server.url, before=before, limits=limits)) as target:
        findings = await asked(target)
    assert faults(findings) == {"body limit": "error"}
    assert "client_max_body_size" in the(findings, "body limit").remedy


async def test_a_large_body_is_cut_off(any_server: RedisServer) -> None:
    async def before(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "POST" and request.transport is not None:
            request.transport.abort()
        return await handler(request)

    async with served(Site(any_server.url, before=before)) as target:
        assert faults(await asked(target)) == {"body limit": "error"}


async def test_without_a_secret_only_the_door_is_looked_at(any_server: RedisServer) -> None:
    async with served(Site(any_server.url)) as target:
        findings = await probe.examine(target, None, queue="default", public_url=None, body_limit=1)
    assert [(finding.check, finding.level) for finding in findings] == [("door", "ok")]


# The whole command, as a person sees it.


async def test_the_command_tells_findings_and_remedies(any_server: RedisServer, tmp_path: Path) -> None:
    async with served(Site(any_server.url, secret=OTHER)) as target:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", "from taskqueue.cli import main; main()"),
            *("doctor", "--target", target, "--url", any_server.url),
            cwd=tmp_path,
            env={"TASKQUEUE_SECRET": SECRET, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
    lines = out.decode().splitlines()
    assert (process.returncode, err) == (1, b"")
    assert [line.split("  ")[0] for line in lines if not line.startswith(" ")].count("error") == 1
    wrong = next(number for number, line in enumerate(lines) if line.startswith("error"))
    assert re.match(r"error +secret of the door +the application has another secret", lines[wrong])
    assert "remedy: compare TASKQUEUE_SECRET" in lines[wrong + 1]
    assert SECRET not in out.decode()
    assert load({"url": any_server.url}, environ={}).public("url") in out.decode()
