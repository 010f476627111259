"""The decisions that all doors share and no framework is needed to see."""

import logging
from collections.abc import Awaitable
from typing import Any

import pytest

import taskqueue
from taskqueue.admission import Admission, notes_for
from taskqueue.answers import Answer, answer_to_uncaught, not_committed
from taskqueue.door import Arrival, Door, Read, may_carry_body
from taskqueue.errors import (
    BodyUnavailable,
    BrokerUnavailable,
    CommitUncertain,
    ConfigError,
    InvalidTask,
    SignatureError,
)
from taskqueue.request import CurrentTask, Handover
from taskqueue.signature import Proof
from tests.tasks import SECRET


def door(**options: Any) -> Door[object]:
    settings: dict[str, Any] = {
        "load_user": None,
        "user_id": lambda _subject: None,
        "credentials": None,
        "task_only": (),
        "replay_guard": "begin",
        "allow_manual": False,
    }
    return Door(taskqueue.TaskQueue("redis://127.0.0.1:1/0", secret=SECRET, queues=["default"]), **settings | options)


ARRIVAL = Arrival(method="GET", targets=["/x"], headers=[("Host", "example.org")])
PROOF = Proof("id-1", "default", "ada", 1, 1, 11, 0, 0, "", "", "/x", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"credentials": "keep"}, "credentials: 'keep' must be 'copy', 'drop' or None"),
        ({"replay_guard": "redis"}, "replay_guard: 'redis' must be 'begin' or 'process'"),
        ({"allow_manual": "no"}, "allow_manual: 'no' must be True or False"),
        ({"task_only": "/tasks/"}, r"task_only: a list of paths is needed, as in \['/tasks/'\]"),
        ({"task_only": ["tasks"]}, "task_only: 'tasks' must start with a slash"),
    ],
)
def test_wrong_settings_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        door(**options)


def test_a_queue_knows_whether_all_its_doors_note_starts() -> None:
    assert door().tq.notes_starts
    tq = door(replay_guard="process").tq
    assert not tq.notes_starts
    options: dict[str, Any] = {"credentials": None, "task_only": (), "allow_manual": False}
    Door(tq, load_user=None, user_id=lambda _subject: None, replay_guard="begin", **options)
    assert not tq.notes_starts


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("/tasks", True),
        ("/tasks/", True),
        ("/tasks/x/y", True),
        ("/cron/x", True),
        ("/tasksheet", False),
        ("/TASKS/x", False),
        ("/x/tasks/", False),
        ("/", False),
    ],
)
def test_prefixes_end_where_a_segment_ends(path: str, hidden: bool) -> None:  # noqa: FBT001
    assert door(task_only=["/tasks/", "/cron"]).hides(path) is hidden
    assert door().hides(path) is False


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("//tasks/x", True),
        ("/./tasks", True),
        ("/@@tasks", True),
        ("/a/../tasks/x", True),
        ("/../tasks", True),
        # /tasks/../x to a router that only joins slashes, /x to one that resolves dots as well.
        ("//tasks/../x", True),
        ("/x/tasks/../a", False),
        ("/deep//down", True),
        ("/deep/./down/x", True),
        ("/deep/a/../down", True),
        ("/deep", False),
        ("/down", False),
        ("", False),
    ],
)
def test_what_a_router_might_read_as_a_hidden_path(path: str, hidden: bool) -> None:  # noqa: FBT001
    assert door(task_only=["/tasks/", "/deep/down"]).hides(path) is hidden


@pytest.mark.parametrize(
    ("path", "mount", "hidden"),
    [
        ("/shop/tasks", "/shop", True),
        ("//shop//tasks", "/shop", True),
        ("/shop/a/../tasks", "/shop", True),
        ("/shop/../tasks", "/shop", True),
        ("/tasks", "/shop", True),
        ("/other/tasks", "/shop", False),
        ("/shopping/tasks", "/shop", False),
        ("/shop/tasks", "", False),
    ],
)
def test_a_path_is_hidden_with_and_without_its_mount(path: str, mount: str, hidden: bool) -> None:  # noqa: FBT001
    assert door(task_only=["/tasks/"]).hides(path, mount) is hidden


def test_a_root_prefix_hides_everything() -> None:
    assert door(task_only=["/"]).hides("/anything")


@pytest.mark.parametrize(
    ("method", "declared", "chunked", "expected"),
    [
        ("POST", 1, False, True),
        ("DELETE", 1, False, True),
        ("PATCH", None, True, True),
        ("POST", 0, False, False),
        ("POST", None, False, False),
        ("GET", 1, False, False),
        ("HEAD", None, True, False),
    ],
)
def test_only_what_may_have_a_body_is_copied(
    method: str,
    declared: int | None,
    chunked: bool,  # noqa: FBT001
    expected: bool,  # noqa: FBT001
) -> None:
    assert may_carry_body(method, declared, chunked=chunked) is expected


@pytest.mark.parametrize(
    ("error", "status", "known", "level"),
    [
        (BodyUnavailable("payload: gone", status=400), 400, "payload: gone", "will not run"),
        (BrokerUnavailable("redis at 10.0.0.1 refused"), 503, "none will run", "will not run"),
        (CommitUncertain(["id-1", "id-2"]), 503, "they may run", "may run"),
    ],
)
def test_a_failed_commit_is_told_and_logged(
    error: Exception, status: int, known: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = not_committed(error, ["id-1", "id-2"])
    assert answer is not None
    assert answer.status == status
    assert known in answer.text
    assert "10.0.0.1" not in answer.text
    assert answer.headers == ((("retry-after", "1"),) if status == 503 else ())
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(f"2 task(s) {level}: ")
    assert record.getMessage().endswith(": id-1, id-2")


def test_another_error_is_not_the_queues(caplog: pytest.LogCaptureFixture) -> None:
    assert not_committed(ValueError("x"), ["id-1"]) is None
    assert caplog.records == []


# ---- in process


def reading(content: bytes) -> Read[Awaitable[bytes]]:
    """Return a door's way to read this body."""

    async def read(*, keep: bool) -> bytes:
        assert keep
        return content

    return read


async def test_a_handover_is_let_in_without_a_signature() -> None:
    handover = Handover(PROOF)
    arrival = Arrival(method="GET", targets=["/x"], headers=[("X-Task-Id", "id-1")], handover=handover)
    assert arrival.claimed
    admitted = await door(load_user=lambda user_id: f"user {user_id}", replay_guard="process").admit(
        arrival, reading(b"body")
    )
    assert isinstance(admitted, Admission)
    assert (admitted.task.user, admitted.content, admitted.headers()) == ("user ada", b"body", ())
    assert (handover.admitted, handover.logged_in) == (True, True)


async def test_a_handover_of_a_user_who_is_gone_is_refused() -> None:
    handover = Handover(PROOF)
    arrival = Arrival(method="GET", targets=["/x"], headers=[], handover=handover)
    answer = await door(load_user=lambda _user_id: None, replay_guard="process").admit(arrival, reading(b""))
    assert answer == Answer(403, "Refused: user-gone\n", (("x-task-refused", "user-gone"),))
    assert (handover.admitted, handover.logged_in) == (True, False)


async def test_while_a_test_captures_no_broker_is_asked() -> None:
    arrival = Arrival(method="GET", targets=["/x"], headers=[], handover=Handover(PROOF))
    with taskqueue.capture():
        admitted = await door().admit(arrival, reading(b""))
    assert isinstance(admitted, Admission)


async def test_without_a_broker_nothing_starts(caplog: pytest.LogCaptureFixture) -> None:
    handover = Handover(PROOF)
    answer = await door().admit(Arrival(method="GET", targets=["/x"], headers=[], handover=handover), reading(b""))
    assert isinstance(answer, Answer)
    assert (answer.status, answer.headers) == (503, (("retry-after", "1"),))
    assert not handover.admitted
    assert "did not start" in caplog.text


# ---- what the queue is told of a request


def request_of(made: Door[object], arrival: Arrival = ARRIVAL, admission: Admission | None = None) -> Any:
    return made.request(arrival, object(), scheme="https", body=None, admission=admission)


@pytest.mark.parametrize(
    ("host", "recorded"),
    [("example.org:8080", "example.org:8080"), ("[::1]:80", "[::1]:80"), ("a b", ""), ("user@host", ""), ("", "")],
)
def test_only_a_host_is_recorded_as_one(host: str, recorded: str) -> None:
    assert request_of(door(), Arrival(method="GET", targets=["/"], headers=[("HOST", host)])).host == recorded


def test_a_user_id_is_asked_when_a_task_is_added() -> None:
    asked: list[object] = []

    def user_id(subject: object) -> str:
        asked.append(subject)
        return "ada"

    request = request_of(door(user_id=user_id))
    assert (asked, request.user_id_later) == ([], None)
    assert request.user_id() == "ada"
    assert len(asked) == 1


async def test_an_async_user_id_is_awaited_at_commit() -> None:
    class Asking:
        async def __call__(self, _subject: object) -> str:
            return "ada"

    for user_id in (Asking(), Asking().__call__):
        request = request_of(door(user_id=user_id))
        assert request.user_id is None
        assert await request.user_id_later() == "ada"


def test_a_user_id_that_is_no_text_is_an_error() -> None:
    with pytest.raises(InvalidTask, match=r"gave int, not a str; .* give str\(...\)"):
        request_of(door(user_id=lambda _subject: 7)).user_id()


def test_a_task_passes_on_its_own_user() -> None:
    task = CurrentTask(
        id="id-1",
        queue="default",
        user_id="ada",
        user=None,
        attempt=1,
        delivery=1,
        max_attempts=11,
        enqueued_at=0,
        deadline=0,
    )
    made = door(user_id=lambda _subject: "somebody else")
    notes = notes_for(made.tq, PROOF)
    request = request_of(made, admission=Admission(task, b"", notes, lambda _reported: (), made.tq.run_sync))
    assert (request.user_id(), request.user_id_later, request.task) == ("ada", None, task)
    assert request.notes is notes


def test_what_stands_in_the_application_may_refuse_for_the_door(caplog: pytest.LogCaptureFixture) -> None:
    answer = answer_to_uncaught(SignatureError("user-gone", "task id-1: nobody knows its user"))
    assert answer == Answer(403, "Refused: user-gone\n", (("x-task-refused", "user-gone"),))
    assert caplog.messages == ["refused (user-gone): task id-1: nobody knows its user"]
