"""The door itself: a middleware that stands first, and so around all that a project does with a request."""

import asyncio
import functools
import inspect
import logging
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, ParamSpec, TypeVar, cast

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.apps import apps
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from ...admission import OURS, Admission
from ...answers import Answer, answer_to_uncaught, not_committed
from ...door import Arrival, Door, LoadUser, UserId
from ...errors import ConfigError
from ...middleware.asgi import arrived as asgi_arrival
from ...middleware.django import configuration
from ...middleware.django.body import Stream, content_of, copy_of, give_back
from ...middleware.django.queue import TaskQueue, task_queue
from ...middleware.django.users import authenticated_user, authenticated_user_later, load_user, log_in
from ...middleware.wsgi import arrived as wsgi_arrival
from ...producer import current_task
from ...request import Body, CurrentRequest
from ...transaction import Transaction, bound

log = logging.getLogger("taskqueue.door")

P = ParamSpec("P")
T = TypeVar("T")

_USER: Final = "_taskqueue_user"
_HIDDEN: Final = "_taskqueue_hidden"


def door_of(tq: TaskQueue, *, is_async: bool) -> Door[HttpRequest]:
    """Return the door that the settings describe; raises ConfigError."""
    options = configuration.given(configuration.OF_DOOR)
    load: LoadUser | None = options.pop("load_user", load_user if apps.is_installed("django.contrib.auth") else None)
    user_id: UserId[HttpRequest] = options.pop("user_id", None) or (
        authenticated_user_later if is_async else authenticated_user
    )
    return Door(
        tq,
        load_user=None if load is None else _in_mode(load, is_async=is_async),
        user_id=user_id,
        **{"credentials": None, "task_only": (), "replay_guard": "begin", "allow_manual": False, **options},
    )


def _in_mode(function: Callable[..., Any], *, is_async: bool) -> Callable[..., Any]:
    """Return a function that is called as a view of this mode is: what is plain never blocks the event loop."""
    if inspect.iscoroutinefunction(function) == is_async:
        return function
    return sync_to_async(function) if is_async else async_to_sync(function)


class TaskQueueMiddleware:
    """Lets a project add tasks and receive their deliveries. It must stand first in MIDDLEWARE.

    ``settings.TASKQUEUE`` says where the queues are (``URL``, ``SECRET``, ``QUEUES``, ``NAMESPACE``, ``PUBLIC_URL``,
    ``LIMITS``, ``COMMIT_DEADLINE``, ``MAX_TASKS``, ``MAX_BYTES``, ``DURABILITY``, ``STORAGE``: see
    ``taskqueue.TaskQueue``), on which database ``atomic()`` counts (``USING``), and how the door works. ``LOAD_USER``,
    plain or async, a function or its dotted path, gets a task's user id and returns the user, who becomes
    ``request.user``, or None if there is none any more: then the task fails; omitted, the authentication backends are
    asked; None: nobody is loaded. ``USER_ID``, plain or async, gets the request and returns the id (a str) of the user
    who adds a task, or None; without it ``request.user`` is asked. ``CREDENTIALS``: ``"copy"`` or ``"drop"``, whether
    ``Cookie`` and ``Authorization`` travel with a task; omitted: only if no user is loaded. ``TASK_ONLY``: paths which,
    with all below them, are 404 for everybody else. ``REPLAY_GUARD``: who sees to it that a delivery starts only once:
    the broker (``"begin"``) or, cheaper but blind to other processes, this one's memory (``"process"``): then a
    consumer over HTTP takes what it held when it died for not begun, and that spends no attempt. ``ALLOW_MANUAL``:
    whether a person who knows the secret may run a task by hand here (``taskqueue curl``, ``taskqueue replay``), past
    its queue, so that the task itself does not change; what it adds is queued as ever.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        """Take what comes after; raises ConfigError for settings that are wrong."""
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        self._tq = task_queue()
        self._door: Final = door_of(self._tq, is_async=self._is_async)
        self.process_view: Callable[..., Any] = _enter_view
        if self._is_async:
            markcoroutinefunction(self)
            self.process_view = _enter_view_async

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Serve one request."""
        return self._serve_async(request) if self._is_async else self._serve(request)

    def _serve(self, request: HttpRequest) -> HttpResponseBase:
        arrival, admission = _arrival(request), None
        if arrival.claimed:
            admitted = self._door.admit_sync(arrival, functools.partial(content_of, request, self._tq.limits.body))
            if isinstance(admitted, Answer):
                return _response(admitted)
            admission = admitted
        visit = self._visit(request, arrival, admission)
        with visit.under_way():
            response: HttpResponseBase = self.get_response(request)
        with visit.committing():
            if admission is not None:
                admission.keep_sync()
            if visit.succeeded(response):
                visit.fetch()
                visit.transaction.commit_sync()
        return visit.left(response)

    async def _serve_async(self, request: HttpRequest) -> HttpResponseBase:
        arrival, admission = _arrival(request), None
        if arrival.claimed:
            read = functools.partial(content_of, request, self._tq.limits.body)
            admitted = await self._door.admit(arrival, sync_to_async(read))
            if isinstance(admitted, Answer):
                return _response(admitted)
            admission = admitted
        visit = self._visit(request, arrival, admission)
        with visit.under_way():
            response: HttpResponseBase = await self.get_response(request)
        with visit.committing():
            if admission is not None:
                await admission.keep()
            if visit.succeeded(response):
                visit.fetch()
                await visit.transaction.commit()
        return visit.left(response)

    def process_exception(self, _request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer what ``add`` said of the broker, or of this client's body, if no view caught it."""
        answer = answer_to_uncaught(exception)
        return None if answer is None else _response(answer)

    def _note_application(self) -> None:
        """Say in which application this is: one like the server's, which no middleware knows."""
        loop = asyncio.get_running_loop() if self._is_async else None
        if not self._door.stands_in_it(loop):
            self._door.stands_in(*(("asgi", ASGIHandler) if self._is_async else ("wsgi", WSGIHandler)), loop=loop)

    def _visit(self, request: HttpRequest, arrival: Arrival, admission: Admission | None) -> "_Visit":
        body: Body | None = None
        if admission is None:
            self._note_application()
        if admission is not None:
            _prepare(request, arrival, admission)
            body = admission.body
        elif self._door.hides(request.path, request.path.removesuffix(request.path_info)):
            _hide(request)
        else:
            body = copy_of(request, self._tq.limits.body)
        current = self._door.request(arrival, request, scheme=request.scheme or "http", body=body, admission=admission)
        if self._is_async and current.user_id is not None and admission is None:
            # Asked in a thread, as it may look into the database.
            current = replace(current, user_id=None, user_id_later=sync_to_async(current.user_id))
        return _Visit(self._tq, request, current, admission)


def task_only(view: Callable[P, T]) -> Callable[P, T]:
    """Decorate a view, or a method of a class-based one, to be 404 for all but deliveries.

    Raises ConfigError for a class: decorate its ``dispatch``, with Django's ``method_decorator``.
    """
    if inspect.isclass(view):
        raise ConfigError(f"task_only: {view.__name__} is a class; @method_decorator(task_only, name='dispatch')")

    def check() -> None:
        if current_task() is None:
            raise Http404

    if iscoroutinefunction(view):

        @functools.wraps(view)
        async def guarded_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            check()
            return await cast("Awaitable[Any]", view(*args, **kwargs))

        return cast("Callable[P, T]", guarded_async)

    @functools.wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        check()
        return view(*args, **kwargs)

    return guarded


class _Visit:
    """One request on its way through the door, with its transaction."""

    def __init__(
        self, tq: TaskQueue, request: HttpRequest, current: CurrentRequest, admission: Admission | None
    ) -> None:
        self._tq, self._request, self._current, self._admission = tq, request, current, admission
        self.transaction: Final = tq.begin(request=current)
        self._answer: Answer | None = None  # in place of the application's

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Bind the transaction; abort it on an exception, which Django itself lets through only where it must."""
        try:
            with bound(self.transaction):
                yield
        except BaseException:
            self.transaction.abort()
            self._forget_body()
            raise

    def succeeded(self, response: HttpResponseBase) -> bool:
        """Return whether the tasks are to be stored; if not they are forgotten."""
        failed: bool = response.status_code >= 400
        if failed:
            self.transaction.abort()
        return not failed

    def fetch(self) -> None:
        """Read what the view has left of a body that a task copies."""
        if self.transaction.copies_body and isinstance(self._current.body, Stream):
            self._current.body.fetch()

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Note what to tell the client if the commit inside fails."""
        ids = self.transaction.ids
        try:
            yield
        except Exception as error:
            self.transaction.abort()
            self._answer = not_committed(error, ids)
            if self._answer is None:
                self._forget_body()
                raise

    def left(self, response: HttpResponseBase) -> HttpResponseBase:
        """Return the response that leaves: the application's, or the door's own, with the receipt."""
        if self._answer is not None:
            mine = _response(self._answer)
            mine._resource_closers.extend(response._resource_closers)
            response = mine
        if isinstance(response, StreamingHttpResponse) and getattr(response, "file_to_stream", None) is None:
            self._follow(response)
        else:
            self._forget_body()
        for name in OURS:
            del response[name]
        for name, value in () if self._admission is None else self._admission.headers():
            response[name] = value
        return response

    def _follow(self, response: StreamingHttpResponse) -> None:
        """Give a stream a transaction of its own, for the tasks it adds: stored before its end is told."""
        transaction = self._tq.begin(request=self._current)
        pieces: Any = response.streaming_content
        response.streaming_content = (
            self._stream_async(transaction, pieces) if response.is_async else self._stream(transaction, pieces)
        )
        response._resource_closers.append(self._forget_body)

    def _stream(self, transaction: Transaction, pieces: Iterable[bytes]) -> Iterator[bytes]:
        with self._ending(transaction):
            source = iter(pieces)
            while True:
                with bound(transaction):
                    piece = next(source, None)
                if piece is None:
                    break
                yield piece
            with _logging(transaction):
                if self._admission is not None:
                    self._admission.keep_sync()
                transaction.commit_sync()

    async def _stream_async(self, transaction: Transaction, pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        with self._ending(transaction):
            source = aiter(pieces)
            while True:
                with bound(transaction):
                    piece = await anext(source, None)
                if piece is None:
                    break
                yield piece
            with _logging(transaction):
                if self._admission is not None:
                    await self._admission.keep()
                await transaction.commit()

    @contextmanager
    def _ending(self, transaction: Transaction) -> Iterator[None]:
        """Forget what a stream that is broken off has added."""
        try:
            yield
        finally:
            transaction.abort()
            self._forget_body()
            self._request.close()  # which Django does not after an error in a stream

    def _forget_body(self) -> None:
        if isinstance(self._current.body, Stream):
            self._current.body.forget()


@contextmanager
def _logging(transaction: Transaction) -> Iterator[None]:
    """Log a commit that fails with its ids; the error then breaks off the stream."""
    ids = transaction.ids
    try:
        yield
    except Exception as error:
        not_committed(error, ids)
        raise


def _arrival(request: HttpRequest) -> Arrival:
    scope = getattr(request, "scope", None)
    if scope is not None:
        query = scope["query_string"]  # of Django's AsyncClient it is a str
        return asgi_arrival({**scope, "query_string": query.encode() if isinstance(query, str) else query})
    # Django has written there what it decoded; a WSGI server does not.
    meta = {name: request.META[name].encode().decode("latin-1") for name in ("SCRIPT_NAME", "PATH_INFO")}
    return wsgi_arrival({**request.META, **meta})


def _prepare(request: HttpRequest, arrival: Arrival, admission: Admission) -> None:
    """Make a proved delivery the request that its task was recorded as."""
    give_back(request, admission.content)
    request.__class__ = _uncached(request.__class__)
    # What protects browsers against other sites asks for what no task has.
    request._dont_enforce_csrf_checks = True
    scheme = arrival.recorded_scheme
    if scheme is not None:
        request._get_scheme = lambda: scheme
    user: Any = admission.task.user
    if user is not None:
        setattr(request, _USER, user)
        # Where AuthenticationMiddleware looks first, whatever the session says.
        request._cached_user = request._acached_user = user
        log_in(request, user)


class _Uncached:
    """A request to which no answer is kept: a task has no cookie by which a cache would tell its user from others.

    This is where Django's cache, as middleware and as decorator, notes whether to keep the answer.
    """

    _cache_update_cache = property(lambda _self: False, lambda _self, _value: None)


@functools.cache
def _uncached(kind: type[HttpRequest]) -> type[HttpRequest]:
    return type(kind.__name__, (_Uncached, kind), {})


def _hide(request: HttpRequest) -> None:
    """Make this a request for what the project does not have, so that it answers as it always does then."""
    request.path_info = f"/{secrets.token_hex(16)}"
    setattr(request, _HIDDEN, True)


def _enter_view(request: HttpRequest, _view: object, _args: object, _kwargs: object) -> None:
    """Log a task's user in once more, after the other middlewares; let no view answer for what is hidden."""
    if hasattr(request, _HIDDEN):
        raise Http404
    if hasattr(request, _USER):
        log_in(request, getattr(request, _USER))


async def _enter_view_async(request: HttpRequest, view: object, args: object, kwargs: object) -> None:
    _enter_view(request, view, args, kwargs)


def _response(answer: Answer) -> HttpResponse:
    response = HttpResponse(answer.text, status=answer.status, content_type="text/plain; charset=utf-8")
    for name, value in answer.headers:
        response[name] = value
    return response
