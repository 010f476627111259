"""Queue a request from a Litestar handler.

$ TASKQUEUE_DEV=1 uvicorn litestar_app:app
$ taskqueue-server --name=instance1 --app litestar_app:app --dev
"""

from litestar import Litestar, post

import taskqueue
from taskqueue.middleware.litestar import TaskQueuePlugin, task_only


@post("/reports", status_code=202)
async def order(year: int) -> dict[str, str]:
    return {"task": taskqueue.add("/reports/build", method="POST", params={"year": year})}


@post("/reports/build", guards=[task_only])
async def build(year: int) -> str:
    print(f"building the report of {year}", flush=True)
    return "built"


app = Litestar([order, build], plugins=[TaskQueuePlugin(taskqueue.TaskQueue())])
