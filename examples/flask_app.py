"""Queue a request from a Flask view.

$ TASKQUEUE_DEV=1 flask --app flask_app run
$ taskqueue-server --name=instance1 --app flask_app:app --dev
"""

from flask import Flask, request, url_for

import taskqueue
from taskqueue.middleware.flask import TaskQueue, task_only

app = Flask(__name__)
TaskQueue(app)


@app.post("/reports")
def order() -> tuple[dict[str, str], int]:
    task_id = taskqueue.add(url_for("build", year=request.args["year"]), method="POST")
    return {"task": task_id}, 202


@app.post("/reports/build")
@task_only
def build() -> str:
    print(f"building the report of {request.args['year']}", flush=True)
    return "built"
