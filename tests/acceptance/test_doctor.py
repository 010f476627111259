"""``taskqueue doctor``: one mistake is planted at a time, and must be found and named with a remedy."""

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from taskqueue import doctor
from taskqueue.brokers.redis import RedisBroker
from taskqueue.cli import app, run
from taskqueue.doctor import Finding
from taskqueue.inspector import ConsumerInfo, Control, QueueStats, StoreInfo
from taskqueue.task import Settlement, Verdict
from tests.servers import RedisServer, free_port
from tests.tasks import opaque, opaque_tasks

SECRET: Final = "pM0q8TtWfYJ2uVh4rXkz7LbNc1sGdEoA9KiRw5vQ"
OTHER: Final = "Zx3cVb6nMa9sDf2gHj5kLq8wEr1tYu4iOp7mQzWx"
INFO: Final = StoreInfo(
    product="valkey",
    version="9.0",
    appendonly=True,
    eviction="noeviction",
    used_bytes=2**20,
    max_bytes=0,
    clock_offset=0.0,
)


def soon() -> float:
    return time.monotonic() + 10


def the(findings: list[Finding], check: str) -> Finding:
    """Return the one finding of this check, which must say what to do if something is wrong."""
    found = [finding for finding in findings if finding.check == check]
    assert len(found) == 1, findings
    assert bool(found[0].remedy) == (found[0].level != "ok")
    return found[0]


def faults(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.level for finding in findings if finding.level != "ok"}


# Settings, as the command sees them.


@pytest.fixture
def examined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[Finding]]]:
    """Run the command in an empty directory and return its exit code and findings."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TASKQUEUE_")]:  # noqa: TID251
        monkeypatch.delenv(name)

    def examine(*arguments: str, **variables: str) -> tuple[int, list[Finding]]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        code = run(app, ["doctor", "--json", *arguments])
        document = json.loads(capsys.readouterr().out)
        return code, [Finding(**finding) for finding in document["findings"]]

    return examine


def test_nothing_is_set(examined: Any) -> None:
    code, findings = examined()
    assert code == 1
    assert faults(findings) == {"url": "error", "secret": "error"}
    assert "TASKQUEUE_URL" in the(findings, "url").remedy
    assert "taskqueue secret" in the(findings, "secret").remedy


def test_a_url_of_something_else(examined: Any) -> None:
    code, findings = examined(TASKQUEUE_URL="amqp://u:hush@h:1", TASKQUEUE_SECRET=SECRET)
    assert (code, faults(findings)) == (1, {"url": "error"})
    assert "redis://" in the(findings, "url").remedy
    assert "hush" not in str(findings)


def test_a_setting_that_cannot_be_read(examined: Any) -> None:
    code, findings = examined(TASKQUEUE_URL="nonsense")
    assert (code, faults(findings)) == (1, {"settings": "error"})


@pytest.mark.parametrize(
    ("secret", "words"),
    [("short", "32 bytes"), ("a" * 40, "32 bytes"), ("change-me-change-me-change-me-change-me", "example")],
)
def test_a_bad_secret(examined: Any, any_server: RedisServer, secret: str, words: str) -> None:
    code, findings = examined(TASKQUEUE_URL=any_server.url, TASKQUEUE_SECRET=secret)
    assert code == 1
    found = the(findings, "secret")
    assert (found.level, words in found.what) == ("error", True)
    assert "taskqueue secret" in found.remedy
    assert secret not in str(findings)


def test_a_secret_made_as_it_should_be_is_no_example() -> None:
    assert all(doctor.check_secret([secrets.token_urlsafe(48)]).level == "ok" for _ in range(200))
    assert doctor.check_secret([SECRET, OTHER]).what == "long enough, 2 are accepted"


# The store.


def test_nobody_answers(examined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    code, findings = examined(TASKQUEUE_URL=f"redis://127.0.0.1:{free_port()}/0", TASKQUEUE_SECRET=SECRET)
    assert (code, faults(findings)) == (1, {"broker": "error"})
    assert "firewall" in the(findings, "broker").remedy


@pytest.mark.parametrize("user", ["", ":wrong@"])
def test_a_wrong_password(examined: Any, private_server: RedisServer, user: str) -> None:
    private_server.client().config_set("requirepass", "right")
    url = private_server.url.replace("redis://", f"redis://{user}")
    code, findings = examined(TASKQUEUE_URL=url, TASKQUEUE_SECRET=SECRET)
    assert (code, faults(findings)) == (1, {"broker": "error"})
    assert "correct them in the URL" in the(findings, "broker").remedy


async def store_findings(url: str, *queues: str, **more: Any) -> list[Finding]:
    broker = RedisBroker(url, namespace="taskqueue")
    try:
        return await doctor.examine(broker, queues or ("default",), **more)
    finally:
        await broker.aclose()


async def test_a_healthy_store_without_a_consumer_is_worth_one_warning(any_server: RedisServer) -> None:
    findings = await store_findings(any_server.url)
    assert faults(findings) == {"consumers of default": "warning"}
    assert "taskqueue-server" in the(findings, "consumers of default").remedy


async def test_the_append_only_file_is_off(private_server: RedisServer) -> None:
    private_server.client().config_set("appendonly", "no")
    found = the(await store_findings(private_server.url), "persistence")
    assert found.level == "warning"
    assert "appendonly yes" in found.remedy


async def test_the_store_may_evict(private_server: RedisServer) -> None:
    private_server.client().config_set("maxmemory-policy", "allkeys-lru")
    found = the(await store_findings(private_server.url), "eviction")
    assert (found.level, "allkeys-lru" in found.what) == ("error", True)


@pytest.mark.parametrize(("part", "level"), [(1.0, "error"), (0.87, "warning"), (0.5, "ok")])
async def test_the_memory_is_nearly_full(private_server: RedisServer, part: float, level: str) -> None:
    client = private_server.client()
    client.config_set("maxmemory", 2**30)
    info: Any = client.info("memory")
    client.config_set("maxmemory", int(info["used_memory"] / part))
    found = the(await store_findings(private_server.url), "memory")
    assert found.level == level
    assert doctor.check_memory(replace(INFO, used_bytes=9, max_bytes=0)).level == "ok"


@pytest.mark.parametrize(("ahead", "level"), [(60, "error"), (-60, "error"), (5, "warning"), (0, "ok")])
async def test_the_clocks_differ(
    any_server: RedisServer, monkeypatch: pytest.MonkeyPatch, ahead: int, level: str
) -> None:
    monkeypatch.setattr("taskqueue.brokers.inspection.time", SimpleNamespace(time=lambda: time.time() + ahead))
    assert the(await store_findings(any_server.url), "clock").level == level


@pytest.mark.parametrize("info", [replace(INFO, appendonly=None), replace(INFO, eviction=None)])
def test_a_store_that_does_not_tell_is_worth_a_warning(info: StoreInfo) -> None:
    found = [*doctor.check_durability(info, None), doctor.check_eviction(info)]
    assert sorted(finding.level for finding in found) == ["ok", "warning"]


# Queues.


@pytest.mark.parametrize("key", ["", ":records", ":state", ":failed", ":prepared", ":scheduled", ":consumers"])
async def test_a_key_of_somebody_else(any_server: RedisServer, key: str) -> None:
    any_server.client().set("taskqueue:{default}" + key, "somebody else's")
    found = the(await store_findings(any_server.url), "keys of default")
    assert found.level == "error"
    assert "namespace" in found.remedy.lower()


@asynccontextmanager
async def store(server: RedisServer) -> AsyncIterator[RedisBroker]:
    broker = RedisBroker(server.url, namespace="taskqueue")
    try:
        yield broker
    finally:
        await broker.aclose()


async def test_tasks_wait_and_nobody_ever_consumed(any_server: RedisServer) -> None:
    async with store(any_server) as broker:
        await broker.push("default", opaque_tasks(3), deadline=soon())
        found = the(await doctor.examine(broker, ["default"]), "consumers of default")
        assert (found.level, "3 task(s)" in found.what) == ("error", True)


async def test_the_consumers_process_has_ended(any_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await ended.wait()
    async with store(any_server) as broker:
        await broker.push("default", opaque_tasks(1), deadline=soon())
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: ended.pid)
            await broker.claim("default", "one", begins=True, deadline=soon())
        found = the(await doctor.examine(broker, ["default"]), "consumers of default")
        assert (found.level, f"one (process {ended.pid} on " in found.what) == ("error", True)
        assert "--name=one" in found.remedy


@pytest.mark.parametrize("beats", [True, False])
async def test_a_consumer_elsewhere_is_known_by_its_beat(
    any_server: RedisServer, monkeypatch: pytest.MonkeyPatch, *, beats: bool
) -> None:
    monkeypatch.setattr(doctor, "LISTEN", 10.0 if beats else 0.1)
    client = any_server.client()
    async with store(any_server) as broker:
        await broker.push("default", opaque_tasks(1), deadline=soon())
        await broker.claim("default", "one", begins=True, deadline=soon())
        looks = asyncio.create_task(doctor.examine(broker, ["default"], host="elsewhere"))
        while beats and not looks.done():
            client.hincrby("taskqueue:{default}:consumer:one", "beat", 1)
            await asyncio.wait([looks], timeout=0.05)
        found = the(await looks, "consumers of default")
    assert found.level == ("ok" if beats else "error")


def test_what_a_dead_consumer_holds_waits_too() -> None:
    stats = QueueStats("default", 0, 0, 0, 2, 0, 0, 0, 0, [ConsumerInfo("one", "here", 1, 0, 2)])
    assert doctor.check_consumers(stats, host="here", runs=lambda pid: False).level == "error"


@pytest.mark.parametrize(
    ("word", "back"), [("paused", "resume"), ("closed", "open"), ("disabled", "enable"), ("limit", "limit")]
)
async def test_an_operator_keeps_tasks_back(
    any_server: RedisServer, monkeypatch: pytest.MonkeyPatch, word: Control, back: str
) -> None:
    monkeypatch.setattr(doctor, "LISTEN", 0.01)
    async with store(any_server) as broker:
        await broker.push("default", opaque_tasks(2), deadline=soon())
        assert the(await doctor.examine(broker, ["default"]), "control of default").level == "ok"
        lease, _ = await broker.claim("default", "one", begins=True, deadline=soon())
        await broker.control("default", {word: 1}, deadline=soon())
        assert (the(await doctor.examine(broker, ["default"]), "control of default").level == "ok") == (word == "limit")
        await broker.exchange(lease, (), token="a", want=1, room=1, deadline=soon())
        found = the(await doctor.examine(broker, ["default"]), "control of default")
    assert (found.level, f"taskqueue queues {back} default" in found.remedy) == ("warning", True)


def test_the_application_asks_for_patience() -> None:
    stats = QueueStats("default", 1, 1, 0, 0, 0, 0, 0, 30_000, [])
    found = doctor.check_control(stats)
    assert (found.level, "for 30 s" in found.what, "Retry-After" in found.remedy) == ("warning", True, True)


def test_nobody_is_told_to_start_a_consumer_that_would_be_turned_away() -> None:
    stats = QueueStats("default", 1, 0, 0, 0, 0, 0, 0, 0, [], {"disabled": 1})
    found = doctor.check_consumers(stats, host="here", runs=lambda pid: False)
    assert (found.level, "taskqueue queues enable default, then start one" in found.remedy) == ("error", True)


async def test_prepared_tasks_are_in_doubt(any_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with store(any_server) as broker:
        await broker.prepare("default", [opaque("doubtful")], deadline=soon())
        assert the(await doctor.examine(broker, ["default"]), "commits into default").level == "ok"
        monkeypatch.setattr(doctor, "IN_DOUBT_MS", -1000)
        found = the(await doctor.examine(broker, ["default"]), "commits into default")
        assert (found.level, "doubtful" in found.what) == ("warning", True)


async def test_tasks_have_failed(any_server: RedisServer) -> None:
    async with store(any_server) as broker:
        await broker.push("default", [opaque("spoilt")], deadline=soon())
        any_server.client().hdel("taskqueue:{default}:records", "spoilt")
        lease, _ = await broker.claim("default", "one", begins=True, deadline=soon())
        await broker.exchange(lease, (), token="a", want=1, room=1, deadline=soon())
        found = the(await doctor.examine(broker, ["default"]), "failures in default")
    assert (found.level, "1 failed task(s)" in found.what, "format 1" in found.what) == ("warning", True, True)
    assert "taskqueue retry --queue default" in found.remedy


async def test_somebody_has_another_secret(any_server: RedisServer) -> None:
    async with store(any_server) as broker:
        await broker.push("default", opaque_tasks(2), deadline=soon())
        lease, _ = await broker.claim("default", "one", begins=True, deadline=soon())
        taken = await broker.exchange(lease, (), token="a", want=2, room=1000, deadline=soon())
        assert the(await doctor.examine(broker, ["default"]), "secret for default").level == "ok"
        verdicts = (Verdict("release", "key", delay=60.0), Verdict("retry", "server", 503, delay=60.0))
        told = [
            Settlement(one.id, one.delivery, verdict) for one, verdict in zip(taken.reservations, verdicts, strict=True)
        ]
        await broker.exchange(lease, told, token="b", want=0, room=0, deadline=soon())
        found = the(await doctor.examine(broker, ["default"]), "secret for default")
    assert (found.level, found.what.startswith("1 task(s) came back: one, or")) == ("error", True)
    assert "TASKQUEUE_SECRET" in found.remedy


async def test_a_queue_is_misspelt(any_server: RedisServer) -> None:
    async with store(any_server) as broker:
        await broker.claim("defualt", "one", begins=True, deadline=soon())
        found = the(await doctor.examine(broker, ["default"]), "queue names")
    assert (found.level, "defualt" in found.what) == ("warning", True)
