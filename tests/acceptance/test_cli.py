"""The commands as a person or a process manager meets them: exit codes, messages, signals."""

import asyncio
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from taskqueue import TaskQueue
from taskqueue.brokers.redis import RedisBroker
from taskqueue.cli import run, server_app
from taskqueue.keys import Keyring
from taskqueue.policy import Rules
from taskqueue.replay import VERSION
from taskqueue.retention import Retention
from taskqueue.strategy import Strict
from taskqueue.transaction import bound
from tests.house import tree
from tests.servers import RedisServer, free_port
from tests.waiting import wait_until

SECRET: Final = "an-example-that-is-long-enough-0123456789"
NOWHERE: Final = "http://127.0.0.1:1"
NAMED: Final = ("--name=instance1", "--target", NOWHERE)


def command(main: str, *arguments: str) -> list[str]:
    """Return the command line of an entry point of the package."""
    return [sys.executable, "-W", "error", "-c", f"from taskqueue.cli import {main}; {main}()", *arguments]


def environment(**variables: str) -> dict[str, str]:
    """Return the variables of a process that knows nothing of the test run's."""
    return {"PYTHONPATH": str(tree.ROOT), "TERM": "xterm", **variables}


def ended(main: str, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an entry point to its end."""
    return subprocess.run(
        command(main, *arguments), cwd=cwd, env=environment(**variables), capture_output=True, text=True, check=False
    )


class Consumer:
    """A running taskqueue-server that writes JSON to a file."""

    def __init__(self, cwd: Path, *arguments: str, **variables: str) -> None:
        self._log = cwd / f"log-{free_port()}"
        with self._log.open("w") as stream:
            self.process = subprocess.Popen(
                command("server_main", *arguments),
                cwd=cwd,
                env=environment(TASKQUEUE_SECRET=SECRET, **variables),
                stderr=stream,
                stdout=subprocess.DEVNULL,
            )

    def entries(self) -> list[dict[str, object]]:
        """Return what has been logged so far; every line must be JSON."""
        lines = self._log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def says(self, words: str, *, times: int = 1) -> None:
        """Wait until so many messages have these words."""
        wait_until(
            lambda: sum(words in str(entry["message"]) for entry in self.entries()) >= times,
            f"the consumer says {words!r}, not only {self._log.read_text()}",
        )

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(20)


@contextmanager
def consuming(cwd: Path, *arguments: str, **variables: str) -> Iterator[Consumer]:
    """Start a consumer and wait until it has its queue; kill it in the end."""
    consumer = Consumer(cwd, *arguments, **variables)
    try:
        consumer.says("consuming as")
        yield consumer
    finally:
        consumer.process.kill()
        consumer.process.wait()


# Exit codes: wrong use is 2, wrong configuration 78, what may be better next time 75.


def test_exactly_a_name_is_enough_where_the_file_says_the_rest(any_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "taskqueue.toml").write_text(f'url = "{any_server.url}"\ntarget = "{NOWHERE}"\nqueues = ["b", "a"]\n')
    with consuming(tmp_path, "--name=instance1") as consumer:
        consumer.says("queue a: consuming as instance1")
        assert consumer.end() == 0
        start = consumer.entries()[0]
        assert (start["message"], start["target"], start["broker"]) == ("starting", NOWHERE, any_server.url)
        assert (start["queues"], start["consumer"], start["concurrent_limit"]) == ("b, a", "instance1", 1)
        assert (start["pid"], start["version"]) == (consumer.process.pid, VERSION)
        assert consumer.entries()[-1]["message"] == "stopped"


def test_what_is_chosen_reaches_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Recorded(Exception):
        pass

    def record(*arguments: object, **options: object) -> None:
        raise Recorded(options)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)
    monkeypatch.setattr("taskqueue.assembly.TaskQueueServer", record)
    seconds = {"timeout": 1.0, "stop_grace": 2.0, "poll_max": 3.0, "wait_broker": 4.0, "lease": 5.0}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in seconds.items()]
    flags += [
        "--url=redis://h",
        "--queue=b:3",
        "--queue=a",
        "--strategy=strict",
        "--concurrent-limit=5",
        "--retry-max-count=6",
        "--no-receipt",
        "--on-failed=json:dumps",
        "--max-memory=1",
    ]
    with pytest.raises(Recorded) as caught:
        run(server_app, [*NAMED, *flags])
    given = caught.value.args[0]
    assert given.pop("begins")(), "over HTTP nobody can say otherwise"
    intake = given.pop("intake")
    assert intake.signs.capacity == 5
    assert intake.left(0) == 0, "above its ceiling"
    strategy = given.pop("strategy")
    assert isinstance(strategy, Strict)
    assert strategy.share(4, ["a", "b"]) == {"b": 4}
    assert given == {
        "name": "instance1",
        "queues": ("b", "a"),
        "concurrent_limit": 5,
        "rules": Rules(retry_max_count=6, receipt_required=False),
        "on_failed": json.dumps,
        "companions": (),
        "retention": Retention(),
        "files": None,
        **seconds,
    }


def test_a_consumer_asks_the_resolver_about_a_task_in_doubt(any_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text("def committed(doubt):\n    return doubt.label == 'paid'\n")
    tq = TaskQueue(any_server.url, secret=SECRET)
    ids = []
    for label in ("paid", "not paid"):
        transaction = tq.begin()
        with bound(transaction):
            ids.append(tq.add("/a", label=label))
        transaction.vote_sync()

    async def minute_passed() -> None:
        broker = RedisBroker(any_server.url, namespace="taskqueue")
        await broker.script("due", "default", lambda: (-1,), deadline=time.monotonic() + 10)
        await broker.aclose()

    asyncio.run(minute_passed())
    arguments = ("--name=i", "--target", NOWHERE, "--url", tq.url, "--resolve=orders:committed")
    with consuming(tmp_path, *arguments) as consumer:
        consumer.says("it was aborted, and is forgotten")
        consumer.says("it has committed, and is queued")
        assert consumer.end() == 0
    paid, not_paid = map(tq.get_sync, ids)
    assert paid is not None
    assert (paid.state, not_paid) in {("queued", None), ("scheduled", None)}  # given back: nobody answers at the target


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--nam=1"], "Did you mean --name?"),
        (["--name"], "--name requires an argument"),
        (["--name=a", "--name=b"], "--name specified multiple times"),
        (["--name=a", "extra"], "extra"),
        ([], "name: none is set; give --name instance1"),
        (["--name", "a b"], "--name: 'a b' is no consumer name"),
        (["--name=a"], "target: none is set; give --target http://127.0.0.1:8000"),
        (["--name=a", "--target", "127.0.0.1:8000"], "--target: '127.0.0.1:8000' must be http://"),
        ([*NAMED, "--concurrent-limit", "-1"], "--concurrent-limit: '-1' must be a whole number from 0 to 10000"),
        ([*NAMED, "--concurrent-limit=many"], "--concurrent-limit: 'many' must be a whole number from 0 to 10000"),
        ([*NAMED, "--timeout=0"], "--timeout: '0' must be a number of seconds, from 0.1 to 86400"),
        ([*NAMED, "--queue", "a", "--queue", "B"], "--queue: 'B' is no queue name: 1 to 64 of a-z, 0-9 and '-'; 'b'"),
    ],
)
def test_wrong_use_ends_with_2_and_the_remedy(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(server_app, arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith("taskqueue-server: ")
    assert told in output.err
    assert output.out == ""


def test_a_misspelt_variable_or_key_ends_with_2(tmp_path: Path) -> None:
    variable = ended("server_main", *NAMED, cwd=tmp_path, TASKQUEUE_CONCURENT_LIMIT="3")
    assert (variable.returncode, variable.stdout) == (2, "")
    assert "TASKQUEUE_CONCURENT_LIMIT: did you mean TASKQUEUE_CONCURRENT_LIMIT?" in variable.stderr
    (tmp_path / "taskqueue.toml").write_text("concurency = 3\n")
    key = ended("server_main", *NAMED, cwd=tmp_path)
    assert (key.returncode, key.stdout) == (2, "")
    assert "taskqueue.toml: no such setting: concurency" in key.stderr


@pytest.mark.accept("CT38")
@pytest.mark.parametrize(
    ("url", "secret", "told"),
    [
        (None, SECRET, "url: none is set; give --url redis://127.0.0.1:6379/0, or set TASKQUEUE_URL"),
        ("redis://127.0.0.1:1/0", None, "secret: none is set; make one with: taskqueue secret"),
        ("redis://127.0.0.1:1/0", "too-short", "32 bytes or more of random text are needed"),
        ("reddis://ann:hunter2@h/0", SECRET, "url: 'reddis://ann:***@h/0' has no known scheme"),
    ],
)
def test_wrong_configuration_ends_with_78_and_the_remedy(
    url: str | None,
    secret: str | None,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("TASKQUEUE_URL", url), ("TASKQUEUE_SECRET", secret)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert run(server_app, NAMED) == 78
    error = capsys.readouterr().err
    assert told in error
    assert "too-short" not in error


@pytest.mark.accept("CT38")
def test_a_wrong_password_ends_with_78_and_does_not_show_it(private_server: RedisServer, tmp_path: Path) -> None:
    private_server.client().config_set("requirepass", "the-right-one")
    url = private_server.url.replace("//", "//:hunter2@")
    done = ended("server_main", *NAMED, "--url", url, cwd=tmp_path, TASKQUEUE_SECRET=SECRET)
    assert done.returncode == 78
    last = json.loads(done.stderr.splitlines()[-1])
    assert last["level"] == "critical"
    assert "password" in str(last["message"])
    assert "hunter2" not in done.stderr


def test_a_store_that_evicts_ends_with_78_and_the_fix(private_server: RedisServer, tmp_path: Path) -> None:
    client = private_server.client()
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", "100mb")
    done = ended("server_main", *NAMED, "--url", private_server.url, cwd=tmp_path, TASKQUEUE_SECRET=SECRET)
    assert done.returncode == 78
    assert "CONFIG SET maxmemory-policy noeviction" in json.loads(done.stderr.splitlines()[-1])["message"]


def test_a_user_without_rights_ends_with_78_and_the_fix(private_server: RedisServer, tmp_path: Path) -> None:
    client: Any = private_server.client()
    client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-evalsha")
    url = private_server.url.replace("//", "//app:pw@")
    done = ended("server_main", *NAMED, "--url", url, cwd=tmp_path, TASKQUEUE_SECRET=SECRET)
    assert done.returncode == 78
    assert "taskqueue acl prints what it needs" in json.loads(done.stderr.splitlines()[-1])["message"]


def test_a_key_of_somebody_else_ends_with_78_and_the_fix(private_server: RedisServer, tmp_path: Path) -> None:
    private_server.client().set("taskqueue:{default}:consumer:instance1", "somebody else's")
    done = ended("server_main", *NAMED, "--url", private_server.url, cwd=tmp_path, TASKQUEUE_SECRET=SECRET)
    assert done.returncode == 78
    assert "choose another namespace" in json.loads(done.stderr.splitlines()[-1])["message"]


def test_the_start_tells_what_the_store_is_and_keeps(private_server: RedisServer, tmp_path: Path) -> None:
    with consuming(tmp_path, *NAMED, "--url", private_server.url, "--durability=disk") as consumer:
        consumer.says("queue default: consuming as instance1")
        consumer.end()
        start, warning, *_ = consumer.entries()
    assert start["durability"] == "disk"
    assert re.fullmatch(r"valkey \d+\.\d+\.\d+", str(start["store"]))
    assert warning["level"] == "warning"
    assert "disk is declared, and appendfsync is no" in str(warning["message"])
    assert "set appendfsync always" in str(warning["message"])


@pytest.mark.accept("CT38")
def test_a_broker_out_of_reach_for_too_long_ends_with_75(tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    done = ended("server_main", *NAMED, "--url", url, "--wait-broker=0", cwd=tmp_path, TASKQUEUE_SECRET=SECRET)
    assert done.returncode == 75
    assert "given up after 0 s (--wait-broker)" in json.loads(done.stderr.splitlines()[-1])["message"]


def test_a_second_server_of_a_name_ends_with_69(any_server: RedisServer, tmp_path: Path) -> None:
    arguments = (*NAMED, "--url", any_server.url)
    with consuming(tmp_path, *arguments) as first:
        second = ended("server_main", *arguments, cwd=tmp_path, TASKQUEUE_SECRET=SECRET)
        assert second.returncode == 69
        last = json.loads(second.stderr.splitlines()[-1])
        assert last["level"] == "critical"
        assert f"process {first.process.pid}" in last["message"]
        assert "--name" in last["message"]
        assert first.end() == 0


def test_an_error_that_nobody_expected_is_logged_with_its_traceback_and_ends_with_1(tmp_path: Path) -> None:
    program = """
import taskqueue.cli, taskqueue.server

async def broken(server):
    raise RuntimeError("planted")

taskqueue.server.TaskQueueServer.run = broken
taskqueue.cli.server_main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *NAMED, "--url", "redis://127.0.0.1:1/0"],
        cwd=tmp_path,
        env=environment(TASKQUEUE_SECRET=SECRET),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["level"], last["exception"].splitlines()[-1]) == ("critical", "RuntimeError: planted")


# Signals.


@pytest.fixture
def application() -> Iterator[socket.socket]:
    """A listening application of which the test reads and writes every byte."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        yield listener


def running_task(tq: TaskQueue, listener: socket.socket) -> tuple[str, socket.socket]:
    """Push a task and return its id and the connection on which its request has arrived."""
    task_id = tq.push_sync("/report", retry_max_count=0)
    connection, _ = listener.accept()
    connection.settimeout(20)
    assert connection.recv(100).startswith(b"GET /report HTTP/1.1\r\n")
    return task_id, connection


@pytest.mark.accept("TA11")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_signal_lets_the_running_task_end(
    number: signal.Signals, any_server: RedisServer, application: socket.socket, tmp_path: Path
) -> None:
    tq = TaskQueue(any_server.url, secret=SECRET)
    target = f"http://127.0.0.1:{application.getsockname()[1]}"
    with consuming(tmp_path, "--name=i", "--target", target, "--url", tq.url, "--no-receipt") as consumer:
        task_id, connection = running_task(tq, application)
        waiting = tq.push_sync("/later")
        consumer.process.send_signal(number)
        consumer.says("stopping: 1 task(s) running")
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert consumer.process.wait(20) == 0
        connection.close()
    ran, later = tq.get_sync(task_id), tq.get_sync(waiting)
    assert ran is not None
    assert later is not None
    assert (ran.state, later.state) == ("completed", "queued")
    assert any_server.client().keys("*:reserved:*") == []


def test_a_second_signal_gives_the_running_task_back(
    any_server: RedisServer, application: socket.socket, tmp_path: Path
) -> None:
    tq = TaskQueue(any_server.url, secret=SECRET)
    target = f"http://127.0.0.1:{application.getsockname()[1]}"
    arguments = ("--name=i", "--target", target, "--url", tq.url, "--no-receipt", "--stop-grace=86400")
    with consuming(tmp_path, *arguments) as consumer:
        task_id, connection = running_task(tq, application)
        consumer.process.send_signal(signal.SIGTERM)
        consumer.says("stopping: 1 task(s) running")
        assert consumer.end() == 0
        connection.close()
    state = tq.get_sync(task_id)
    assert state is not None
    assert (state.state, state.attempt) == ("queued", 0)


# What is written where.


def on_a_terminal(main: str, *arguments: str, cwd: Path, **variables: str) -> str:
    """Run an entry point to its end with a terminal as its output; return what stands there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(main, *arguments), cwd=cwd, env=environment(**variables), stdout=theirs, stderr=theirs
    ):
        os.close(theirs)
        output = b""
        try:
            while part := os.read(ours, 65536):
                output += part
        except OSError:  # how Linux says that the other end is closed
            pass
    os.close(ours)
    return output.decode().replace("\r\n", "\n")


@pytest.fixture
def foreign_url(any_server: RedisServer) -> str:
    """A broker in which a key of ours is somebody else's: the server says what it starts, and ends at once."""
    any_server.client().set("taskqueue:{mail}:consumer:instance1", "not a hash")
    return any_server.url.replace("//", "//default:hunter2@")


def test_on_a_terminal_five_lines_tell_what_starts(foreign_url: str, tmp_path: Path) -> None:
    arguments = (*NAMED, "--url", foreign_url, "--queue=mail,default", "--concurrent-limit=3")
    lines = on_a_terminal("server_main", *arguments, cwd=tmp_path, TASKQUEUE_SECRET=SECRET).splitlines()
    target, broker, *others = lines[:4]
    assert target == f"target    {NOWHERE}"
    masked = re.escape(foreign_url.replace("hunter2", "***"))
    assert re.fullmatch(rf"broker    {masked} \(valkey \d+\.\d+\.\d+, durability process\)", broker)
    assert others == ["queues    mail, default", "consumer  instance1, at most 3 at a time"]
    assert lines[4].startswith("process   ")
    assert lines[4].endswith(f", taskqueue {VERSION}, uvloop")
    assert "\x1b[1;31mCRITICAL\x1b[0m" in lines[-1]
    assert "choose another namespace" in lines[-1]


def test_nothing_is_coloured_where_nobody_wants_it(foreign_url: str, tmp_path: Path) -> None:
    arguments = (*NAMED, "--url", foreign_url, "--queue=mail", "--concurrent-limit=0")
    output = on_a_terminal("server_main", *arguments, cwd=tmp_path, TASKQUEUE_SECRET=SECRET, NO_COLOR="1")
    assert "\x1b" not in output
    assert "consumer  instance1, without limit" in output
    assert "CRITICAL" in output


@pytest.mark.parametrize(("style", "begins"), [("console", ""), ("logfmt", "time="), ("json", "{")])
def test_errors_alone_are_logged_if_so_chosen(style: str, begins: str, foreign_url: str, tmp_path: Path) -> None:
    arguments = (*NAMED, "--url", foreign_url, "--queue=mail", "--log-level=error", f"--log-format={style}")
    done = ended("server_main", *arguments, cwd=tmp_path, TASKQUEUE_SECRET=SECRET)
    assert done.returncode == 78
    (line,) = done.stderr.splitlines()
    assert line.startswith(begins)
    assert "choose another namespace" in line


def test_help_names_flag_variable_default_and_example(tmp_path: Path) -> None:
    done = ended("server_main", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n  --concurrent-limit STR: How many tasks may run at a time; 0: no limit." in done.stdout
    assert "[TASKQUEUE_CONCURRENT_LIMIT] (default: 1)\n" in done.stdout
    assert "[TASKQUEUE_CONFIG]" in done.stdout
    assert "\n  taskqueue-server --name=instance1\n" in done.stdout
    assert "--secret " not in done.stdout


def test_version(tmp_path: Path) -> None:
    assert [ended(main, "--version", cwd=tmp_path).stdout for main in ("main", "server_main")] == [f"{VERSION}\n"] * 2


# taskqueue


def test_a_fresh_secret_is_one_that_is_accepted(tmp_path: Path) -> None:
    first, second = (ended("main", "secret", cwd=tmp_path) for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout != second.stdout
    keyring = Keyring([first.stdout.strip(), second.stdout.strip()])
    assert len(keyring.all()) == 2


def test_config_show_tells_every_value_and_its_origin(tmp_path: Path) -> None:
    (tmp_path / "taskqueue.toml").write_text('url = "redis://ann:hunter2@h/0"\nqueues = ["a", "b"]\n')
    variables = {"TASKQUEUE_SECRET": f"{SECRET},{SECRET}2", "TASKQUEUE_STOP_GRACE": "7"}
    plain = ended("main", "config", "show", "--origin", cwd=tmp_path, **variables)
    rows = dict(line.split("\t", 1) for line in plain.stdout.splitlines())
    assert rows["url"] == "redis://ann:***@h/0\ttaskqueue.toml"
    assert rows["queues"] == "a, b\ttaskqueue.toml"
    assert rows["secrets"] == "***, ***\tTASKQUEUE_SECRET"
    assert rows["stop_grace"] == "7\tTASKQUEUE_STOP_GRACE"
    assert rows["receipt"] == "true\tdefault"
    machine = ended("main", "config", "show", "--json", cwd=tmp_path, **variables)
    values = json.loads(machine.stdout)
    assert values.keys() == rows.keys()
    assert (values["queues"], values["stop_grace"], values["wait_broker"]) == (["a", "b"], 7.0, None)
    assert json.loads(ended("main", "config", "show", "--json", "--origin", cwd=tmp_path).stdout)["queues"] == {
        "value": ["a", "b"],
        "origin": "taskqueue.toml",
    }
    assert SECRET not in plain.stdout + machine.stdout
    assert "hunter2" not in plain.stdout + machine.stdout


def test_config_show_is_a_table_on_a_terminal(tmp_path: Path) -> None:
    output = on_a_terminal("main", "config", "show", cwd=tmp_path)
    assert "│ concurrent_limit │ 1 " in output


def test_config_show_refuses_what_the_server_would_refuse(tmp_path: Path) -> None:
    done = ended("main", "config", "show", "--config=nowhere.toml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (78, "")
    assert "taskqueue: nowhere.toml: it cannot be read" in done.stderr


def test_a_misspelt_command_ends_with_2_and_the_right_one(tmp_path: Path) -> None:
    done = ended("main", "secrt", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert 'Did you mean "secret"?' in done.stderr
