"""The door of a Pyramid application: ``config.include("taskqueue.middleware.pyramid")``, and the settings say the rest.

The door is the one of WSGI, around the execution policy: outside all tweens, so that an explicit list of them cannot
lose it, outside what retries a request, so that a delivery starts once, and around a response that is a stream. What
is added while a transaction of ``request.tm`` runs (pyramid_tm) lives and dies with it, vetoes included; without one,
with the response.
"""

import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from pyramid import threadlocal, viewderivers
from pyramid.events import ApplicationCreated, NewRequest
from pyramid.httpexceptions import HTTPNotFound
from pyramid.request import RequestLocalCache

from .. import options
from ..door import Credentials, LoadUser, ReplayGuard, UserId
from ..errors import ConfigError, InvalidTask
from ..middleware import wsgi
from ..producer import TaskQueue, current_task
from ..transaction import Transaction, innermost

PREFIX: Final = "taskqueue."
_HIDDEN: Final = "taskqueue.hidden"


def _listed(value: object) -> object:
    return [part for part in re.split(r"[\s,]+", value) if part] if isinstance(value, str) else value


_OF_QUEUE: Final[dict[str, Callable[[object], object]]] = {
    "url": options.broker_url,
    "secret": _listed,
    "queues": _listed,
    "namespace": options.namespace,
    "public_url": options.base_url,
    "limits": lambda value: value,
    "commit_deadline": options.Seconds(0.001, 3600),
    "max_tasks": options.Whole(0),
    "max_bytes": options.Whole(0),
    "durability": options.durability_level,
    "storage": options.directory,
}
_OF_DOOR: Final[dict[str, Callable[[object], object]]] = {
    "load_user": lambda value: value,
    "user_id": lambda value: value,
    "credentials": lambda value: value,
    "task_only": _listed,
    "replay_guard": lambda value: value,
    "allow_manual": options.truth,
}


def includeme(config: Any) -> None:
    """Mount the door, and have ``request.taskqueue``, ``task_only=True`` for views and routes and ``set_taskqueue``.

    ``taskqueue.url``, ``.secret``, ``.queues``, ``.namespace``, ``.public_url``, ``.limits``, ``.commit_deadline``,
    ``.max_tasks``, ``.max_bytes``, ``.durability`` and ``.storage`` among the settings stand for what
    ``taskqueue.TaskQueue`` takes, ``taskqueue.load_user`` and ``.user_id`` (functions, or their dotted names),
    ``.credentials``, ``.task_only``, ``.replay_guard`` and ``.allow_manual`` for what ``set_taskqueue`` takes. Several
    secrets, queues or paths have white space or commas between them. Raises ConfigError for a setting that nobody
    knows; what is wrong with one is told by ``make_wsgi_app``.
    """
    mounted = config.registry[_Mounted] = _Mounted(config)
    mounted.check_names()
    config.add_directive("set_taskqueue", set_taskqueue, action_wrap=False)
    config.add_request_method(lambda request: task_queue(request.registry), "taskqueue", property=True)
    config.add_view_predicate("task_only", _TaskOnly)
    config.add_route_predicate("task_only", _TaskOnly)
    config.add_view_deriver(_csrf_view, "csrf_view", under="secured_view", over="owrapped_view")
    config.add_subscriber(mounted.note, NewRequest)
    config.add_subscriber(mounted.open, ApplicationCreated)


def task_queue(registry: Any) -> TaskQueue:
    """Return the TaskQueue of an application, where there is no request to ask; raises ConfigError."""
    mounted: _Mounted = registry[_Mounted]
    return mounted.tq


def set_taskqueue(
    config: Any,
    tq: TaskQueue | None = None,
    load_user: LoadUser | None = None,
    user_id: UserId[Any] | None = None,
    *,
    credentials: Credentials | None = None,
    task_only: Iterable[str] | None = None,
    replay_guard: ReplayGuard | None = None,
    allow_manual: bool | None = None,
) -> None:
    """Give the application a TaskQueue of its own making, or say in code what settings cannot; raises ConfigError.

    ``load_user``, plain or async, gets a task's user id and returns the user, who is put into
    ``request.environ["taskqueue.user"]``, or None if there is none any more: then the task fails. A plain one is called
    where ``get_current_registry`` works. ``user_id``, plain or async, gets the request and returns the id (a str) of
    the user who adds a task, or None; without it ``request.authenticated_userid`` is asked. ``credentials``,
    ``task_only`` (paths), ``replay_guard`` and ``allow_manual``: see ``taskqueue.middleware.wsgi``. What is omitted,
    the settings say.
    """
    given: dict[str, Any] = {"load_user": load_user, "user_id": user_id, "credentials": credentials}
    given |= {"task_only": task_only, "replay_guard": replay_guard, "allow_manual": allow_manual}
    mounted: _Mounted = config.registry[_Mounted]
    mounted.set(tq, {name: value for name, value in given.items() if value is not None})


class _Mounted:
    """What one application has said of its TaskQueue and its door."""

    def __init__(self, config: Any) -> None:
        self._config, self._registry = config, config.registry
        self._given_tq: TaskQueue | None = None
        self._given: dict[str, Any] | None = None

    def check_names(self) -> None:
        known = [PREFIX + name for name in (*_OF_QUEUE, *_OF_DOOR)]
        names = [name for name in self._registry.settings or () if name.startswith(PREFIX)]
        for fault in options.unknown(names, known, prefix=PREFIX):
            raise ConfigError(f"no such setting: {fault}")

    def set(self, tq: TaskQueue | None, given: dict[str, Any]) -> None:
        if self._given is not None or "tq" in vars(self):
            raise ConfigError("set_taskqueue: this application has its TaskQueue already")
        self._given_tq, self._given = tq, given

    @functools.cached_property
    def tq(self) -> TaskQueue:
        of_queue = self._configured(_OF_QUEUE)
        if self._given_tq is not None and of_queue:
            keys = ", ".join(PREFIX + name for name in of_queue)
            raise ConfigError(f"tq: the settings say {keys} as well; remove one of the two")
        tq = self._given_tq or TaskQueue(**of_queue)
        tq.enlist(functools.partial(_of_request, self, tq))
        return tq

    def open(self, event: Any) -> None:
        """Put the door around an application that is complete."""
        self.check_names()
        router = event.app
        of_door = self._configured(_OF_DOOR) | (self._given or {})
        load_user, user_id = (self._function(of_door, name) for name in ("load_user", "user_id"))
        inside = router.execution_policy

        def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            response: WSGIApplication = inside(environ, router)
            return response(environ, start_response)

        door = _Door(
            app,
            self.tq,
            None if load_user is None else _in_registry(self._registry, load_user),
            _with_request(router, user_id or _authenticated_userid),
            **of_door,
        )
        router.execution_policy = lambda _environ, _router: door

    def note(self, event: Any) -> None:
        """Remember the request that the door has let in, not those it makes inside; the last one if it is retried."""
        if _HIDDEN in event.request.environ:
            raise HTTPNotFound(event.request.path_info)  # as the router would
        visit = _visits.get()
        if innermost(self.tq) is not None and (visit is None or visit.over):
            _visits.set(_Visit(event.request))

    def is_of(self, request: Any) -> bool:
        return bool(request.registry is self._registry)

    def _configured(self, known: dict[str, Callable[[object], object]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, parse in known.items():
            value = (self._registry.settings or {}).get(PREFIX + name)
            try:
                if value is not None:
                    found[name] = parse(value)
            except ValueError as error:
                raise ConfigError(f"{PREFIX}{name}: {value!r} {error}") from error
        return found

    def _function(self, of_door: dict[str, Any], name: str) -> Any:
        value = of_door.pop(name, None)
        try:
            return self._config.maybe_dotted(value)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{PREFIX}{name}: {value!r} cannot be imported: {error}") from error


class _Door(wsgi.TaskQueueMiddleware):
    def _missing(self, environ: WSGIEnvironment) -> WSGIEnvironment:
        return {**environ, _HIDDEN: True}  # what Pyramid says of a path that it does not have names the path


class _Visit:
    """A request on its way through the application."""

    def __init__(self, request: Any) -> None:
        self.request: Final = request
        self.over = False
        request.add_finished_callback(self._leave)

    def _leave(self, _request: Any) -> None:
        self.over = True


# Pyramid itself keeps the current request for its thread alone, and not for a stream.
_visits: "ContextVar[_Visit | None]" = ContextVar("taskqueue_pyramid", default=None)


def _of_request(mounted: _Mounted, tq: TaskQueue) -> Transaction | None:
    """Return the tasks of the transaction that runs in ``request.tm``, of a request made inside another or of that."""
    visit = _visits.get()
    requests = (threadlocal.get_current_request(), None if visit is None else visit.request)
    for request in requests:
        manager = getattr(request, "tm", None) if request is not None and mounted.is_of(request) else None
        if manager is None:
            continue
        from ..middleware.transaction import transaction_of  # noqa: PLC0415 - only who has it pays for it

        found = transaction_of(tq, manager)
        if found is not None:
            return found
    return None


def _authenticated_userid(request: Any) -> str | None:
    user_id = request.authenticated_userid
    return None if user_id is None else str(user_id)


def _with_request(router: Any, user_id: UserId[Any]) -> UserId[WSGIEnvironment]:
    """Return a function that is asked with the environ and asks this one with Pyramid's request."""
    if inspect.iscoroutinefunction(user_id):

        async def later(environ: WSGIEnvironment) -> Any:
            return await user_id(router.request_context(environ).request)  # Pyramid's own is gone by then

        return later

    def ask(_environ: WSGIEnvironment) -> Any:
        visit = _visits.get()
        request = threadlocal.get_current_request() if visit is None else visit.request
        if request is None:
            raise InvalidTask("user_id: here the request is not known yet, so nobody knows the user; give user_id=")
        return user_id(request)

    return ask


def _in_registry(registry: Any, load_user: LoadUser) -> LoadUser:
    if inspect.iscoroutinefunction(load_user):
        return load_user

    def load(user_id: str) -> object | Awaitable[object | None] | None:
        threadlocal.manager.push({"registry": registry, "request": None})
        try:
            return load_user(user_id)
        finally:
            threadlocal.manager.pop()

    return load


class _TaskOnly:
    """A predicate of views and routes: with True they are there for deliveries only, with False for all others only."""

    def __init__(self, value: object, _config: Any) -> None:
        if not isinstance(value, bool):
            raise ConfigError(f"task_only: {value!r} must be True or False")
        self._value = value

    def text(self) -> str:
        return f"task_only = {self._value}"

    phash = text

    def __call__(self, _context: Any, _request: Any) -> bool:
        return (current_task() is not None) == self._value


def _csrf_view(view: Any, info: Any) -> Any:
    """Protect a view as Pyramid does, but let pass what is proved: it comes from no other site."""
    protected = viewderivers.csrf_view(view, info)
    if protected is view:
        return view

    def unless_proved(context: Any, request: Any) -> Any:
        return (protected if current_task() is None else view)(context, request)

    return unless_proved


_csrf_view.options = viewderivers.csrf_view.options  # type: ignore[attr-defined]  # as Pyramid marks derivers


class TaskSecurityPolicy:
    """In a delivery the identity is the task's user; in every other request it is what another policy says."""

    def __init__(self, inner: Any, identity: Callable[[Any, str], object | None] | None = None) -> None:
        """Take the other policy, and maybe how to load a task's user in the request that runs.

        ``identity`` gets the request and the task's user id, and returns the user or None; without it, whom the door's
        ``load_user`` has loaded is the identity as he is, maybe of a database session that has ended.
        """
        self._inner = inner
        self._identity, self._userid = inner.identity, inner.authenticated_userid
        self._cache: Final = None if identity is None else RequestLocalCache(functools.partial(_load, identity))
        # What it asks itself, to tell what is permitted for example, has the same answer.
        inner.identity, inner.authenticated_userid = self.identity, self.authenticated_userid

    def identity(self, request: Any) -> Any:
        """See ISecurityPolicy."""
        user = self._user(request)
        return self._identity(request) if user is None else user

    def authenticated_userid(self, request: Any) -> Any:
        """See ISecurityPolicy; of a task's user it is the id that the task was added with, a str."""
        task = current_task()
        return self._userid(request) if task is None or self._user(request) is None else task.user_id

    def permits(self, request: Any, context: Any, permission: str) -> Any:
        """See ISecurityPolicy."""
        return self._inner.permits(request, context, permission)

    def remember(self, request: Any, userid: str, **kw: Any) -> Any:
        """See ISecurityPolicy."""
        return self._inner.remember(request, userid, **kw)

    def forget(self, request: Any, **kw: Any) -> Any:
        """See ISecurityPolicy."""
        return self._inner.forget(request, **kw)

    def _user(self, request: Any) -> Any:
        task = current_task()
        if task is None or task.user_id is None:
            return None
        return task.user if self._cache is None else self._cache.get_or_create(request)


def _load(identity: Callable[[Any, str], object | None], request: Any) -> object | None:
    task = current_task()
    return None if task is None or task.user_id is None else identity(request, task.user_id)
