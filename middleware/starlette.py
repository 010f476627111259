"""Starlette's own way to log in. The door is that of ``asgi``."""

from collections.abc import Callable, Sequence
from typing import cast

from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser
from starlette.requests import HTTPConnection

from ..middleware.asgi import TaskQueueMiddleware, authenticated_user, task_only
from ..producer import current_task

__all__ = ["TaskAuthBackend", "TaskQueueMiddleware", "authenticated_user", "task_only"]


class TaskAuthBackend(AuthenticationBackend):
    """In a delivery, log in the user whom the door's ``load_user`` has loaded; else do what another backend does.

    For AuthenticationMiddleware, which would put into ``scope["user"]`` whom the other backend finds: nobody, because
    a task carries no session.
    """

    def __init__(
        self,
        inner: AuthenticationBackend,
        scopes: Callable[[BaseUser], Sequence[str]] = lambda _user: ["authenticated"],
    ) -> None:
        """Take the other backend, and what a user may do, as for AuthCredentials and ``@requires``."""
        self._inner, self._scopes = inner, scopes

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """See Starlette."""
        task = current_task()
        if task is None or task.user is None:
            return await self._inner.authenticate(conn)
        user = cast("BaseUser", task.user)
        return AuthCredentials(self._scopes(user)), user
