"""The door of a Flask application: an extension, with its settings in the configuration and Flask-Login's users.

The door itself is the one of WSGI, around ``app.wsgi_app``. What Flask's own extensions expect of a browser, a task
need not have: its user is logged in for the one request, without a session, and it passes CSRF protection.
"""

import difflib
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable
from threading import Lock
from typing import Any, Final, ParamSpec, TypeVar, cast
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import flask

from .. import catalogue, options, producer
from ..answers import UNCAUGHT, Answer, answer_to_uncaught
from ..door import Credentials, LoadUser, ReplayGuard, UserId
from ..errors import ConfigError, InvalidTask
from ..middleware import wsgi
from ..producer import current_task

P = ParamSpec("P")
T = TypeVar("T")

PREFIX: Final = "TASKQUEUE_"
_CHECKS: Final[dict[str, Callable[[object], object]]] = {
    "max_tasks": options.Whole(0),
    "max_bytes": options.Whole(0),
    "durability": options.durability_level,
    "storage": options.directory,
}
_OF_QUEUE: Final = ("url", "secret", "queues", "namespace", "public_url", "limits", "commit_deadline", *_CHECKS)
_OF_DOOR: Final = ("credentials", "task_only", "replay_guard", "allow_manual")


def authenticated_user(request: flask.Request) -> str | None:
    """Return the id of Flask-Login's current user, or without that extension the server's REMOTE_USER; None: nobody."""
    if not hasattr(flask.current_app, "login_manager"):
        return wsgi.authenticated_user(request.environ)
    from flask_login import current_user  # noqa: PLC0415 - only who has it pays for it

    return str(current_user.get_id()) if current_user.is_authenticated else None


class TaskQueue:
    """Lets Flask applications add tasks and receive their deliveries: ``TaskQueue(app)``, or ``init_app`` later."""

    def __init__(
        self,
        app: flask.Flask | None = None,
        tq: producer.TaskQueue | None = None,
        load_user: LoadUser | None = None,
        user_id: UserId[flask.Request] | None = None,
        *,
        credentials: Credentials | None = None,
        task_only: Iterable[str] | None = None,
        replay_guard: ReplayGuard | None = None,
        allow_manual: bool | None = None,
    ) -> None:
        """Take the application, if it is there already, and its TaskQueue; raises ConfigError.

        Without ``tq`` one is made of ``TASKQUEUE_URL``, ``_SECRET``, ``_QUEUES``, ``_NAMESPACE``, ``_PUBLIC_URL``,
        ``_LIMITS``, ``_COMMIT_DEADLINE``, ``_MAX_TASKS``, ``_MAX_BYTES``, ``_DURABILITY`` and ``_STORAGE`` in
        ``app.config``, which stand for what ``taskqueue.TaskQueue`` takes.
        ``load_user``, plain or async, gets a task's user id and returns the user, who is put into
        ``request.environ["taskqueue.user"]``, or None if there is none any more: then the task fails. A plain one runs
        in the application's context. Without it Flask-Login's ``user_loader`` is asked, if there is one; whoever is not
        ``is_active`` is gone too. ``user_id``, plain or async, gets the request and returns the id (a str) of the user
        who adds a task, or None; without it ``authenticated_user`` is asked. ``credentials``, ``task_only``,
        ``replay_guard`` and ``allow_manual``: see ``taskqueue.middleware.wsgi``; where they are omitted
        ``TASKQUEUE_CREDENTIALS``, ``_TASK_ONLY``, ``_REPLAY_GUARD`` and ``_ALLOW_MANUAL`` count.
        """
        self._tq, self._load_user, self._user_id = tq, load_user, user_id
        given = {
            "credentials": credentials,
            "task_only": task_only,
            "replay_guard": replay_guard,
            "allow_manual": allow_manual,
        }
        self._given: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Put the door around an application, whose TaskQueue then is ``app.extensions["taskqueue"]``.

        Raises ConfigError for a setting that is wrong or that nobody knows.
        """
        if "taskqueue" in app.extensions:
            raise ConfigError("init_app: this application has its TaskQueue already")
        configured = _configured(app)
        of_queue = {name: configured[name] for name in _OF_QUEUE if name in configured}
        if self._tq is not None and of_queue:
            keys = ", ".join(f"{PREFIX}{name.upper()}" for name in of_queue)
            raise ConfigError(f"tq: the configuration says {keys} as well; remove one of the two")
        of_door = {name: configured[name] for name in _OF_DOOR if name in configured} | self._given
        tq = self._tq or producer.TaskQueue(**of_queue)
        app.extensions["taskqueue"] = tq
        user_id = _with_request(app, self._user_id or authenticated_user)
        app.wsgi_app = _Door(app, tq, self._load_user, user_id, of_door)  # type: ignore[method-assign]  # Flask's way
        for kind in UNCAUGHT:
            app.register_error_handler(kind, _uncaught)


class _Door:
    """The door around ``app.wsgi_app``, made at the first request: other extensions may be there later than ours."""

    def __init__(
        self,
        app: flask.Flask,
        tq: producer.TaskQueue,
        load_user: LoadUser | None,
        user_id: UserId[WSGIEnvironment],
        options: dict[str, Any],
    ) -> None:
        self._app, self._load_user = app, load_user
        self._middleware_of = functools.partial(wsgi.TaskQueueMiddleware, app.wsgi_app, tq, user_id=user_id, **options)
        self._make()  # so that what is wrong with the options is said at once
        self._lock = Lock()
        self._middleware: WSGIApplication | None = None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self._middleware is None:
            with self._lock:
                self._middleware = self._middleware or self._open()
        return self._middleware(environ, start_response)

    def _make(self, load_user: LoadUser | None = None) -> wsgi.TaskQueueMiddleware:
        made = self._middleware_of(load_user=load_user)
        made.replay_in(self._app)  # and so through what others put around this
        return made

    def _open(self) -> WSGIApplication:
        app, load_user = self._app, self._load_user
        protection: Any = app.extensions.get("csrf")
        if hasattr(protection, "protect"):
            protection.protect = _exempting(protection.protect)
        flask.request_started.connect(_pass_csrf, app, weak=False)
        manager: Any = getattr(app, "login_manager", None)
        again: Callable[[str], object | None] | None = None
        if load_user is None and manager is not None and manager._user_callback is not None:
            load_user = again = functools.partial(_active_user, manager)
        if load_user is None:
            return self._make()
        if manager is not None:
            flask.request_started.connect(functools.partial(_log_in, manager, again), app, weak=False)
        return self._make(functools.partial(_in_context, app, load_user))


def task_only(view: Callable[P, T]) -> Callable[P, T]:
    """Decorate a view to be 404 for all but deliveries; ``@app.route`` stands above. Raises ConfigError for a class."""
    if inspect.isclass(view):
        raise ConfigError(f"task_only: {view.__name__} is a class; name it in its `decorators = [task_only]`")

    def check() -> None:
        if current_task() is None:
            flask.abort(404)

    if inspect.iscoroutinefunction(view):

        @functools.wraps(view)
        async def guarded_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            check()
            return await view(*args, **kwargs)

        return cast("Callable[P, T]", guarded_async)

    @functools.wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        check()
        return view(*args, **kwargs)

    return guarded


def _configured(app: flask.Flask) -> dict[str, Any]:
    """Return what the configuration says of the queue and its door, by the names of their parameters."""
    known = {f"{PREFIX}{name.upper()}": name for name in (*_OF_QUEUE, *_OF_DOOR)}
    elsewhere = {row.variable for row in catalogue.table()}  # the variables of the consumer may have got in
    found: dict[str, Any] = {}
    for key, value in app.config.items():
        if key in known:
            found[known[key]] = _checked(key, known[key], value)
        elif key.startswith(PREFIX) and key not in elsewhere:
            likely = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {likely[0]}?" if likely else f"known are {', '.join(known)}"
            raise ConfigError(f"{key}: no such setting; {hint}")
    return found


def _checked(key: str, name: str, value: Any) -> Any:
    if value is None or name not in _CHECKS:
        return value
    try:
        return _CHECKS[name](value)
    except ValueError as error:
        raise ConfigError(f"{key}: {value!r} {error}") from None


def _with_request(app: flask.Flask, user_id: UserId[flask.Request]) -> UserId[WSGIEnvironment]:
    """Return a function that is asked with the environ and asks this one with Flask's request."""
    if inspect.iscoroutinefunction(user_id):

        async def later(environ: WSGIEnvironment) -> Any:
            return await user_id(app.request_class(environ, populate_request=False))  # Flask's own is gone by then

        return later

    def ask(_environ: WSGIEnvironment) -> Any:
        if not flask.has_request_context():
            raise InvalidTask(
                "user_id: here the request's context is gone, so nobody knows the user; give user_id=, or in a stream"
                " use flask.stream_with_context"
            )
        return user_id(flask.request._get_current_object())  # type: ignore[attr-defined]  # typed as what it stands for

    return ask


def _in_context(app: flask.Flask, load_user: LoadUser, user_id: str) -> object | Awaitable[object | None] | None:
    with app.app_context():
        return load_user(user_id)


def _active_user(manager: Any, user_id: str) -> object | None:
    user: Any = manager._user_callback(user_id)  # Flask-Login has no public name for what user_loader was given
    return user if user is not None and user.is_active else None


def _log_in(manager: Any, again: Callable[[str], object | None] | None, _app: flask.Flask, **_: object) -> None:
    """Make a task's user the current one, for this request alone: whatever its cookies say, and leaving none."""
    task = current_task()
    if task is None:
        return
    user = task.user
    if again is not None and task.user_id is not None:
        user = again(task.user_id)  # the door's belonged to a database session that has ended
    # Not by a request_loader: Flask-Login asks the session's cookie and its protection before it.
    manager._update_request_context_with_user(user)


def _pass_csrf(_app: flask.Flask, **_: object) -> None:
    """Tell the forms of Flask-WTF that a proved delivery is not forged."""
    if current_task() is not None:
        flask.g.csrf_valid = True


def _exempting(protect: Callable[..., None]) -> Callable[..., None]:
    def unless_proved(*args: Any, **kwargs: Any) -> None:
        if current_task() is None:
            protect(*args, **kwargs)

    return unless_proved


def _uncaught(error: Exception) -> flask.Response:
    """Answer as the door would, if a view did not catch what ``add`` said of the broker, or of the client's body."""
    answer = cast("Answer", answer_to_uncaught(error))
    return flask.Response(answer.text, answer.status, dict(answer.headers), mimetype="text/plain")
