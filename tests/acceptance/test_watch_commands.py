"""``taskqueue watch`` and ``taskqueue workers``: what goes on right now."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from taskqueue import watching
from taskqueue.admin import Admin
from taskqueue.brokers.redis import RedisBroker
from taskqueue.errors import BrokerUnavailable
from taskqueue.task import Verdict
from tests.acceptance.test_cli import command, environment, on_a_terminal
from tests.servers import RedisServer
from tests.tasks import opaque, opaque_tasks
from tests.work import Doing, Work, soon

DONE = Verdict("complete", status=204)


def test_watch_writes_one_line_per_look(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.fail(opaque())
        await work.push(*opaque_tasks(3), opaque(due=-3_600_000))
        await work.take()
        await work.push(*(opaque(queue="mail") for _ in range(2)))

    ran = taskqueue("watch", "--interval", "0.1", "--count", "2", "--queue", "default", "--queue", "mail")
    assert (ran.code, ran.err) == (0, "")
    head, first, second = ran.lines
    assert head == ["TIME", "QUEUED", "DELAYED", "RUNNING", "FAILED", "COMPLETED/S", "FAILED/S", "CONSUMERS"]
    assert first[2:] == ["4", "1", "1", "1", "-", "-", "1"]
    assert second[2:] == ["4", "1", "1", "1", "0.0", "0.0", "1"]


def test_watch_in_json_is_one_document_per_line(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.fail(opaque("bad"))

    first, second = map(json.loads, taskqueue("watch", "--interval=0.1", "--count=2", "--json").out.splitlines())
    assert first["at"].endswith("Z")
    (queue,) = second["queues"]
    assert (queue["queue"], queue["failed"], queue["completed_per_second"]) == ("default", 1, 0.0)
    assert [task["id"] for task in second["failures"]] == ["bad"]


async def test_rates_count_what_has_ended_between_two_looks(
    any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    broker = RedisBroker(any_server.url, namespace="taskqueue")
    work = Work(broker)
    watcher = watching.Watcher(Admin(broker, ["default"]))
    try:
        await work.push(*opaque_tasks(1000))
        await work.end(await work.take(3), DONE)
        with monkeypatch.context() as patched:
            patched.setattr("taskqueue.watching.time.monotonic", lambda: now[0])
            (before,) = (await watcher.look()).queues
        await work.end(await work.take(7), DONE)
        await work.end(await work.take(600), Verdict("fail", "client", 400))
        now[0] += 10.0
        with monkeypatch.context() as patched:
            patched.setattr("taskqueue.watching.time.monotonic", lambda: now[0])
            (after,) = (await watcher.look()).queues
    finally:
        await broker.aclose()
    assert (before.completed_per_second, before.failed_per_second) == (None, None)
    assert (after.completed_per_second, after.failed_per_second) == (0.7, 60.0)


def test_watch_draws_a_table_on_a_terminal(any_server: RedisServer, store: Doing, tmp_path: Path) -> None:
    @store
    async def _(work: Work) -> None:
        await work.fail(opaque("bad"))

    out = on_a_terminal("main", "watch", "--count", "1", cwd=tmp_path, TASKQUEUE_URL=any_server.url, COLUMNS="140")
    assert "completed/s" in out
    assert "failed last" in out
    assert "bad" in out
    assert "Ctrl-C ends" in out


def test_ctrl_c_ends_it_cleanly(any_server: RedisServer, tmp_path: Path) -> None:
    with subprocess.Popen(
        command("main", "watch", "--interval", "600"),
        cwd=tmp_path,
        env=environment(TASKQUEUE_URL=any_server.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as watching_it:
        assert watching_it.stdout is not None
        assert watching_it.stderr is not None
        for _ in range(2):
            watching_it.stdout.readline()
        watching_it.send_signal(signal.SIGINT)
        assert watching_it.wait(20) == 0
        assert watching_it.stderr.read() == b""


def test_a_store_that_goes_away_is_told_and_waited_for(taskqueue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([None, BrokerUnavailable("redis is away"), None])
    real = watching.Watcher.look

    async def look(watcher: watching.Watcher) -> watching.Look:
        error = next(looks)
        if error is not None:
            raise error
        return await real(watcher)

    monkeypatch.setattr(watching.Watcher, "look", look)
    ran = taskqueue("watch", "--interval", "0.1", "--count", "3")
    assert (ran.code, len(ran.lines), ran.err) == (0, 3, "taskqueue: redis is away\n")


@pytest.mark.parametrize(
    ("arguments", "words"), [(("--interval", "0"), "--interval: 0 must be 0.1"), (("--count", "-1"), "--count: -1")]
)
def test_no_look_is_too_often(taskqueue: Any, arguments: tuple[str, ...], words: str) -> None:
    ran = taskqueue("watch", *arguments)
    assert (ran.code, ran.out, words in ran.err) == (2, "", True)


def test_workers_tells_who_lives(
    taskqueue: Any, store: Doing, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of this machine, of two queues, and one of another, neither of which beats."""
    monkeypatch.setattr(watching, "SILENT_AFTER", 0.3)

    @store
    async def _(work: Work) -> None:
        await work.push(*opaque_tasks(2))
        await work.take(2)
        await work.broker.claim("mail", "one", begins=True, deadline=soon())
        await work.broker.claim("mail", "two", begins=True, deadline=soon())

    client = any_server.client()
    client.hset("taskqueue:{mail}:consumer:two", "host", "elsewhere")
    host = socket.gethostname()
    found = taskqueue("workers", "--json").document["workers"]
    assert [(one["name"], one["state"], one["host"], one["pid"], one["holds"], one["queues"]) for one in found] == [
        ("one", "silent", host, os.getpid(), 2, ["default", "mail"]),
        ("two", "silent", "elsewhere", os.getpid(), 0, ["mail"]),
    ]
    assert found[0]["claimed"].endswith("Z")
    monkeypatch.setattr("taskqueue.doctor.running", lambda _pid: False)
    lines = taskqueue("workers").lines
    assert lines[0] == ["CONSUMER", "STATE", "HOST", "PID", "SINCE", "HOLDS", "QUEUES"]
    assert [line[:2] for line in lines[1:]] == [["one", "ended"], ["two", "silent"]]
    assert [line[0] for line in taskqueue("workers", "--queue", "default").lines[1:]] == ["one"]


async def test_a_consumer_that_beats_is_alive(any_server: RedisServer) -> None:
    """It beats between the first look and the second, as another process would."""
    broker = RedisBroker(any_server.url, namespace="taskqueue")
    lease, _ = await broker.claim("default", "one", begins=True, deadline=soon())
    pulse = broker.pulse(timeout=5)

    def runs(_pid: int) -> bool:
        pulse.beat(lease)
        return True

    try:
        (found,) = await watching.workers(Admin(broker, ["default"]), runs=runs)
    finally:
        pulse.close()
        await broker.aclose()
    assert (found.name, found.state) == ("one", "alive")
