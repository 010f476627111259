"""The door of a Zope application: a filter for the WSGI pipeline, outermost in it.

It proves deliveries as the door of WSGI does. Whom a delivery runs as is found where Zope looks for users, on the way
to what is published, by the plugin in ``acl_users``; the door sees to it that nothing is answered, and no view called,
for a user whom none of them knows.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from ... import options
from ...door import Credentials, ReplayGuard
from ...errors import ConfigError, SignatureError
from ...middleware import wsgi
from ...middleware.zope.configuration import task_queue
from ...producer import TaskQueue, current_task

LOGIN: Final = "taskqueue.login"
"""Where a Login stands in the environ of a proved delivery that runs as somebody."""

_OPTIONS: Final = ("credentials", "replay_guard", "allow_manual")


class Login:
    """What has become of the task's user: ``known`` to a user folder on the way, and then logged in: ``done``."""

    known = False
    done = False


class TaskQueueMiddleware(wsgi.TaskQueueMiddleware):
    """Lets a Zope application add tasks and receive their deliveries. It must stand outermost."""

    def __init__(
        self,
        app: WSGIApplication,
        tq: TaskQueue | None = None,
        *,
        credentials: Credentials | None = None,
        replay_guard: ReplayGuard = "begin",
        allow_manual: bool = False,
    ) -> None:
        """Take the application, and its TaskQueue if it is not the one of zope.conf; raises ConfigError.

        ``credentials``: whether ``Cookie`` and ``Authorization`` travel with a task; None: no, as the plugin logs its
        user in. ``replay_guard``, ``allow_manual``: see ``taskqueue.middleware.wsgi``.
        """
        from ...middleware.zope.events import register  # noqa: PLC0415 - Zope is there by now

        register()
        super().__init__(
            _Guarded(app),
            tq or task_queue(),
            load_user=_left_to_the_plugin,
            user_id=_current_user,
            credentials=credentials,
            replay_guard=replay_guard,
            allow_manual=allow_manual,
        )


def make_filter(app: WSGIApplication, _global_conf: object, **given: str) -> WSGIApplication:
    """Return the application behind the door, as PasteDeploy asks for it (``egg:http-taskqueue#zope``)."""
    for name in given:
        if name not in _OPTIONS:
            raise ConfigError(f"{name}: the filter egg:http-taskqueue#zope knows {', '.join(_OPTIONS)} only")
    chosen: dict[str, Any] = dict(given)
    if "allow_manual" in given:
        try:
            chosen["allow_manual"] = options.truth(given["allow_manual"])
        except ValueError as error:
            raise ConfigError(f"allow_manual: {given['allow_manual']!r} {error}") from None
    return TaskQueueMiddleware(app, **chosen)


def _left_to_the_plugin(user_id: str) -> str:
    return user_id


def _current_user(_environ: WSGIEnvironment) -> str | None:
    from ...middleware.zope import current  # noqa: PLC0415 - as above

    return current.user_id()


class _Guarded:
    """The application, of which a task gets no answer that was not made for its user."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        task = current_task()
        if task is None or task.user_id is None:
            return self._app(environ, start_response)
        login = environ[LOGIN] = Login()
        environ.pop("REMOTE_USER", None)  # the word of a web server, to some plugins
        statuses: list[int] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Callable[[bytes], object]:
            statuses.append(int(status[:3]))
            return start_response(status, headers, exc_info)

        result = self._app(environ, start)
        if statuses and not _stands(statuses[-1], login):
            close = getattr(result, "close", None)
            if close is not None:
                close()
            raise SignatureError(
                "user-gone",
                f"task {task.id}: its user was not logged in; no user folder on the way knows such a user, or the"
                " plugin of the profile taskqueue.middleware.zope is not installed there",
            )
        return result


def _stands(status: int, login: Login) -> bool:
    """Return whether this is an answer to the task's user: not so a success, or a login form, for anybody."""
    if status in (401, 403):
        return login.known
    return login.done or status >= 400
