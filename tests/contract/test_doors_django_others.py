"""What else is in a Django project, and must not come between a task and its user: caches, backends, log-outs."""

import asyncio
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.contrib import auth
from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.wsgi import get_wsgi_application
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path
from django.utils.functional import SimpleLazyObject
from django.views.decorators.cache import cache_page
from django.views.decorators.vary import vary_on_cookie

import taskqueue
from tests.contract.test_doors_django_requests import APPS, drained, logged_in, site

MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"
CACHES = [
    "django.middleware.cache.UpdateCacheMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.cache.FetchFromCacheMiddleware",
]
ORIGIN = {"Host": "shop.example"}


def order(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(taskqueue.add("/build/"))


def whoami(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.user))


# ---- caches


@APPS
@pytest.mark.parametrize("cached", ["middleware", "decorator"])
def test_what_a_task_is_answered_is_not_kept_for_others(get_application: Any, cached: str) -> None:
    view = cache_page(60)(vary_on_cookie(whoami)) if cached == "decorator" else whoami
    inside = CACHES if cached == "middleware" else []
    cache.clear()
    with site(path("", order), path("build/", view), inside=inside), taskqueue.capture() as tasks:
        client, _ = logged_in()
        client.get("/", headers=ORIGIN)
        assert drained(tasks, get_application).status == 200
        assert [Client().get("/build/", headers=ORIGIN).content for _ in range(2)] == [b"AnonymousUser"] * 2
        User.objects.all().delete()
        assert client.get("/build/", headers=ORIGIN).content == b"AnonymousUser"
    cache.clear()


# ---- backends


class Rights:
    """As packages for rights of objects bring one: it logs nobody in."""

    def authenticate(self, _request: HttpRequest, **_credentials: object) -> None: ...


class Elsewhere(BaseBackend):  # type: ignore[misc]  # Django has no types
    """As packages for logging in elsewhere bring one: whom it knows, it returns."""

    def get_user(self, user_id: int) -> User | None:
        found: User | None = User.objects.filter(pk=user_id).first()
        return found


@APPS
@pytest.mark.parametrize(
    ("backends", "is_active", "status"),
    [
        ([f"{__name__}.Rights", MODEL_BACKEND], True, 200),
        ([f"{__name__}.Elsewhere"], True, 200),
        ([MODEL_BACKEND, f"{__name__}.Elsewhere"], False, 403),
        (["django.contrib.auth.backends.AllowAllUsersModelBackend"], False, 200),
    ],
)
def test_a_disabled_user_is_known_only_to_a_backend_that_says_so(
    get_application: Any,
    backends: list[str],
    is_active: bool,  # noqa: FBT001
    status: int,
) -> None:
    changed = {"AUTHENTICATION_BACKENDS": backends}
    with site(path("", order), path("build/", whoami), **changed), taskqueue.capture() as tasks:
        user = User.objects.create_user("ada", password="x")
        client = Client()
        client.force_login(user, backend=backends[-1])
        assert client.get("/").status_code == 200
        User.objects.update(is_active=is_active)
        assert drained(tasks, get_application).status == status


# ---- logging in and out


def leaves(request: HttpRequest) -> HttpResponse:
    taskqueue.add("/build/")
    auth.logout(request)
    with taskqueue.transaction():
        taskqueue.add("/of-nobody/")
    return HttpResponse()


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_who_adds_a_task_and_then_logs_out_has_added_it(kind: str) -> None:
    with site(path("", leaves)), taskqueue.capture() as tasks:
        client, user = logged_in()
        if kind == "asgi":
            browser = AsyncClient()
            browser.cookies = client.cookies
            assert asyncio.run(browser.get("/")).status_code == 200
        else:
            assert client.get("/").status_code == 200
    assert [task.user_id for task in tasks] == [str(user.pk), None]


class Tokens:
    """A middleware of somebody's own, which knows nothing of ``auser``."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        del request.auser
        request.user = SimpleLazyObject(lambda: User.objects.get(username="ada"))
        return self.get_response(request)


@pytest.mark.parametrize("browser", [AsyncClient, Client])
def test_whom_another_middleware_has_logged_in_is_who_adds(browser: Any) -> None:
    with site(path("", order), inside=[f"{__name__}.Tokens"]), taskqueue.capture() as tasks:
        _, user = logged_in()
        answer = browser().get("/")
        response = asyncio.run(answer) if browser is AsyncClient else answer
        assert response.status_code == 200
    assert [task.user_id for task in tasks] == [str(user.pk)]


@APPS
def test_a_task_that_logs_out_and_another_in_goes_on_as_its_user(get_application: Any) -> None:
    seen: list[str] = []

    def build(request: HttpRequest) -> HttpResponse:
        auth.logout(request)
        taskqueue.add("/next/")
        auth.login(request, User.objects.create_user("grete"), backend=MODEL_BACKEND)
        return HttpResponse()

    def following(request: HttpRequest) -> HttpResponse:
        seen.append(str(request.user))
        return HttpResponse()

    urls = [path("", order), path("build/", build), path("next/", following)]
    with site(*urls), taskqueue.capture() as tasks:
        logged_in()[0].get("/")
        done = asyncio.run(tasks.drain(get_application()))
    assert [one.status for one in done] == [200, 200]
    assert seen == ["ada"]


@APPS
def test_a_session_of_somebody_else_in_a_task_changes_nothing(get_application: Any) -> None:
    seen: list[str] = []

    def build(request: HttpRequest) -> HttpResponse:
        seen.extend([str(request.user), str(auth.get_user(request))])
        return HttpResponse()

    def order_with(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(taskqueue.add("/build/", headers={"Cookie": cookie}))

    with site(path("", order_with), path("build/", build)), taskqueue.capture() as tasks:
        cookie = f"sessionid={logged_in('grete')[0].cookies['sessionid'].value}"
        logged_in()[0].get("/")
        assert drained(tasks, get_application).status == 200
    assert seen == ["ada", "grete"], "the session itself is whose it is"


# ---- what reads past Django


def test_a_task_whose_view_asks_the_server_for_the_body_gets_it() -> None:
    bodies: list[bytes] = []

    def build(request: HttpRequest) -> HttpResponse:
        bodies.append(request.environ["wsgi.input"].read())
        return HttpResponse()

    def order_with(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(taskqueue.add("/build/", payload=b"the body"))

    with site(path("", order_with), path("build/", build)), taskqueue.capture() as tasks:
        Client().get("/")
        assert drained(tasks, get_wsgi_application).status == 200
    assert bodies == [b"the body"]


# ---- callbacks


def test_a_callback_that_fails_takes_with_it_only_what_comes_after() -> None:
    """As Django has it, and says of ``on_commit``; ``robust=True`` is the remedy."""

    def fails() -> None:
        raise RuntimeError("on purpose")

    def view(request: HttpRequest) -> HttpResponse:
        with transaction.atomic():
            taskqueue.add("/before/")
            transaction.on_commit(fails, robust="robust" in request.GET)
            taskqueue.add("/after/")
        return HttpResponse()

    client = Client(raise_request_exception=False)
    with site(path("", view)), taskqueue.capture() as tasks:
        assert client.get("/").status_code == 500
        assert client.get("/?robust").status_code == 200
    assert tasks.paths.count("/before/") == 2
    assert "/after/" in tasks.paths
