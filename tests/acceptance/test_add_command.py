"""``taskqueue add``: what a person or a script queues."""

import io
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from taskqueue.seal import unseal
from taskqueue.task import Task
from tests.servers import RedisServer
from tests.tasks import KEYRING, SECRET, opaque
from tests.work import Doing, Work, soon


@pytest.fixture(autouse=True)
def secret(taskqueue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)


def recorded(server: RedisServer, queue: str, task_id: str) -> Task:
    """Return the task as it was sealed."""
    record = server.client().hget(f"taskqueue:{{{queue}}}:records", task_id)
    assert isinstance(record, bytes)
    return unseal(KEYRING, queue=queue, task_id=task_id, record=record)


@pytest.mark.accept("TA45")
def test_it_prints_the_id_of_what_is_queued(taskqueue: Any, any_server: RedisServer) -> None:
    ran = taskqueue("add", "/reports/build?a=1", "--param", "b=x=y", "--param", "b=ü")
    assert (ran.code, ran.err) == (0, "")
    (task_id,) = ran.out.split()
    made = recorded(any_server, "default", task_id)
    assert (made.method, made.target, made.user_id, made.body) == (
        "GET",
        "/reports/build?a=1&b=x%3Dy&b=%C3%BC",
        None,
        b"",
    )
    (listed,) = taskqueue("list", "--json").document["tasks"]
    assert (listed["id"], listed["state"]) == (task_id, "queued")


def test_everything_that_can_be_said_arrives(
    taskqueue: Any, any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQUEUE_QUEUES", "default,mail")
    monkeypatch.setenv("TASKQUEUE_PUBLIC_URL", "https://www.example.org")
    ran = taskqueue(
        *("add", "/mail", "--method", "PUT", "--json-body", '{"to": "ada"}', "--header", "Accept-Language: de, en"),
        *("--queue", "mail", "--user-id", "ada", "--label", "letter", "--priority", "9", "--timeout", "30"),
        *("--retry-max-count", "2", "--delay", "3600", "--on-success", "/sent?a=1", "--on-failure", "/lost", "--json"),
    )
    assert (ran.code, ran.document["queue"]) == (0, "mail")
    made = recorded(any_server, "mail", ran.document["id"])
    assert (made.method, made.target, made.body) == ("PUT", "/mail", b'{"to":"ada"}')
    assert (made.host, made.scheme) == ("www.example.org", "https")
    assert (made.on_success, made.on_failure) == ("/sent?a=1", "/lost")
    assert set(made.headers) == {("accept-language", "de, en"), ("content-type", "application/json")}
    assert (made.user_id, made.label) == ("ada", "letter")
    assert (made.timeout, made.retry_max_count) == (30, 2)
    (listed,) = taskqueue("list", "--json").document["tasks"]
    assert (listed["state"], listed["priority"]) == ("scheduled", 9)


def test_a_time_is_one_with_its_zone(taskqueue: Any) -> None:
    soon_there = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    ran = taskqueue("add", "/", "--eta", soon_there.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat())
    (listed,) = taskqueue("list", "--json").document["tasks"]
    assert (listed["id"], listed["state"]) == (ran.out.strip(), "scheduled")
    assert datetime.fromisoformat(listed["due"]) == soon_there


def test_a_body_comes_from_a_file_or_the_input(
    taskqueue: Any, any_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "body").write_bytes(b"\x00\xff")
    (tmp_path / "body.json").write_text('{"a": [1]}')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"typed")))
    bodies = [
        recorded(any_server, "default", taskqueue("add", "/", flag, text).out.strip()).body
        for flag, text in (
            ("--payload", "@body"),
            ("--json-body", "@body.json"),
            ("--payload", "@-"),
            ("--payload", "grüß"),
        )
    ]
    assert bodies == [b"\x00\xff", b'{"a":[1]}', b"typed", "grüß".encode()]


def test_a_queue_that_nobody_knows_is_refused_unless_it_is_used(taskqueue: Any, store: Doing) -> None:
    ran = taskqueue("add", "/", "--queue", "mial")
    assert (ran.code, ran.out) == (2, "")
    assert "nobody uses 'mial', and the settings name default" in ran.err

    @store
    async def _(work: Work) -> None:
        await work.push(opaque(queue="mail"))

    assert taskqueue("add", "/", "--queue", "mail", "--json").document["queue"] == "mail"

    @store
    async def _(work: Work) -> None:
        assert (await work.broker.size("mail", deadline=soon()), await work.broker.size("mial", deadline=soon())) == (
            2,
            0,
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("http://other.example/x",), "url"),
        (("/", "--param", "a"), "--param: 'a' must be NAME=VALUE"),
        (("/", "--header", "hunter2"), "--header: each must be 'Name: value'"),
        (("/", "--header", "Transfer-Encoding: chunked"), "headers: 'Transfer-Encoding' is set by each delivery"),
        (("/", "--json-body", "{"), "--json-body: this is not JSON"),
        (("/", "--json-body", "1", "--payload", "x"), "payload: give either payload or json"),
        (("/", "--payload", "@/does/not/exist"), "--payload: '/does/not/exist' cannot be read: No such file"),
        (("/", "--eta", "2099-01-01T00:00Z"), "eta: over 365 days ahead"),
        (("/", "--eta", "tomorrow"), "--eta: 'tomorrow' must be a time with its zone"),
        (("/", "--eta", "2026-12-24T18:00"), "--eta: '2026-12-24T18:00' must be a time with its zone"),
        (("/", "--delay", "1", "--eta", "2026-12-24T18:00Z"), "delay: give either delay or eta"),
        (("/", "--priority", "10"), "priority"),
        (("/", "--method", "BREW"), "method"),
        (("/", "--user-id", ""), "user_id"),
        ((), "requires"),
    ],
)
def test_what_cannot_be_is_a_usage_error(taskqueue: Any, arguments: tuple[str, ...], words: str) -> None:
    ran = taskqueue("add", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert "hunter2" not in ran.err


def test_without_the_secret_nothing_is_added(taskqueue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASKQUEUE_SECRET")
    ran = taskqueue("add", "/")
    assert (ran.code, ran.out) == (78, "")
    assert "TASKQUEUE_SECRET" in ran.err


def test_a_path_that_follows_must_be_one(taskqueue: Any) -> None:
    ran = taskqueue("add", "/mail", "--on-success", "https://example.org/")
    assert ran.code == 2
    assert "on_success" in ran.err


def test_the_routes_of_a_named_file_count(
    taskqueue: Any, any_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQUEUE_CONFIG", "")  # the command tells its own process which file it is, and this is it
    assert taskqueue("add", "/letters/1", "--json").document["queue"] == "default"
    named = tmp_path / "elsewhere.toml"
    named.write_text('queues = ["default", "mail"]\n[[route]]\npath = "/letters/*"\nqueue = "mail"\n')
    ran = taskqueue("add", "/letters/1", "--config", str(named), "--json")
    assert (ran.code, ran.err, ran.document["queue"]) == (0, "", "mail")
