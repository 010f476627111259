"""A task in Django is the request it was: its user is logged in whatever other middlewares think, its address kept."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from django.contrib.auth.decorators import permission_required
from django.contrib.auth.models import Permission, User
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connections
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.test import AsyncClient, Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

import taskqueue
from taskqueue.middleware import django as door
from taskqueue.policy import Answered
from taskqueue.portal import in_portal
from tests import doors_wsgi
from tests.doors import Consumer, fetch, serving_asgi, task_queue
from tests.doors_django import DOOR, application, database, project
from tests.servers import RedisServer

AS_STARTPROJECT = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
LOGIN_REQUIRED = "django.contrib.auth.middleware.LoginRequiredMiddleware"
REMOTE_USER = "django.contrib.auth.middleware.RemoteUserMiddleware"

APPS = pytest.mark.parametrize("get_application", [get_wsgi_application, get_asgi_application])


@contextmanager
def site(*patterns: Any, inside: Any = (), **settings: Any) -> Iterator[None]:
    """Make it a project with these views and all that comes with a new one."""
    with database(), project(task_queue(""), *patterns, middleware=[DOOR, *AS_STARTPROJECT, *inside], **settings):
        yield


def logged_in(name: str = "ada") -> tuple[Client, User]:
    """Return a browser in which this new user is logged in; it passes CSRF protection only with a token."""
    user = User.objects.create_user(name, password="x")
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    return client, user


def drained(tasks: Any, get_application: Any) -> Any:
    """Run the one task that there is; return what became of it."""
    (done,) = asyncio.run(tasks.drain(get_application(), check=False))
    return done


def order(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(taskqueue.add("/build/", method="POST", json={"year": 2026}))


# ---- the user


@APPS
@pytest.mark.parametrize("inside", [[], [LOGIN_REQUIRED], [REMOTE_USER, LOGIN_REQUIRED]])
def test_a_task_runs_as_the_user_who_added_it(get_application: Any, inside: list[str]) -> None:
    seen: list[Any] = []

    def build(request: HttpRequest) -> HttpResponse:
        task = taskqueue.current_task()
        assert task is not None
        seen.append((request.user, task.user, request.method, request.content_type, request.body))
        return HttpResponse()

    extra = {"REMOTE_USER": "ada"} if REMOTE_USER in inside else {}
    with site(path("", order), path("build/", build), inside=inside), taskqueue.capture() as tasks:
        client, user = logged_in()
        assert client.get("/", **extra).status_code == 200
        assert tasks[0].user_id == str(user.pk)
        assert not {"cookie", "authorization"} & dict(tasks[0].headers).keys()
        assert drained(tasks, get_application).status == 200
    assert seen == [(user, user, "POST", "application/json", b'{"year":2026}')]


def test_an_asynchronous_view_sees_the_user_too() -> None:
    seen: list[Any] = []

    async def order_async(request: HttpRequest) -> HttpResponse:
        await asyncio.sleep(0)
        return order(request)

    async def build(request: HttpRequest) -> HttpResponse:
        seen.append((request.path, await request.auser(), request.user))
        if request.path == "/build/":
            taskqueue.add("/next/", method="POST")
        return HttpResponse()

    async def ask(cookie: str) -> None:
        client = AsyncClient()
        client.cookies["sessionid"] = cookie
        assert (await client.get("/")).status_code == 200

    with site(path("", order_async), path("build/", build), path("next/", build)), taskqueue.capture() as tasks:
        client, user = logged_in()
        asyncio.run(ask(client.cookies["sessionid"].value))
        assert tasks[0].user_id == str(user.pk)
        assert [one.status for one in asyncio.run(tasks.drain(get_asgi_application()))] == [200, 200]
    assert seen == [("/build/", user, user), ("/next/", user, user)]


@pytest.mark.parametrize("gone", ["deleted", "inactive"])
@APPS
def test_a_user_who_is_gone_fails_the_task(get_application: Any, gone: str) -> None:
    def build(_request: HttpRequest) -> HttpResponse:
        raise AssertionError("nobody may come in")

    with site(path("", order), path("build/", build)), taskqueue.capture() as tasks:
        client, user = logged_in()
        assert client.get("/").status_code == 200
        if gone == "deleted":
            user.delete()
        else:
            User.objects.update(is_active=False)
        done = drained(tasks, get_application)
    assert (done.status, done.verdict.reason) == (403, "user-gone")


def test_a_task_for_what_is_no_primary_key_fails() -> None:
    def order_for(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(taskqueue.add("/", user_id="ada"))

    with site(path("", order_for)), taskqueue.capture() as tasks:
        Client().get("/")
        done = drained(tasks, get_wsgi_application)
    assert (done.status, done.verdict.reason) == (403, "user-gone")


@APPS
def test_a_right_that_was_taken_away_is_missed_by_the_application_itself(get_application: Any) -> None:
    def build(_request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    guarded = permission_required("auth.change_user", raise_exception=True)(build)
    with site(path("", order), path("build/", guarded)), taskqueue.capture() as tasks:
        client, user = logged_in()
        right = Permission.objects.get(codename="change_user")
        user.user_permissions.add(right)
        client.get("/")
        client.get("/")
        second = tasks.pop()
        assert drained(tasks, get_application).status == 200
        user.user_permissions.remove(right)
        tasks.append(second)
        done = drained(tasks, get_application)
    assert (done.status, done.verdict.kind) == (403, "fail")


def test_who_adds_nothing_asks_for_no_user() -> None:
    with site(path("", lambda _request: HttpResponse())):
        client, _ = logged_in()
        with CaptureQueriesContext(connections["default"]) as queries:
            assert client.get("/").status_code == 200
        assert len(queries) == 0


# ---- what protects others


@APPS
def test_only_what_is_proved_passes_csrf_protection(get_application: Any) -> None:
    calls: list[str] = []

    def build(request: HttpRequest) -> HttpResponse:
        calls.append(request.method or "")
        return HttpResponse(get_token(request))

    with site(path("", order), path("build/", build)), taskqueue.capture() as tasks:
        client, _ = logged_in()
        assert client.post("/build/").status_code == 403
        client.get("/")
        assert drained(tasks, get_application).status == 200
        for headers in ({"X-Task-Id": "1", "X-Task-User-Id": "1"}, {"X-Task-User-Id": "1"}):
            response = client.post("/build/", headers=headers)
            assert (response.status_code, response["X-Task-Refused"]) == (403, "signature")
        assert client.get("/build/").status_code == 200
    assert calls == ["POST", "GET"]


@APPS
def test_a_task_has_the_address_that_its_request_had(get_application: Any) -> None:
    seen: list[str] = []

    def build(request: HttpRequest) -> HttpResponse:
        seen.append(request.build_absolute_uri())
        return HttpResponse()

    changed = {"ALLOWED_HOSTS": ["shop.example"], "SECURE_SSL_REDIRECT": True}
    with site(path("", order), path("build/", build), **changed), taskqueue.capture() as tasks:
        assert Client().get("/", headers={"Host": "shop.example"}).status_code == 301
        assert Client().get("/", headers={"Host": "evil.example"}, secure=True).status_code == 400
        assert Client().get("/", headers={"Host": "shop.example"}, secure=True).status_code == 200
        assert drained(tasks, get_application).status == 200
        # Who is no task has no say in it.
        spoofing = Client().get("/build/", headers={"Host": "shop.example", "X-Forwarded-Proto": "https"})
    assert spoofing.status_code == 301
    assert seen == ["https://shop.example/build/"]


def test_paths_for_tasks_only_are_missing_for_others() -> None:
    def build(_request: HttpRequest) -> HttpResponse:
        return HttpResponse("built")

    urls = [path("tasks/build/", build), path("shown/", door.task_only(build))]
    with site(*urls, task_only=["/tasks"]):
        missing = Client().get("/missing/")
        for hidden in ("/tasks/build/", "/tasks/build", "/tasks", "/shown/"):
            found = Client().get(hidden)
            assert (found.status_code, found.content) == (404, missing.content), hidden
            assert found.headers.keys() == missing.headers.keys(), hidden


def test_task_only_takes_views_of_every_kind() -> None:
    async def build_async(_request: HttpRequest) -> HttpResponse:
        await asyncio.sleep(0)
        return HttpResponse("built")

    @method_decorator(door.task_only, name="dispatch")
    class Build(View):  # type: ignore[misc]  # Django has no types
        def post(self, _request: HttpRequest) -> HttpResponse:
            return HttpResponse("built")

    with pytest.raises(taskqueue.ConfigError, match="method_decorator"):
        door.task_only(Build)
    urls = [path("build/", Build.as_view()), path("async/", door.task_only(build_async))]
    with site(path("", order), *urls), taskqueue.capture() as tasks:
        assert [Client().post("/build/").status_code, Client().get("/async/").status_code] == [404, 404]
        Client().get("/")
        assert drained(tasks, get_wsgi_application).status == 200


# ---- where the application is mounted


@pytest.mark.parametrize("kind", ["django-wsgi", "django-asgi"])
async def test_a_delivery_is_proved_below_a_mount_point(any_server: RedisServer, kind: str) -> None:
    seen: list[tuple[str, str]] = []

    def build(request: HttpRequest, name: str) -> HttpResponse:
        seen.append((request.path, name))
        return HttpResponse()

    mount = "/app" if kind == "django-wsgi" else ""  # on the request line; uvicorn is told, and puts it there

    def order_it(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(taskqueue.add(f"{mount}/gr%C3%BC%C3%9Fe/50%25?q=%C3%BC"))

    tq = task_queue(any_server.url)
    with project(tq, path("", order_it), path("grüße/<name>", build), load_user=None):
        app = application(kind)

        def mounted(environ: Any, start_response: Any) -> Any:
            given = environ["PATH_INFO"].removeprefix("/app")
            return app({**environ, "SCRIPT_NAME": "/app", "PATH_INFO": given}, start_response)

        serving = doors_wsgi.serving(mounted, tq) if kind == "django-wsgi" else serving_asgi(app, root_path="/app")
        async with serving as base:
            assert (await fetch("GET", f"{base}{mount}/")).status == 200
            _, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted) == (200, True)
    assert seen == [("/app/grüße/50%", "50%")]
    await tq.aclose()


# ---- responses


def test_a_file_is_still_sent_by_the_server_itself(tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("of 2026")

    def report(_request: HttpRequest) -> FileResponse:
        taskqueue.add("/later")
        return FileResponse((tmp_path / "report.txt").open("rb"))

    with site(path("", report)), taskqueue.capture() as tasks:
        environ = RequestFactory().get("/").environ | {"wsgi.file_wrapper": FileWrapper}
        response: Any = get_wsgi_application()(environ, lambda _status, _headers: None)
        assert isinstance(response, FileWrapper)
        assert b"".join(response) == b"of 2026"
        response.close()
    assert tasks.paths == ["/later"]


def test_what_a_stream_adds_is_forgotten_if_nobody_takes_it_to_its_end() -> None:
    def numbers() -> Iterator[str]:
        taskqueue.add("/from-stream")
        yield "1"
        yield "2"

    def view(_request: HttpRequest) -> StreamingHttpResponse:
        taskqueue.add("/of-the-view")
        return StreamingHttpResponse(numbers())

    with site(path("", view)), taskqueue.capture() as tasks:
        for pieces in (1, 3):
            response: Any = Client().get("/")
            assert [next(response.streaming_content, None) for _ in range(pieces)] == [b"1", b"2", None][:pieces]
            response.close()
            assert tasks.paths == ["/of-the-view"] + (["/from-stream"] if pieces == 3 else [])
            tasks.clear()


def test_the_answer_of_the_door_lets_go_of_the_response_it_replaces(private_server: RedisServer) -> None:
    closed: list[str] = []

    class Numbers:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"1"])

        def close(self) -> None:
            closed.append("closed")

    def view(_request: HttpRequest) -> StreamingHttpResponse:
        taskqueue.add("/later")
        return StreamingHttpResponse(Numbers())

    tq = task_queue(private_server.url, commit_deadline=0.5)
    private_server.kill()
    with project(tq, path("", view)):
        response = Client().get("/")
        assert (response.status_code, response["Retry-After"]) == (503, "1")
        assert "none will run" in response.content.decode()
        response.close()
    assert closed == ["closed"]
    in_portal(tq, tq.aclose, tq.aclose)
