"""Queue a request from a FastAPI endpoint.

$ TASKQUEUE_DEV=1 uvicorn fastapi_app:app
$ taskqueue-server --name=instance1 --app fastapi_app:app --dev
"""

from fastapi import FastAPI

import taskqueue
from taskqueue.middleware.asgi import TaskQueueMiddleware, task_only

app = FastAPI()
app.add_middleware(TaskQueueMiddleware, tq=taskqueue.TaskQueue())


@app.post("/reports", status_code=202)
async def order(year: int) -> dict[str, str]:
    return {"task": taskqueue.add("/reports/build", method="POST", params={"year": year})}


@app.post("/reports/build")
@task_only
async def build(year: int) -> str:
    print(f"building the report of {year}", flush=True)
    return "built"
