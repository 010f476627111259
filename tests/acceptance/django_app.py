"""The Django project that test_asgi_servers serves, under WSGI and ASGI: as asgi_app, in Django."""

import logging
import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

import taskqueue

logging.basicConfig(format="process %(process)d: %(message)s", level=logging.WARNING)
settings.configure(
    SECRET_KEY="of-the-tests",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["taskqueue.middleware.django"],
    MIDDLEWARE=[
        "taskqueue.middleware.django.TaskQueueMiddleware",
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    SECURE_SSL_REDIRECT=True,
    LOGGING_CONFIG=None,
    TASKQUEUE={"LOAD_USER": str.upper},
)


def pid(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(os.getpid()))


def order(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(taskqueue.add("/build", method="POST", params={"year": 2026}, user_id="ada"))


def build(request: HttpRequest) -> HttpResponse:
    return JsonResponse([request.build_absolute_uri(), request.user, len(request.body)], safe=False)


urlpatterns = [path("pid", pid), path("order", order), path("build", build)]
wsgi, asgi = get_wsgi_application(), get_asgi_application()
