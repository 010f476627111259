"""Queue a request from a Starlette endpoint.

$ TASKQUEUE_DEV=1 uvicorn starlette_app:app
$ taskqueue-server --name=instance1 --app starlette_app:app --dev
"""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import taskqueue
from taskqueue.middleware.starlette import TaskQueueMiddleware, task_only


async def order(request: Request) -> Response:
    url = request.url_for("build").include_query_params(year=request.query_params["year"])
    return JSONResponse({"task": taskqueue.add(url, method="POST")}, status_code=202)


@task_only
async def build(request: Request) -> Response:
    print("building the report of", request.query_params["year"], flush=True)
    return PlainTextResponse("built")


routes = [Route("/reports", order, methods=["POST"]), Route("/reports/build", build, methods=["POST"])]
app = Starlette(routes=routes, middleware=[Middleware(TaskQueueMiddleware, tq=taskqueue.TaskQueue())])
