"""Every command has an example in its help, and what stands there works."""

import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from taskqueue import watching
from taskqueue.cli import app, run, server_app
from taskqueue.keys import Keyring
from taskqueue.seal import NONCE_BYTES, seal, seal_response
from taskqueue.task import Response
from tests.acceptance.test_cli import environment
from tests.house.programs import commands
from tests.laptop import LAPTOP, Laptop
from tests.servers import RedisServer
from tests.tasks import opaque, task
from tests.waiting import wait_until
from tests.work import Doing, Work

# Made anew, because the doctor knows those that are written down somewhere.
SECRET: Final = secrets.token_urlsafe(48)
COMMANDS: Final = list(commands())
EXAMPLES: Final = sorted({example for command in COMMANDS for example in command.examples})
# Those that run until somebody says stop, and what they say once they run.
ENDLESS: Final = {"taskqueue watch": "TIME", "taskqueue relay main:tq": "relaying", "taskqueue-server": "consuming as"}
APPLICATION: Final = """
import os
import taskqueue

class Nothing:
    async def pass_on(self, push, *, without):
        return 0
    async def aclose(self):
        pass

tq = taskqueue.TaskQueue(os.environ["TASKQUEUE_URL"], secret=os.environ["TASKQUEUE_SECRET"])
tq.outboxes.append(Nothing())
"""


@pytest.fixture
def variables(any_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    return environment(
        TASKQUEUE_URL=any_server.url,
        TASKQUEUE_SECRET=SECRET,
        TASKQUEUE_TARGET="http://127.0.0.1:1",
        PATH=f"{tmp_path}:/usr/bin:/bin",
    )


@pytest.fixture(autouse=True)
def place(taskqueue: Any, store: Doing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with the tasks that the examples speak of, and a directory with their files and programs."""
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)
    monkeypatch.setattr(watching, "SILENT_AFTER", 0.1)
    (tmp_path / "laptop.secret").write_text(LAPTOP)
    (tmp_path / "main.py").write_text(APPLICATION)
    for program, main in (("taskqueue", "main"), ("taskqueue-server", "server_main")):
        path = tmp_path / program
        path.write_text(f"#!{sys.executable}\nfrom taskqueue.cli import {main}\n{main}()\n")
        path.chmod(0o755)

    made = task("/build", "POST", id="2f1c4a0e-6b0e-4d0b-9a53-0a8e4f1d7c11", body=b"x")

    @store
    async def _(work: Work) -> None:
        keyring, nonce = Keyring([SECRET]), secrets.token_bytes(NONCE_BYTES)
        answer = Response(500, (("content-type", "text/html"),), b"<h1>It failed</h1>")
        response = seal_response(keyring, made.queue, made.id, answer, nonce=secrets.token_bytes(NONCE_BYTES))
        await work.fail(seal(keyring, made, nonce=nonce), response=response)
        await work.push(opaque(queue="mail"))
        await work.push(opaque("7d1e5b9c-3f0a-4c62-8e11-5a6b7c8d9e0f", due=-3_600_000))

    taskqueue("route", "/reports/*", "slow")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
def test_every_command_has_an_example_in_its_help(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.examples
    run(server_app if command.words[0] == "taskqueue-server" else app, [*command.words[1:], "--help"])
    shown = capsys.readouterr().out
    assert all(example in shown for example in command.examples)
    assert all(example.startswith(" ".join(command.words)) or "$(" in example for example in command.examples)


@pytest.fixture
def laptop() -> Iterator[ExitStack]:
    with ExitStack() as running:
        yield running


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_stands_there_works(
    taskqueue: Any, example: str, laptop: ExitStack, variables: Mapping[str, str], tmp_path: Path
) -> None:
    said = next((words for begin, words in ENDLESS.items() if f"{example} ".startswith(f"{begin} ")), None)
    example = example.replace("redis://127.0.0.1:6379/0", variables["TASKQUEUE_URL"])
    if "http://127.0.0.1:8000" in example and "taskqueue-server" not in example:
        # One that is not told whose secret counts is the store's own.
        secret = LAPTOP if "--secret-file" in example else SECRET
        base = laptop.enter_context(Laptop().running(secret, allow_manual=True))
        example = example.replace("http://127.0.0.1:8000", base)
    words = shlex.split(example)
    if said is not None and "--count" not in words:
        _run_until_stopped(example, said, variables, tmp_path)
    elif set(example) & set("|$"):
        shell = ["bash", "-c", f"set -o pipefail; {example}"]
        ended = subprocess.run(shell, cwd=tmp_path, env=variables, capture_output=True, timeout=50, check=False)
        assert (ended.returncode, b"Traceback" in ended.stderr) == (0, False), ended
    else:
        ran = taskqueue(*words[1:])
        assert (ran.code, bool(ran.out)) == (0, True), ran


def _run_until_stopped(example: str, said: str, variables: Mapping[str, str], cwd: Path) -> None:
    output = cwd / "output"
    with (
        output.open("w") as stream,
        subprocess.Popen(
            shlex.split(example), cwd=cwd, env=variables, stdout=stream, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            wait_until(lambda: said in output.read_text(), f"{example} says {said!r}")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, output.read_text()
        finally:
            process.kill()
