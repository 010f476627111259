"""``taskqueue curl`` and ``taskqueue replay``: a task taken home, and nothing changed where it came from."""

import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from tests.doors import Reply
from tests.laptop import LAPTOP, Laptop
from tests.servers import RedisServer
from tests.tasks import SECRET, opaque, sealed, task
from tests.work import Doing, Work

COOKIE: Final = "session=of-alice"
BODY: Final = b'name=it\'s "you"\n' + bytes(range(256))


@pytest.fixture
def laptop() -> Laptop:
    return Laptop()


@pytest.fixture
def failed(store: Doing, monkeypatch: pytest.MonkeyPatch) -> str:
    """A task of production that has failed."""
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)
    made = task(
        "/build?year=2026",
        "POST",
        host="www.example.org",
        scheme="https",
        headers=(("cookie", COOKIE), ("content-type", "application/octet-stream")),
        body=BODY,
        user_id="alice",
    )

    @store
    async def _(work: Work) -> None:
        await work.fail(sealed(made))

    return made.id


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    path = tmp_path / "laptop.secret"
    path.write_text(f"{LAPTOP}\n")
    return str(path)


def everything(server: RedisServer) -> dict[Any, bytes | None]:
    """Return all that a store holds."""
    with redis.Redis.from_url(server.url) as client:
        return {key: client.dump(key) for key in client.scan_iter()}


def test_replay_runs_a_failed_task_elsewhere_and_changes_nothing(
    taskqueue: Any, any_server: RedisServer, failed: str, laptop: Laptop, secret_file: str
) -> None:
    before = everything(any_server)
    with laptop.running(allow_manual=True) as base:
        ran = taskqueue("replay", failed, "--to", base, "--secret-file", secret_file, "--json")
    assert ran.code == 0
    document = ran.document
    assert (document["task"], document["to"]) == (failed, base)
    assert (document["verdict"], document["reason"], document["remark"]) == ("complete", "", None)
    response = document["response"]
    assert (response["status"], response["content"]) == (201, "made")
    assert ["x-task-receipt", "***"] in response["headers"]
    assert laptop.seen == [("POST", "year=2026", BODY)]
    (current,) = laptop.tasks
    assert current is not None
    assert (current.id, current.manual, current.user_id, current.delivery) == (failed, True, "alice", 0)
    assert everything(any_server) == before != {}
    assert "with Cookie of the request" in ran.err
    assert COOKIE not in ran.out + ran.err


def test_replay_tells_what_would_have_become_of_it(
    taskqueue: Any, failed: str, laptop: Laptop, secret_file: str
) -> None:
    laptop.reply = Reply(404)
    with laptop.running(allow_manual=True) as base:
        ran = taskqueue("replay", failed, "--to", base, "--secret-file", secret_file)
        assert (ran.code, ran.lines[:2]) == (1, [["verdict", "fail"], ["reason", "not-found"]])
        assert ["status", "404"] in ran.lines
    ran = taskqueue("replay", failed, "--to", base, "--secret-file", secret_file, "--json")
    assert (ran.code, ran.document["verdict"], ran.document["reason"]) == (1, "release", "refused")
    assert ran.document["response"] is None


def test_a_door_that_was_not_told_so_lets_nobody_in_even_with_the_secret(
    taskqueue: Any, failed: str, laptop: Laptop
) -> None:
    with laptop.running(SECRET) as base:
        ran = taskqueue("replay", failed, "--to", base)
    assert (ran.code, laptop.seen) == (1, [])
    assert "release manual" in ran.out
    assert "allow_manual=True" in ran.out


def test_another_secret_than_the_applications_is_told(taskqueue: Any, failed: str, laptop: Laptop) -> None:
    with laptop.running(allow_manual=True) as base:
        ran = taskqueue("replay", failed, "--to", base)
    assert (ran.code, laptop.seen) == (1, [])
    assert "release key" in ran.out


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_what_curl_prints_runs_once(
    taskqueue: Any,
    any_server: RedisServer,
    failed: str,
    laptop: Laptop,
    secret_file: str,
    tmp_path: Path,
) -> None:
    before = everything(any_server)
    with laptop.running(allow_manual=True) as base:
        printed = taskqueue("curl", failed, "--to", base, "--secret-file", secret_file)
        assert printed.code == 0
        assert SECRET not in printed.out
        assert LAPTOP not in printed.out
        assert COOKIE in printed.out
        assert "can act as that user" in printed.err
        answers = [
            subprocess.run(["sh", "-c", printed.out], capture_output=True, check=True, timeout=20, text=True).stdout
            for _ in range(2)
        ]
    assert answers[0].startswith("HTTP/1.1 201")
    assert answers[1].startswith("HTTP/1.1 403")
    assert "x-task-refused: replayed" in answers[1]
    assert laptop.seen == [("POST", "year=2026", BODY)]
    assert everything(any_server) == before


def test_curl_addresses_who_would_get_it(taskqueue: Any, failed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = taskqueue("curl", failed, "--json")
    document = ran.document
    assert document["to"] == "https://www.example.org"
    assert "'Host: www.example.org'" in document["command"]
    assert document["command"].endswith("'https://www.example.org/build?year=2026'")
    assert document["expires"].endswith("Z")
    monkeypatch.setenv("TASKQUEUE_TARGET", "http://10.0.0.7:8000")
    out = taskqueue("curl", failed).out
    assert "'Host: www.example.org'" in out
    assert out.endswith("'http://10.0.0.7:8000/build?year=2026'\n")
    out = taskqueue("curl", failed, "--to", "http://127.0.0.1:9").out
    assert "'Host: 127.0.0.1:9'" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("replay", "nobody", "--to", "http://127.0.0.1:9"), 1, "no task 'nobody' in default"),
        (("curl", "nobody"), 1, "no task 'nobody' in default"),
        (("curl", "opaque"), 1, "too few for a seal"),
        (("curl", "bare"), 2, "--to: the task was recorded outside a request"),
        (("replay", "nobody", "--to", "http://laptop/path"), 2, "--to: 'http://laptop/path' must be"),
        (("replay", "nobody"), 2, "--to"),
        (("curl", "nobody", "--secret-file", "/does/not/exist"), 78, "--secret-file"),
    ],
)
def test_what_cannot_be_is_told(
    taskqueue: Any,
    store: Doing,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)

    @store
    async def _(work: Work) -> None:
        await work.push(opaque("opaque"), sealed(task("/", id="bare")))

    ran = taskqueue(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err


def test_neither_works_without_the_secret(taskqueue: Any) -> None:
    ran = taskqueue("curl", "any")
    assert (ran.code, ran.out) == (78, "")
    assert "TASKQUEUE_SECRET" in ran.err
