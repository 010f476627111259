"""Who adds a task, and who it runs as: the users of Django's authentication."""

from typing import Any

from asgiref.sync import sync_to_async
from django.contrib import auth
from django.core.exceptions import SynchronousOnlyOperation, ValidationError
from django.http import HttpRequest
from django.utils.functional import LazyObject

from ...errors import InvalidTask


def authenticated_user(request: HttpRequest) -> str | None:
    """Return the primary key of ``request.user`` as a str, or None for nobody."""
    user = getattr(request, "user", None)
    try:
        return str(user.pk) if user is not None and user.is_authenticated else None
    except SynchronousOnlyOperation:
        raise InvalidTask(
            "user_id: this asynchronous view is served by WSGI, and there `add` cannot load the user; give"
            " user_id=str((await request.auser()).pk)"
        ) from None


async def authenticated_user_later(request: HttpRequest) -> str | None:
    """Return the same, where it must be awaited."""
    user = getattr(request, "user", None)
    if not isinstance(user, LazyObject):
        return authenticated_user(request)  # as one is who has just logged in, or out
    if not hasattr(request, "auser"):
        return await sync_to_async(authenticated_user)(request)
    user = await request.auser()
    return str(user.pk) if user.is_authenticated else None


def load_user(user_id: str) -> object | None:
    """Return the user with this primary key, as the project's authentication backends know them, or None.

    Who is not ``is_active`` is known only to a backend that says so: Django's ``AllowAllUsersModelBackend`` does.
    """
    try:
        key = auth.get_user_model()._meta.pk.to_python(user_id)
    except ValidationError:
        return None
    return next((user for backend in auth.get_backends() if (user := _known_to(backend, key)) is not None), None)


def _known_to(backend: Any, key: object) -> object | None:
    # A backend of rights alone may have no get_user.
    user: object | None = backend.get_user(key) if hasattr(backend, "get_user") else None
    if user is None or getattr(user, "is_active", True):
        return user
    return user if hasattr(backend, "user_can_authenticate") and backend.user_can_authenticate(user) else None


def log_in(request: HttpRequest, user: Any) -> None:
    """Make this the request's user, whatever the session says."""

    async def auser() -> Any:
        return user

    request.user, request.auser = user, auser
