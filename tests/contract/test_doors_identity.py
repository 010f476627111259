"""The user of each framework's own way to log in: who adds a task, who it runs as, and what they may do by then."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import aiohttp_security
import pytest
import quart_auth
from aiohttp import web
from fastapi import Depends, FastAPI, HTTPException, Security
from fastapi.security import APIKeyHeader, OAuth2PasswordBearer
from litestar import Litestar, Request, get, post
from litestar.config.csrf import CSRFConfig
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler
from litestar.middleware.authentication import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.security.jwt import JWTAuth
from litestar.security.jwt.middleware import JWTAuthenticationMiddleware
from quart import Quart, abort
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import taskqueue
from taskqueue.middleware import aiohttp as aiohttp_door
from taskqueue.middleware import fastapi as fastapi_door
from taskqueue.middleware import litestar as litestar_door
from taskqueue.middleware import quart as quart_door
from taskqueue.middleware import starlette as starlette_door
from taskqueue.middleware.aiohttp_security import TaskIdentityPolicy
from taskqueue.policy import Answered
from tests.doors import Consumer, fetch, serving_aiohttp, serving_asgi


@dataclass
class User(BaseUser):
    """A user as the application's database has one."""

    id: str
    roles: set[str] = field(default_factory=lambda: {"author"})
    disabled: bool = False

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def identity(self) -> str:
        return self.id


class Users(dict[str, User]):
    """The database."""

    def active(self, user_id: str) -> User | None:
        """Return whom the application lets in, as every ``load_user`` should."""
        user = self.get(user_id)
        return None if user is None or user.disabled else user


@pytest.fixture
def users() -> Users:
    return Users(ada=User("ada"))


@pytest.fixture
def seen() -> list[str]:
    return []


Make = Callable[[taskqueue.TaskQueue, Users, list[str]], Any]

# ---- one application for each way to log in: whoever has the role may order, and only they may build


def starlette(tq: taskqueue.TaskQueue, users: Users, seen: list[str]) -> Any:
    class Backend(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
            user = users.active(conn.headers.get("authorization", "").removeprefix("Bearer "))
            return (AuthCredentials(sorted(user.roles)), user) if user else None

    @requires("author")
    async def order(request: StarletteRequest) -> Response:
        return PlainTextResponse(taskqueue.add("/build", method="POST"))

    @requires("author")
    async def build(request: StarletteRequest) -> Response:
        seen.append(request.user.identity)
        return PlainTextResponse("built")

    backend = starlette_door.TaskAuthBackend(Backend(), scopes=lambda user: sorted(users[user.identity].roles))
    app = Starlette(
        routes=[Route("/order", order, methods=["POST"]), Route("/build", build, methods=["POST"])],
        middleware=[Middleware(AuthenticationMiddleware, backend=backend)],
    )
    return starlette_door.TaskQueueMiddleware(app, tq, load_user=users.active)


def fastapi(tq: taskqueue.TaskQueue, users: Users, seen: list[str]) -> Any:
    app = FastAPI()

    def get_user(token: Annotated[str, Depends(OAuth2PasswordBearer("token"))]) -> User:
        user = users.active(token)
        if user is None:
            raise HTTPException(401)
        return user

    logged_in = fastapi_door.task_or(get_user)

    def author(user: Annotated[User, Depends(logged_in)]) -> User:
        if "author" not in user.roles:
            raise HTTPException(403)
        return user

    @app.post("/order")
    async def order(_user: Annotated[User, Depends(author)]) -> str:
        return taskqueue.add("/build", method="POST")

    @app.post("/build")
    async def build(user: Annotated[User, Depends(author)]) -> None:
        seen.append(user.id)

    return fastapi_door.TaskQueueMiddleware(app, tq, load_user=users.active)


def author_only(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    if "author" not in connection.user.roles:
        raise PermissionDeniedException


def litestar(tq: taskqueue.TaskQueue, users: Users, seen: list[str], **options: Any) -> Any:
    @post("/order", guards=[author_only], status_code=200)
    async def order() -> str:
        return taskqueue.add("/build", method="POST")

    @post("/build", guards=[author_only])
    async def build(request: Request[User, Any, Any]) -> None:
        seen.append(request.user.id)

    class Authentication(AbstractAuthenticationMiddleware):
        async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
            user = users.active(connection.headers.get("authorization", "").removeprefix("Bearer "))
            if user is None:
                raise NotAuthorizedException
            return AuthenticationResult(user, None)

    plugin = litestar_door.TaskQueuePlugin(tq, load_user=users.active)
    options = options or {"middleware": [litestar_door.task_or(Authentication)]}
    return Litestar([order, build], plugins=[plugin], logging_config=None, openapi_config=None, **options)


JWT_SECRET: Final = "for tests only, 0123456789 abcdefghijk"


def litestar_jwt(tq: taskqueue.TaskQueue, users: Users, seen: list[str]) -> Any:
    async def retrieve(token: Any, _connection: ASGIConnection[Any, Any, Any, Any]) -> User | None:
        return users.active(token.sub)

    auth = JWTAuth[User](
        retrieve_user_handler=retrieve,
        token_secret=JWT_SECRET,
        authentication_middleware_class=litestar_door.task_or(JWTAuthenticationMiddleware),
    )
    return litestar(tq, users, seen, on_app_init=[auth.on_app_init])


def quart(tq: taskqueue.TaskQueue, users: Users, seen: list[str]) -> Any:
    app = Quart("tests", static_folder=None)
    app.secret_key = "for tests only"
    quart_auth.QuartAuth(app, mode="bearer")

    async def author() -> str:
        user_id = quart_auth.current_user.auth_id
        user = users.active(user_id) if user_id else None
        if user is None:
            abort(401)
        if "author" not in user.roles:
            abort(403)
        return user.id

    @app.post("/order")
    async def order() -> str:
        await author()
        return taskqueue.add("/build", method="POST")

    @app.post("/build")
    @quart_door.task_only
    @quart_auth.login_required
    async def build() -> str:
        seen.append(await author())
        return "built"

    quart_door.setup(app, tq, load_user=users.active)
    return app


class Identity(aiohttp_security.AbstractIdentityPolicy):
    """Who sends a session that is known."""

    async def identify(self, request: web.Request) -> str | None:
        return request.headers.get("Authorization", "").removeprefix("Bearer ") or None

    async def remember(self, request: web.Request, response: web.StreamResponse, identity: str, **kwargs: Any) -> None:
        response.headers["X-Remembered"] = identity

    async def forget(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Forgotten"] = "yes"


class Authorization(aiohttp_security.AbstractAuthorizationPolicy):
    """What they may do; an identity is a user's id in capitals."""

    def __init__(self, users: Users) -> None:
        self._users = users

    async def permits(self, identity: str | None, permission: Any, context: Any = None) -> bool:
        user = self._users.active((identity or "").lower())
        return user is not None and permission in user.roles

    async def authorized_userid(self, identity: str) -> str | None:
        user = self._users.active(identity.lower())
        return user.id if user else None


def aiohttp(tq: taskqueue.TaskQueue, users: Users, seen: list[str]) -> web.Application:
    async def order(request: web.Request) -> web.Response:
        await aiohttp_security.check_permission(request, "author")
        return web.Response(text=taskqueue.add("/build", method="POST"))

    async def build(request: web.Request) -> web.Response:
        await aiohttp_security.check_permission(request, "author")
        seen.append(str(await aiohttp_security.authorized_userid(request)))
        return web.Response()

    async def login(request: web.Request) -> web.Response:
        response = web.Response()
        await aiohttp_security.remember(request, response, "ADA")
        await aiohttp_security.forget(request, response)
        return response

    app = web.Application()
    app.add_routes([web.post("/order", order), web.post("/build", build), web.get("/login", login)])
    aiohttp_door.setup(app, tq, load_user=users.active, user_id=aiohttp_security.authorized_userid)
    policy = TaskIdentityPolicy(Identity(), identity=lambda user: user.id.upper())
    aiohttp_security.setup(app, policy, Authorization(users))
    return app


STACKS: Final[dict[str, Make]] = {
    "starlette": starlette,
    "fastapi": fastapi,
    "litestar": litestar,
    "litestar-jwt": litestar_jwt,
    "quart-auth": quart,
    "aiohttp-security": aiohttp,
}


def token(stack: str, app: Any) -> Mapping[str, str]:
    """Return the header with which ada is logged in."""
    if stack == "quart-auth":
        (manager,) = app.extensions["QUART_AUTH"]
        return {"Authorization": f"Bearer {manager.dump_token('ada', app)}"}
    if stack == "litestar-jwt":
        auth: JWTAuth[User] = JWTAuth(retrieve_user_handler=print, token_secret=JWT_SECRET)
        return {"Authorization": f"Bearer {auth.create_token('ada')}"}
    return {"Authorization": "Bearer ADA" if stack == "aiohttp-security" else "Bearer ada"}


def ada_stays(users: Users) -> None:
    assert users["ada"].roles == {"author"}


def ada_is_deleted(users: Users) -> None:
    del users["ada"]


def ada_is_disabled(users: Users) -> None:
    users["ada"].disabled = True


def ada_loses_her_role(users: Users) -> None:
    users["ada"] = User("ada", roles=set())


@pytest.mark.accept("CT16")
@pytest.mark.accept("CT17")
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(
    ("happens", "expected"),
    [
        (ada_stays, (True, None)),
        (ada_is_deleted, (403, "user-gone")),
        (ada_is_disabled, (403, "user-gone")),
        (ada_loses_her_role, (403, None)),
    ],
)
async def test_a_task_runs_as_the_user_that_is_there_by_then(
    stack: str,
    tq: taskqueue.TaskQueue,
    users: Users,
    seen: list[str],
    happens: Callable[[Users], None],
    expected: tuple[int, str | None],
) -> None:
    app = STACKS[stack](tq, users, seen)
    async with serving_aiohttp(app) if isinstance(app, web.Application) else serving_asgi(app) as base:
        assert (await fetch("POST", base + "/order")).status in (401, 403), "nobody is logged in"
        response = await fetch("POST", base + "/order", headers=token(stack, app))
        assert response.status == 200
        happens(users)
        task, outcome = await Consumer(tq).replay(base)
        assert task.user_id == "ada"
        assert "authorization" not in {name for name, _ in task.headers}
        assert isinstance(outcome, Answered)
        assert (outcome.status < 300 or outcome.status, outcome.refused) == expected
        assert (outcome.receipted, outcome.logged_in) == (True, outcome.refused is None)
        assert (await fetch("POST", base + "/build", headers={"X-Task-User-Id": "ada"})).status == 403
    assert seen == (["ada"] if expected == (True, None) else [])


async def test_the_other_policy_remembers_and_forgets(tq: taskqueue.TaskQueue, users: Users) -> None:
    async with serving_aiohttp(aiohttp(tq, users, [])) as base:
        response = await fetch("GET", base + "/login")
    assert (response.headers["X-Remembered"], response.headers["X-Forgotten"]) == ("ADA", "yes")


@pytest.mark.parametrize("credentials", ["copy", "drop"])
async def test_litestar_lets_a_delivery_past_its_csrf_protection_and_nobody_else(
    tq: taskqueue.TaskQueue, credentials: Any
) -> None:
    seen: list[dict[str, str]] = []

    @get("/order")
    async def order() -> str:
        return taskqueue.add("/build", method="POST", headers={"X-CSRFToken": "stale"})

    @post("/build")
    async def build(request: Request[User, Any, Any]) -> None:
        seen.append(request.cookies)

    app: Any = Litestar(
        [order, build],
        plugins=[litestar_door.TaskQueuePlugin(tq, credentials=credentials)],
        csrf_config=CSRFConfig(secret="for tests only"),
        logging_config=None,
        openapi_config=None,
    )
    async with serving_asgi(app) as base:
        cookies = {"Cookie": "a=1; csrftoken=stale; b=2"}
        assert (await fetch("GET", base + "/order", headers=cookies)).status == 200
        _, outcome = await Consumer(tq).replay(base)
        for headers in ({}, cookies | {"X-CSRFToken": "stale"}):
            assert (await fetch("POST", base + "/build", headers=headers)).status == 403
    assert isinstance(outcome, Answered)
    assert (outcome.status, outcome.receipted) == (201, True)
    (found,) = seen
    assert found.pop("csrftoken") != "stale"
    assert found == ({"a": "1", "b": "2"} if credentials == "copy" else {})


# ---- FastAPI's dependencies

key = APIKeyHeader(name="X-Key")


class Keys:
    """A dependency that is an object."""

    async def __call__(self, found: Annotated[str, Security(key)]) -> str:
        return f"object {found}"


async def coroutine(found: str = Security(key)) -> str:
    return f"coroutine {found}"


def plain(found: Annotated[str, Security(key)]) -> str:
    return f"plain {found}"


async def generator(found: Annotated[str, Security(key)]) -> AsyncIterator[str]:
    yield f"generator {found}"


def plain_generator(found: Annotated[str, Security(key)]) -> Any:
    yield f"plain generator {found}"


def nested(found: Annotated[str, Depends(generator)]) -> str:
    return f"nested {found}"


@pytest.mark.parametrize(
    ("dependency", "found"),
    [
        (coroutine, "coroutine k"),
        (plain, "plain k"),
        (generator, "generator k"),
        (plain_generator, "plain generator k"),
        (nested, "nested generator k"),
        (Keys(), "object k"),
    ],
)
async def test_task_or_takes_every_kind_of_dependency(
    tq: taskqueue.TaskQueue, dependency: Callable[..., Any], found: str
) -> None:
    app = FastAPI()
    seen: list[str] = []

    @app.get("/order")
    async def order() -> str:
        return taskqueue.add("/who", user_id="ada")

    @app.get("/who")
    async def who(user: Annotated[str, Depends(fastapi_door.task_or(dependency))]) -> str:
        seen.append(user)
        return user

    async with serving_asgi(fastapi_door.TaskQueueMiddleware(app, tq, load_user=str.upper)) as base:
        assert (await fetch("GET", base + "/who")).status in (401, 403)
        assert (await fetch("GET", base + "/who", headers={"X-Key": "k"})).text == f'"{found}"'
        await fetch("GET", base + "/order")
        _, outcome = await Consumer(tq).replay(base)
    assert isinstance(outcome, Answered)
    assert (outcome.status, seen) == (200, [found, "ADA"])


@dataclass
class Named:
    name: str


async def test_a_user_without_an_id_is_not_taken_for_nobody(tq: taskqueue.TaskQueue) -> None:
    app = FastAPI()
    caught: list[str] = []

    @app.get("/")
    async def order(user: Annotated[Named, Depends(fastapi_door.task_or(lambda: Named("ada")))]) -> None:
        with pytest.raises(taskqueue.InvalidTask) as error:
            taskqueue.add("/later")
        caught.append(str(error.value))
        taskqueue.add("/later", user_id=user.name)

    async with serving_asgi(fastapi_door.TaskQueueMiddleware(app, tq)) as base:
        assert (await fetch("GET", base + "/")).status == 200
        (task,) = await Consumer(tq).tasks()
    assert task.user_id == "ada"
    assert caught[0].startswith("user_id: the logged-in Named has neither identity nor id")


def database() -> str:
    return "the real one"


def user_of(name: str, store: Annotated[str, Depends(database)], found: Annotated[str, Security(key)]) -> str:
    return f"{name} of {store} by {found}"


async def test_task_or_leaves_the_documentation_and_the_overrides_as_they_were(tq: taskqueue.TaskQueue) -> None:
    documents = []
    for dependency in (user_of, fastapi_door.task_or(user_of)):
        app = FastAPI()

        @app.get("/{name}")
        async def who(user: Annotated[str, Depends(dependency)]) -> str:
            return user

        app.dependency_overrides[database] = lambda: "a test's"
        documents.append(app.openapi())
    assert documents[0]["paths"]["/{name}"]["get"]["security"] == [{"APIKeyHeader": []}]
    assert documents[0] == documents[1]
    async with serving_asgi(fastapi_door.TaskQueueMiddleware(app, tq)) as base:
        response = await fetch("GET", base + "/ada", headers={"X-Key": "k"})
    assert response.text == '"ada of a test\'s by k"'


# ---- Quart


async def test_a_stream_without_a_request_cannot_tell_whose_task_it_is(tq: taskqueue.TaskQueue) -> None:
    app = Quart("tests", static_folder=None)
    caught: list[str] = []

    @app.get("/")
    async def stream() -> Any:
        async def pieces() -> AsyncIterator[bytes]:
            with pytest.raises(taskqueue.InvalidTask) as error:
                taskqueue.add("/later")
            caught.append(str(error.value))
            taskqueue.add("/later", user_id=None)
            yield b"piece"

        return pieces()

    quart_door.setup(app, tq)
    with pytest.raises(taskqueue.ConfigError, match="has its TaskQueue already"):
        quart_door.setup(app, tq)
    asgi: Any = app
    async with serving_asgi(asgi) as base:
        assert (await fetch("GET", base + "/")).body == b"piece"
        assert await tq.size() == 1
    assert "stream_with_context" in caught[0]
