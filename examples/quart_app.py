"""Queue a request from a Quart view.

$ TASKQUEUE_DEV=1 uvicorn quart_app:app
$ taskqueue-server --name=instance1 --app quart_app:app --dev
"""

from quart import Quart, request, url_for

import taskqueue
from taskqueue.middleware import quart as door

app = Quart(__name__)
door.setup(app, taskqueue.TaskQueue())


@app.post("/reports")
async def order() -> tuple[dict[str, str], int]:
    return {"task": taskqueue.add(url_for("build"), method="POST", params={"year": request.args["year"]})}, 202


@app.post("/reports/build")
@door.task_only
async def build() -> str:
    print("building the report of", request.args["year"], flush=True)
    return "built"
