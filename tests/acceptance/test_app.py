"""``taskqueue-server --app``: what it takes from the application, what it refuses, and how it says so."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from taskqueue import TaskQueue
from tests.acceptance.test_cli import SECRET, command, ended, environment
from tests.servers import RedisServer
from tests.waiting import wait_until

APPLICATION: Final = """
import taskqueue
from taskqueue.middleware.asgi import TaskQueueMiddleware

tq = taskqueue.TaskQueue({arguments})

async def inner(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({{"type": "lifespan.startup.{startup}", "message": "Traceback...\\nOSError: no database"}})
        if "{startup}" == "failed":
            raise OSError("no database")
        await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    with open("ran", "a") as ran:
        print(scope["path"], file=ran)
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b""}})

app = TaskQueueMiddleware(inner, tq)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for the socket of an embedded store."""
    folder = Path(tempfile.mkdtemp(prefix="tq-"))
    yield folder
    shutil.rmtree(folder)


def write(folder: Path, arguments: str = "", *, startup: str = "complete") -> None:
    (folder / "main.py").write_text(APPLICATION.format(arguments=arguments, startup=startup))


class Running:
    """A consumer at work, and what it logs."""

    def __init__(self, log: Path, process: "subprocess.Popen[bytes]") -> None:
        self._log, self._process = log, process

    def entries(self) -> list[dict[str, object]]:
        lines = self._log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def says(self, words: str) -> None:
        wait_until(
            lambda: any(words in str(entry["message"]) for entry in self.entries()),
            f"the consumer says {words!r}, not only {self._log.read_text()}",
        )

    def end(self) -> int:
        self._process.terminate()
        return self._process.wait(20)


@contextmanager
def running(folder: Path, *arguments: str, **variables: str) -> Iterator[Running]:
    log = folder / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command("server_main", *arguments), cwd=folder, env=environment(**variables), stderr=stream
        )
    consumer = Running(log, process)
    try:
        consumer.says("consuming as")
        yield consumer
    finally:
        process.kill()
        process.wait()


def critical(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    entry: dict[str, str] = json.loads(done.stderr.splitlines()[-1])
    assert entry["level"] == "critical"
    return entry


def has_run(folder: Path, *paths: str) -> None:
    ran = folder / "ran"
    wait_until(lambda: ran.exists() and ran.read_text().split() == list(paths), f"{paths} have run")


def test_url_secret_namespace_and_queues_are_the_applications(any_server: RedisServer, folder: Path) -> None:
    write(folder, f'"{any_server.url}", secret="{SECRET}", namespace="shop", queues=["mail", "bulk"]')
    tq = TaskQueue(any_server.url, secret=SECRET, namespace="shop", queues=["mail", "bulk"])
    with running(folder, "--name=i", "--app=main:app", TASKQUEUE_NAMESPACE="other", TASKQUEUE_QUEUES="b") as consumer:
        tq.push_sync("/mail", queue="mail")
        has_run(folder, "/mail")
        tq.push_sync("/bulk", queue="bulk")
        has_run(folder, "/mail", "/bulk")
        start = consumer.entries()[0]
        assert (start["target"], start["broker"], start["queues"]) == ("main:app", any_server.url, "bulk, mail")
        assert consumer.end() == 0


def test_a_queue_can_be_chosen_from_them(any_server: RedisServer, folder: Path) -> None:
    write(folder, f'"{any_server.url}", secret="{SECRET}", queues=["mail", "bulk"]')
    tq = TaskQueue(any_server.url, secret=SECRET, queues=["mail", "bulk"])
    tq.push_sync("/bulk", queue="bulk")
    with running(folder, "--name=i", "--app=main:app", "--queue=mail") as consumer:
        tq.push_sync("/mail", queue="mail")
        has_run(folder, "/mail")
        assert consumer.entries()[0]["queues"] == "mail"
    assert tq.size_sync("bulk") == 1
    done = ended("server_main", "--name=i", "--app=main:app", "--queue=mial", cwd=folder)
    assert done.returncode == 2
    assert critical(done)["message"] == "--queue: 'mial' is none of the application's queues: bulk, mail"


def test_one_variable_is_enough_for_both_sides(any_server: RedisServer, folder: Path) -> None:
    write(folder)
    variables = {"TASKQUEUE_URL": any_server.url, "TASKQUEUE_SECRET": SECRET, "TASKQUEUE_NAME": "i"}
    with running(folder, "--app=main:app", **variables):
        TaskQueue(any_server.url, secret=SECRET).push_sync("/a")
        has_run(folder, "/a")


def test_the_named_file_is_the_applications_too(any_server: RedisServer, folder: Path) -> None:
    write(folder)
    (folder / "other.toml").write_text(f'url = "{any_server.url}"\nsecret = "{SECRET}"\nqueues = ["mail"]\n')
    with running(folder, "--name=i", "--app=main:app", "--config=other.toml") as consumer:
        assert consumer.entries()[0]["queues"] == "mail"


PUSH: Final = "import main; print(main.tq.push_sync('/from-the-web')); print(main.tq.url)"


def test_in_development_nothing_else_is_needed(folder: Path) -> None:
    write(folder)
    with running(folder, "--app=main:app", "--dev") as consumer:
        consumer.says("queue default: consuming as dev")
        # As a web server would, which imports the application.
        web = subprocess.run(
            [sys.executable, "-c", PUSH],
            cwd=folder,
            env=environment(TASKQUEUE_DEV="1"),
            capture_output=True,
            text=True,
            check=True,
        )
        assert web.stdout.splitlines()[1] == f"embedded://{folder}/.taskqueue"
        has_run(folder, "/from-the-web")
        assert consumer.end() == 0


# What is refused.


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--target=http://h", "target: --app calls the application in this process; give one of the two"),
        ("--url=redis://h", "--url: with --app this comes from the application's TaskQueue"),
        ("--namespace=shop", "--namespace: with --app this comes from the application's TaskQueue"),
        ("--secret-file=secret", "--secret-file: with --app this comes from the application's TaskQueue"),
    ],
)
def test_what_an_application_decides_is_no_flag(flag: str, told: str, folder: Path) -> None:
    write(folder)
    (folder / "secret").write_text(SECRET)
    done = ended("server_main", "--name=i", "--app=main:app", flag, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


@pytest.mark.parametrize(
    ("app", "told"),
    [
        ("mian:app", "app: there is no module mian in "),
        ("mian:app", "its modules are broken, main"),
        ("main:ap", "app: main has no ap; it has inner, app"),
        ("main:taskqueue", "app: main:taskqueue is of type module: neither an ASGI, WSGI or aiohttp application"),
    ],
)
def test_an_application_that_is_not_there_ends_with_3_and_the_candidates(app: str, told: str, folder: Path) -> None:
    write(folder)
    (folder / "broken.py").touch()
    done = ended("server_main", "--name=i", f"--app={app}", cwd=folder)
    assert (done.returncode, done.stdout) == (3, "")
    assert told in critical(done)["message"]


def test_an_error_while_it_is_imported_ends_with_3_and_shows_where(folder: Path) -> None:
    (folder / "broken.py").write_text("def connect():\n    raise LookupError('no such host')\n\nconnect()\n")
    done = ended("server_main", "--name=i", "--app=broken:app", cwd=folder)
    assert done.returncode == 3
    entry = critical(done)
    assert entry["message"] == "app: importing broken failed: LookupError: no such host"
    assert f'File "{folder}/broken.py", line 2, in connect' in entry["exception"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("other = taskqueue.TaskQueue()", "app: it has made 2 TaskQueues, and a server consumes one"),
        ("del tq; app = inner", "app: it has made no TaskQueue; make one at import"),
        ("", "url: none is set; give --url redis://127.0.0.1:6379/0, or set TASKQUEUE_URL"),
    ],
)
def test_its_taskqueue_must_be_one_and_know_where(more: str, told: str, folder: Path) -> None:
    write(folder)
    with (folder / "main.py").open("a") as source:
        source.write(f"{more}\n")
    done = ended("server_main", "--name=i", "--app=main:app", cwd=folder)
    assert done.returncode == 78
    assert told in critical(done)["message"]


def test_a_startup_that_fails_ends_with_1_and_shows_why(any_server: RedisServer, folder: Path) -> None:
    write(folder, f'"{any_server.url}", secret="{SECRET}"', startup="failed")
    done = ended("server_main", "--name=i", "--app=main:app", cwd=folder)
    assert done.returncode == 1
    entry = critical(done)
    assert entry["message"] == "app: its startup failed: OSError: no database"
    assert f'File "{folder}/main.py"' in entry["exception"]
