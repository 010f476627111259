"""``taskqueue retry``, and what a person at a terminal sees of it."""

import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taskqueue.seal import unseal
from tests.house import tree
from tests.servers import RedisServer
from tests.tasks import KEYRING, SECRET, opaque, opaque_tasks, sealed, task
from tests.work import Doing, Work


def states(taskqueue: Any) -> dict[str, str]:
    return {one["id"]: one["state"] for one in taskqueue("list", "--json", "--limit", "1000").document["tasks"]}


def test_retry_by_id(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.fail(opaque("a"), opaque("b"))
        await work.push(opaque("c"))

    ran = taskqueue("retry", "a")
    assert (ran.code, ran.out) == (0, "1 of 1 task(s) queued again\n")
    assert states(taskqueue) == {"a": "queued", "b": "failed", "c": "queued"}
    ran = taskqueue("retry", "b", "b", "c", "d", "--json")
    assert (ran.code, ran.document) == (1, {"asked": 3, "queued": 1})
    assert "task c is queued" in ran.err
    assert "no task 'd'" in ran.err


def test_retry_by_filter(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.fail(replace(opaque("a"), path="/a"), replace(opaque("b"), path="/b"))
        await work.fail(replace(opaque("c"), path="/a"), reason="auth")

    assert taskqueue("retry", "--path", "/a", "--reason", "auth", "--yes").code == 0
    assert states(taskqueue) == {"a": "failed", "b": "failed", "c": "queued"}
    assert taskqueue("retry", "--all", "--yes").out == "2 of 2 task(s) queued again\n"
    assert taskqueue("retry", "--all").out == "0 of 0 task(s) queued again\n"  # nothing to confirm


@pytest.mark.parametrize("arguments", [(), ("a", "--all"), ("a", "--reason", "x")])
def test_retry_wants_to_know_exactly_which(taskqueue: Any, arguments: tuple[str, ...]) -> None:
    assert taskqueue("retry", *arguments).code == 2


def test_many_are_not_queued_again_without_anybodys_word(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.fail(opaque("a"), opaque("b"))

    for arguments in (("--all",), ("--queue", "default"), ("--reason", "exhausted")):
        ran = taskqueue("retry", *arguments)
        assert (ran.code, "2 failed task(s)" in ran.err, "--yes" in ran.err) == (2, True, True)
    assert set(states(taskqueue).values()) == {"failed"}


def test_an_expired_task_runs_again_if_the_secret_is_there(
    taskqueue: Any, store: Doing, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = task("/x", expires=1)

    @store
    async def _(work: Work) -> None:
        await work.fail(sealed(old), reason="expired")

    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)
    ran = taskqueue("retry", old.id)
    assert (ran.code, ran.err) == (0, "")

    @store
    async def _(work: Work) -> None:
        (again,) = await work.take()
        assert again.attempt == 1
        opened = unseal(KEYRING, queue="default", task_id=old.id, record=again.record)
        assert opened.expires > time.time() * 1000


def test_without_the_secret_retry_says_what_it_cannot_do(taskqueue: Any, store: Doing) -> None:
    @store
    async def _(work: Work) -> None:
        await work.fail(opaque("a"), reason="expired")

    ran = taskqueue("retry", "a")
    assert (ran.code, "expired" in ran.err) == (0, True)


# A terminal.


def at_a_terminal(url: str, cwd: Path, *arguments: str, types: bytes = b"", sends: int = 0) -> tuple[int, str]:
    """Run the command at a terminal of 80 columns; type at its question, or send a signal; return code and screen."""
    ours, theirs = pty.openpty()
    environment = {"PYTHONPATH": str(tree.ROOT), "TERM": "xterm", "COLUMNS": "80", "TASKQUEUE_URL": url}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", "from taskqueue.cli import main; main()", *arguments],
        cwd=cwd,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    screen = b""
    try:
        while part := os.read(ours, 65536):
            screen += part
            if b"[y/N]" in screen and (types or sends):
                os.write(ours, types)
                if sends:
                    process.send_signal(sends)
                types, sends = b"", 0
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    return process.wait(), screen.decode().replace("\r\n", "\n")


def test_a_terminal_gets_colours_and_whole_ids(any_server: RedisServer, tmp_path: Path, store: Doing) -> None:
    name = "2f1c4a0e-6b0e-4d0b-9a53-0a8e4f1d7c11"

    @store
    async def _(work: Work) -> None:
        await work.fail(replace(opaque(name), path="/a/rather/long/path/that/takes/room", label="and a label"))

    for arguments in (("list",), ("show", name)):
        code, screen = at_a_terminal(any_server.url, tmp_path, *arguments)
        assert (code, name in screen, "\x1b[31m" in screen) == (0, True, True)


@pytest.mark.parametrize(
    ("types", "sends", "queued"), [(b"y\n", 0, True), (b"\n", 0, False), (b"", signal.SIGINT, False)]
)
def test_a_person_is_asked_with_the_count(
    any_server: RedisServer, tmp_path: Path, store: Doing, taskqueue: Any, types: bytes, sends: int, *, queued: bool
) -> None:
    @store
    async def _(work: Work) -> None:
        await work.fail(*opaque_tasks(3))

    code, screen = at_a_terminal(any_server.url, tmp_path, "retry", "--all", types=types, sends=sends)
    assert "Queue 3 failed task(s) again?" in screen
    assert "Traceback" not in screen
    assert code == (0 if queued else 1)
    assert set(states(taskqueue).values()) == {"queued" if queued else "failed"}
