"""What only Pyramid has: settings in the ini, transactions of ``request.tm``, vetoes, retries, policies, predicates."""

import asyncio
import contextvars
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transaction
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare
from pyramid.security import Allowed, Denied
from pyramid.session import SignedCookieSessionFactory
from pyramid.threadlocal import get_current_registry
from transaction.interfaces import TransientError

import taskqueue
from taskqueue.errors import ConfigError
from taskqueue.inprocess import WsgiReplayer
from taskqueue.middleware.pyramid import TaskSecurityPolicy, task_queue
from taskqueue.middleware.wsgi import USER
from taskqueue.policy import Answered, Outcome
from taskqueue.portal import in_portal
from tests import doors
from tests.contract.test_vote import states
from tests.doors import Consumer, delivery_of
from tests.doors_wsgi import InMemory
from tests.resources import Rows, rows
from tests.servers import RedisServer
from tests.stores import RedisStore

TM = {"tm.manager_hook": "pyramid_tm.explicit_manager"}
VETO = {**TM, "tm.commit_veto": "pyramid_tm.default_commit_veto"}
SEEN: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    SEEN.clear()
    yield
    transaction.abort()


@pytest.fixture
def store(any_server: RedisServer) -> RedisStore:
    return RedisStore(any_server)


class Site:
    """An application in the making: views by their paths, a door, and pyramid_tm if it has settings."""

    def __init__(self, tq: taskqueue.TaskQueue | None = None, tm: dict[str, Any] | None = None, **door: Any) -> None:
        self.config = Configurator(settings=dict(tm or {}), request_factory=InMemory)
        if tm is not None:
            self.config.include("pyramid_tm")
        self.config.include("taskqueue.middleware.pyramid")
        if tq is not None:
            self.config.set_taskqueue(tq, **door)
        self._app: Any = None

    def view(self, path: str, **options: Any) -> Callable[[Any], Any]:
        def add(view: Any) -> Any:
            name = f"{path}{len(SEEN)}{secrets.token_hex(4)}"
            self.config.add_route(name, path, **options.pop("route", {}))
            self.config.add_view(view, route_name=name, **options)
            return view

        return add

    @property
    def app(self) -> Any:
        self._app = self._app or self.config.make_wsgi_app()
        return self._app

    async def ask(self, path: str, **options: Any) -> Any:
        """Answer as to a browser, in a thread."""

        def get() -> Any:
            response = Request.blank(path, **options).get_response(self.app)
            assert response.body is not None
            return response

        return await asyncio.to_thread(get)

    async def replayed(self, tq: taskqueue.TaskQueue) -> Answered:
        """Replay the one task that waits, in process."""
        ((reservation, task),) = await Consumer(tq).reserve()
        async with WsgiReplayer(self.app, threads=1) as replayer:
            outcome: Outcome = await replayer.replay(delivery_of(reservation, task))
        assert isinstance(outcome, Answered)
        return outcome


def ordering(*targets: str, **options: Any) -> Callable[[Any], Response]:
    """Return a view that adds tasks."""

    def order(request: Any) -> Response:
        return Response(" ".join(request.taskqueue.add(target, **options) for target in targets))

    return order


def build(request: Any) -> Response:
    SEEN.append((request.authenticated_userid, request.identity, request.environ.get(USER), request.body))
    return Response()


# ---- settings


async def test_the_queue_is_what_the_settings_say(any_server: RedisServer, store: RedisStore) -> None:
    site = Site(
        tm={
            "taskqueue.url": any_server.url,
            "taskqueue.secret": secrets.token_hex(32),
            "taskqueue.queues": "default\n    mail",
            "taskqueue.max_tasks": "7",
            "taskqueue.commit_deadline": "1.5",
            "taskqueue.task_only": "/tasks/, /jobs/",
            "taskqueue.credentials": "drop",
            "taskqueue.user_id": "tests.contract.test_doors_pyramid.who",
        }
    )
    site.view("/order")(ordering("/tasks/build", queue="mail"))
    site.view("/tasks/build")(build)
    tq = task_queue(site.app.registry)
    assert (tq.url, tq.queues, tq.capacity.tasks, tq.commit_deadline) == (any_server.url, ("default", "mail"), 7, 1.5)
    with taskqueue.capture() as tasks:
        assert (await site.ask("/order", headers={"Cookie": "session=1", "X-User": "ada"})).status_int == 200
    assert [(task.queue, task.user_id) for task in tasks] == [("mail", "ada")]
    assert "cookie" not in dict(tasks[0].headers)
    assert (await site.ask("/tasks/build")).status_int == 404
    assert SEEN == []


def who(request: Any) -> str | None:
    return request.headers.get("X-User")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"taskqueue.ulr": "redis://x"}, "no such setting: taskqueue.ulr: did you mean taskqueue.url?"),
        ({"taskqueue.something": "1"}, "no such setting: taskqueue.something: known are taskqueue.url"),
        ({"taskqueue.url": "redis://x"}, "tq: the settings say taskqueue.url as well"),
        ({"taskqueue.max_tasks": "many"}, "taskqueue.max_tasks: 'many' must be a whole number"),
        ({"taskqueue.credentials": "keep"}, "credentials: 'keep' must be"),
        ({"taskqueue.allow_manual": "perhaps"}, "taskqueue.allow_manual: 'perhaps' must be true or false"),
        ({"taskqueue.load_user": "nowhere.to.be_found"}, "taskqueue.load_user: 'nowhere.to.be_found' cannot be"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        assert Site(taskqueue.TaskQueue("redis://y"), settings).app


def test_a_second_queue_is_refused() -> None:
    site = Site(taskqueue.TaskQueue("redis://y"))
    with pytest.raises(ConfigError, match="its TaskQueue already"):
        site.config.set_taskqueue(taskqueue.TaskQueue("redis://z"))


# ---- request.tm


@pytest.mark.parametrize("tm", [TM, {}], ids=["explicit", "of the thread"])
@pytest.mark.parametrize("pace", ["vetoed", "doomed", "raised", "handled", "kept"])
async def test_tasks_live_and_die_with_the_transaction(
    tq: taskqueue.TaskQueue, store: RedisStore, tm: dict[str, Any], pace: str
) -> None:
    site = Site(tq, {**VETO, **tm} if tm else {"tm.commit_veto": VETO["tm.commit_veto"]})

    @site.view("/")
    def order(request: Any) -> Response:
        SEEN.append(taskqueue.add("/later"))
        if pace == "doomed":
            request.tm.doom()
        if pace in ("raised", "handled"):
            raise LookupError if pace == "raised" else ZeroDivisionError
        assert states(store) == set()
        return Response(status=402 if pace == "vetoed" else 200)

    def handled(_request: Any) -> Response:
        return Response(status=409)

    site.config.add_exception_view(handled, context=ZeroDivisionError)
    if pace == "raised":
        with pytest.raises(LookupError):
            await site.ask("/")
    else:
        expected = {"vetoed": 402, "doomed": 200, "handled": 409, "kept": 200}[pace]
        assert (await site.ask("/")).status_int == expected
    assert len(SEEN) == 1
    assert states(store) == (set(SEEN) if pace == "kept" else set())


async def test_without_a_veto_the_database_decides_and_not_the_status(
    tq: taskqueue.TaskQueue, store: RedisStore
) -> None:
    site = Site(tq, TM)

    @site.view("/")
    def order(_request: Any) -> Response:
        SEEN.append(taskqueue.add("/later"))
        return Response(status=404)

    assert (await site.ask("/")).status_int == 404
    assert states(store) == set(SEEN)


async def test_a_veto_that_is_no_failure_counts(tq: taskqueue.TaskQueue, store: RedisStore) -> None:
    site = Site(tq, VETO)

    @site.view("/")
    def order(_request: Any) -> Response:
        taskqueue.add("/later")
        return Response(headers={"X-Tm": "abort"})

    assert (await site.ask("/")).status_int == 200
    assert states(store) == set()


@pytest.mark.accept("CT04")
async def test_a_savepoint_of_request_tm_takes_back_what_was_added_since(tq: taskqueue.TaskQueue) -> None:
    site = Site(tq, TM)

    @site.view("/")
    def order(request: Any) -> Response:
        taskqueue.add("/before")
        savepoint = request.tm.savepoint()
        taskqueue.add("/after")
        savepoint.rollback()
        with taskqueue.transaction():
            taskqueue.add("/block")
        return Response()

    assert (await site.ask("/")).status_int == 200
    assert [task.path for task in await Consumer(tq).tasks()] == ["/before", "/block"]


@pytest.mark.accept("CT05")
@pytest.mark.parametrize("phase", ["tpc_vote", "tpc_finish"])
async def test_a_broker_that_is_down_is_a_503_and_the_database_is_unchanged(
    private_server: RedisServer, tmp_path: Path, phase: str
) -> None:
    tq = doors.task_queue(private_server.url, commit_deadline=0.5)
    site = Site(tq, VETO)

    @site.view("/")
    def order(request: Any) -> Response:
        made = Rows(tmp_path / "rows", request.tm, key="~sqlalchemy", commits_in=phase)
        made.write(taskqueue.add("/later"))
        private_server.kill()
        return HTTPFound("/done")

    response = await site.ask("/", method="POST")
    assert (response.status_int, response.headers["Retry-After"]) == (503, "1")
    assert rows(tmp_path / "rows") == set()
    in_portal(tq, tq.aclose, tq.aclose)


async def test_a_retried_request_leaves_one_task_and_a_retried_delivery_starts_once(tq: taskqueue.TaskQueue) -> None:
    site = Site(tq, TM, user_id=lambda request: f"attempt {request.attempt}")

    @site.view("/{name}", request_method="POST")
    def order(request: Any) -> Response:
        request.attempt = len(SEEN)
        SEEN.append((request.matchdict["name"], request.body, taskqueue.add("/next", method="POST")))
        if len(SEEN) % 3:
            raise TransientError
        return Response()

    site.config.set_execution_policy(retrying)
    assert (await site.ask("/order", method="POST", body=b"x" * 70_000)).status_int == 200
    outcome = await site.replayed(tq)
    assert (outcome.status, outcome.refused) == (200, None)
    assert [(name, len(body)) for name, body, _ in SEEN] == [("order", 70_000)] * 3 + [("next", 70_000)] * 3
    tasks = await Consumer(tq).tasks()
    assert {task.id for task in tasks} == {SEEN[2][2], SEEN[5][2]}
    assert [(len(task.body), task.user_id) for task in tasks] == [(70_000, "attempt 2")] * 2


def retrying(environ: Any, router: Any) -> Any:
    """Try a request three times, as pyramid_retry does."""
    for attempt in range(3):
        with router.request_context(environ) as request:
            request.make_body_seekable()
            try:
                return router.invoke_request(request)
            except TransientError:
                if attempt == 2:
                    raise
    raise AssertionError


async def test_a_request_inside_another_has_its_own_transaction(tq: taskqueue.TaskQueue) -> None:
    site = Site(tq, VETO, user_id=who)

    @site.view("/")
    def outer(request: Any) -> Response:
        taskqueue.add("/before")
        for path, use_tweens in (("/fails", True), ("/works", True), ("/plain", False)):
            request.invoke_subrequest(Request.blank(path), use_tweens=use_tweens)
        taskqueue.add("/after")
        return Response(status=int(request.GET["status"]))

    for path in ("/fails", "/works", "/plain"):
        site.view(path)(
            lambda request: Response(taskqueue.add(request.path), status=400 * (request.path == "/fails") or 200)
        )
    for status, expected in ((200, ["/works", "/before", "/plain", "/after"]), (400, ["/works"])):
        await site.ask(f"/?status={status}", headers={"X-User": "ada"})
        tasks = await Consumer(tq).tasks()
        assert [task.path for task in tasks] == expected
        assert {task.user_id for task in tasks} == {"ada"}
        await tq.reset()


async def test_a_thread_with_the_context_adds_to_the_same_transaction(
    tq: taskqueue.TaskQueue, store: RedisStore
) -> None:
    site = Site(tq, VETO)

    @site.view("/{status}")
    def order(request: Any) -> Response:
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: SEEN.append(context.run(taskqueue.add, "/later")))
        thread.start()
        thread.join(20)
        assert states(store) == set()
        return Response(status=int(request.matchdict["status"]), headers={"X-Tm": request.GET["tm"]})

    await site.ask("/200?tm=abort")
    assert states(store) == set()
    await site.ask("/200?tm=commit")
    assert states(store) == {SEEN[1]}


async def test_where_pyramid_tm_is_not_active_tasks_follow_the_response(
    tq: taskqueue.TaskQueue, store: RedisStore
) -> None:
    site = Site(tq, {**TM, "tm.activate_hook": "tests.contract.test_doors_pyramid.never"})

    @site.view("/{status}")
    def order(request: Any) -> Response:
        SEEN.append(taskqueue.add("/later"))
        return Response(status=int(request.matchdict["status"]))

    for status in (400, 302):
        await site.ask(f"/{status}")
    assert states(store) == {SEEN[1]}


def never(_request: Any) -> bool:
    return False


async def test_what_a_stream_adds_after_the_transaction_follows_the_stream(
    tq: taskqueue.TaskQueue, store: RedisStore
) -> None:
    site = Site(tq, TM, user_id=who)

    @site.view("/")
    def stream(_request: Any) -> Response:
        def pieces() -> Iterator[bytes]:
            yield b"a"
            SEEN.append(taskqueue.add("/in-the-stream"))
            yield b"b"

        SEEN.append(taskqueue.add("/before"))
        return Response(app_iter=pieces())

    assert (await site.ask("/", headers={"X-User": "ada"})).body == b"ab"
    assert states(store) == set(SEEN)
    assert {task.user_id for task in await Consumer(tq).tasks()} == {"ada"}


async def test_a_script_adds_in_a_transaction_of_its_own(tq: taskqueue.TaskQueue, store: RedisStore) -> None:
    other, site = Site(taskqueue.TaskQueue(secret="x" * 32)), Site(tq, {})
    assert other.app

    def script() -> None:
        with prepare(registry=site.app.registry) as env:
            request = env["request"]
            with pytest.raises(taskqueue.NoTransaction):
                request.taskqueue.add("/nowhere")
            with request.tm:
                SEEN.append(request.taskqueue.add("/later"))
                SEEN.append(taskqueue.add("/of-this-application"))
                assert states(store) == set()

    await asyncio.to_thread(script)
    assert states(store) == set(SEEN)


async def test_a_list_of_tweens_of_ones_own_does_not_lose_the_door(tq: taskqueue.TaskQueue) -> None:
    site = Site(tq, {**TM, "pyramid.tweens": "pyramid_tm.tm_tween_factory"})
    site.view("/")(ordering("/build"))
    site.view("/build")(build)
    assert (await site.ask("/", headers={"X-Task-Id": "1"})).status_int == 403
    await site.ask("/")
    assert (await site.replayed(tq)).receipted


# ---- users


class Policy:
    """A policy as Pyramid's documentation writes them: it asks itself."""

    def identity(self, request: Any) -> Any:
        name = request.headers.get("X-User")
        return f"{name} by header" if name else None

    def authenticated_userid(self, request: Any) -> str | None:
        identity = self.identity(request)
        return None if identity is None else identity.split()[0]

    def permits(self, request: Any, _context: Any, permission: str) -> Any:
        identity = self.identity(request)
        return Allowed("yes") if identity is not None and permission == "build" else Denied("no")

    def remember(self, _request: Any, userid: str, **_: Any) -> list[tuple[str, str]]:
        return [("Set-Cookie", f"user={userid}")]

    def forget(self, _request: Any, **_: Any) -> list[tuple[str, str]]:
        return [("Set-Cookie", "user=")]


def user_site(tq: taskqueue.TaskQueue, policy: Any, **door: Any) -> Site:
    """Return a site that tells who its user is, to those who may build."""
    site = Site(tq, TM, **door)
    site.config.set_security_policy(policy)
    site.view("/order", permission="build")(ordering("/build", method="POST", headers={"X-User": "mallory"}))
    site.view("/build", permission="build")(build)
    return site


USERS = {"ada": "Ada"}


@pytest.mark.accept("CT01")
async def test_a_task_runs_as_the_user_who_added_it(tq: taskqueue.TaskQueue) -> None:
    site = user_site(tq, TaskSecurityPolicy(Policy()), load_user=USERS.get)
    assert (await site.ask("/order")).status_int == 403
    assert (await site.ask("/order", method="POST", body=b"x", headers={"X-User": "ada"})).status_int == 200
    outcome = await site.replayed(tq)
    assert (outcome.status, outcome.receipted, outcome.logged_in) == (200, True, True)
    assert SEEN == [("ada", "Ada", "Ada", b"x")]
    await site.ask("/build", headers={"X-User": "grete"})
    assert SEEN[1] == ("grete", "grete by header", None, b"")


async def test_a_task_of_nobody_or_of_one_who_is_gone_is_nobodys(tq: taskqueue.TaskQueue) -> None:
    site = user_site(tq, TaskSecurityPolicy(Policy()), load_user=USERS.get)
    for user_id, status, refused in ((None, 403, None), ("gone", 403, "user-gone")):
        await tq.push("/build", user_id=user_id)
        outcome = await site.replayed(tq)
        assert (outcome.status, outcome.refused) == (status, refused)
        await tq.reset()
    assert SEEN == []


async def test_an_identity_may_be_loaded_in_the_request_that_runs(tq: taskqueue.TaskQueue) -> None:
    loaded = []

    def identity(request: Any, user_id: str) -> str | None:
        loaded.append(request.tm.get())
        return {"ada": "Ada, of this transaction"}.get(user_id)

    policy = TaskSecurityPolicy(Policy(), identity)
    assert policy.remember(None, "ada") == [("Set-Cookie", "user=ada")]
    assert policy.forget(None) == [("Set-Cookie", "user=")]
    site = user_site(tq, policy)
    for user_id, status in (("ada", 200), ("gone", 403)):
        await tq.push("/build", user_id=user_id)
        assert (await site.replayed(tq)).status == status
        await tq.reset()
    assert SEEN == [("ada", "Ada, of this transaction", None, b"")]
    assert len(loaded) == 2, "once a request"


async def test_users_are_loaded_where_the_registry_is(tq: taskqueue.TaskQueue) -> None:
    def load_user(user_id: str) -> str:
        return f"{user_id} of {get_current_registry().settings['site']}"

    site = Site(tq, {**TM, "site": "tests"}, load_user=load_user)
    site.view("/build")(build)
    await tq.push("/build", user_id="ada")
    assert (await site.replayed(tq)).logged_in
    assert SEEN == [(None, None, "ada of tests", b"")]


async def test_an_async_user_id_gets_the_request_with_all_that_it_has(tq: taskqueue.TaskQueue) -> None:
    async def user_id(request: Any) -> str | None:
        await asyncio.sleep(0)
        return f"{request.authenticated_userid} {request.taskqueue is tq}"

    site = user_site(tq, TaskSecurityPolicy(Policy()), user_id=user_id)
    await site.ask("/order", headers={"X-User": "grete"})
    assert [task.user_id for task in await Consumer(tq).tasks()] == ["grete True"]


# ---- views


@pytest.mark.parametrize("default", [True, False])
async def test_a_task_passes_csrf_protection_and_a_browser_without_token_does_not(
    tq: taskqueue.TaskQueue,
    default: bool,  # noqa: FBT001
) -> None:
    site = Site(tq, TM)
    site.config.set_session_factory(SignedCookieSessionFactory("of-the-tests"))
    if default:
        site.config.set_default_csrf_options(require_csrf=True)
    site.view("/build", **({} if default else {"require_csrf": True}))(build)
    for headers in ({}, {"Referer": "https://localhost/"}):
        assert (await site.ask("https://localhost/build", method="POST", headers=headers)).status_int == 400
    assert (await site.ask("/build", method="POST", headers={"X-Task-Id": "1"})).status_int == 403
    assert SEEN == []
    await tq.push("/build", json={})
    assert (await site.replayed(tq)).status == 200
    assert len(SEEN) == 1


async def test_views_and_routes_may_be_there_for_tasks_only(tq: taskqueue.TaskQueue) -> None:
    site = Site(tq, TM)
    site.view("/route", route={"task_only": True})(build)
    site.config.add_route("both", "/both")
    site.config.add_view(build, route_name="both", task_only=True)
    site.config.add_view(lambda _request: Response("for people"), route_name="both", task_only=False)
    missing, hidden = await site.ask("/route/"), await site.ask("/route")
    assert (hidden.status_int, hidden.text) == (404, missing.text.replace("/route/", "/route"))
    assert (await site.ask("/both")).text == "for people"
    for path in ("/route", "/both"):
        await tq.push(path)
        assert (await site.replayed(tq)).status == 200
        await tq.reset()
    assert len(SEEN) == 2
    site.config.add_view(build, name="x", task_only="yes")
    with pytest.raises(ConfigError, match="must be True or False"):
        site.config.commit()


async def test_what_is_said_of_a_hidden_path_is_what_is_said_of_a_missing_one(tq: taskqueue.TaskQueue) -> None:
    site = Site(tq, TM, task_only=["/tasks/"])
    site.view("/tasks/build")(build)
    hidden, missing = await site.ask("/tasks/build"), await site.ask("/tusks/build")
    assert (hidden.status_int, hidden.text) == (404, missing.text.replace("/tusks/", "/tasks/"))
    assert "/tasks/build" in hidden.text
