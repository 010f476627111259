"""FastAPI's own way to log in. The door is that of ``asgi``."""

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Annotated, Any, Final, get_args, get_origin

from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.params import Depends
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase

from ..middleware.asgi import USER, TaskQueueMiddleware, authenticated_user, task_only
from ..producer import current_task

__all__ = ["TaskQueueMiddleware", "authenticated_user", "task_only", "task_or"]


def task_or(dependency: Callable[..., Any]) -> Callable[..., Any]:
    """Return a dependency that in a delivery gives the user whom the door's ``load_user`` has loaded.

    In every other request, and where there is none, it gives what ``dependency`` gives: a function, plain or async,
    with ``yield`` or without, or a callable object. The security schemes that it depends on ask a delivery for nothing,
    because a task carries no credentials then; in the documentation they are as before. What else it depends on is
    resolved as always. Whom it has found adds the request's tasks, unless the door has a ``user_id``. Make it once, and
    name that in ``Depends`` and ``dependency_overrides``.
    """

    async def task_user_or(*, taskqueue_connection: HTTPConnection, **values: Any) -> AsyncIterator[Any]:
        if _logged_in():
            yield getattr(current_task(), "user", None)
        else:
            async with _resolved(dependency, values) as found:
                taskqueue_connection.scope[USER] = found
                yield found

    signature = _lenient(dependency)
    own = inspect.Parameter("taskqueue_connection", inspect.Parameter.KEYWORD_ONLY, annotation=HTTPConnection)
    # What FastAPI goes by.
    task_user_or.__signature__ = signature.replace(  # type: ignore[attr-defined]  # no stub knows it
        parameters=[*signature.parameters.values(), own]
    )
    return task_user_or


class _Scheme(SecurityBase):
    """A security scheme that lets deliveries pass whose user is logged in."""

    def __init__(self, scheme: Any) -> None:
        self.model, self.scheme_name = scheme.model, scheme.scheme_name
        self._scheme: Final = scheme

    async def __call__(self, request: Request) -> Any:
        return None if _logged_in() else await self._scheme(request)


def _logged_in() -> bool:
    task = current_task()
    return task is not None and task.user is not None


def _lenient(dependency: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a dependency, with security schemes in it that let deliveries pass."""
    signature = inspect.signature(dependency, eval_str=True)
    return signature.replace(parameters=[_parameter(found) for found in signature.parameters.values()])


def _parameter(parameter: inspect.Parameter) -> inspect.Parameter:
    if isinstance(parameter.default, Depends):
        return parameter.replace(default=_marker(parameter.default, parameter.annotation))
    if get_origin(parameter.annotation) is not Annotated:
        return parameter
    kind, *notes = get_args(parameter.annotation)
    notes = [_marker(note, kind) if isinstance(note, Depends) else note for note in notes]
    return parameter.replace(annotation=Annotated[(kind, *notes)])


def _marker(marker: Depends, kind: Any) -> Depends:
    dependency = marker.dependency or kind
    if isinstance(dependency, SecurityBase):
        return replace(marker, dependency=_Scheme(dependency))
    # Only what has a scheme below it is replaced: the others stay what ``dependency_overrides`` know them by.
    has_scheme = _lenient(dependency) != inspect.signature(dependency, eval_str=True)
    return replace(marker, dependency=task_or(dependency)) if has_scheme else marker


def _resolved(dependency: Callable[..., Any], values: Mapping[str, Any]) -> AbstractAsyncContextManager[Any]:
    """Call a dependency as FastAPI does."""
    function: Any = dependency if inspect.isroutine(dependency) else type(dependency).__call__
    if inspect.isasyncgenfunction(function):
        return asynccontextmanager(dependency)(**values)
    if inspect.isgeneratorfunction(function):
        return contextmanager_in_threadpool(contextmanager(dependency)(**values))
    return _called(dependency, values, is_async=inspect.iscoroutinefunction(function))


@asynccontextmanager
async def _called(dependency: Callable[..., Any], values: Mapping[str, Any], *, is_async: bool) -> AsyncIterator[Any]:
    yield await dependency(**values) if is_async else await run_in_threadpool(dependency, **values)
