"""The users of aiohttp-security. The door is that of ``aiohttp``, its ``user_id`` then is ``authorized_userid``."""

from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp_security import AbstractIdentityPolicy

from ..producer import current_task


class TaskIdentityPolicy(AbstractIdentityPolicy):
    """In a delivery, identify the user whom the door's ``load_user`` has loaded; else do what another policy does."""

    def __init__(self, inner: AbstractIdentityPolicy, identity: Callable[[Any], str] | None = None) -> None:
        """Take the other policy, and what gives the identity of a loaded user; without that it is the user id."""
        self._inner, self._identity = inner, identity

    async def identify(self, request: web.Request) -> str | None:
        """See aiohttp-security."""
        task = current_task()
        if task is None or task.user is None:
            return await self._inner.identify(request)
        return self._identity(task.user) if self._identity else task.user_id

    async def remember(self, request: web.Request, response: web.StreamResponse, identity: str, **kwargs: Any) -> None:
        """See aiohttp-security."""
        await self._inner.remember(request, response, identity, **kwargs)

    async def forget(self, request: web.Request, response: web.StreamResponse) -> None:
        """See aiohttp-security."""
        await self._inner.forget(request, response)
