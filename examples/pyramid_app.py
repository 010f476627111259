"""Queue a request from a Pyramid view, with its transaction: a veto, or a database that cannot commit, forgets it.

$ TASKQUEUE_DEV=1 gunicorn --bind 127.0.0.1:8000 pyramid_app:app
$ taskqueue-server --name=instance1 --app pyramid_app:app --dev
"""

from typing import Any

from pyramid.config import Configurator
from pyramid.view import view_config

settings = {
    "tm.manager_hook": "pyramid_tm.explicit_manager",
    "tm.commit_veto": "pyramid_tm.default_commit_veto",
    # "taskqueue.url": "redis://...", and so on, as in an ini file
}


@view_config(route_name="order", request_method="POST", renderer="json")
def order(request: Any) -> dict[str, str]:
    request.response.status = 202
    target = request.route_path("build", _query={"year": request.GET["year"]})
    return {"task": request.taskqueue.add(target, method="POST")}


@view_config(route_name="build", request_method="POST", renderer="string")
def build(request: Any) -> str:
    print(f"building the report of {request.GET['year']}", flush=True)
    return "built"


with Configurator(settings=settings) as config:
    config.include("pyramid_tm")
    config.include("taskqueue.middleware.pyramid")
    config.add_route("order", "/reports")
    config.add_route("build", "/reports/build", task_only=True)
    config.scan(__name__)
    app = config.make_wsgi_app()
