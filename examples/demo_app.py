"""The application of the demo: a form, a list, and views that are also run as tasks. Started by demo.py."""

import asyncio
import html
import secrets

from aiohttp import web

import taskqueue
from taskqueue.middleware import aiohttp as door

USERS = {"ada": "Ada Lovelace", "grace": "Grace Hopper"}
SESSIONS: dict[str, str] = {}
REPORTS: list[str] = []
PAGE = """<!doctype html><title>taskqueue demo</title>
<h1>Reports</h1><p>You are {who}.
<form method=post action=/login><button name=user value=ada>Log in as Ada</button></form>
<form method=post action=/reports>Year <input name=year value=2026> <button>Build the report later</button></form>
<p><a href=/>Look again</a><ul>{reports}</ul>"""
routes = web.RouteTableDef()


def user_id(request: web.Request) -> str | None:
    return SESSIONS.get(request.cookies.get("session", ""))


def whoever(request: web.Request) -> str:
    task = taskqueue.current_task()
    name = (task.user_id if task else user_id(request)) or ""
    return USERS.get(name, "nobody")


@routes.get("/")
async def page(request: web.Request) -> web.Response:
    reports = "".join(f"<li>{html.escape(report)}" for report in REPORTS)
    text = PAGE.format(who=html.escape(whoever(request)), reports=reports)
    return web.Response(text=text, content_type="text/html")


@routes.post("/login")
async def login(request: web.Request) -> web.StreamResponse:
    user = str((await request.post())["user"])
    if user not in USERS:
        raise web.HTTPForbidden
    answer = web.HTTPSeeOther("/")
    token = secrets.token_urlsafe()
    SESSIONS[token] = user
    answer.set_cookie("session", token, httponly=True, samesite="Lax")
    return answer


@routes.post("/reports")
async def order(request: web.Request) -> web.StreamResponse:
    """Queue the very form that was posted, for the view that builds the report."""
    await request.post()
    task_id = taskqueue.add("/tasks/build", method="POST", label="report")
    raise web.HTTPSeeOther("/", headers={"X-Queued": task_id})


@routes.post("/tasks/build")
async def build(request: web.Request) -> web.Response:
    form = await request.post()
    await asyncio.sleep(0.3)  # It is a lot of work.
    REPORTS.append(f"{form['year']}, built for {whoever(request)}")
    return web.Response(text="built")


@routes.post("/flaky")
async def order_flaky(_request: web.Request) -> web.Response:
    return web.Response(headers={"X-Queued": taskqueue.add("/tasks/flaky", method="POST", label="fails twice")})


@routes.post("/tasks/flaky")
async def flaky(_request: web.Request) -> web.Response:
    task = taskqueue.current_task()
    if task is not None and task.attempt <= 2:
        raise web.HTTPServiceUnavailable(text="not yet")
    REPORTS.append(f"flaky, done at attempt {task.attempt if task else 0}")
    return web.Response(text="at last")


@routes.post("/broken")
async def broken(request: web.Request) -> web.Response:
    """Queue something, then fail: the task is forgotten with the request."""
    request.app[ABORTED].append(taskqueue.add("/tasks/never", method="POST"))
    raise RuntimeError("this handler fails after it has queued a task")


@routes.post("/tasks/never")
async def never(_request: web.Request) -> web.Response:
    REPORTS.append("NEVER: a task of a failed request ran")
    return web.Response()


ABORTED = web.AppKey("aborted", list[str])


def make_app(tq: taskqueue.TaskQueue) -> web.Application:
    app = web.Application()
    app[ABORTED] = []
    app.add_routes(routes)
    door.setup(app, tq, load_user=USERS.get, user_id=user_id, task_only=["/tasks/"])
    return app
