"""Queue a request from a Litestar handler.

$ TASKQUEUE_DEV=1 uvicorn litestar_app:app
$ taskqueue-server --name=instance1 --app litestar_app:app --dev
"""

from litestar import Litestar, Request, post

import taskqueue
from taskqueue.middleware.litestar import TaskQueuePlugin, task_only


@post("/reports", status_code=202)
async def order(year: int, request: Request) -> dict[str, str]:
    path = request.app.route_reverse("build")
    return {"task": taskqueue.add(path, method="POST", params={"year": year})}


@post("/reports/build", name="build", guards=[task_only])
async def build(year: int) -> str:
    print(f"building the report of {year}", flush=True)
    return "built"


app = Litestar([order, build], plugins=[TaskQueuePlugin(taskqueue.TaskQueue())])
