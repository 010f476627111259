"""The door of an aiohttp application: tasks are stored when the handler is left, by returning or raising a redirect.

aiohttp unpacks bodies with ``Content-Encoding`` before anybody can prove them: a task that is given one of its own
fails with 415, unless ``web.Application(handler_args={"auto_decompress": False})`` leaves it packed.
"""

import asyncio
import functools
import inspect
import logging
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar, cast

from aiohttp import StreamReader, web
from aiohttp.typedefs import Handler

from ..admission import OURS, Admission
from ..answers import BROKEN_OFF, UNCAUGHT, Answer, answer_to_uncaught, not_committed, too_large
from ..consume import Consume, Consuming
from ..door import Arrival, Credentials, Door, LoadUser, ReplayGuard, UserId, may_carry_body
from ..errors import ConfigError
from ..producer import TaskQueue, current_task
from ..request import Body
from ..tee import Tee
from ..transaction import Transaction, bound
from ..wire import OwnFlow

if TYPE_CHECKING:
    from ..webconsumer import WebConsumer

View = TypeVar("View", bound=Callable[..., Awaitable[web.StreamResponse]])

log = logging.getLogger("taskqueue.door")

_ADMISSION: Final = web.RequestKey("taskqueue_admission", Admission)
_STARTED: Final = web.RequestKey("taskqueue_started", bool)  # the response has
_BEGAN: Final = web.RequestKey("taskqueue_began", float)
_REMEDY: Final = (
    'make it web.Application(handler_args={"auto_decompress": False}) and unpack in the handlers, or add the task'
    " without Content-Encoding"
)


def authenticated_user(request: web.Request) -> str | None:
    """Return the ``id`` of the user in ``request["user"]`` as a str, or None for nobody."""
    identity = getattr(request.get("user"), "id", None)
    return None if identity in (None, "") else str(identity)


def setup(
    app: web.Application,
    tq: TaskQueue,
    load_user: LoadUser | None = None,
    user_id: UserId[web.Request] | None = None,
    *,
    credentials: Credentials | None = None,
    task_only: Iterable[str] = (),
    replay_guard: ReplayGuard = "begin",
    allow_manual: bool = False,
    consume: Consuming = False,
) -> None:
    """Let an application add tasks and receive their deliveries: the door becomes its outermost middleware.

    ``load_user``, plain or async, gets a task's user id and returns the user, who is put into ``request["user"]``, or
    None if there is none any more: then the task fails. A plain one runs in the event loop and must not block.
    ``user_id``, plain or async (``aiohttp_security.authorized_userid``), gets the request and returns the id (a str) of
    the user who adds a task, or None; without it ``authenticated_user`` is asked. ``credentials``: whether ``Cookie``
    and ``Authorization`` travel with a task; None: only if there is no ``load_user``. ``task_only``: paths which, with
    all below them, are 404 for everybody else. ``replay_guard``: who sees to it that a delivery starts only once: the
    broker (``"begin"``) or, cheaper but blind to other processes, this one's memory (``"process"``): then a consumer
    over HTTP takes what it held when it died for not begun, and that spends no attempt. ``allow_manual``: whether who
    knows the secret may run a task by hand here (``taskqueue curl``, ``replay``), past its queue; the task itself does
    not change. ``consume``: True, a name or a ``Consume`` for a consumer in the application. Raises ConfigError.
    """
    door: Door[web.Request] = Door(
        tq,
        load_user=load_user,
        user_id=user_id or authenticated_user,
        credentials=credentials,
        task_only=task_only,
        replay_guard=replay_guard,
        allow_manual=allow_manual,
    )

    @web.middleware
    async def taskqueue_door(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await _Visit(door, request, app).run(handler)

    @web.middleware
    async def taskqueue_task_only(request: web.Request, handler: Handler) -> web.StreamResponse:
        if door.hides(request.path) and current_task() is None:
            raise web.HTTPNotFound
        return await handler(request)

    app.middlewares.insert(0, taskqueue_door)
    # The innermost of those there are: what others make of a page that is missing, they make of these too.
    app.middlewares.append(taskqueue_task_only)
    _follow(app, door)
    _consume(app, tq, consume)


def _follow(app: web.Application, door: Door[web.Request]) -> None:
    app.on_response_prepare.append(_mark)
    app.on_startup.append(functools.partial(_note_application, door))
    app.on_cleanup.append(functools.partial(_close, door.tq))


async def _note_application(door: Door[web.Request], app: web.Application) -> None:
    # Others start after this; when the last of them has, the application is frozen.
    if not door.stands_in_it(asyncio.get_running_loop()):
        door.stands_in("aiohttp", lambda: app, loop=asyncio.get_running_loop(), ready=lambda: app.frozen)


async def _close(tq: TaskQueue, _app: web.Application) -> None:
    await tq.aclose()


def _consume(app: web.Application, tq: TaskQueue, consume: Consuming) -> None:
    """Let a consumer run beside the application, if that is asked for."""
    if consume is False:
        return
    consumer: WebConsumer | None = None

    async def beside(app: web.Application) -> AsyncIterator[None]:
        from ..webconsumer import beside_aiohttp  # noqa: PLC0415 - only who consumes pays for it

        nonlocal consumer
        consumer = beside_aiohttp(tq, consume, app)
        if consumer is None:
            yield
            return
        async with consumer:
            # Others start after this; when the last of them has, the application is frozen.
            consumer.start(lambda: app.frozen)
            yield
            await consumer.stop()

    async def stop(_app: web.Application) -> None:
        if consumer is not None:
            await consumer.stop()

    @web.middleware
    async def timed(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[_BEGAN] = time.monotonic()
        return await handler(request)

    async def told(request: web.Request, _response: web.StreamResponse) -> None:
        if consumer is not None and consumer.gauge is not None and _BEGAN in request and _ADMISSION not in request:
            consumer.gauge.took(time.monotonic() - request[_BEGAN])

    app.cleanup_ctx.append(beside)
    app.on_shutdown.insert(0, stop)  # before anything of the application is taken down
    if isinstance(consume, Consume) and consume.adaptive:
        app.middlewares.insert(0, timed)
        app.on_response_prepare.append(told)


def task_only(view: View) -> View:
    """Decorate a handler, or a method of a ``web.View``, to be 404 for all but deliveries."""
    if not inspect.iscoroutinefunction(view):
        raise ConfigError("task_only: decorate an `async def` handler, or the methods of a web.View")

    @functools.wraps(view)
    async def guarded(*args: object, **kwargs: object) -> web.StreamResponse:
        if current_task() is None:
            raise web.HTTPNotFound
        return await view(*args, **kwargs)

    return cast("View", guarded)


class _OwnResponse(web.Response):
    """An answer of the door itself."""


async def _mark(request: web.Request, response: web.StreamResponse) -> None:
    """Put the receipt on every response to a delivery, and take off what only the door may say."""
    if not isinstance(response, _OwnResponse):
        for name in OURS:
            response.headers.popall(name, None)
    request[_STARTED] = True
    admission = request.get(_ADMISSION)
    if admission is not None:
        response.headers.update(admission.headers())


class _Visit:
    """One request on its way through the door."""

    def __init__(self, door: Door[web.Request], request: web.Request, app: web.Application) -> None:
        self._door, self._request, self._app = door, request, app
        headers = tuple(request.headers.items())
        if _decoded(request):  # a copy of the body must not say that it is packed
            headers = tuple(pair for pair in headers if pair[0].lower() != "content-encoding")
        self._arrival = Arrival(method=request.method, targets=[request.raw_path], headers=headers)

    async def run(self, handler: Handler) -> web.StreamResponse:
        """Call the handler in a transaction; of a delivery, prove it before."""
        request = self._request
        if self._arrival.claimed:
            return await self._delivery(handler)
        await _note_application(self._door, self._app)
        tee = _tee(request, self._door.tq.limits.body)
        try:
            return await self._serve(handler, tee, None)
        finally:
            if tee is not None:
                tee.close()

    async def _delivery(self, handler: Handler) -> web.StreamResponse:
        request = self._request
        read = functools.partial(_read, request, self._door.tq.limits.body)
        admitted = await self._door.admit(self._arrival, read)
        if isinstance(admitted, Answer):
            return _response(admitted)
        if admitted.content:
            _put_body(request, _stream_of(admitted.content, request.content))
        request[_ADMISSION] = admitted
        scheme = self._arrival.recorded_scheme
        if scheme is not None:
            # As _put_body; where it is looked for first. A clone would not be what aiohttp's own error pages answer.
            request._cache["scheme"] = scheme
        if admitted.task.user is not None:
            with warnings.catch_warnings():
                # The name under which handlers look for it; aiohttp recommends keys that are objects.
                warnings.simplefilter("ignore", web.NotAppKeyWarning)
                request["user"] = admitted.task.user
        # What aiohttp itself answers when the handler fails is marked with the receipt like every response.
        return await self._serve(handler, admitted.body, admitted)

    async def _serve(self, handler: Handler, body: Body | None, admission: Admission | None) -> web.StreamResponse:
        request, tq = self._request, self._door.tq
        current = self._door.request(self._arrival, request, scheme=request.scheme, body=body, admission=admission)
        transaction = Transaction(tq, request=current)
        raised: web.HTTPException | None = None
        try:
            with bound(transaction):
                response = await handler(request)
        except web.HTTPException as error:
            response = raised = error
        except UNCAUGHT as error:
            transaction.abort()
            await _keep_if_possible(admission)
            answer = answer_to_uncaught(error)
            if _STARTED in request or answer is None:
                raise
            return _response(answer)
        except BaseException as error:
            transaction.abort()
            if isinstance(error, Exception):
                await _keep_if_possible(admission)
            raise
        if not isinstance(response, web.StreamResponse) or response.status >= 400:
            transaction.abort()
        elif isinstance(body, Tee):
            body.release()
        answer = await self._commit(transaction, admission)
        if answer is not None:
            return _response(answer)
        if raised is not None:
            raise raised
        return response

    async def _commit(self, transaction: Transaction, admission: Admission | None) -> Answer | None:
        """Store what the task says of itself, and commit unless that was aborted.

        Return the answer to give if one of them fails. Where a response has started, raise to break it off.
        """
        ids = transaction.ids
        try:
            if admission is not None:
                await admission.keep()
            if transaction.state == "open":
                await transaction.commit()
        except Exception as error:
            transaction.abort()
            answer = not_committed(error, ids)
            if answer is None or _STARTED in self._request:
                raise
            return answer
        return None


class _TeedStream(StreamReader):
    """The request's body as the application reads it: each piece is taken from the connection when it is needed.

    So the copy is of what was taken, however a parser cuts that, and whatever it puts back.
    """

    def __init__(self, source: StreamReader, *, declared: int | None, chunked: bool, limit: int) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(OwnFlow(loop), source.get_read_buffer_limits()[0], loop=loop)
        if chunked:
            self.begin_http_chunk_receiving()
        self._source = source
        self.tee: Final = Tee(self._pull, declared=declared, limit=limit)

    async def _wait(self, func_name: str) -> None:  # noqa: ARG002 - aiohttp's signature
        # Called by every way of reading when there is nothing left to give. Private: a test of each way guards it.
        piece, ends_chunk = await self._take()
        self.feed_data(piece)
        if ends_chunk:
            self.end_http_chunk_receiving()
        if self._source.at_eof():
            self.feed_eof()

    async def _take(self) -> tuple[bytes, bool]:
        try:
            piece, ends_chunk = await self._source.readchunk()
        except Exception:
            self.tee.break_off()
            raise
        self.tee.copy(piece)
        if self._source.at_eof():
            self.tee.end()
        return piece, ends_chunk

    async def _pull(self) -> None:
        """Take a piece for the copy alone; a connection that fails is noted there."""
        with suppress(Exception):
            await self._take()

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Hand on what the server says of the connection to where it is waited for."""
        cause = () if exc_cause is None else (exc_cause,)
        super().set_exception(exc, *cause)
        self._source.set_exception(exc, *cause)


def _tee(request: web.Request, limit: int) -> Tee | None:
    """Put a tee before the request's body, if it may have one."""
    # What is decoded has no size yet.
    declared = None if _decoded(request) else request.content_length
    chunked = "chunked" in request.headers.get("Transfer-Encoding", "").lower()
    if not may_carry_body(request.method, request.content_length, chunked=chunked):
        return None
    stream = _TeedStream(request.content, declared=declared, chunked=chunked, limit=limit)
    _put_body(request, stream)
    return stream.tee


async def _keep_if_possible(admission: Admission | None) -> None:
    if admission is not None:
        await admission.keep_if_possible()


def _put_body(request: web.Request, stream: StreamReader) -> None:
    """Give a request another body; there is no public way. Tests of every way to read one guard it."""
    request._payload = stream
    request._cache.pop("content", None)  # the attribute remembers what it gave once


def _decoded(request: web.Request) -> bool:
    """Return whether aiohttp unpacks this body (``Content-Encoding``), so that nobody sees its own bytes."""
    return request.body_exists and request.content.total_compressed_bytes is not None


async def _read(request: web.Request, limit: int, *, keep: bool) -> bytes | Answer:
    """Return a delivery's body, or the answer to one that cannot be taken."""
    if not keep:
        return b""  # aiohttp reads and forgets by itself what a handler has left.
    if _decoded(request):
        # The signature is over bytes that nobody has any more.
        log.error("a task's body came with Content-Encoding, and aiohttp has unpacked it: %s", _REMEDY)
        return Answer(415, f"aiohttp has unpacked the body of this task: {_REMEDY}\n")
    body, source = bytearray(), request.content
    while max(len(body), request.content_length or 0) <= limit:
        try:
            piece = await source.readany()
        except (ConnectionError, web.RequestPayloadError):
            return BROKEN_OFF
        if not piece:
            return bytes(body)
        body += piece
    return too_large(limit)


def _stream_of(body: bytes, like: StreamReader) -> StreamReader:
    loop = asyncio.get_running_loop()
    stream = StreamReader(OwnFlow(loop), like.get_read_buffer_limits()[0], loop=loop)
    stream.feed_data(body)
    stream.feed_eof()
    return stream


def _response(answer: Answer) -> web.Response:
    return _OwnResponse(status=answer.status, text=answer.text, headers=dict(answer.headers))
