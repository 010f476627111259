"""The door of an ASGI application (ASGI 3.0): Starlette, FastAPI, and every other.

Some frameworks commit their database after the response was sent. So a response whose request has added tasks is held
back until the application has returned and the tasks are stored: nobody is told of a success that may still fail. A
response without tasks passes through as it comes.
"""

import asyncio
import functools
import inspect
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Literal, ParamSpec, TypeAlias, TypeVar, cast

from ..answers import BROKEN_OFF, Answer, too_large
from ..components import HeaderPairs
from ..consume import Consuming
from ..door import Arrival, Credentials, Door, LoadUser, ReplayGuard, UserId, may_carry_body
from ..errors import ConfigError, InvalidTask
from ..exchange import App, Exchange, Message, Receive, Scope, Send, send_answer
from ..producer import TaskQueue, captures, current_task
from ..request import HANDOVER, Handover
from ..target import quote_path
from ..tee import Tee
from ..transaction import Transaction

log = logging.getLogger("taskqueue.door")

CommitAt: TypeAlias = Literal["return", "response"]

P = ParamSpec("P")
T = TypeVar("T")

USER: Final = "taskqueue.user"
"""Where in the scope stands who was logged in otherwise than by ``scope["user"]``."""

_NOT_FOUND: Final = Answer(404, "Not Found")


def authenticated_user(scope: Scope) -> str | None:
    """Return the id of the user in ``scope["user"]`` (as Starlette has it), or None for nobody.

    It is the ``identity`` of a user who ``is_authenticated``, or where that is not implemented the ``id``. In FastAPI,
    which has no user of its own, it is that of the user whom ``fastapi.task_or`` has found: InvalidTask if it has none.
    """
    found: Any = scope.get(USER)
    user: Any = scope.get("user")
    if found is None and (user is None or not getattr(user, "is_authenticated", False)):
        return None
    user = user if found is None else found
    try:
        identity = user.identity
    except (AttributeError, NotImplementedError):  # there is none; Starlette's BaseUser leaves it to its subclasses
        identity = user if isinstance(user, str) else getattr(user, "id", None)
    if identity not in (None, ""):
        return str(identity)
    if found is None:
        return None
    raise InvalidTask(
        f"user_id: the logged-in {type(found).__name__} has neither identity nor id; give add() a user_id=, or the door"
        " one that knows"
    )


class TaskQueueMiddleware:
    """Lets an application add tasks and receive their deliveries. It must stand outermost."""

    def __init__(
        self,
        app: App,
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
        """Take the application and its TaskQueue; raises ConfigError.

        ``load_user``, plain or async, gets a task's user id and returns the user, who is put into ``scope["user"]``, or
        None if there is none any more: then the task fails. A plain one runs in the event loop and must not block.
        Starlette's AuthenticationMiddleware puts there whom its backend names: see ``starlette.TaskAuthBackend``.
        ``user_id``, plain or async, gets the scope and returns the id (a str) of the user who adds a task, or None;
        without it ``authenticated_user`` is asked. ``credentials``: whether ``Cookie`` and ``Authorization`` travel
        with a task; None: only if there is no ``load_user``. ``task_only``: paths which, with all below them, are 404
        for everybody else. ``commit_at``: when tasks are stored: ``"return"``, the application has returned;
        ``"response"``, its response starts, for applications that commit inside the handler: adding later is an error
        then. ``replay_guard``: who sees to it that a delivery starts only once: the broker (``"begin"``) or, cheaper
        but blind to other processes, this one's memory (``"process"``): then a consumer over HTTP takes what it held
        when it died for not begun, and that spends no attempt. ``allow_manual``: whether a person who knows the secret
        may run a task by hand here (``taskqueue curl``, ``taskqueue replay``), past its queue, so that the task itself
        does not change; what it adds is queued as ever. ``consume``: True, a name or a ``Consume`` for a consumer
        beside the application, from the end of its startup to the beginning of its shutdown.
        """
        if commit_at not in ("return", "response"):
            raise ConfigError(f"commit_at: {commit_at!r} must be 'return' or 'response'")
        self._app, self._tq = app, tq
        self._commits_early = commit_at == "response"
        self._consume, self._has_lifespan = consume, consume is False
        self._state: Mapping[str, Any] | None = None
        self.took: Callable[[float], None] | None = None
        """Who is told how many seconds the response to each request took that is no delivery."""
        self._door: Final[Door[Scope]] = Door(
            tq,
            load_user=load_user,
            user_id=user_id or authenticated_user,
            credentials=credentials,
            task_only=task_only,
            replay_guard=replay_guard,
            allow_manual=allow_manual,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "websocket" if arrived(scope).claimed or self._hides(scope):
                # No task is a websocket. Closed before it was accepted: the client gets a 403.
                await send({"type": "websocket.close"})
            case "lifespan":
                await self._lifespan(scope, receive, send)
            case _:
                await self._app(scope, receive, send)

    def started(self, app: App, state: Mapping[str, Any] | None) -> None:
        """Note that the application has started, with this state of its lifespan, in the event loop that runs here."""
        self._state = state
        self._door.stands_in("asgi", lambda: app, loop=asyncio.get_running_loop(), state=state)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._has_lifespan = True
        outermost = self._outermost(scope)
        send = functools.partial(self._send_lifespan, outermost, scope.get("state"), send)
        if self._consume is False:
            await self._app(scope, receive, send)
            return
        from .. import lifespan, webconsumer  # noqa: PLC0415 - only who consumes pays for it

        def make() -> webconsumer.WebConsumer | None:
            consumer = webconsumer.beside_asgi(self._tq, self._consume, outermost, scope.get("state"))
            self.took = consumer.gauge.took if consumer and consumer.gauge else None
            return consumer

        await lifespan.run(self._app, scope, receive, send, make)

    def _outermost(self, scope: Scope) -> App:
        # Starlette stands around the middlewares that it was given, and says here who it is; so does one inside, later.
        app: App = scope.get("app", self)
        return app

    async def _send_lifespan(
        self, outermost: App, state: Mapping[str, Any] | None, send: Send, message: Message
    ) -> None:
        if message["type"] == "lifespan.startup.complete":
            self.started(outermost, state)
        if message["type"].startswith("lifespan.shutdown."):
            await self._tq.aclose()
        await send(message)

    def _hides(self, scope: Scope) -> bool:
        return self._door.hides(scope["path"], scope.get("root_path", ""))

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._has_lifespan and not captures:
            self._has_lifespan = True  # said once
            log.warning("consume: no consumer runs, because this server runs no lifespan (ASGI)")
        arrival = arrived(scope)
        if arrival.claimed:
            await self._delivery(arrival, scope, receive, send)
        elif self._hides(scope):
            await _not_found(self._app, scope, send)
        else:
            if not self._door.stands_in_it(asyncio.get_running_loop()):
                # By a server without lifespan, say. What the scope has as its state may already be of this request.
                self.started(self._outermost(scope), self._state)
            if self.took is not None:
                send = _timed(send, self.took)
            exchange = Exchange(receive, send, commits_early=self._commits_early, admission=None)
            exchange.tee = _tee(scope, arrival.headers, exchange.pull, self._tq.limits.body)
            request = self._door.request(arrival, scope, scheme=scope["scheme"], body=exchange.tee, admission=None)
            await exchange.run(self._app, scope, Transaction(self._tq, request=request))

    async def _delivery(self, arrival: Arrival, scope: Scope, receive: Receive, send: Send) -> None:
        # In process the body comes whole.
        declared = _declared(arrival.headers) if arrival.handover is None else None
        read = functools.partial(_read, receive, declared, self._tq.limits.body)
        admitted = await self._door.admit(arrival, read)
        if admitted is BROKEN_OFF:
            return
        if isinstance(admitted, Answer):
            await send_answer(send, admitted)
            return
        scope = {**scope, "scheme": arrival.recorded_scheme or scope["scheme"]}
        if admitted.task.user is not None:
            scope["user"] = admitted.task.user
        receive = _given_back(admitted.content, receive)
        exchange = Exchange(receive, send, commits_early=self._commits_early, admission=admitted)
        request = self._door.request(arrival, scope, scheme=scope["scheme"], body=admitted.body, admission=admitted)
        await exchange.run(self._app, scope, Transaction(self._tq, request=request))


def task_only(endpoint: Callable[P, T]) -> Callable[P, T]:
    """Decorate an endpoint of Starlette or FastAPI, or an ASGI application, to be 404 for all but deliveries.

    FastAPI looks at the parameters before; to hide those as well, name the path in the middleware's ``task_only``.
    Raises ConfigError for a class: decorate its methods.
    """
    if inspect.isclass(endpoint):
        raise ConfigError(f"task_only: {endpoint.__name__} is a class; decorate its methods")
    if list(inspect.signature(endpoint).parameters)[-3:] == ["scope", "receive", "send"]:
        return cast("Callable[P, T]", _task_only_app(endpoint))
    from starlette.exceptions import HTTPException  # noqa: PLC0415 - a bare ASGI application needs no Starlette

    def check() -> None:
        if current_task() is None:
            raise HTTPException(404)

    if inspect.iscoroutinefunction(endpoint):

        @functools.wraps(endpoint)
        async def guarded_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            check()
            return await endpoint(*args, **kwargs)

        return cast("Callable[P, T]", guarded_async)

    @functools.wraps(endpoint)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        check()
        return endpoint(*args, **kwargs)

    return guarded


def _task_only_app(app: Callable[..., Any]) -> Any:
    @functools.wraps(app)
    async def guarded(*args: Any) -> None:
        if current_task() is None:
            await send_answer(args[-1], _NOT_FOUND)
        else:
            await app(*args)

    return guarded


def arrived(scope: Scope) -> Arrival:
    """Return a request of an ASGI server as the doors look at it."""
    try:
        headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
    except UnicodeDecodeError:
        # As the signature has it: any bytes are one text, and back.
        headers = [(_text(name), _text(value)) for name, value in scope["headers"]]
    raw_path, mount = scope.get("raw_path"), scope.get("root_path", "")
    path = _text(raw_path) if raw_path else quote_path(scope["path"].encode("utf-8", "surrogateescape"))
    query = _text(scope["query_string"])
    query = f"?{query}" if query else ""
    # Servers differ in whether they put the mount point, which was not on the request line, before raw_path.
    paths = [path, path.removeprefix(mount)] if mount and path.startswith(mount) else [path]
    handover = scope.get(HANDOVER)
    return Arrival(
        method=scope.get("method", "GET"),
        targets=[path + query for path in paths],
        headers=headers,
        handover=handover if isinstance(handover, Handover) else None,
    )


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _declared(headers: HeaderPairs) -> int | None:
    for name, value in headers:
        if name.lower() == "content-length":
            return int(value) if value.isdecimal() else None
    return None


def _tee(scope: Scope, headers: HeaderPairs, pull: Callable[[], Awaitable[None]], limit: int) -> Tee | None:
    declared = _declared(headers)
    # HTTP/2 and 3 need no header for a body without a length.
    unknown = scope.get("http_version", "1.1") >= "2" or any(name.lower() == "transfer-encoding" for name, _ in headers)
    if not may_carry_body(scope["method"], declared, chunked=unknown):
        return None
    return Tee(pull, declared=declared, limit=limit)


async def _read(receive: Receive, declared: int | None, limit: int, *, keep: bool) -> bytes | Answer:
    """Return a delivery's body, or the answer to one that cannot be taken."""
    body, received, size, more = bytearray(), 0, declared or 0, True
    while more:
        if size > limit and not keep:
            return too_large(limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            return BROKEN_OFF
        piece: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        received += len(piece)
        size = max(size, received)
        if received == len(piece) and not more and size <= limit:
            return piece  # in one, as every delivery in process: not copied
        if keep and size <= limit:
            body += piece
    return bytes(body) if size <= limit else too_large(limit)


def _timed(send: Send, took: Callable[[float], None]) -> Send:
    """Return a ``send`` that tells how long the response has been waited for: it may then last, as a stream does."""
    began = time.monotonic()

    async def send_timed(message: Message) -> None:
        if message["type"] == "http.response.start":
            took(time.monotonic() - began)
        await send(message)

    return send_timed


def _given_back(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives this body, then what the server says."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


async def _not_found(app: App, scope: Scope, send: Send) -> None:
    """Answer as the application answers for a path that it does not have, or plainly if it has an answer to all."""
    status = 0

    async def send_404(message: Message) -> None:
        nonlocal status
        status = message["status"] if message["type"] == "http.response.start" else status
        if status == 404:
            await send(message)

    path = f"/{secrets.token_hex(16)}"
    mount = scope.get("root_path", "")
    try:
        nothing = _given_back(b"", _disconnect)
        await app({**scope, "path": mount + path, "raw_path": (mount + path).encode()}, nothing, send_404)
    finally:
        if status != 404:
            await send_answer(send, _NOT_FOUND)


async def _disconnect() -> Message:
    return {"type": "http.disconnect"}
