"""Queue a request from a Django view.

$ TASKQUEUE_DEV=1 python django_app.py runserver 8000 --noreload
$ TASKQUEUE_DEV=1 python django_app.py taskqueue server --name=instance1
"""

import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

import taskqueue
from taskqueue.middleware.django import task_only

settings.configure(
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["taskqueue.middleware.django"],
    MIDDLEWARE=["taskqueue.middleware.django.TaskQueueMiddleware"],
    ROOT_URLCONF=__name__,
    TASKQUEUE={},
)


def order(request: HttpRequest) -> HttpResponse:
    params = {"year": request.GET["year"]}
    return JsonResponse({"task": taskqueue.add("/reports/build", method="POST", params=params)}, status=202)


@task_only
def build(request: HttpRequest) -> HttpResponse:
    print(f"building the report of {request.GET['year']}", flush=True)
    return HttpResponse("built")


urlpatterns = [path("reports", order), path("reports/build", build)]
execute_from_command_line(sys.argv)
