"""The door of a Quart application, and Quart-Auth's users.

``app.asgi_app = TaskQueueMiddleware(app.asgi_app, tq)`` is all that tasks need; what is here is about who is logged in.
"""

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from quart import Quart, abort, current_app, has_request_context

from ..consume import Consuming
from ..door import Credentials, LoadUser, ReplayGuard, UserId
from ..errors import ConfigError, InvalidTask
from ..exchange import Scope
from ..middleware.asgi import CommitAt, TaskQueueMiddleware
from ..producer import TaskQueue, current_task

P = ParamSpec("P")
T = TypeVar("T")


def authenticated_user(_scope: Scope) -> str | None:
    """Return the ``auth_id`` of Quart-Auth's current user, or None for nobody or without that extension.

    Raises InvalidTask where Quart does not know the request: in a stream, say, without ``stream_with_context``.
    """
    if not has_request_context():
        raise InvalidTask(
            "user_id: Quart does not know the request here, so nobody can tell whose task this is; decorate a stream"
            " with quart.stream_with_context, or give user_id="
        )
    return next((auth.load_user().auth_id for auth in _managers()), None)


def setup(
    app: Quart,
    tq: TaskQueue,
    load_user: LoadUser | None = None,
    user_id: UserId[Scope] | None = None,
    *,
    credentials: Credentials | None = None,
    task_only: Iterable[str] = (),
    commit_at: CommitAt = "return",
    replay_guard: ReplayGuard = "begin",
    allow_manual: bool = False,
    consume: Consuming = False,
) -> None:
    """Let an application add tasks and receive their deliveries: the door is put around ``app.asgi_app``.

    Takes what ``asgi.TaskQueueMiddleware`` takes; raises ConfigError. Without ``user_id`` Quart-Auth's ``current_user``
    counts. A user whom ``load_user`` has loaded is Quart-Auth's too, for the one request and without a cookie: itself
    if it is of its ``user_class``, else one made of the user id.
    """
    if "taskqueue" in app.extensions:
        raise ConfigError("setup: this application has its TaskQueue already")
    app.extensions["taskqueue"] = tq
    app.asgi_app = TaskQueueMiddleware(  # type: ignore[method-assign, assignment]  # a method there, wrapped as Quart says
        app.asgi_app,  # type: ignore[arg-type]  # Quart's own types of ASGI
        tq,
        load_user=load_user,
        user_id=user_id or authenticated_user,
        credentials=credentials,
        task_only=task_only,
        commit_at=commit_at,
        replay_guard=replay_guard,
        allow_manual=allow_manual,
        consume=consume,
    )
    # Before all others: they may ask who is logged in.
    app.before_request_funcs[None].insert(0, _log_in)


def task_only(view: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Decorate a view, below ``@app.route``, to be 404 for all but deliveries."""

    @functools.wraps(view)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        if current_task() is None:
            abort(404)
        return await current_app.ensure_async(view)(*args, **kwargs)

    return guarded


async def _log_in() -> None:
    task = current_task()
    if task is None or task.user is None:
        return
    for auth in _managers():
        auth.login_user(task.user if isinstance(task.user, auth.user_class) else auth.user_class(task.user_id))


def _managers() -> list[Any]:
    """Return the QuartAuth whose user is ``current_user``, if there is one."""
    return [auth for auth in current_app.extensions.get("QUART_AUTH", ()) if auth.singleton]
