"""The application that test_gunicorn serves: it tells which process has answered."""

import os
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import taskqueue
from taskqueue.middleware.wsgi import TaskQueueMiddleware

tq = taskqueue.TaskQueue()


def views(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path, source = environ["PATH_INFO"], environ["wsgi.input"]
    text = str(os.getpid())
    if path == "/order":
        if "HTTP_X_LOGIN" in environ:
            source.read(3)
        taskqueue.add(environ["SCRIPT_NAME"] + "/b%C3%BCild?x=%2F", method="POST")
    elif path == "/b\xc3\xbcild":
        text = f"{environ.get('taskqueue.user')} {len(source.read())}"
    elif path == "/stream":
        taskqueue.add("/later")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (piece for piece in (b"one", b"two"))
    length = ("Content-Length", str(len(text)))
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Pid", str(os.getpid())), length])
    return [text.encode()]


def user_id(environ: WSGIEnvironment) -> str | None:
    name: str | None = environ.get("HTTP_X_LOGIN")
    return name


app = TaskQueueMiddleware(views, tq, load_user=str.upper, user_id=user_id)
# Before the workers are forked: the parent's loop and connections are its own.
tq.size_sync()
