"""The door of a Litestar application: a plugin that puts it around everything, and Litestar's own ways to log in."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from litestar import Litestar
from litestar.config.app import AppConfig
from litestar.connection import ASGIConnection
from litestar.exceptions import NotFoundException
from litestar.handlers import BaseRouteHandler
from litestar.middleware.authentication import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.middleware.csrf import generate_csrf_token
from litestar.plugins import InitPlugin
from litestar.types import ASGIApp

from ..consume import Consuming
from ..door import Credentials, LoadUser, ReplayGuard, UserId
from ..exchange import App, Receive, Scope, Send
from ..middleware.asgi import CommitAt, TaskQueueMiddleware
from ..producer import TaskQueue, current_task

if TYPE_CHECKING:
    from ..webconsumer import WebConsumer

Authentication = TypeVar("Authentication", bound=type[AbstractAuthenticationMiddleware])


def authenticated_user(scope: Scope) -> str | None:
    """Return the ``id`` of ``connection.user`` as a str, or None for nobody."""
    user = scope.get("user")
    identity = getattr(user, "id", None) if getattr(user, "is_authenticated", True) else None
    return None if identity in (None, "") else str(identity)


class TaskQueuePlugin(InitPlugin):
    """Lets an application add tasks and receive their deliveries: ``Litestar(..., plugins=[TaskQueuePlugin(tq)])``.

    The door stands around all that Litestar has, from when the application starts (ASGI's lifespan) until it stops;
    where a server runs no lifespan, from the first request that finds a handler, which goes through it too.
    """

    def __init__(
        self,
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
        """Take the application's TaskQueue, the rest as for ``asgi.TaskQueueMiddleware``; raises ConfigError.

        Without ``user_id`` the ``id`` of ``connection.user`` counts.
        """
        self._tq: Final = tq
        self._consume: Final = consume
        self._consumer: WebConsumer | None = None
        self._doors: dict[Litestar, tuple[TaskQueueMiddleware, ASGIApp]] = {}  # and what each of them stands before
        self._door = partial(
            TaskQueueMiddleware,
            tq=tq,
            load_user=load_user,
            user_id=user_id or authenticated_user,
            credentials=credentials,
            task_only=task_only,
            commit_at=commit_at,
            replay_guard=replay_guard,
            allow_manual=allow_manual,
        )
        self._door(_nothing)  # so that what is wrong with the options is said at once

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """See Litestar: called with the configuration of the application that is being made."""
        app_config.middleware.insert(0, self._through_the_door)
        app_config.lifespan.insert(0, self._mounted)
        app_config.on_startup.append(self._start)
        if self._consume is not False:
            app_config.lifespan.append(self._stopping)
        return app_config

    def _mount(self, app: Litestar) -> TaskQueueMiddleware:
        # Litestar's middlewares stand behind its router; what stands before everything has no other place than this.
        if app not in self._doors:
            self._doors[app] = self._door(_past_csrf(app)), app.asgi_handler
            app.asgi_handler = cast("ASGIApp", self._doors[app][0])
        return self._doors[app][0]

    def _through_the_door(self, app: ASGIApp) -> ASGIApp:
        """Have what a server without lifespan lets in begin anew, and go through the door."""

        async def check(scope: Any, receive: Any, send: Any) -> None:
            whole = ASGIConnection[Any, Any, Any, Any](scope).app
            if whole in self._doors:
                await app(scope, receive, send)
            else:
                await self._mount(whole)(scope, receive, send)

        return check

    @asynccontextmanager
    async def _mounted(self, app: Litestar) -> AsyncIterator[None]:
        door = self._mount(app)
        try:
            async with AsyncExitStack() as stack:
                if self._consume is not False:
                    await self._enter_consumer(stack, app, door)
                yield
        finally:
            _, app.asgi_handler = self._doors.pop(app)
            await self._tq.aclose()

    async def _enter_consumer(self, stack: AsyncExitStack, app: Litestar, door: TaskQueueMiddleware) -> None:
        from ..webconsumer import beside_asgi  # noqa: PLC0415 - only who consumes pays for it

        self._consumer = beside_asgi(self._tq, self._consume, cast("App", app))
        if self._consumer is not None:
            await stack.enter_async_context(self._consumer)
            door.took = self._consumer.gauge.took if self._consumer.gauge else None

    def _start(self, app: Litestar) -> None:
        """Begin to consume: the last of what the application does when it starts."""
        self._mount(app).started(cast("App", app), None)
        if self._consumer is not None:
            self._consumer.start()

    @asynccontextmanager
    async def _stopping(self, _app: Litestar) -> AsyncIterator[None]:
        """Stop consuming: the first of what the application does when it stops."""
        yield
        if self._consumer is not None:
            await self._consumer.stop()


def _past_csrf(app: Litestar) -> App:
    """Return the application, in which deliveries have the token that CSRF protection asks for: they are proved."""
    inside, config = cast("App", app.asgi_handler), app.csrf_config
    if config is None:
        return inside
    header, prefix = config.header_name.lower().encode(), f"{config.cookie_name}=".encode()

    async def with_token(scope: Scope, receive: Receive, send: Send) -> None:
        if current_task() is not None:
            token = generate_csrf_token(secret=config.secret).encode()
            cookies = [part for name, value in scope["headers"] if name == b"cookie" for part in value.split(b";")]
            kept = [part.strip() for part in cookies if not part.strip().startswith(prefix)]
            headers = [pair for pair in scope["headers"] if pair[0] not in (b"cookie", header)]
            own = [(b"cookie", b"; ".join([*kept, prefix + token])), (header, token)]
            scope = {**scope, "headers": [*headers, *own]}
        await inside(scope, receive, send)

    return with_token


def task_only(_connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """Guard: 404 for all but deliveries, as in ``@post("/build", guards=[task_only])``."""
    if current_task() is None:
        raise NotFoundException


def task_or(middleware: Authentication) -> Authentication:
    """Return an authentication middleware that in a delivery takes the user whom the door's ``load_user`` has loaded.

    In every other request, and where there is none, it does what ``middleware`` does. It may stand wherever Litestar
    takes one: in ``middleware=``, or as the ``authentication_middleware_class`` of JWTAuth and SessionAuth.
    """
    inner: Any = middleware

    class TaskOr(inner):  # type: ignore[misc]  # whichever class is the user's
        async def authenticate_request(
            self, connection: ASGIConnection[Any, Any, Any, Any], *args: Any, **kwargs: Any
        ) -> AuthenticationResult:
            task = current_task()
            if task is not None and task.user is not None:
                return AuthenticationResult(task.user, None)
            found: AuthenticationResult = await inner.authenticate_request(self, connection, *args, **kwargs)
            return found

    return cast("Authentication", TaskOr)


async def _nothing(_scope: Scope, _receive: object, _send: object) -> None: ...
