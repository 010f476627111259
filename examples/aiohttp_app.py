"""Queue a request from an aiohttp handler.

$ TASKQUEUE_DEV=1 python aiohttp_app.py
$ taskqueue-server --name=instance1 --app aiohttp_app:app --dev
"""

from aiohttp import web

import taskqueue
from taskqueue.middleware import aiohttp as door

routes = web.RouteTableDef()


@routes.post("/reports")
async def order(request: web.Request) -> web.Response:
    task_id = taskqueue.add("/reports/build", method="POST", params={"year": request.query["year"]})
    return web.json_response({"task": task_id}, status=202)


@routes.post("/reports/build")
@door.task_only
async def build(request: web.Request) -> web.Response:
    print("building the report of", request.query["year"], flush=True)
    return web.Response(text="built")


app = web.Application()
app.add_routes(routes)
door.setup(app, taskqueue.TaskQueue())

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=8000)
