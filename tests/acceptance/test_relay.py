"""Who relays: ``taskqueue relay``, ``manage.py taskqueue relay``, and ``taskqueue-server``, which then also runs it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.test_app import Running, has_run, running, write
from tests.acceptance.test_cli import SECRET, command, ended, environment
from tests.servers import RedisServer, free_port
from tests.stores import in_line
from tests.waiting import wait_until

APPLICATION: Final = """
import os

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from taskqueue.middleware.sqlalchemy import bind, metadata

if os.environ.get("ASYNC"):
    Session = async_sessionmaker(create_async_engine("sqlite+aiosqlite:///database"))
else:
    Session = sessionmaker(sa.create_engine("sqlite:///database"))
bind(tq, Session, outbox=True)
"""

ORDER: Final = """
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker
from main import tq
from taskqueue.middleware.sqlalchemy import bind, metadata

engine = sa.create_engine("sqlite:///database")
metadata.create_all(engine)
Session = sessionmaker(engine)
bind(tq, Session, outbox=True)
with Session.begin() as session:
    session.execute(sa.select(1))
    tq.add("/later")
"""

PROJECT: Final = """
import sys
from django.conf import settings
from django.core.management import execute_from_command_line

settings.configure(
    INSTALLED_APPS=["taskqueue.middleware.django", "taskqueue.middleware.django.outbox"],
    MIDDLEWARE=["taskqueue.middleware.django.TaskQueueMiddleware"],
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "database"}}}},
    TASKQUEUE={{"URL": "{url}", "SECRET": "{secret}", "OUTBOX": True}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
if sys.argv[1:] == ["order"]:
    import django
    from django.core.management import call_command
    from django.db import transaction
    django.setup()
    import taskqueue
    call_command("migrate", verbosity=0)
    with transaction.atomic():
        taskqueue.add("/later")
else:
    execute_from_command_line(sys.argv)
"""


@pytest.fixture
def folder(tmp_path: Path, any_server: RedisServer) -> Path:
    """A folder with an application that has an outbox, in which one task waits."""
    write(tmp_path, f'"{any_server.url}", secret="{SECRET}"')
    with (tmp_path / "main.py").open("a") as file:
        file.write(APPLICATION)
    python(tmp_path, "-c", ORDER)
    assert any_server.client().keys("*") == []
    return tmp_path


def python(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], cwd=folder, env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


@contextmanager
def relaying(folder: Path, *line: str, **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
    log = folder / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(line, cwd=folder, env=environment(**variables), stderr=stream)
    try:
        Running(log, process).says("relaying from 1 outbox(es)")
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("variables", [{}, {"ASYNC": "1"}], ids=["sync", "async"])
def test_the_command_pushes_until_it_is_told_to_stop(
    any_server: RedisServer, folder: Path, variables: dict[str, str]
) -> None:
    client = any_server.client()
    with relaying(folder, *command("main", "relay", "main:tq"), **variables) as process:
        wait_until(lambda: len(in_line(client)) == 1, "the task is pushed")
        process.terminate()
        assert process.wait(20) == 0


def test_manage_py_has_it_too(any_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "manage.py").write_text(PROJECT.format(url=any_server.url, secret=SECRET))
    python(tmp_path, "manage.py", "order")
    client = any_server.client()
    assert client.keys("*") == []
    with relaying(tmp_path, sys.executable, "manage.py", "taskqueue", "relay") as process:
        wait_until(lambda: len(in_line(client)) == 1, "the task is pushed")
        process.terminate()
        assert process.wait(20) == 0


def test_a_server_relays_for_the_application_that_it_runs(folder: Path) -> None:
    with running(folder, "--name=i", "--app=main:app") as consumer:
        has_run(folder, "/later")
        assert consumer.end() == 0


def test_a_server_of_another_target_relays_for_whom_it_is_told(any_server: RedisServer, folder: Path) -> None:
    client, nowhere = any_server.client(), f"--target=http://127.0.0.1:{free_port()}"
    with running(
        folder, "--name=i", nowhere, "--relay=main:tq", TASKQUEUE_URL=any_server.url, TASKQUEUE_SECRET=SECRET
    ) as consumer:
        wait_until(lambda: client.hlen("taskqueue:{default}:records") == 1, "the task is pushed")
        assert consumer.end() == 0


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("main:app", 3, "relay: main:app is of type TaskQueueMiddleware, and must be a TaskQueue, or a function that"),
        ("bare:tq", 78, "relay: bare:tq has no outbox; see bind(tq, Session, outbox=True), or TASKQUEUE['OUTBOX']"),
    ],
)
def test_what_cannot_be_relayed(folder: Path, name: str, code: int, text: str) -> None:
    (folder / "bare.py").write_text("import taskqueue\ntq = taskqueue.TaskQueue()\n")
    done = ended("main", "relay", name, cwd=folder)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
