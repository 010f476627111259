"""What a Django project's settings say of the queue: checked where Django checks them, and known to its commands."""

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.core.management import CommandError, call_command
from django.core.wsgi import get_wsgi_application
from django.test.utils import override_settings

import taskqueue
from taskqueue.middleware import django as door
from taskqueue.middleware.django import configuration
from taskqueue.middleware.django.checks import check
from taskqueue.portal import in_portal
from tests.doors import task_queue
from tests.doors_django import DOOR
from tests.house import tree
from tests.servers import RedisServer
from tests.tasks import SECRET

SECURITY = "django.middleware.security.SecurityMiddleware"
OTHER = "django.middleware.gzip.GZipMiddleware"
RIGHT = {"URL": "redis://127.0.0.1:1/0", "SECRET": SECRET}


def found(settings: Any = RIGHT, middleware: Any = (DOOR,), **changed: Any) -> list[checks.CheckMessage]:
    """Return what the checks say of these settings."""
    with override_settings(TASKQUEUE=settings, MIDDLEWARE=list(middleware), **changed):
        return list(check())


# ---- checks


def test_settings_that_are_right_are_not_spoken_of() -> None:
    assert found() == []
    assert found(middleware=[DOOR, SECURITY, OTHER]) == []
    every = {
        **RIGHT,
        "QUEUES": ["default", "mail"],
        "NAMESPACE": "shop",
        "PUBLIC_URL": "https://shop.example",
        "LIMITS": taskqueue.Limits(body=1000),
        "COMMIT_DEADLINE": 1.0,
        "MAX_TASKS": 10,
        "MAX_BYTES": 10_000_000,
        "DURABILITY": "disk",
        "USING": "other",
        "LOAD_USER": "taskqueue.middleware.django.load_user",
        "USER_ID": door.authenticated_user,
        "CREDENTIALS": "copy",
        "TASK_ONLY": ["/tasks/"],
        "REPLAY_GUARD": "process",
    }
    assert found(every) == []
    with override_settings(TASKQUEUE=every):
        tq = door.task_queue()
        assert tq is door.task_queue()
        assert (tq.using, tq.queues, tq.namespace, tq.limits.body) == ("other", ("default", "mail"), "shop", 1000)


@pytest.mark.parametrize(
    ("settings", "number", "text"),
    [
        ("redis://", "E001", "TASKQUEUE: str must be a dictionary"),
        ({**RIGHT, "SECERT": "x"}, "E001", "TASKQUEUE: no such key: SECERT: did you mean SECRET?"),
        ({**RIGHT, "url": "x"}, "E001", "TASKQUEUE: no such key: url: did you mean URL?"),
        ({**RIGHT, "COLOUR": "red"}, "E001", "known are URL, SECRET, QUEUES,"),
        ({**RIGHT, "USING": "third"}, "E001", "'third' is no database alias; known are default, other"),
        ({**RIGHT, "QUEUES": "default"}, "E002", "queues: a list of names is needed"),
        ({**RIGHT, "CREDENTIALS": "keep"}, "E002", "credentials: 'keep' must be 'copy', 'drop' or None"),
        ({**RIGHT, "TASK_ONLY": ["tasks"]}, "E002", "task_only: 'tasks' must start with a slash"),
        ({**RIGHT, "ALLOW_MANUAL": "no"}, "E001", "ALLOW_MANUAL: bool is needed, not str"),
        ({**RIGHT, "REPLAY_GUARD": "redis"}, "E002", "replay_guard: 'redis' must be"),
        ({**RIGHT, "LOAD_USER": "shop.users.load"}, "E002", "LOAD_USER: 'shop.users.load' cannot be imported"),
        ({**RIGHT, "TASK_ONLY": [5]}, "E001", "TASK_ONLY: a list of str is needed, not list"),
        ({**RIGHT, "LOAD_USER": 5}, "E001", "LOAD_USER: a function, or its dotted path, is needed, not int"),
        ({**RIGHT, "LIMITS": {"body": 1000}}, "E001", "LIMITS: Limits is needed, not dict"),
        ({"SECRET": SECRET}, "E003", "url: none is set"),
        ({"URL": "redis://127.0.0.1:1/0"}, "E004", "secret"),
        ({"URL": "redis://127.0.0.1:1/0", "SECRET": "short"}, "E004", "32 bytes"),
    ],
)
def test_settings_that_are_wrong_are_told(settings: Any, number: str, text: str) -> None:
    (message,) = found(settings)
    assert (message.id, message.level) == (f"taskqueue.{number}", checks.ERROR)
    assert text in message.msg
    assert "short" not in message.msg


@pytest.mark.parametrize("key", configuration._KNOWN)
def test_no_value_of_a_wrong_type_is_more_than_a_message(key: str) -> None:
    for value in (5, 1.5, -1, "", "x y", b"x", None, [], [5], {}, {"a": 1}, object()):
        for message in found({**RIGHT, key: value}):
            assert message.msg.startswith("TASKQUEUE: "), value
            assert len(message.msg.splitlines()) == 1, value


def test_what_the_checks_tell_is_an_error_for_the_middleware_too() -> None:
    with (
        override_settings(TASKQUEUE={"SECERT": "x"}, MIDDLEWARE=[DOOR]),
        pytest.raises(taskqueue.ConfigError, match="did you mean SECRET"),
    ):
        get_wsgi_application()


@pytest.mark.parametrize(
    ("middleware", "number", "text"),
    [
        ([], "E005", "is missing"),
        ([SECURITY, "no.such.Middleware"], "E005", "is missing"),
        ([DOOR, SECURITY, DOOR], "E005", "stands there 2 times"),
        ([SECURITY, DOOR], "E006", f"{SECURITY} must come after {DOOR}"),
        ([OTHER, SECURITY, DOOR], "E006", f"{SECURITY} must come after {DOOR}"),
        ([OTHER, DOOR, SECURITY], "W001", f"what {OTHER} answers to a delivery has no receipt"),
    ],
)
def test_the_door_must_be_first(middleware: list[str], number: str, text: str) -> None:
    (message,) = found(middleware=middleware)
    assert message.id == f"taskqueue.{number}"
    assert text in message.msg
    assert DOOR in (message.hint or "")


def test_a_redirect_to_https_that_eats_tasks_is_told() -> None:
    (message,) = found(SECURE_SSL_REDIRECT=True)
    assert message.id == "taskqueue.W002"
    assert found({**RIGHT, "PUBLIC_URL": "https://shop.example"}, SECURE_SSL_REDIRECT=True) == []


def test_a_cache_that_answers_for_views_is_told() -> None:
    (message,) = found(middleware=[DOOR, "django.middleware.cache.FetchFromCacheMiddleware"])
    assert (message.id, message.level) == ("taskqueue.W003", checks.WARNING)
    assert "method='POST'" in (message.hint or "")


def test_django_asks_the_checks(capsys: pytest.CaptureFixture[str]) -> None:
    with override_settings(TASKQUEUE=RIGHT, MIDDLEWARE=[DOOR]):
        call_command("check")
    with (
        override_settings(TASKQUEUE={"SECERT": "x"}, MIDDLEWARE=[DOOR]),
        pytest.raises(Exception, match=r"taskqueue\.E001"),
    ):
        call_command("check", stderr=StringIO())
    assert "no issues" in capsys.readouterr().out


# ---- manage.py


def test_manage_py_knows_where_the_queues_are(any_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    tq = task_queue(any_server.url, namespace="shop")
    task_id = tq.push_sync("/reports/build", queue="mail")
    in_portal(tq, tq.aclose, tq.aclose)
    given = {"URL": any_server.url, "SECRET": SECRET, "NAMESPACE": "shop", "QUEUES": ["default", "mail"]}
    with override_settings(TASKQUEUE=given):
        call_command("taskqueue", "list", "--json")
        (task,) = json.loads(capsys.readouterr().out)["tasks"]
        assert (task["id"], task["path"], task["queue"]) == (task_id, "/reports/build", "mail")
        with pytest.raises(CommandError, match="exit code 2") as caught:
            call_command("taskqueue", "list", "--limit", "0")
        assert caught.value.returncode == 2
    capsys.readouterr()
    call_command("taskqueue", "config", "show", "--json", "--origin")
    assert json.loads(capsys.readouterr().out)["namespace"] == {"value": "taskqueue", "origin": "default"}


PROJECT = """
import sys
from django.conf import settings
from django.core.management import execute_from_command_line

settings.configure(
    INSTALLED_APPS=["taskqueue.middleware.django"],
    MIDDLEWARE=["taskqueue.middleware.django.TaskQueueMiddleware"],
    ROOT_URLCONF="__main__",
    TASKQUEUE={"URL": "redis://127.0.0.1:1/0", "NAMESPACE": "shop"},
)
urlpatterns = []
execute_from_command_line(sys.argv)
"""


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["config", "show", "--origin"], 0, "namespace\tshop\tapplication"),
        (["config", "show", "--origin", "--settings", "unused"], 0, "namespace\tshop\tapplication"),
        (["--help"], 0, "stats"),
        (["server", "--help"], 0, "--concurrent-limit"),
        (["server"], 2, "name: none is set"),
        (["lst"], 2, "lst"),
    ],
)
def test_manage_py_forwards_whatever_it_is_given(tmp_path: Path, arguments: list[str], code: int, text: str) -> None:
    (tmp_path / "manage.py").write_text(PROJECT)
    done = subprocess.run(
        [sys.executable, "manage.py", "taskqueue", *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tree.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert text in done.stdout + done.stderr


def test_a_consumer_finds_the_project_s_own_task_queue(tmp_path: Path) -> None:
    (tmp_path / "manage.py").write_text(
        PROJECT.replace(
            "execute_from_command_line(sys.argv)",
            "import django; django.setup()\nfrom taskqueue import loading\nprint(loading.task_queue().namespace)",
        )
    )
    done = subprocess.run(
        [sys.executable, "manage.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tree.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("shop\n", "")
